"""Tasks in Python files, verified by real workers."""

from random import Random

import pytest

from steep.errors import SteepError
from steep.tasks.python_file import task_of
from steep.tasks.verifiers import sameness
from steep.types import Demonstration, Demonstrator, wrong

ROWS = """
import time

def problems():
    for n in range(60):
        yield {"prompt": f"Name a multiple of {n + 2}.", "answer": str(n + 2), "level": 1 + n % 2}

def verify(problem, answer):
    if answer == "wait":
        time.sleep(1000)
    if answer == "half":
        return 0.5
    return int(answer) % int(problem.key["answer"]) == 0
"""
TASK = """
from dataclasses import dataclass
from steep.tasks.arithmetic import Arithmetic
from steep.types import wrong

@dataclass(frozen=True, kw_only=True)
class Stern(Arithmetic):
    def verify(self, problem, answer):
        return super().verify(problem, answer) if answer.isdigit() else wrong("digits only")

TASK = Stern(levels=(1,))
"""
NEAR = """
import os
from steep.tasks.arithmetic import Arithmetic

class Near(Arithmetic):
    def same(self, problem, answer, other):
        if other == "crash":
            os._exit(3)
        return abs(int(answer) - int(other)) < 2

TASK = Near()
"""
BARE = """
from steep.tasks.arithmetic import Arithmetic

class Bare:
    name, levels = "bare", (1,)
    problems, verify, examples = Arithmetic().problems, Arithmetic().verify, Arithmetic().examples

TASK = Bare()
"""


@pytest.fixture
def written(tmp_path):
    def write(text, name="mine.py"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_rows_and_a_check_of_its_own(written):
    task = task_of(written(ROWS))
    assert (task.name, task.levels) == ("mine", [1, 2])
    problem = next(task.problems("train", 0))
    gold = problem.key["answer"]
    assert task.verify(problem, gold).kind == "correct"
    assert task.verify(problem, str(3 * int(gold))).kind == "correct"
    assert task.verify(problem, "1").kind == "wrong"
    assert task.verify(problem, "half").score == 0.5
    unread = task.verify(problem, "many")
    assert (unread.kind, unread.reason[:10]) == ("invalid", "ValueError")


@pytest.mark.slow
def test_a_check_that_hangs_is_invalid(written):
    task = task_of(written(ROWS))
    verdict = task.verify(next(task.problems("train", 0)), "wait")
    assert (verdict.kind, verdict.reason) == ("invalid", "it took more than 10 s, twice")


def test_a_task_object(written):
    task = task_of(written(TASK))
    assert (task.name, task.levels) == ("arithmetic", (1,))
    problem = next(task.problems("train", 0))
    assert task.verify(problem, "two") == wrong("digits only")
    assert len(task.examples()) > 3


def test_a_task_object_says_what_is_the_same(written):
    task = task_of(written(NEAR))
    problem = next(task.problems("train", 0))
    assert [sameness(task)(problem, "7", other) for other in ("8", "9", "many", "crash")] == [True, False, False, False]
    bare = task_of(written(BARE, "bare.py"))
    assert sameness(bare)(problem, "An egg.", "an  EGG")
    assert not sameness(bare)(problem, "7", "8")


def test_a_file_may_demonstrate(written):
    text = "def demonstrate(problem, rng): return ['one ' * rng.randint(1, 1), 5][problem.level - 1]"
    task = task_of(written(f"{ROWS}\n{text}"))
    assert isinstance(task, Demonstrator)
    problem = next(task.problems("train", 0, level=1))
    assert task.demonstrate(problem, Random(0)) == Demonstration(thought="one ", answer=problem.key["answer"])
    with pytest.raises(SteepError, match=r"demonstrate.* returned 5\n  return a text"):
        task.demonstrate(next(task.problems("train", 0, level=2)), Random(0))
    with pytest.raises(SteepError, match=r"fails on .*: AttributeError"):
        task.demonstrate(problem, None)
    stern = task_of(written(TASK, "stern.py"))
    assert isinstance(stern, Demonstrator)
    assert stern.demonstrate(next(stern.problems("train", 0)), Random(0)).answer.isdigit()
    assert not isinstance(task_of(written(ROWS, "silent.py")), Demonstrator)


def test_without_a_check_the_named_ones_are_used(written):
    task = task_of(written("def problems(): return [{'prompt': '1/2?', 'answer': 0.5, 'split': 'test'}]"), "number")
    assert task.verify(next(task.problems("test", 0)), "1/2").kind == "correct"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "has neither TASK nor problems"),
        ("import nothing_like_it", "cannot be read: ModuleNotFoundError"),
        ("TASK = 3", "TASK in .* has no name"),
        ("def problems(): return [{'prompt': 'a', 'answer': 1}, {'prompt': 'b'}]", "mine.py, row 2: no answer"),
        ("def problems(): return [5]", "mine.py, row 1: a int, not a dict"),
        ("def problems(): raise KeyError('words')", "fails: KeyError: 'words'"),
        ("def problems(): return []", "has no problems"),
    ],
)
def test_a_file_that_cannot_be_used_is_told(text, message, written):
    with pytest.raises(SteepError, match=message):
        next(task_of(written(text)).problems("train", 0))
