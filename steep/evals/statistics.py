"""Intervals, fits and rank correlations for figures that are reported."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054  # standard normal quantile of 97.5%
T95 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060)
"""Student's t quantiles of 97.5%, for 1 to 8 degrees of freedom."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95% interval."""

    value: float
    low: float
    high: float


class Interval(Protocol):
    """Whatever has a figure with its interval."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


def percent(figure: Interval) -> str:
    """A share as "62% (50-73)"; "-" where nothing was measured."""
    if math.isnan(figure.value):
        return "-"
    return f"{figure.value:.0%} ({100 * figure.low:.0f}-{100 * figure.high:.0f})"


def proportion(successes: int, trials: int) -> Estimate:
    """Wilson's score interval (1927): right near 0 and 1 too, where most figures of a trained model are."""
    if trials == 0:
        return Estimate(math.nan, 0.0, 1.0)
    p, z2 = successes / trials, Z95**2
    centre = (p + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z95 * math.sqrt(p * (1 - p) / trials + z2 / (4 * trials**2)) / (1 + z2 / trials)
    return Estimate(p, max(centre - half, 0.0), min(centre + half, 1.0))


def student(values: Sequence[float]) -> Estimate:
    """Mean of a few independent values, such as those of seeds, with Student's interval (1908); NaN for a single one.

    A bootstrap of three values would give an interval that is far too small.
    """
    mean, freedom = float(np.mean(values)), len(values) - 1
    if freedom == 0:
        return Estimate(mean, math.nan, math.nan)
    half = t95(freedom) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Estimate(mean, mean - half, mean + half)


def t95(freedom: int) -> float:
    """Beyond the table by the expansion of Cornish and Fisher (1937), within 0.001."""
    if freedom <= len(T95):
        return T95[freedom - 1]
    z = Z95
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2) + third


def mean_rate(rates: NDArray[np.float64]) -> Estimate:
    """The mean of values from 0 to 1: Wilson's interval where each is 0 or 1 up to rounding, or else a bootstrap's."""
    if np.allclose(rates, rates.round(), rtol=0, atol=1e-9):
        return proportion(round(rates.sum()), len(rates))
    return bootstrap(rates)


def chance_of_difference(values: Sequence[float], drawn: int) -> float:
    """How likely so many of the values, drawn without replacement, are not all equal.

    This is unbiased, as pass@k is (Chen et al. 2021, arXiv 2107.03374). Where there are fewer values than are drawn
    they are put back, and what happens rarely is missed.
    """
    counts = Counter(values).values()
    if drawn > len(values):
        return 1 - sum((count / len(values)) ** drawn for count in counts)
    return 1 - sum(math.comb(count, drawn) for count in counts) / math.comb(len(values), drawn)


def bootstrap(samples: NDArray[np.float64], statistic: str = "mean", draws: int = 2000, seed: int = 0) -> Estimate:
    """Percentile bootstrap over the first axis (the problems)."""
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(samples), (draws, len(samples)))
    values = getattr(np, statistic)(samples[picks], axis=1)
    low, high = np.quantile(values, [0.025, 0.975])
    return Estimate(float(getattr(np, statistic)(samples)), float(low), float(high))


def bootstrap_seeds(
    seeds: Sequence[NDArray[np.float64]],
    statistic: Callable[[NDArray[np.float64]], float],
    draws: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Mean over training seeds of a statistic of the problems, which are the first axis of each array.

    The interval is a percentile bootstrap that draws seeds and, within each, problems. Draws in which the statistic is
    NaN are left out.
    """
    rng = np.random.default_rng(seed)

    def drawn(samples: NDArray[np.float64]) -> float:
        return statistic(samples[rng.integers(0, len(samples), len(samples))])

    picks = rng.integers(0, len(seeds), (draws, len(seeds)))
    values = np.array([np.mean([drawn(seeds[pick]) for pick in row]) for row in picks])
    value = float(np.mean([statistic(samples) for samples in seeds]))
    if math.isnan(value) or np.isnan(values).all():
        return Estimate(math.nan, math.nan, math.nan)
    low, high = np.nanquantile(values, [0.025, 0.975])
    return Estimate(value, min(float(low), value), max(float(high), value))


@dataclass(frozen=True)
class LogFit:
    """accuracy = intercept + slope * log2(budget)."""

    slope: float
    """Accuracy gained at each doubling."""
    intercept: float
    r2: float

    @property
    def words(self) -> str:
        return f"{round(100 * self.slope, 1) + 0.0:+.1f} points a doubling, R² = {self.r2:.3f}"  # + 0.0: no "-0.0"


def fit_log(budgets: Sequence[float], accuracies: Sequence[float]) -> LogFit:
    """Least squares of accuracy on the log of the budget."""
    x, y = np.log2(np.asarray(budgets, float)), np.asarray(accuracies, float)
    slope, intercept = np.polyfit(x, y, 1)
    total = float(((y - y.mean()) ** 2).sum())
    rest = float(((y - (intercept + slope * x)) ** 2).sum())
    return LogFit(float(slope), float(intercept), 1 - rest / total if total > 0 else 0.0)


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Rank correlation; ties share their mean rank. NaN if either is constant."""
    rx, ry = _ranks(x), _ranks(y)
    if rx.std() == 0 or ry.std() == 0:
        return math.nan
    return float(np.corrcoef(rx, ry)[0, 1])


def level_correlation(levels_and_lengths_P2: NDArray[np.float64]) -> float:
    """Spearman's correlation of a level with the mean length of its thoughts, from pairs of level and length."""
    level_P, length_P = levels_and_lengths_P2.T
    levels = np.unique(level_P)
    return spearman(levels.tolist(), [float(length_P[level_P == level].mean()) for level in levels])


def _ranks(values: Sequence[float]) -> NDArray[np.float64]:
    array = np.asarray(values, float)
    _, inverse, counts = np.unique(array, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return np.asarray((last - (counts - 1) / 2)[inverse], float)
