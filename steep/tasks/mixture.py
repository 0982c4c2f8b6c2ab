"""Several tasks in one stream, with weights."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random

from steep.errors import ConfigError, SteepError
from steep.types import Demonstration, Demonstrator, Problem, Split, Task, Verdict, invalid


@dataclass(frozen=True, kw_only=True)
class Share:
    """A task's part of a mixture."""

    task: Task
    weight: float = 1.0
    """Relative to the other shares."""
    level_weights: tuple[float, ...] | None = None
    """Of the task's levels, in their order. None: all alike."""

    def __post_init__(self) -> None:
        if self.level_weights is not None and len(self.level_weights) != len(self.task.levels):
            raise ConfigError(
                f"{len(self.level_weights)} weights for the levels {list(self.task.levels)} of {self.task.name}",
                "give one weight for each level",
            )
        weights = self.level_weights or (1.0,)
        if not self.weight >= 0 or min(weights) < 0 or sum(weights) == 0:
            raise ConfigError(
                f"the weights {self.weight} and {self.level_weights} of {self.task.name} are not to be drawn by",
                "choose weights of 0 or more, not all of them 0",
            )

    @property
    def levels(self) -> Mapping[int, float]:
        """Each level's share of the whole weight."""
        weights = self.level_weights or (1.0,) * len(self.task.levels)
        return {n: self.weight * w / sum(weights) for n, w in zip(self.task.levels, weights, strict=True)}


def by_name(shares: Sequence[Share]) -> Mapping[str, Task]:
    """The tasks of a mixture. Two of one name are an error: a problem could not say which verifies it."""
    tasks: dict[str, Task] = {}
    for share in shares:
        if share.task.name in tasks:
            raise ConfigError(f"two tasks of the mixture are called {share.task.name!r}", "give one task more levels")
        tasks[share.task.name] = share.task
    return tasks


def demonstrators(shares: Sequence[Share]) -> Mapping[str, Demonstrator]:
    """The tasks of a mixture, where all of them can show how to think."""
    tasks = by_name(shares)
    found = {name: task for name, task in tasks.items() if isinstance(task, Demonstrator)}
    for name in tasks.keys() - found:
        raise ConfigError(
            f"the task {name} has no demonstrations, which fine-tuning and a model from random weights need",
            "give it demonstrate(), or start from a model and leave the stage out: --sft none",
        )
    return found


@contextmanager
def blaming(task: Task, method: str, made: str) -> Iterator[None]:
    """Tasks are foreign code: what one raises in a method is told with its name, and with what it was to make."""
    try:
        yield
    except SteepError:
        raise
    except Exception as error:
        message = f"the task {task.name} cannot make {made}: {type(error).__name__}: {error}"
        raise SteepError(message, f"mend its {method}(); STEEP_DEBUG=1 shows where") from error


def problems(task: Task, split: Split, seed: int, level: int | None = None, start: int = 0) -> Iterator[Problem]:
    with blaming(task, "problems", "problems"):
        yield from task.problems(split, seed, level=level, start=start)


def verdict_on(task: Task, problem: Problem, answer: str) -> Verdict:
    """What the task says of an answer. Whatever its checker raises is the checker's failure, not the answer's."""
    try:
        verdict = task.verify(problem, answer)
    except Exception as error:
        return invalid(f"{type(error).__name__}: {error}")
    if not isinstance(verdict, Verdict):
        return invalid(f"verify() gave {verdict!r:.100}, which is no Verdict")
    return verdict


def demonstrated(task: Demonstrator, problem: Problem, rng: Random) -> Demonstration:
    """What the task shows of how to solve one of its problems."""
    with blaming(task, "demonstrate", "demonstrations"):
        return task.demonstrate(problem, rng)


def numbered(shares: Sequence[Share], split: Split, seed: int, start: int = 0) -> Iterator[tuple[int, Problem]]:
    """Problems number `start`, `start + 1`, ... of the mixture: number alone decides task, level and problem."""
    number = start
    while True:
        rng = Random(f"mixture/{split}/{seed}/{number}")
        drawn = [(share.task, *level) for share in shares for level in share.levels.items()]
        task, level, _ = rng.choices(drawn, [weight for *_, weight in drawn])[0]
        yield number, next(problems(task, split, seed, level, number))
        number += 1


def distinct(task: Task, split: Split, count: int, seed: int = 0, level: int | None = None) -> list[Problem]:
    """The first `count` different problems of a split, as many of each level; fewer where a level has no more."""
    share = math.ceil(count / len(task.levels)) if level is None else count
    found: dict[str, Problem] = {}
    of_level = Counter[int]()
    repeats = 0
    for problem in problems(task, split, seed, level):
        new = problem.id not in found and of_level[problem.level] < share
        repeats = 0 if new else repeats + 1
        if new:
            found[problem.id] = problem
            of_level[problem.level] += 1
        if len(found) == count or repeats > 2000:
            break
    return list(found.values())
