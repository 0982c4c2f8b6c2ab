"""Task and engine make groups: problems drawn by curriculum, sampled under a budget, verified."""

from steep.rollouts.curriculum import CurriculumConfig
from steep.rollouts.records import rows
from steep.rollouts.rollouts import LATE, RolloutConfig, Rollouts, told
from steep.rollouts.verify import judge, mean_score, verified, verified_groups

__all__ = [
    "LATE",
    "CurriculumConfig",
    "RolloutConfig",
    "Rollouts",
    "judge",
    "mean_score",
    "rows",
    "told",
    "verified",
    "verified_groups",
]
