"""From scores to advantages: how much better a rollout did than could be expected of the policy on that problem.

Plain numpy in float64: there is one number a rollout (`advantages`) or a trained token (`gae`), and no gradient flows
through any of them. Everything is computed from the whole batch, before it is cut into micro-batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from steep.errors import ConfigError

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True)
class AdvantageConfig:
    """The advantage of a rollout is (score - baseline) / scale. The defaults are ScaleRL's (arXiv 2510.13786)."""

    baseline: Literal["group_mean", "leave_one_out", "none"] = "group_mean"
    """`group_mean`: the mean score of the rollout's group (GRPO). `leave_one_out`: the mean of the others in the
    group, which keeps the policy gradient unbiased (RLOO, arXiv 2402.14740). `none`: the advantage is the score."""
    scale: Literal["batch_std", "group_std", "none"] = "batch_std"
    """`group_std`: the standard deviation of the group's scores (GRPO). `batch_std`: the root mean square of
    (score - group mean) over the groups of the batch that have variance. Both are population deviations (divided by n)
    and need a baseline."""
    eps: float = 1e-6
    """Added to the standard deviation before dividing, in units of the score."""

    def __post_init__(self) -> None:
        if self.baseline == "none" and self.scale != "none":
            raise ConfigError(
                f"scale {self.scale} needs a baseline: without one, groups of equal scores have nothing to divide by",
                "set baseline to group_mean or leave_one_out, or scale to none",
            )


def advantages(scores_by_group: Sequence[Floats], config: AdvantageConfig) -> list[NDArray[np.float64]]:
    """The advantage of every rollout: for each group an array of the group's shape, (rollouts,).

    With a baseline, a group whose scores are all equal (a group of one among them) gets zeros, exactly; it does not
    enter `batch_std` either.

    ValueError: a score is not finite. Rollouts whose check failed have no score and must be dropped before.
    """
    groups = [np.asarray(scores, dtype=np.float64) for scores in scores_by_group]
    if not all(np.isfinite(scores).all() for scores in groups):
        raise ValueError("scores must be finite: drop rollouts with an invalid verdict first")
    if config.baseline == "none":
        return [scores.copy() for scores in groups]

    deviations = [_deviation(scores) for scores in groups]
    varied = [deviation for deviation in deviations if deviation.any()]
    batch_std = _rms(np.concatenate(varied)) if varied else 0.0

    results = []
    for deviation in deviations:
        if not deviation.any():
            results.append(np.zeros_like(deviation))
            continue
        advantage = deviation
        if config.baseline == "leave_one_out":
            n = len(deviation)
            advantage = deviation * (n / (n - 1))  # score - mean of the others
        if config.scale == "group_std":
            advantage = advantage / (_rms(deviation) + config.eps)
        elif config.scale == "batch_std":
            advantage = advantage / (batch_std + config.eps)
        results.append(advantage)
    return results


def _deviation(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """(score - group mean); exact zeros if all scores are equal, where the subtraction alone leaves rounding errors."""
    if len(scores) == 0 or scores.min() == scores.max():
        return np.zeros_like(scores)
    return scores - float(scores.mean())


def _rms(deviation: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.square(deviation).mean()))


@dataclass(frozen=True, kw_only=True)
class Gae:
    """Generalised advantage estimation (arXiv 1506.02438, eq. 16) with the constants of Open-Reasoner-Zero
    (arXiv 2503.24290): with one reward at the end, lambda or gamma below 1 hides it from all but the last tokens."""

    gamma: float = 1.0
    """Discount of a reward for each token it lies ahead, in [0, 1]."""
    lam: float = 1.0
    """0 trusts the critic (one-step errors), 1 trusts the reward (the whole return less the critic's baseline)."""


def gae(
    rewards_T: Floats, values_T: Floats, config: Gae, last_value: float = 0.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Advantages and returns of one rollout's T trained tokens, (T,) each: (A, A + V).

        delta_t = r_t + gamma V_{t+1} - V_t          A_t = delta_t + gamma lambda A_{t+1}

    `rewards_T` is the reward that follows each token: zeros, and the score at the last. `values_T` is the critic's
    estimate before each token is chosen. Forced tokens are no actions and are left out of both. `last_value` is V
    after the last token: 0 when the rollout is over. The returns are what the critic learns to say.
    """
    if np.shape(rewards_T) != np.shape(values_T):
        raise ValueError(f"rewards {np.shape(rewards_T)} and values {np.shape(values_T)} must have one entry a token")
    values = np.append(np.asarray(values_T, dtype=np.float64), last_value)
    deltas = rewards_T + config.gamma * values[1:] - values[:-1]
    result = np.zeros(len(deltas))
    ahead = 0.0
    for t in reversed(range(len(deltas))):
        ahead = deltas[t] + config.gamma * config.lam * ahead
        result[t] = ahead
    return result, result + values[:-1]


def overlong_penalty(length: int, limit: int, buffer: int) -> float:
    """DAPO's soft overlong punishment, in [-1, 0], added to the score (arXiv 2503.14476, eq. 13).

    0 up to `limit - buffer` tokens, then falling linearly to -1 at `limit`, and -1 beyond.
    """
    free = limit - buffer
    if length <= free:
        return 0.0
    if length > limit:
        return -1.0
    return (free - length) / buffer


@dataclass(frozen=True, kw_only=True)
class Overlong:
    """A penalty on the score of long rollouts, with DAPO's proportions: a limit of 20480 tokens, a buffer of 4096."""

    buffer: float = 0.2
    """The part of the limit over which the penalty grows, in [0, 1]."""
    scale: float = 0.5
    """Penalty at the limit, in units of the score: half the distance from wrong to correct, as in DAPO, where the
    scores are -1 and 1 and the penalty 1."""

    def penalty(self, length: int, limit: int) -> float:
        """What to add to the score of a rollout of `length` tokens that could have had `limit`: in [-scale, 0]."""
        return self.scale * overlong_penalty(length, limit, round(self.buffer * limit))
