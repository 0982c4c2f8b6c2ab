import json

import pytest

from steep.errors import ConfigError, SteepError
from steep.evals.levels import at_level, choose
from steep.evals.statistics import Estimate
from steep.tasks.arithmetic import Arithmetic
from steep.tasks.countdown import Countdown
from steep.tasks.jsonl import Jsonl
from steep.tasks.letters import Letters
from steep.tasks.only import Only
from steep.tasks.published import Gsm8k

TOUCHING = 0.94
"""The accuracy whose interval touches 100%."""


def accuracies(*by_level):
    """An accuracy for each level, and the levels that were asked for."""
    asked = []

    def accuracy(task):
        (level,) = task.levels
        asked.append(level)
        value = by_level[level - 1]
        return Estimate(value, 0.0, 1.0 if value == TOUCHING else 0.999)

    return accuracy, asked


@pytest.mark.parametrize(
    ("by_level", "asked", "level"),
    [
        ((0.5,), [1], 1),
        ((0.99, 0.6), [1, 2], 2),  # a level that the task did not have is tried
        ((0.99, 0.97, 0.9, 0.05), [1, 2, 3, 4], 3),  # from too easy to too hard at once
        ((0.97, 0.05), [1, 2], 1),  # though 5% is nearer to a half: it would be too hard at every budget
        ((0.1,), [1], 1),  # none is easier
        ((0.99, 0.98, 0.97, 0.96, 0.93, 0.94), [1, 2, 3, 4, 5, 6], 5),  # none is harder
    ],
)
def test_the_first_level_that_is_not_easy_is_chosen(by_level, asked, level):
    accuracy, tried = accuracies(*by_level)
    choice = choose(Countdown(levels=(1,)), accuracy)
    assert (tried, choice.level, choice.task) == (asked, level, "countdown")
    assert [t.value for t in choice.tried] == list(by_level)


def test_saturated_and_telling_levels():
    accuracy, _ = accuracies(0.96, 0.95, TOUCHING, 0.8)
    choice = choose(Countdown(), accuracy)
    assert [t.saturated for t in choice.tried] == [True, False, True, False]
    assert [t.telling for t in choice.tried] == [False, False, False, True]
    assert choice.words.endswith("; saturated (above 95%, or not to be told from 100%): level 1, 3")


def test_only_levels_that_were_asked_for_are_tried():
    accuracy, tried = accuracies(0.99, 0.99, 0.99, 0.5)
    assert choose(Countdown(levels=(3, 1)), accuracy, beyond=False).level == 1
    assert tried == [1, 3]


def test_a_task_that_cannot_be_narrowed_is_taken_as_it_is():
    problem = Letters().strawberry()
    choice = choose(Only(name="strawberry", task=Letters(), chosen=(problem,)), accuracies()[0])
    assert (choice.level, choice.tried) == (None, ())


def test_levels_without_test_problems_are_passed_over(tmp_path):
    rows = [{"prompt": f"{n}?", "answer": n, "level": n, "split": "train" if n == 2 else "test"} for n in (1, 2, 3)]
    file = tmp_path / "mine.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    accuracy, tried = accuracies(0.99, 0.5, 0.6)
    assert choose(Jsonl(file=file), accuracy).level == 3
    assert tried == [1, 3]
    none = tmp_path / "none.jsonl"
    none.write_text(json.dumps(rows[1]))
    assert choose(Jsonl(file=none), accuracy).tried == ()  # it is measured as it is, which tells why it cannot be


def test_narrowing():
    assert at_level(Arithmetic(), 6) == Arithmetic(levels=(6,))
    assert at_level(Arithmetic(), 7) is None
    assert at_level(Gsm8k(), 2) is None


def test_a_level_of_its_own_that_fails_is_told():
    class Broken(Countdown):
        def problems(self, split, seed, level=None, start=0):
            raise KeyError("list")

    with pytest.raises(SteepError, match="cannot make problems: KeyError"):
        at_level(Broken(levels=(1,)), 1)
    assert at_level(Broken(levels=(1,)), 2) is None
    with pytest.raises(ConfigError):
        Countdown(levels=(9,))
