"""Countdown: problems that can be solved, thoughts that are true, a verifier that is exact."""

import re
from collections.abc import Sequence
from fractions import Fraction
from itertools import islice, permutations
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steep.errors import ConfigError
from steep.tasks.countdown import (
    LEVELS,
    Countdown,
    Operand,
    Step,
    can_make,
    each_last,
    evaluate,
    operations,
    promising,
    put_together,
)
from steep.tasks.generated import split_of
from steep.tasks.only import Only
from steep.types import Problem

STEP = re.compile(r"(\d+)([-+*/])(\d+)=(\d+)(?:([<>=])(\d+))?")


def some(level: int, split: str = "train", count: int = 200) -> list[Problem]:
    return list(islice(Countdown(levels=(level,)).problems(split, 0), count))  # type: ignore[arg-type]


@pytest.mark.parametrize("level", list(LEVELS))
def test_problems_fit_their_level(level: int):
    shape = LEVELS[level]
    for problem in some(level, count=50):
        numbers, target = problem.key["numbers"], problem.key["target"]
        assert len(numbers) == shape.count
        assert all(1 <= n <= shape.largest for n in numbers)
        assert shape.low <= target <= shape.high
        assert problem.split == split_of(problem.id) == "train"
        shown = re.findall(r"\d+", problem.prompt[0].content)
        assert sorted(map(int, shown)) == sorted([*numbers, target])


def test_the_order_of_the_numbers_and_the_wording_do_not_change_the_id():
    ids = {p.id: p for p in some(1, count=3000)}
    for identity, problem in ids.items():
        assert identity == f"countdown/{' '.join(map(str, sorted(problem.key['numbers'])))}={problem.key['target']}"
    test = {p.id for p in some(1, "test", 1000)}
    assert not test & ids.keys()


def test_there_are_a_thousand_held_out_problems():
    assert len({p.id for p in some(1, "test", 30_000)}) >= 1000


def test_canaries_cannot_be_solved():
    for problem in Countdown().canaries():
        numbers, target = problem.key["numbers"], problem.key["target"]
        assert max(sum(numbers), max(a * b for a in numbers for b in numbers) * max(numbers)) < target
        assert not can_make(target, [Operand(n, str(n)) for n in numbers])


def checked_steps(thought: str) -> tuple[int, int]:
    """(true steps, false steps) of a thought, by replaying each of them."""
    true = false = 0
    for left, sign, right, result, relation, other in STEP.findall(thought):
        a, b, c = int(left), int(right), int(result)
        right_result = {"+": a + b, "-": a - b, "*": a * b, "/": Fraction(a, b) if b else None}[sign] == c
        true, false = true + right_result, false + (not right_result)
        if relation and right_result:
            assert {"<": c < int(other), ">": c > int(other), "=": c == int(other)}[relation]
    return true, false


@pytest.mark.parametrize("level", [1, 2, 3])
def test_demonstrations_are_true_and_end_with_a_right_answer(level: int):
    task = Countdown(levels=(level,), slips=0.0)
    answered = 0
    for number, problem in enumerate(some(level, count=150)):
        shown = task.demonstrate(problem, Random(number))
        assert checked_steps(shown.thought)[1] == 0
        if shown.answer:
            answered += 1
            assert task.verify(problem, shown.answer).kind == "correct"
            assert shown.thought.partition("\nso ")[0].endswith(f"={problem.key['target']}")
    assert answered == 150 if level <= 2 else answered > 140


def test_no_path_is_walked_twice_and_pairs_stay_together():
    task = Countdown(slips=0.0, careful=0.5)
    for number, problem in enumerate(some(1, count=200)):
        first_steps = [
            re.split(r"[ (]", line)[0] for line in task.demonstrate(problem, Random(number)).thought.splitlines()
        ]
        assert len(first_steps) == len(set(first_steps))
        pairs = [tuple(re.split(r"[-+*/]", step.split("=")[0])) for step in first_steps]
        if len(set(problem.key["numbers"])) == 3:
            assert len(set(pairs)) == sum(a != b for a, b in zip(pairs, [None, *pairs], strict=False))


@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 99))
def test_what_leads_away_from_the_target_never_makes_it(made: int, last: int, target: int):
    every = operations(Operand(made, ""), Operand(last, ""))
    tried = promising(target, Operand(made, ""), Operand(last, ""))
    assert 0 < len(tried) <= len(every)
    assert [s for s in tried if s.value == target] == [s for s in every if s.value == target]


