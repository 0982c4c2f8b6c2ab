"""What holds for every task. A new task is added to TASKS."""

import json
import re
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from steep.tasks.arithmetic import Arithmetic
from steep.tasks.chat import Chat
from steep.tasks.countdown import Countdown
from steep.tasks.letters import Letters
from steep.tasks.published import Gsm8k
from steep.tasks.stories import Stories
from steep.types import Demonstrator, Rephraser

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
def test_demonstrations_are_plain_lines(task: Demonstrator) -> None:
    for problem in islice(task.problems("train", seed=2), 50):
        shown = task.demonstrate(problem, Random(0))
        assert shown.thought.isascii()
        assert shown.answer == shown.answer.strip() != ""
