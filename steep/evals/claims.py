"""From an evaluation on disk to claims: figures with intervals, each held to its bar."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steep.evals.mending import replays
from steep.evals.statistics import bootstrap_seeds, fit_log, level_correlation, proportion
from steep.evals.suite import Cell
from steep.memory import peak_gib
from steep.runs import Claim, Run, Stage
from steep.types import Replayer

DRAWS = 1000  # bootstrap samples of the problems
COLUMNS = (
    "model",
    "task",
    "mode",
    "level",
    "problem",
    "budget",
    "verdict",
    "score",
    "ended",
    "thought_tokens",
    "thought",
)

Rows = Sequence[Mapping[str, Any]]
"""Rollouts that an evaluation saved, as `answers` reads them."""


@dataclass(frozen=True)
class Curve:
    """Scores of the same problems at rising thinking budgets."""

    budgets: tuple[int, ...]
    scores_PB: NDArray[np.float64]
    """Mean score of each of P problems at each of B budgets."""

    @property
    def accuracies(self) -> NDArray[np.float64]:
        return np.asarray(self.scores_PB.mean(0))

    def resampled(self, seed: int = 0) -> Iterable[NDArray[np.float64]]:
        """Accuracies at the budgets for bootstrap samples of the problems."""
        rng = np.random.default_rng(seed)
        count = len(self.scores_PB)
        for _ in range(DRAWS):
            yield self.scores_PB[rng.integers(0, count, count)].mean(0)


def answers(stage: Stage) -> list[dict[str, Any]]:
    """The rollouts that an evaluation saved, without their tokens. Invalid verdicts are left out."""
    return [row for row in stage.rollouts(columns=COLUMNS) if row["verdict"] != "invalid"]


def by_problem(rows: Rows, figure: str, budgets: Sequence[int], **where: object) -> dict[str, NDArray[np.float64]]:
    """A figure of the rollouts (`score`, `ended`, `thought_tokens`) of each problem at each budget, by problem.

    `where` are the values of other columns. Samples are averaged; problems that lack a budget are left out.
    """
    found: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        if all(row[name] == value for name, value in where.items()):
            found.setdefault(row["problem"], {}).setdefault(row["budget"], []).append(row[figure])
    return {
        problem: np.array([np.mean(by_budget[budget]) for budget in budgets])
        for problem, by_budget in found.items()
        if all(budget in by_budget for budget in budgets)
    }


def stacked(by_problem: Mapping[str, NDArray[np.float64]], budgets: int = 1) -> NDArray[np.float64]:
    """[P, B] of all problems; without rows if there are none."""
    return np.array(list(by_problem.values())).reshape(-1, budgets)


def paired(first: Mapping[str, NDArray[np.float64]], second: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """[P, B]: by how much the first is above the second, on the problems that both have."""
    return np.array([first[problem] - second[problem] for problem in first if problem in second])


def levels_and_lengths(rows: Rows, **where: object) -> NDArray[np.float64]:
    """[P, 2]: the level of each rollout's problem and the tokens of its thought."""
    chosen = [row for row in rows if all(row[name] == value for name, value in where.items())]
    return np.array([[row["level"], row["thought_tokens"]] for row in chosen], float).reshape(-1, 2)


def replayed(rows: Rows, replayer: Replayer, **where: object) -> NDArray[np.float64]:
    """[P, 3] as `mending.replays` has it, of the thoughts of all rollouts that fit `where`."""
    return replays(replayer, (row["thought"] for row in rows if all(row[name] == v for name, v in where.items())))


def over_seeds(
    seeds: Sequence[Rows], figure: str, budgets: Sequence[int], **where: object
) -> list[dict[str, NDArray[np.float64]]]:
    """`by_problem` for each seed."""
    return [by_problem(rows, figure, budgets, **where) for rows in seeds]


def curve(stage: Stage, *, model: str, task: str, mode: str, budgets: Sequence[int]) -> Curve:
    """The curve of a model on a task, from the rollouts that an evaluation saved. Invalid verdicts are left out."""
    scores = by_problem(answers(stage), "score", budgets, model=model, task=task, mode=mode)
    return Curve(tuple(budgets), stacked(scores, len(budgets)))


def smallest_gain(scores_PB: NDArray[np.float64]) -> float:
    """The smallest gain in accuracy from one budget to the next: above 0 if it rises everywhere."""
    return float(np.diff(scores_PB.mean(0)).min())


def claim_over_seeds(
    id: str,
    seeds: Sequence[NDArray[np.float64]],
    bar: str,
    command: str,
    statistic: Callable[[NDArray[np.float64]], float] = lambda samples: float(samples.mean()),
) -> list[Claim]:
    """The mean over training seeds of a statistic of the problems, the first axis of each array.

    The interval is that of a bootstrap over seeds and, within each, over problems. Nothing if a seed was not measured,
    or if the statistic is not defined in one.
    """
    if not seeds or not all(map(len, seeds)):
        return []
    estimate = bootstrap_seeds(seeds, statistic)
    if math.isnan(estimate.value):
        return []
    return [Claim(id=id, value=estimate.value, low=estimate.low, high=estimate.high, bar=bar, command=command)]


def claim_mean(
    id: str, seeds: Sequence[Rows], figure: str, budget: int, bar: str, command: str, **where: object
) -> list[Claim]:
    """The mean over problems and seeds of a figure at one budget."""
    return claim_over_seeds(id, [stacked(by) for by in over_seeds(seeds, figure, (budget,), **where)], bar, command)


