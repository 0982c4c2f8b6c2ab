"""What is recorded of a step's groups for the rules."""

import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from steep.runs.health.grams import copied, repeated
from steep.types import Group, Rollout

FEW = 5
"""Thought tokens below which an answer was not thought about."""


def measures(groups: Sequence[Group], oldest: int) -> dict[str, float]:
    """`oldest` is the version of the weights that nothing sampled should be older than."""
    rollouts = [(number, r) for number, g in enumerate(groups) for r in g.rollouts]
    right = [r for _, r in rollouts if right_answer(r)]
    responses = [r.ids for _, r in rollouts]
    prompts = [np.array(g.rollouts[0].prompt_ids, np.int32) for g in groups]
    return {
        "guessed": float(np.mean([guessed(r) for r in right])) if right else 0.0,
        "copied": copied(responses, prompts, [number for number, _ in rollouts]),
        "repeated": repeated(responses),
        "stale": max(0, oldest - min((int(r.versions.min()) for _, r in rollouts if len(r.versions)), default=oldest)),
    }


def held_out(metrics: Mapping[str, float], prefix: str = "valid/") -> float | None:
    """Mean accuracy on held-out problems over tasks and budgets; None where it was not measured."""
    points = [v for k, v in metrics.items() if k.startswith(prefix) and not k.endswith(("_low", "_high"))]
    return statistics.fmean(points) if points else None


def right_answer(rollout: Rollout) -> bool:
    return rollout.verdict is not None and rollout.verdict.kind == "correct"


def guessed(rollout: Rollout) -> bool:
    """Right by the model's own choice to hardly think; a thought that a budget cut is no choice."""
    return right_answer(rollout) and rollout.ended and rollout.thought_tokens < FEW
