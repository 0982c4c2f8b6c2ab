import re
from itertools import islice
from random import Random
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steep.errors import ConfigError
from steep.tasks.arithmetic import EQUATION, LEVELS, Arithmetic, Step, solve, think
from steep.types import Problem

TASK = Arithmetic()
CLEAN = Arithmetic(slips=0.0)
SLIPPING = Arithmetic(slips=1.0)
COLUMN = re.compile(r"\d+(\+\d\+1|-\d-1)")  # two digits and a carry: a step of training problems as well


def problem(expression: str) -> Problem:
    return TASK._problem(1, expression, expression)


@pytest.mark.parametrize(
    ("expression", "answer", "kind"),
    [
        ("5+7", "12", "correct"),
        ("5+7", "12.", "correct"),
        ("5+7", " 12 \n", "correct"),
        ("5+7", "= 12", "correct"),
        ("5+7", "=12.", "correct"),
        ("5+7", "+12", "correct"),
        ("5+7", "012", "correct"),
        ("5+7", "12 or 13", "wrong"),
        ("5+7", "13", "wrong"),
        ("5+7", "-12", "wrong"),
        ("5+7", "12.0", "wrong"),
        ("5+7", "12..", "wrong"),
        ("5+7", "1 2", "wrong"),
        ("5+7", "5+7", "wrong"),
        ("5+7", "twelve", "wrong"),
        ("5+7", "", "wrong"),
        ("5+7", ".", "wrong"),
        ("5+7", "١٢", "wrong"),
        ("4-7", " -3 ", "correct"),
        ("4-7", "\u22123", "correct"),
        ("4-7", "3", "wrong"),
        ("4-7", "--3", "wrong"),
        ("4-4", "0", "correct"),
        ("4-4", "-0", "correct"),
        ("1000+234", "1,234", "correct"),
        ("1000+234", "1234", "correct"),
        ("1000+234", "12,34", "wrong"),
        ("1000+234", "1,2,3,4", "wrong"),
        ("1000+234", "9" * 5000, "wrong"),
    ],
)
def test_verify_reads_one_integer(expression: str, answer: str, kind: str) -> None:
    assert TASK.verify(problem(expression), answer).kind == kind


@given(st.text() | st.from_regex(r"[-+= ,.0-9]*", fullmatch=True))
def test_verify_never_raises_and_accepts_only_the_number(answer: str) -> None:
    verdict = TASK.verify(problem("1000+234"), answer)
    assert verdict.kind in ("correct", "wrong")
    if verdict.kind == "correct":
        assert re.sub("[^0-9]", "", answer).lstrip("0") == "1234"


@pytest.mark.parametrize(
    ("expression", "thought"),
    [
        ("7+8", "7+8=15"),
        ("3-9", "3-9=-6"),
        ("47+85", "47+85: 7+5=12 write 2 carry 1; 4+8+1=13 write 132"),
        ("52-38", "52-38: 12-8=4 write 4 borrow 1; 5-3-1=1 write 14"),
        ("38-52", "38<52 so 52-38: 12-8=4 write 4 borrow 1; 5-3-1=1 write 14 so -14"),
        ("52-48", "52-48: 12-8=4 write 4 borrow 1; 5-4-1=0 write 04 so 4"),
        ("3+4*5", "4*5=20 so 3+20=23"),
        ("3-5+4", "3-5=-2 so -2+4=2"),
        ("(3+4)*(9-2)", "3+4=7 so 7*(9-2); 9-2=7 so 7*7=49"),
        ("1+3*(2+2)", "2+2=4 so 1+3*4; 3*4=12 so 1+12=13"),
        ("473+85", "473+85: 3+5=8 write 8; 47+8: 7+8=15 write 58 carry 1; 4+0+1=5 write 558"),
        (
            "1000-999",
            "1000-999: 10-9=1 write 1 borrow 1; 100-99: 10-9-1=0 write 01 borrow 1; "
            "10-9: 10-9-1=0 write 001 borrow 1; 1-0-1=0 write 0001 so 1",
        ),
        ("47*8", "47*8: 7*8=56 write 6 carry 5; 4*8=32 so 32+5=37 write 376"),
        ("47*80", "47*80: write 0; 7*8=56 write 60 carry 5; 4*8=32 so 32+5=37 write 3760"),
        ("5*12", "12*5: 2*5=10 write 0 carry 1; 1*5=5 so 5+1=6 write 60"),
        ("300*200", "300*200=60000"),
        ("72/8", "72/8=9"),
        ("84/6", "84/6: 8/6=1 rest 2 write 1; 24/6=4 write 14"),
        ("918/9", "918/9: 9/9=1 write 1; 1/9=0 rest 1 write 10; 18/9=2 write 102"),
        ("91/13", "13*7=91 so 91/13=7"),
        ("24/2*3", "24/2=12 so 12*3=36"),
        (
            "12*13",
            "12*3+12*10; 12*3: 2*3=6 write 6; 1*3=3 write 36; 12*10: write 0; 2*1=2 write 20; 1*1=1 write 120; "
            "36+120: 6+0=6 write 6; 3+12: 3+2=5 write 56; 0+1=1 write 156",
        ),
    ],
)
def test_thoughts(expression: str, thought: str) -> None:
    assert think(expression) == thought