def claim_gain(
    id: str,
    first: Sequence[Mapping[str, NDArray[np.float64]]],
    second: Sequence[Mapping[str, NDArray[np.float64]]],
    bar: str,
    command: str,
) -> list[Claim]:
    """By how much the first is above the second on the same problems: the mean over budgets, problems and seeds."""
    return claim_over_seeds(id, [paired(a, b) for a, b in zip(first, second, strict=True)], bar, command)


def claim_rising(
    id: str, seeds: Sequence[Rows], budgets: Sequence[int], bar: str, command: str, **where: object
) -> list[Claim]:
    """The smallest gain in accuracy from one budget to the next, in each seed, and the mean of those."""
    scores = [stacked(by, len(budgets)) for by in over_seeds(seeds, "score", budgets, **where)]
    return claim_over_seeds(id, scores, bar, command, smallest_gain)


def claim_length_by_level(id: str, seeds: Sequence[Rows], bar: str, command: str, **where: object) -> list[Claim]:
    """Spearman's correlation of a level with the mean length of its thoughts, in each seed, and the mean of those."""
    pairs = [levels_and_lengths(rows, **where) for rows in seeds]
    return claim_over_seeds(id, pairs, bar, command, level_correlation)


def claim_before_and_after(
    id: str,
    before: Sequence[NDArray[np.float64]],
    after: Sequence[NDArray[np.float64]],
    command: str,
    statistic: Callable[[NDArray[np.float64]], float],
) -> list[Claim]:
    """Two claims over seeds, `id`_before and `id`_after, each with the other's value as its bar: it must not fall."""
    found = {
        name: claim_over_seeds(f"{id}_{name}", seeds, ">= 0", command, statistic)
        for name, seeds in (("before", before), ("after", after))
    }
    if not all(found.values()):
        return []
    (first,), (second,) = found.values()
    return [replace(first, bar=f"<= {second.value:.4g}"), replace(second, bar=f">= {first.value:.4g}")]


def claim_spread(id: str, values: Sequence[float], bar: str, command: str) -> list[Claim]:
    """The mean of one value for each seed, between the smallest and the largest; nothing if there are none."""
    if not values:
        return []
    return [Claim(id=id, value=float(np.mean(values)), low=min(values), high=max(values), bar=bar, command=command)]


def claim_r2(id: str, measured: Curve, bar: str, command: str) -> list[Claim]:
    """How well accuracy follows a straight line over the log of the budget; nothing if no problem was measured."""
    if not len(measured.scores_PB):
        return []
    draws = [fit_log(measured.budgets, accuracy_B.tolist()).r2 for accuracy_B in measured.resampled()]
    low, high = np.quantile(draws, [0.025, 0.975])
    value = fit_log(measured.budgets, measured.accuracies.tolist()).r2
    return [Claim(id=id, value=value, low=float(low), high=float(high), bar=bar, command=command)]


def claim_smallest_gain(id: str, measured: Curve, bar: str, command: str) -> list[Claim]:
    """The smallest gain in accuracy from one budget to the next: above 0 if the curve rises everywhere.

    Nothing if no problem was measured.
    """
    if not len(measured.scores_PB):
        return []
    draws = [float(np.diff(accuracy_B).min()) for accuracy_B in measured.resampled()]
    low, high = np.quantile(draws, [0.025, 0.975])
    value = float(np.diff(measured.accuracies).min())
    low, high = min(float(low), value), max(float(high), value)
    return [Claim(id=id, value=value, low=low, high=high, bar=bar, command=command)]


def claim_cell(id: str, cells: Sequence[Cell], bar: str, command: str, **where: object) -> list[Claim]:
    """The accuracy of the one cell that fits `where`; nothing if it was not measured."""
    found = [c for c in cells if all(getattr(c, name) == value for name, value in where.items())]
    return [Claim(id=id, value=c.value, low=c.low, high=c.high, bar=bar, command=command) for c in found[:1]]


def claim_training_gain(id: str, rows: Sequence[Mapping[str, Any]], key: str, bar: str, command: str) -> list[Claim]:
    """Gain in accuracy `key` on the validation split from before the first RL step to the last evaluation."""
    before = [row for row in rows if f"start/{key}" in row]
    after = [row for row in rows if key in row]
    if not before or not after:
        return []
    first = [before[0][f"start/{key}{part}"] for part in ("", "_low", "_high")]
    last = [after[-1][f"{key}{part}"] for part in ("", "_low", "_high")]
    value = last[0] - first[0]
    half = float(np.hypot(last[2] - last[1], first[2] - first[1])) / 2  # as if the samples were independent
    return [Claim(id=id, value=value, low=value - half, high=value + half, bar=bar, command=command)]


def claim_cost(name: str, run: Run, minutes: str, gib: str, command: str) -> list[Claim]:
    """Minutes since the run began, and the most memory that it held in GiB, with their bars.

    Nothing of a run that was stopped in between: its time is not its own.
    """
    if run.info.resumed:
        return []
    passed = (datetime.now(UTC) - datetime.fromisoformat(run.info.created)).total_seconds() / 60
    found = [("minutes", passed, minutes), ("peak_memory_gib", peak_gib(), gib)]
    return [
        Claim(id=f"{name}.{what}", value=value, low=value, high=value, bar=bar, command=command)
        for what, value, bar in found
    ]


def claim_share(id: str, successes: int, trials: int, bar: str, command: str) -> list[Claim]:
    """A proportion with Wilson's interval; nothing if nothing was counted."""
    if trials == 0:
        return []
    estimate = proportion(successes, trials)
    return [Claim(id=id, value=estimate.value, low=estimate.low, high=estimate.high, bar=bar, command=command)]