@given(st.integers(0, 60), st.integers(0, 60))
def test_a_check_undoes_its_step(a: int, b: int):
    for step in operations(Operand(a, str(a)), Operand(b, str(b))):
        if step.sign != "*" or step.right.value:
            replay = Countdown().replay(f"{step}({step.check}) ")
            assert (replay.steps, replay.wrong) == (2, 0)
            assert step.check.endswith(f"={step.left.value}")


def test_careful_demonstrations_check_every_step_and_cost_twice_the_tokens():
    quick, careful = (
        [Countdown(careful=share, slips=0.0).demonstrate(p, Random(p.id)).thought for p in some(1, count=200)]
        for share in (0.0, 1.0)
    )
    assert not any("(" in thought for thought in quick)
    assert [re.sub(r"\([^)]*\)", "", thought) for thought in careful] == quick
    assert 1.8 < sum(map(len, careful)) / sum(map(len, quick)) < 2.2
    some_careful = [Countdown(slips=0.0).demonstrate(p, Random(p.id)).thought for p in some(1, count=200)]
    assert 80 < sum("(" in thought for thought in some_careful) < 120


def test_long_ways_are_put_together_one_result_at_a_time():
    six, eight, one = (Operand(n, str(n)) for n in (6, 8, 1))
    seven = Step(six, "+", one, 7)
    again = Step(eight, "*", one, 8)
    end = Step(again.result, "*", seven.result, 56)
    assert put_together([seven, again, end]) == "so 6+1=7 8*1=8 8*7 (8*1)*7 (8*1)*(6+1)"
    for level in (3, 5):
        task = Countdown(levels=(level,))
        shown = [task.demonstrate(p, Random(p.id)) for p in some(level, count=40)]
        found = [s for s in shown if s.answer]
        assert found
        assert all(s.thought.splitlines()[-1].split()[-1] == s.answer for s in found)
    assert not any("so" in Countdown().demonstrate(p, Random(p.id)).thought for p in some(1, count=40))


def test_the_operations_on_a_pair_keep_one_order_and_a_long_search_that_of_the_pairs():
    def steps(numbers: list[int], order: Sequence[int]) -> list[str]:
        three = [Operand(n, str(n)) for n in numbers]
        return [str(step) for pair, _ in each_last(three, order) for step in operations(*pair)]

    for problem in some(1, count=40):
        lines = Countdown(slips=0.0, careful=0.0).demonstrate(problem, Random(problem.id)).thought.splitlines()
        tried = [line.split()[0] for line in lines]
        orders = [steps(problem.key["numbers"], order) for order in permutations(range(3))]
        assert any(order[: len(tried)] == tried for order in orders)
    for problem in some(3, count=40):
        task = Countdown(levels=(3,), slips=0.0)
        for way in re.split(r".*left ", task.demonstrate(problem, Random(problem.id)).thought)[1:]:
            left, *lines = [line for line in way.splitlines() if not line.startswith("so")]
            in_order = steps([int(n) for n in left.split()], range(3))
            assert [line.split()[0] for line in lines] == in_order[: len(lines)]


def test_foresight_passes_over_dead_ends():
    def shown(foresight: float) -> list[bool]:
        """Of each way that was begun, whether it leads to the target."""
        task = Countdown(levels=(3,), foresight=foresight, slips=0.0, careful=0.0)
        return [
            can_make(p.key["target"], [Operand(int(n), n) for n in line.partition("left ")[2].split()])
            for p in some(3, count=60)
            for line in task.demonstrate(p, Random(p.id)).thought.splitlines()
            if "left" in line
        ]

    none, most, all_of_them = shown(0.0), shown(0.85), shown(1.0)
    assert sum(all_of_them) == len(all_of_them) == 60
    assert sum(none) == sum(most) == 60
    dead, left = len(none) - 60, len(most) - 60
    assert 0.05 < left / dead < 0.25


def test_slips_are_noticed_and_mended():
    task = Countdown(slips=1.0)
    slipped = 0
    for number, problem in enumerate(some(1, count=200)):
        thought = task.demonstrate(problem, Random(number)).thought
        false = checked_steps(thought)[1]
        assert false == thought.count(" no ")
        slipped += false
        for left, sign, right in re.findall(r"(\d+)([-+*/])(\d+)=\d+ no ", thought):
            assert re.search(rf"no {left}\{sign}{right}=\d+", thought)
    assert slipped > 100


