"""From an evaluation on disk to claims: figures with intervals, each held to its bar."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steep.evals.statistics import fit_log, proportion
from steep.evals.suite import Cell
from steep.runs import Claim, Stage

DRAWS = 1000  # bootstrap samples of the problems


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


def curve(stage: Stage, *, model: str, task: str, mode: str, budgets: Sequence[int]) -> Curve:
    """The curve of a model on a task, from the rollouts that an evaluation saved. Invalid verdicts are left out."""
    scores: dict[str, dict[int, list[float]]] = {}
    for row in stage.rollouts():
        if (row["model"], row["task"], row["mode"]) == (model, task, mode) and row["verdict"] != "invalid":
            scores.setdefault(row["problem"], {}).setdefault(row["budget"], []).append(row["score"])
    whole = [by for by in scores.values() if all(budget in by for budget in budgets)]
    return Curve(
        tuple(budgets), np.array([[np.mean(by[b]) for b in budgets] for by in whole]).reshape(-1, len(budgets))
    )


def claim_r2(id: str, measured: Curve, bar: str, command: str) -> Claim:
    """How well accuracy follows a straight line over the log of the budget."""
    draws = [fit_log(measured.budgets, accuracy_B.tolist()).r2 for accuracy_B in measured.resampled()]
    low, high = np.quantile(draws, [0.025, 0.975])
    value = fit_log(measured.budgets, measured.accuracies.tolist()).r2
    return Claim(id=id, value=value, low=float(low), high=float(high), bar=bar, command=command)


def claim_smallest_gain(id: str, measured: Curve, bar: str, command: str) -> Claim:
    """The smallest gain in accuracy from one budget to the next: above 0 if the curve rises everywhere."""
    draws = [float(np.diff(accuracy_B).min()) for accuracy_B in measured.resampled()]
    low, high = np.quantile(draws, [0.025, 0.975])
    value = float(np.diff(measured.accuracies).min())
    return Claim(id=id, value=value, low=min(float(low), value), high=max(float(high), value), bar=bar, command=command)


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


def claim_share(id: str, successes: int, trials: int, bar: str, command: str) -> list[Claim]:
    """A proportion with Wilson's interval; nothing if nothing was counted."""
    if trials == 0:
        return []
    estimate = proportion(successes, trials)
    return [Claim(id=id, value=estimate.value, low=estimate.low, high=estimate.high, bar=bar, command=command)]
