"""What the answers to problems say about whether RL can learn from them."""

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pytest

from steep.evals.signal import judgement, pass_rate, signals
from steep.evals.statistics import chance_of_difference, mean_rate, proportion
from steep.tasks.arithmetic import Arithmetic
from steep.types import Group, Verdict, correct, invalid, wrong

RIGHT, WRONG, BROKEN = correct(), wrong(""), invalid("")


@dataclass
class Answer:
    verdict: Verdict


def group(*verdicts, level=1):
    problem = replace(next(Arithmetic(levels=(1,)).problems("train", 0)), level=level)
    return Group(problem=problem, rollouts=tuple(map(Answer, verdicts)))


def test_answers_are_counted_by_problem():
    groups = [
        group(RIGHT, RIGHT),
        group(RIGHT, WRONG),
        group(RIGHT, BROKEN),
        group(WRONG, WRONG, level=2),
        group(BROKEN, BROKEN, level=2),
    ]
    every, first, second = signals(groups, 2)
    assert (every.never, every.sometimes, every.always, every.invalid) == (1, 1, 2, 1)
    assert every.pass_at_1.value == 0.625
    assert every.pass_at_n == proportion(3, 4)
    assert every.varied == 0.25
    assert (first.level, first.never, first.sometimes, first.always) == (1, 0, 1, 2)
    assert (second.level, second.never, second.invalid, second.pass_at_1) == (2, 1, 1, proportion(0, 1))
    assert [pass_rate(g) for g in groups] == [1, 0.5, 1, 0, None]


def test_partial_scores_are_signal_too():
    half = Verdict(kind="wrong", score=0.5)
    (found,) = signals([group(half, WRONG)], 2)
    assert (found.never, found.varied) == (1, 1.0)
    assert judgement(found).startswith("signal: ")


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        ([(WRONG, WRONG)], "no signal: RL has nothing to learn from; start with easier problems or demonstrations"),
        ([(RIGHT, RIGHT)], "no signal: RL has nothing to learn from; choose harder problems"),
        ([(RIGHT, WRONG)], "signal: scores differ in about 100% of groups of 2, and RL can learn from these"),
        (
            [(RIGHT, WRONG), *[(WRONG, WRONG)] * 11],
            "little signal: scores differ in about 8% of groups of 2; choo",
        ),
        ([(BROKEN, BROKEN)], "no answer could be checked"),
    ],
)
def test_the_judgement_says_what_to_do(verdicts, said):
    (found,) = signals([group(*of_problem) for of_problem in verdicts], 2)
    assert judgement(found).startswith(said)


def test_the_chance_of_a_difference_is_counted_over_all_draws():
    values = [1.0, 0.0, 0.0, 1.0, 0.5, 0.0]
    drawn = list(combinations(values, 3))
    assert chance_of_difference(values, 3) == pytest.approx(sum(len(set(d)) > 1 for d in drawn) / len(drawn))
    assert chance_of_difference([1.0, 0.0, 0.0, 0.0], 8) == pytest.approx(1 - 0.75**8 - 0.25**8)
    assert chance_of_difference([0.0] * 4, 8) == 0


def test_rates_that_are_all_or_nothing_have_wilsons_interval():
    assert mean_rate(np.array([1.0, 0.0])) == proportion(1, 2)
    assert mean_rate(np.array([0.5, 0.25])).value == 0.375
