"""What holds for every task. A new task is added to TASKS."""

import json
import re
from itertools import combinations, islice
from pathlib import Path
from random import Random

import pytest

from steep.tasks.arithmetic import Arithmetic
from steep.tasks.chat import Chat
from steep.tasks.countdown import Countdown
from steep.tasks.letters import Letters
from steep.tasks.published import Gsm8k
from steep.tasks.stories import Stories
from steep.tasks.verifiers import sameness
from steep.types import Demonstrator, Matcher, Rephraser

SAMPLE = Path(__file__).parent / "samples" / "gsm8k"
TASKS: tuple[Demonstrator, ...] = (Arithmetic(), Chat(), Countdown(), Letters(), Stories(), Gsm8k(directory=SAMPLE))


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_examples_have_the_verdicts_they_claim(task: Demonstrator) -> None:
    kinds = set()
    for problem, answer, expected in task.examples():
        verdict = task.verify(problem, answer)
        assert (verdict.kind, verdict.score) == (expected.kind, expected.score), (answer, verdict.reason)
        kinds.add(verdict.kind)
    assert kinds >= {"correct", "wrong"}


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_problems_survive_json_and_start_anywhere(task: Demonstrator) -> None:
    problems = list(islice(task.problems("valid", seed=1), 12))
    assert problems[5:] == list(islice(task.problems("valid", seed=1, start=5), 7))
    for problem in problems:
        assert problem.task == task.name
        assert problem.split == "valid"
        assert problem.id.startswith(f"{task.name}/")
        assert json.loads(json.dumps(problem.key)) == problem.key


@pytest.mark.parametrize("task", [task for task in TASKS if isinstance(task, Rephraser)], ids=lambda task: task.name)
def test_problems_are_asked_in_other_words(task: Rephraser) -> None:
    for problem in islice(task.problems("valid", seed=1), 12):
        asked = task.phrasings(problem)
        assert len(set(asked)) == len(asked) > 3
        numbers = set(re.findall(r"\d+", asked[0]))
        assert all(set(re.findall(r"\d+", text)) == numbers for text in asked)
    assert {p.prompt[-1].content in task.phrasings(p) for p in islice(task.problems("valid", seed=1), 40)} >= {True}


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_right_answer_never_says_the_same_as_a_wrong_one(task: Demonstrator) -> None:
    assert isinstance(task, Matcher)
    for (problem, answer, verdict), (other_problem, other, other_verdict) in combinations(task.examples(), 2):
        if problem == other_problem and verdict.kind != other_verdict.kind:
            assert not task.same(problem, answer, other), (answer, other)


@pytest.mark.parametrize(
    ("task", "answer", "other", "same"),
    [
        (Countdown(), "(8-3)*5", "5 * (8−3) = 25.", True),
        (Countdown(), "8+3+5", "5+3+8", True),  # both wrong
        (Countdown(), "8*3", "8*3+5-5", False),  # of other numbers
        (Countdown(), "8*", "8*", False),
        (Arithmetic(), "1,234", "= 1234.", True),
        (Arithmetic(), "12", "-12", False),
        (Arithmetic(), "many", "several", False),
        (Letters(levels=(1,)), "C-a-t.", "c a t", True),
        (Letters(levels=(1,)), "cat", "c-a-t", False),
        (Letters(levels=(3,)), "tac", "t-a-c", True),
        (Stories(), "57", "57.0 pens are left", True),
        (Stories(), "57", "58", False),
        (Chat(), "Hello!", "hello", True),
        (Gsm8k(directory=SAMPLE), "1/2", "0.5", True),
        (Gsm8k(directory=SAMPLE), "1/2", "2", False),
    ],
)
def test_what_says_the_same(task: Matcher, answer: str, other: str, same: bool) -> None:
    problem = next(task.problems("test", 0))
    assert (task.same(problem, answer, other), task.same(problem, other, answer)) == (same, same)


def test_without_a_measure_of_its_own_only_case_and_space_are_passed_over() -> None:
    task = type("Riddle", (), {})()
    problem = next(Countdown().problems("test", 0))
    assert sameness(task)(problem, "An egg.", " an  EGG")
    assert not sameness(task)(problem, "12", "12.0")


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_demonstrations_are_plain_lines(task: Demonstrator) -> None:
    for problem in islice(task.problems("train", seed=2), 50):
        shown = task.demonstrate(problem, Random(0))
        assert shown.thought.isascii()
        assert shown.answer == shown.answer.strip() != ""