def test_solve_takes_brackets_then_products_then_the_left() -> None:
    assert solve("3+4*5") == [Step("4*5", 20, "3+20"), Step("3+20", 23, "23")]
    assert solve("9-(2+3)-1") == [Step("2+3", 5, "9-5-1"), Step("9-5", 4, "4-1"), Step("4-1", 3, "3")]
    assert solve("(2-4)*(1-4)")[-1].value == 6


@pytest.mark.parametrize(
    ("level", "middle", "most"), [(1, 6, 8), (2, 55, 75), (3, 20, 25), (4, 25, 40), (5, 110, 150), (6, 100, 275)]
)
def test_demonstrations_are_short_and_every_step_is_true(level: int, middle: int, most: int) -> None:
    lengths = []
    for made in islice(CLEAN.problems("train", 0, level), 2000):
        shown = CLEAN.demonstrate(made, Random(0))
        lengths.append(len(shown.thought))
        assert made.key["answer"] == eval(made.key["expression"])
        assert all(eval(left) == int(value) for left, value in EQUATION.findall(shown.thought))
        assert re.findall(r"(?:^|[ =])(-?\d+)", shown.thought)[-1] == shown.answer
        assert CLEAN.verify(made, shown.answer).kind == "correct"
    assert median(lengths) <= middle
    assert max(lengths) <= most


@pytest.mark.parametrize("level", LEVELS)
def test_a_slip_is_mended_at_once(level: int) -> None:
    rng = Random(level)
    for made in islice(SLIPPING.problems("train", 0, level), 300):
        shown = SLIPPING.demonstrate(made, rng)
        slips = re.findall(r"(\S+)=(-?\d+) no wait (\S+)=(-?\d+)", shown.thought)
        assert len(slips) == 1
        before, mistake, after, value = slips[0]
        assert before == after
        assert mistake != value
        assert shown.thought.replace(f"{before}={mistake} no wait ", "", 1) == think(made.key["expression"])
        assert SLIPPING.verify(made, shown.answer).kind == "correct"


def test_thoughts_are_replayed() -> None:
    counts = {level: [0, 0, 0] for level in LEVELS}
    for level in LEVELS:
        for made in islice(SLIPPING.problems("train", 0, level), 100):
            clean, slipped = (task.replay(task.demonstrate(made, Random(0)).thought) for task in (CLEAN, SLIPPING))
            assert clean.wrong == 0
            counts[level] = [
                c + n for c, n in zip(counts[level], (clean.steps, slipped.wrong, slipped.mended), strict=True)
            ]
    assert counts[1] == [0, 100, 0]  # the only step ends the thought, where it may have been cut
    assert {wrong for _, wrong, _ in counts.values()} == {100}
    for thought, expected in {
        "7+8=14 no wait 7+8=15 write 5": (2, 1, 1),
        "2-5=-3 so -3*2=6;": (2, 1, 0),
        "5/0=5; 8/6=1 rest 2": (2, 1, 0),
        "(3+4)*2=14 so": (0, 0, 0),
        "9" * 5000 + "+1=2 ": (0, 0, 0),
    }.items():
        found = TASK.replay(thought)
        assert (found.steps, found.wrong, found.mended) == expected, thought


def test_slips_come_as_often_as_asked() -> None:
    rng = Random(0)
    shown = [TASK.demonstrate(made, rng) for made in islice(TASK.problems("train", 0), 5000)]
    assert sum("no wait" in demonstration.thought for demonstration in shown) / 5000 == pytest.approx(0.04, abs=0.01)


@pytest.mark.parametrize("level", LEVELS)
def test_no_problem_is_in_two_splits(level: int) -> None:
    ids = {split: {p.id for p in islice(TASK.problems(split, 3, level), 1000)} for split in ("train", "valid", "test")}
    assert all(ids.values())
    assert not ids["train"] & ids["valid"]
    assert not ids["train"] & ids["test"]
    assert not ids["valid"] & ids["test"]


def test_wording_does_not_change_the_id() -> None:
    wordings: dict[str, set[str]] = {}
    for made in islice(TASK.problems("test", 0, level=1), 500):
        wordings.setdefault(made.id, set()).add(made.prompt[0].content)
    assert max(map(len, wordings.values())) >= 5
    assert set(wordings) <= {f"arithmetic/{a}{sign}{b}" for a in range(10) for b in range(10) for sign in "+-"}


def test_same_seed_same_problems() -> None:
    assert list(islice(TASK.problems("train", 5), 60)) == list(islice(Arithmetic().problems("train", 5), 60))
    assert TASK.demonstrate(problem("47+85"), Random(1)) == TASK.demonstrate(problem("47+85"), Random(1))


def test_documents_are_true_and_hold_no_held_out_problem() -> None:
    rng = Random(0)
    held_out = {p.key["expression"] for p in islice(Arithmetic(levels=(2, 3, 4, 5, 6)).problems("test", 0), 5000)}
    for _ in range(2000):
        found = EQUATION.fullmatch(TASK.documents(rng))
        assert found is not None
        assert eval(found[1]) == int(found[2])
        assert found[1] not in held_out or COLUMN.fullmatch(found[1])


def test_unknown_level_says_what_there_is() -> None:
    with pytest.raises(ConfigError, match="choose from"):
        Arithmetic(levels=(7,))