@pytest.mark.parametrize(
    ("expression", "value", "used"),
    [
        ("2+3*4", 14, [2, 3, 4]),
        ("(2+3)*4", 20, [2, 3, 4]),
        ("8/3*3", 8, [8, 3, 3]),
        ("10-2-3", 5, [10, 2, 3]),
        ("2*(3+(4-1))", 12, [2, 3, 4, 1]),
        ("7/2", Fraction(7, 2), [7, 2]),
    ],
)
def test_expressions_are_evaluated_exactly(expression: str, value: object, used: list[int]):
    assert evaluate(expression) == (value, used)


@pytest.mark.parametrize(
    "expression", ["", "+", "2+", "2 3", "(2", "2)", "2**3", "-2", "a", "1/0", "1e9", "()", "(" * 99]
)
def test_what_is_no_expression_says_so(expression: str):
    with pytest.raises(ValueError, match=r"\w"):
        evaluate(expression)


@settings(max_examples=300)
@given(st.text(max_size=40) | st.text("0123456789+-*/()= .", max_size=40))
def test_verify_never_raises(answer: str):
    problem, _, _ = Countdown().examples()[0]
    assert Countdown().verify(problem, answer).kind in ("correct", "wrong")


@given(st.integers(0, 60), st.integers(0, 60))
def test_operations_are_whole_and_not_negative(a: int, b: int):
    for step in operations(Operand(a, str(a)), Operand(b, str(b))):
        value, _ = evaluate(step.result.text)
        assert value == step.value >= 0


def test_a_selection_of_problems_is_finite_and_checked_by_its_task():
    problem, good, _ = Countdown().examples()[0]
    only = Only(name="one", task=Countdown(), chosen=(problem,))
    (again,) = only.problems("test", 5)
    assert (again.task, again.id) == ("one", problem.id)
    assert only.verify(again, good).kind == "correct"
    assert list(only.problems("test", 0, start=1)) == []


@pytest.mark.parametrize(
    ("thought", "counts"),
    [
        ("8-3=5 5*5=25=25", (2, 0, 0)),
        ("8*3=26 no 8*3=24>20", (2, 1, 1)),
        ("8*3=26 no 8*3=25 no 8*3=24>20", (3, 2, 2)),  # each of the two was put right in the end
        ("8*3=24 8*3=26>20", (2, 1, 0)),  # right before, not after
        ("8*3=26 3*8=24>20", (2, 1, 0)),  # another step
        ("7/2=3 96/3=32 6/0=6>5", (3, 2, 0)),
        ("3-8=5>4 12-12=0<4", (2, 1, 0)),
        ("8-3=5 8*3=2", (1, 0, 0)),  # 24, cut within the number
        ("3+4*5=23>20 (8-3)=5", (0, 0, 0)),  # these are not steps as thoughts have them
        ("", (0, 0, 0)),
    ],
)
def test_thoughts_are_replayed(thought: str, counts: tuple[int, int, int]):
    replay = Countdown().replay(thought)
    assert (replay.steps, replay.wrong, replay.mended) == counts


def test_slips_are_found_where_they_stand():
    thought = "8*3=26 no 8*3=24>20 7/2=3 8*3=24 "
    told = [
        (thought[s.start : s.end], s.mended and thought[slice(*s.mended)]) for s in Countdown().replay(thought).slips
    ]
    assert told == [("8*3=26", "8*3=24"), ("7/2=3", None)]
    assert Countdown().replay(thought).slips[0].mended == (10, 16)  # the first time


def test_demonstrations_mend_every_slip():
    task, slips = Countdown(slips=1.0), 0
    for problem in some(1, count=100):
        thought = task.demonstrate(problem, Random(problem.id)).thought
        replay = task.replay(thought)
        assert (replay.steps - replay.wrong, replay.wrong) == checked_steps(thought)
        assert replay.mended == replay.wrong == thought.count("no")
        slips += replay.wrong
    assert slips > 20


def test_levels_that_are_not_there_are_told():
    with pytest.raises(ConfigError, match=r"countdown has no levels \[7\]"):
        Countdown(levels=(7,))
