import re
from dataclasses import replace
from itertools import islice
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steep.errors import ConfigError
from steep.tasks.arithmetic import think
from steep.tasks.stories import LARGEST, LEVELS, STORIES, Stories, casting, draw, work
from steep.types import Problem

TASK = Stories()
CLEAN = Stories(slips=0.0)
SLIPPING = Stories(slips=1.0)

titles = st.sampled_from(sorted(STORIES))
seeds = st.integers(0, 2**32)


def told(title: str, idle: int | None = None, **numbers: int) -> Problem:
    return TASK._problem(title, numbers, casting(Random(0)), idle, "{name} has {x} {others}.")


@given(titles, seeds)
def test_every_demonstrated_step_is_true_and_the_last_is_the_answer(title: str, seed: int) -> None:
    problem = TASK._problem(title, draw(STORIES[title], Random(seed)), casting(Random(seed)))
    shown = CLEAN.demonstrate(problem, Random(seed))
    known = re.findall(r"\d+", problem.prompt[0].content)
    for _, operation in problem.key["steps"]:
        a, b = re.findall(r"\d+", operation)
        assert a in known
        assert b in known or "half" in problem.prompt[0].content
        result = eval(operation)
        assert result == int(result)
        assert 0 < result <= LARGEST
        known.append(str(int(result)))
        assert f": {think(operation)}" in shown.thought
    assert shown.answer == known[-1] == re.findall(r"\d+", shown.thought)[-1]
    assert CLEAN.verify(problem, shown.answer).kind == "correct"


@given(st.sampled_from(LEVELS), seeds)
def test_prompts_are_english_and_their_numbers_in_range(level: int, seed: int) -> None:
    prompt = TASK.make(level, Random(seed)).prompt[0].content
    assert re.fullmatch(r"(?:[A-Z][A-Za-z0-9 ,]*\. )+How many [A-Za-z0-9 ]+\?", prompt)
    assert all(2 <= int(number) <= 99 for number in re.findall(r"\d+", prompt))
    assert not re.search(r"  |\b(\w+) \1\b", prompt)


@given(st.sampled_from(LEVELS), seeds)
def test_a_slip_is_mended_at_once(level: int, seed: int) -> None:
    problem = TASK.make(level, Random(seed))
    thought = SLIPPING.demonstrate(problem, Random(seed)).thought
    ((before, mistake, after, value),) = re.findall(r"(\S+)=(-?\d+) no wait (\S+)=(-?\d+)", thought)
    assert before == after
    assert mistake != value
    assert thought.replace(f"{before}={mistake} no wait ", "", 1) == CLEAN.demonstrate(problem, Random(0)).thought


@given(st.sampled_from(LEVELS), seeds)
def test_thoughts_are_replayed(level: int, seed: int) -> None:
    problem = TASK.make(level, Random(seed))
    clean, slipped = (task.replay(task.demonstrate(problem, Random(seed)).thought) for task in (CLEAN, SLIPPING))
    assert (clean.wrong, slipped.wrong) == (0, 1)
    again = TASK.replay("pens: 12*6: 2*6=13 write 3 carry 1; no wait 2*6=12 write 2\npens left: 72-15=56 so")
    assert (again.steps, again.wrong, again.mended) == (3, 2, 1)


def test_a_thought_says_what_is_asked_what_is_not_needed_and_every_step() -> None:
    problem = told("packed less", idle=19, a=12, k=6, b=15)
    assert problem.prompt[0].content == (
        "Noah has 19 pears. Noah has 12 crates with 6 coins in each and gives 15 coins to Omar. "
        "How many coins does Noah have left?"
    )
    assert CLEAN.demonstrate(problem, Random(0)).thought == (
        "asked: coins left\n"
        "not needed: 19\n"
        "coins in the crates: 12*6: 2*6=12 write 2 carry 1; 1*6=6 so 6+1=7 write 72\n"
        "coins left: 72-15: 12-5=7 write 7 borrow 1; 7-1-1=5 write 57"
    )
    assert (problem.id, problem.level) == ("stories/packed less/a=12 k=6 b=15", 2)


def test_words_and_numbers_that_do_not_matter_change_neither_id_nor_split() -> None:
    plain, other = told("more", a=3, b=4), told("more", idle=5, a=3, b=4)
    assert (plain.id, plain.split) == (other.id, other.split)
    assert plain.prompt != other.prompt


@pytest.mark.parametrize(
    ("title", "numbers"),
    [("less", {"a": 4, "b": 4}), ("shared", {"a": 7, "k": 2}), ("rows", {"k": 99, "m": 9, "n": 9})],
)
def test_stories_that_do_not_work_out_are_not_told(title: str, numbers: dict[str, int]) -> None:
    assert work(STORIES[title], numbers) == []


def test_idle_numbers_come_as_often_as_asked_from_level_two_on() -> None:
    idle = [p.key["idle"] is not None for p in islice(TASK.problems("train", 0, 2), 2000)]
    assert sum(idle) / 2000 == pytest.approx(0.3, abs=0.03)
    assert all(p.key["idle"] is None for p in islice(TASK.problems("train", 0, 1), 200))


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_has_a_dozen_stories_and_no_problem_in_two_splits(level: int) -> None:
    assert sum(len(story.steps) == level for story in STORIES.values()) >= 12
    ids = {split: {p.id for p in islice(TASK.problems(split, 3, level), 500)} for split in ("train", "valid", "test")}
    assert min(map(len, ids.values())) > 400
    assert not ids["train"] & ids["valid"]
    assert not ids["train"] & ids["test"]
    assert not ids["valid"] & ids["test"]


def test_unknown_level_says_what_there_is() -> None:
    with pytest.raises(ConfigError, match="choose from"):
        replace(TASK, levels=(4,))
