"""Which task and level to draw the next problem from: most often where the policy is neither sure nor lost."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from steep.config import within
from steep.tasks.mixture import Share
from steep.types import Problem


@dataclass(frozen=True, kw_only=True)
class CurriculumConfig:
    adaptive: bool = True
    """Weigh tasks and their levels by how much signal they give too; otherwise by the tasks' own weights alone."""
    floor: float = 0.1
    """Every level keeps at least this weight, of a most of 1 at a pass rate of one half."""
    memory: float = 0.9
    """How much of a level's pass rate estimate is kept at each new group."""
    retire_at: float = 0.9
    """A problem whose last group passed more often than this is not drawn again; 1 retires none."""
    retire_below: float = 0.05
    """A problem that passed less often than this before the first step (`RlConfig.profile`) is not drawn; 0 retires
    none."""

    def __post_init__(self) -> None:
        within(self, 0, "memory", "retire_at", "retire_below", high=1)
        within(self, 1e-6, "floor", high=1)


@dataclass
class Curriculum:
    """Running pass rates. All of it is saved and restored with a run."""

    shares: Sequence[Share]
    config: CurriculumConfig
    rates: dict[str, float] = field(default_factory=dict)
    """Pass rate of `task/level`."""
    retired: set[str] = field(default_factory=set)
    """Ids of problems that are solved, were found too hard before the first step, or are too long for the context."""

    def choose(self, rng: Random) -> tuple[Share, int]:
        drawn = [(share, *level) for share in self.shares for level in share.levels.items()]
        weights = [weight * self.weight(f"{share.task.name}/{level}") for share, level, weight in drawn]
        share, level, _ = rng.choices(drawn, weights)[0]
        return share, level

    def weight(self, level: str) -> float:
        rate = self.rates.get(level)
        if not self.config.adaptive or rate is None:
            return 1.0
        return max(4 * rate * (1 - rate), self.config.floor)

    def begin(self, passed: Sequence[tuple[Problem, float]]) -> None:
        """Take in what was measured before the first step."""
        rates: dict[str, list[float]] = defaultdict(list)
        for problem, rate in passed:
            rates[f"{problem.task}/{problem.level}"].append(rate)
            if not self.config.retire_below <= rate <= self.config.retire_at:
                self.retired.add(problem.id)
        self.rates = {level: sum(found) / len(found) for level, found in rates.items()}

    def learn(self, problem: Problem, passed: float) -> None:
        """Take in the pass rate of one group."""
        level = f"{problem.task}/{problem.level}"
        old = self.rates.get(level)
        self.rates[level] = passed if old is None else self.config.memory * old + (1 - self.config.memory) * passed
        if passed > self.config.retire_at:
            self.retired.add(problem.id)

    def state(self) -> dict[str, Any]:
        return {"rates": dict(self.rates), "retired": sorted(self.retired)}

    def load_state(self, state: dict[str, Any]) -> None:
        self.rates, self.retired = dict(state["rates"]), set(state["retired"])
