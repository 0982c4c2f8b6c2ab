import numpy as np
import pytest

from steep.evals.saturation import saturation


def scores(*accuracies, problems=400, first=16):
    """By budget: a problem is solved from the budget on that its difficulty asks for."""
    difficulty = np.random.default_rng(0).permutation(problems) / problems
    return {
        first << place: {str(n): float(difficulty[n] < accuracy) for n in range(problems)}
        for place, accuracy in enumerate(accuracies)
    }


def test_a_curve_that_still_rises():
    found = saturation(scores(0.2, 0.3, 0.4, 0.5))
    assert (found.level_from, found.before, found.largest) == (None, 64, 128)
    assert found.gain.value == pytest.approx(0.1)
    assert found.gain.low > 0.05
    assert found.fit.slope == pytest.approx(0.1)
    assert found.words.startswith(
        "+10.0 points a doubling, R² = 1.000; still rising at 128 tokens, which add 10.0 points"
    )
    assert found.words.endswith("to what 64 give")


def test_a_curve_that_becomes_level():
    found = saturation(scores(0.2, 0.5, 0.7, 0.7, 0.7))
    assert (found.level_from, found.before, found.largest, found.problems) == (64, 64, 256, 400)
    assert found.gain.value == 0
    assert "saturates at 64 tokens: from there on no budget is measurably better on these 400 problems" in found.words


def test_a_curve_that_falls():
    found = saturation(scores(0.2, 0.5, 0.7, 0.6))
    assert (found.level_from, found.largest) == (64, 128)
    assert found.gain.high < 0
    assert "; is best at 64 tokens: from there on no budget is measurably better on these 400 problems" in found.words
    assert "and 128 tokens lose 10.0 points (7." in found.words


def test_a_step_that_pays_later_is_not_missed():
    assert saturation(scores(0.5, 0.5, 0.9, 0.9)).level_from == 64


def test_gains_are_paired_by_problem():
    """Accuracies of 50% and 53% of 400 problems cannot be told apart, but nobody lost what was gained."""
    assert saturation(scores(0.3, 0.5, 0.53)).level_from is None


def test_a_budget_of_0_and_problems_that_some_budgets_lack_are_left_out():
    found = scores(0.2, 0.3, 0.4)
    found[0] = {"0": 1.0}
    del found[16]["7"]
    assert saturation(found).problems == 399


def test_two_budgets_are_no_curve():
    assert saturation(scores(0.2, 0.3)) is None
    assert saturation({}) is None
