"""At which level a task still tells something about a model: not where nearly all, or hardly any, answers are right."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import chain, count

from steep.errors import ConfigError, SteepError
from steep.evals.statistics import Estimate
from steep.tasks.mixture import problems
from steep.types import Task

HARD, EASY = 0.2, 0.8
"""Between these a level tells most."""
SATURATED = 0.95


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A level and the accuracy there, at the largest budget."""

    level: int
    value: float
    low: float
    high: float

    @property
    def saturated(self) -> bool:
        return self.value > SATURATED or self.high >= 1

    @property
    def telling(self) -> bool:
        return HARD <= self.value <= EASY

    @property
    def mark(self) -> str:
        """What makes the level tell little; nothing if it tells much."""
        return (
            "saturated" if self.saturated else "easy" if self.value > EASY else "too hard" if self.value < HARD else ""
        )


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The level at which a task is measured."""

    task: str
    level: int | None
    """None: the task cannot be narrowed to a level, and is measured as it is."""
    tried: tuple[Tried, ...]

    @property
    def words(self) -> str:
        """What was chosen, and what the other levels are like."""
        if self.level is None:
            return f"{self.task}, as it is"
        saturated = ", ".join(str(t.level) for t in self.tried if t.saturated)
        also = (
            f"; saturated (above {SATURATED:.0%}, or not to be told from 100%): level {saturated}" if saturated else ""
        )
        (chosen,) = (t for t in self.tried if t.level == self.level)
        far = "" if chosen.telling else f", at {chosen.value:.0%}, for none is between {HARD:.0%} and {EASY:.0%}"
        return f"{self.task}, level {self.level}{far}{also}"

    @property
    def story(self) -> str:
        """How the level was found, going up."""
        *below, last = self.tried
        easy = ", ".join(f"{t.level} ({t.value:.0%}{', saturated' if t.saturated else ''})" for t in below)
        up = f"from level {easy} up to level {last.level}, " if below else f"level {last.level}, "
        if last.telling:
            return f"{up}which at {last.value:.0%} is the first that is not easy"
        if last.value >= HARD:
            end = f"the hardest that was tried, which is easy still ({last.value:.0%})"
            return f"{up}{end}; level {self.level} is nearest to half of the answers right"
        below_it = f"; level {self.level} is measured, which tells at shorter budgets" if below else ""
        return f"{up}which is too hard{' at once' if below else ''} ({last.value:.0%}){below_it}"


def choose(task: Task, accuracy: Callable[[Task], Estimate], beyond: bool = True) -> Choice:
    """Go up the levels of a task, and `beyond` its own to harder ones, until one is no longer easy.

    If that is too hard at once, or none is left, an easy level is taken, the one whose accuracy is nearest to a half:
    shorter budgets are harder, and what is too hard at the largest budget tells nothing at any.
    """
    tried: list[Tried] = []
    for level, narrowed in at_levels(task, beyond):
        found = accuracy(narrowed)
        tried.append(Tried(level=level, value=found.value, low=found.low, high=found.high))
        if found.value <= EASY:
            break
    within = [t for t in tried if t.value >= HARD] or tried
    nearest = min(within, key=lambda t: abs(t.value - 0.5)).level if within else None
    return Choice(task=task.name, level=nearest, tried=tuple(tried))


def at_levels(task: Task, beyond: bool) -> Iterator[tuple[int, Task]]:
    """Its own levels that have test problems, and beyond them as far as there are any."""
    own: Sequence[int] = sorted(task.levels)
    for level in chain(own, count(own[-1] + 1)) if beyond else own:
        narrowed = at_level(task, level)
        if narrowed is not None:
            yield level, narrowed
        elif level not in own:
            return


def at_level(task: Task, level: int) -> Task | None:
    """The task narrowed to one level; None if it has no test problems there, or its levels are not to be chosen."""
    names: list[str] = [f.name for f in fields(task)] if is_dataclass(task) else []
    field = next((name for name in ("levels", "only_levels") if name in names), None)
    if field is None:
        return None
    try:
        narrowed: Task = replace(task, **{field: (level,)})  # type: ignore[type-var]
        return None if next(problems(narrowed, "test", 0), None) is None else narrowed
    except ConfigError:
        return None
    except SteepError:
        if level in task.levels:
            raise
        return None
