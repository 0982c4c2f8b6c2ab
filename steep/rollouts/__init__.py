"""Task and engine make groups: problems drawn by curriculum, sampled under a budget, verified."""

from steep.rollouts.curriculum import CurriculumConfig
from steep.rollouts.records import rows
from steep.rollouts.rollouts import RolloutConfig, Rollouts, told
from steep.rollouts.verify import judge, verified

__all__ = ["CurriculumConfig", "RolloutConfig", "Rollouts", "judge", "rows", "told", "verified"]
