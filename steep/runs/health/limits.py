"""Where each rule draws its lines. A value above a line is followed by what the line is named after.

    --health.truncation.pause 0.5     --health.gradient_spike.skip none     --health.guessing none

What the values are, and what to do, stands with the rules (`rules.py`).
"""

from dataclasses import dataclass
from typing import Literal

Reaction = Literal["warn", "skip", "roll_back", "pause"]
REACTIONS: tuple[Reaction, ...] = ("warn", "skip", "roll_back", "pause")
"""Mildest first."""
WAITING = ("roll_back", "pause")
"""Those for which a value must be above for `steps` steps."""


@dataclass(frozen=True, kw_only=True)
class WarnLimit:
    """The lines of a rule that only warns, since what it sees depends on the machine."""

    warn: float | None = None
    """None: there is no such line."""


@dataclass(frozen=True, kw_only=True)
class Limit(WarnLimit):
    roll_back: float | None = None
    """Go back to the newest checkpoint, and on with other data."""
    pause: float | None = None
    """Save, stop, and say how to go on."""
    steps: int = 1
    """Only a value that is above for so many steps in a row rolls back or pauses; until then it warns."""


@dataclass(frozen=True, kw_only=True)
class UpdateLimit(Limit):
    """The lines of a rule that sees an update before it is applied."""

    skip: float | None = None
    """Do not apply it."""


@dataclass(frozen=True, kw_only=True)
class HealthConfig:
    """The lines of every rule; None leaves a rule out.

    They were drawn above what healthy runs showed, in 10,000 steps of RL and fine-tuning (docs/health.md).
    """

    not_finite: UpdateLimit | None = UpdateLimit(skip=0, roll_back=0, steps=3)
    gradient_spike: UpdateLimit | None = UpdateLimit(skip=8, pause=8, steps=5)
    kl_blow_up: UpdateLimit | None = UpdateLimit(warn=8, pause=8, steps=5)
    mismatch: UpdateLimit | None = UpdateLimit(warn=0.01, pause=0.1)
    first_update: UpdateLimit | None = UpdateLimit(pause=1e-3)
    broken_weights: Limit | None = Limit(roll_back=0)
    weight_sync: Limit | None = Limit(pause=0)
    entropy_collapse: Limit | None = Limit(warn=0.8, pause=0.8, steps=50)
    entropy_explosion: Limit | None = Limit(warn=2, roll_back=2, steps=10)
    thought_explosion: Limit | None = Limit(warn=2)
    thought_collapse: Limit | None = Limit(warn=0.7)
    truncation: Limit | None = Limit(warn=0.1, pause=0.25, steps=10)
    zero_variance: Limit | None = Limit(warn=0.5, pause=0.75, steps=10)
    equal_rewards: Limit | None = Limit(warn=0, pause=0, steps=10)
    reward_without_accuracy: Limit | None = Limit(warn=0.1)
    guessing: Limit | None = Limit(warn=0.5)
    copying: Limit | None = Limit(warn=0.25)
    repetition: Limit | None = Limit(warn=0.25)
    stale_policy: Limit | None = Limit(pause=0)
    duplicates: Limit | None = Limit(warn=0)
    invalid_verdicts: Limit | None = Limit(warn=0.01, pause=0.05, steps=3)
    canary: Limit | None = Limit(pause=0)
    overlap: Limit | None = Limit(warn=0.01)
    lost_state: Limit | None = Limit(pause=0)
    throughput: WarnLimit | None = WarnLimit(warn=2)
    clock_jump: WarnLimit | None = WarnLimit(warn=1)
    disk: WarnLimit | None = WarnLimit(warn=1 / 3)
