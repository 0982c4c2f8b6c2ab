import math
from random import Random

import numpy as np
import pytest

from steep.evals.statistics import (
    bootstrap,
    bootstrap_seeds,
    fit_log,
    level_correlation,
    mean_rate,
    proportion,
    spearman,
    student,
    t95,
)


def test_wilson_intervals_worked_by_hand():
    # Centre (p + z^2/2n) / (1 + z^2/n) and half width, for z = 1.96: 81 of 263 is the example of Newcombe (1998).
    estimate = proportion(81, 263)
    assert estimate.value == pytest.approx(0.3080, abs=1e-4)
    assert (estimate.low, estimate.high) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert proportion(0, 10).low == 0.0
    assert proportion(0, 10).high == pytest.approx(1.96**2 / (10 + 1.96**2), abs=1e-4)
    assert (proportion(10, 10).low, proportion(10, 10).high) == pytest.approx((1 - proportion(0, 10).high, 1.0))


def test_a_mean_of_zeros_and_ones_up_to_rounding_has_wilsons_interval():
    assert mean_rate(np.array([1.0, 0.99999999999, 1e-13, 1.0])) == proportion(3, 4)
    assert mean_rate(np.full(60, 0.9999999999)).low == pytest.approx(60 / (60 + 1.96**2), abs=1e-4)
    assert mean_rate(np.array([1.0, 0.5])) == bootstrap(np.array([1.0, 0.5]))
    assert mean_rate(np.array([])).high == 1.0


def test_students_interval_of_a_few_values():
    estimate = student([1.0, 2.0, 3.0])
    assert (estimate.value, estimate.high - estimate.value) == pytest.approx((2.0, 4.3027 / 3**0.5))
    assert student([2.0]).value == 2.0
    assert math.isnan(student([2.0]).low)
    tables = {2: 4.303, 8: 2.306, 9: 2.262, 10: 2.228, 30: 2.042}
    assert {freedom: t95(freedom) for freedom in tables} == pytest.approx(tables, abs=0.001)


def test_wilson_interval_of_nothing_is_everything():
    estimate = proportion(0, 0)
    assert math.isnan(estimate.value)
    assert (estimate.low, estimate.high) == (0.0, 1.0)


@pytest.mark.parametrize("p", [0.02, 0.5, 0.9])
def test_wilson_intervals_cover_the_truth(p):
    """Summed over the binomial distribution, not sampled."""
    n = 100
    weights = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    intervals = [proportion(k, n) for k in range(n + 1)]
    covered = sum(w for w, e in zip(weights, intervals, strict=True) if e.low <= p <= e.high)
    assert 0.92 < covered < 0.98


def test_bootstrap_covers_the_truth_and_repeats_itself():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        estimate = bootstrap(rng.beta(2, 3, 60), draws=400)
        covered += estimate.low <= 0.4 <= estimate.high
    assert 0.9 <= covered / 200 <= 0.99
    samples = rng.random(50)
    assert bootstrap(samples) == bootstrap(samples)
    assert bootstrap(samples).value == samples.mean()
    assert bootstrap(samples, "median").value == np.median(samples)


def test_bootstrap_is_as_wide_as_the_standard_error_says():
    samples = np.random.default_rng(1).normal(5, 2, 400)
    estimate = bootstrap(samples)
    half = 1.96 * samples.std() / math.sqrt(400)
    assert (estimate.low, estimate.high) == pytest.approx((samples.mean() - half, samples.mean() + half), abs=0.03)


def test_log_fit_is_recovered():
    budgets = [16, 32, 64, 128, 256]
    fit = fit_log(budgets, [0.1 + 0.07 * math.log2(b) for b in budgets])
    assert (fit.slope, fit.intercept, fit.r2) == pytest.approx((0.07, 0.1, 1.0))


def test_log_fit_worked_by_hand():
    # x = 1, 2, 3 and y = 1, 3, 2: slope 1/2, intercept 1, residual 3/2 of a total of 2.
    fit = fit_log([2, 4, 8], [1, 3, 2])
    assert (fit.slope, fit.intercept, fit.r2) == pytest.approx((0.5, 1.0, 0.25))
    assert fit_log([2, 4, 8], [0.5, 0.5, 0.5]).r2 == 0.0


def test_rank_correlation():
    assert spearman([1, 2, 3, 4], [10, 20, 30, 1000]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert spearman([1, 2, 3, 4, 5], [2, 1, 4, 3, 5]) == pytest.approx(1 - 6 * 4 / (5 * 24))
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))


def test_rank_correlation_with_ties():
    """Ranks by brute force: how many are smaller, and half of those that are equal."""
    rng = Random(0)
    x = [rng.randrange(4) for _ in range(50)]
    y = [a + rng.randrange(5) for a in x]

    def ranks(values):
        return [sum(w < v for w in values) + (sum(w == v for w in values) + 1) / 2 for v in values]

    assert spearman(x, y) == pytest.approx(np.corrcoef(ranks(x), ranks(y))[0, 1])
    assert spearman([1, 1, 2], [1, 2, 3]) == pytest.approx(math.sqrt(3) / 2)


def test_the_mean_over_seeds_and_its_interval():
    """Every problem of a seed is alike, so the interval is that of drawing three seeds: all lowest, 1 of 27 draws."""
    seeds = [np.full((5, 2), value) for value in (0.1, 0.2, 0.6)]
    estimate = bootstrap_seeds(seeds, lambda samples: float(samples.mean()))
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0.3, 0.1, 0.6))
    alone = np.random.default_rng(0).random((400, 1))
    one = bootstrap_seeds([alone], lambda samples: float(samples.mean()))
    half = 1.96 * alone.std() / math.sqrt(400)
    assert (one.low, one.high) == pytest.approx((alone.mean() - half, alone.mean() + half), abs=0.005)


def test_a_statistic_that_a_seed_does_not_have_is_not_estimated():
    estimate = bootstrap_seeds([np.zeros((3, 1))], lambda samples: math.nan)
    assert math.isnan(estimate.value)


def test_length_goes_with_the_level():
    # Mean lengths 4, 3 and 8 of the levels 1, 2 and 5: ranks 2, 1, 3 against 1, 2, 3 give 1 - 6 * 2 / (3 * 8).
    pairs = np.array([[1, 2], [1, 6], [2, 3], [5, 7], [5, 9]], float)
    assert level_correlation(pairs) == pytest.approx(0.5)
    assert level_correlation(np.array([[1, 3], [3, 4]], float)) == pytest.approx(1)
    assert math.isnan(level_correlation(np.array([[1, 3], [2, 3]], float)))  # as long on both
