"""What tasks share whose problems are a list: endless passes over it, each in another order, and named verifiers."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import count
from random import Random
from typing import ClassVar

from steep.errors import ConfigError
from steep.tasks.verifiers import VERIFIERS
from steep.types import Problem, Split, Verdict, correct, wrong


class Listed(ABC):
    """Mixin: implements `Task.problems` from `listed`, and `Task.verify` for keys with `verifier` and `answer`.

    Who mixes it in must be hashable, as a frozen dataclass is.
    """

    in_worker: ClassVar = True
    """Some of the verifiers wait for a worker of the sandbox."""

    @property
    @abstractmethod
    def name(self) -> str: ...

    @property
    @abstractmethod
    def levels(self) -> Sequence[int]: ...

    @abstractmethod
    def listed(self, split: Split) -> Sequence[Problem]:
        """All problems of a split, in the order of their source. It is asked once."""

    def problems(self, split: Split, seed: int, level: int | None = None, start: int = 0) -> Iterator[Problem]:
        chosen = of_level(self, split, level)
        if not chosen:
            which = "problems" if level is None else f"problems of level {level}"
            raise ConfigError(f"{self.name} has no {which} in split {split!r}", "choose another level, or add some")
        for number in count(start):
            lap, at = divmod(number, len(chosen))
            yield chosen[order(len(chosen), f"{self.name}/{split}/{seed}/{level}/{lap}")[at]]

    def verify(self, problem: Problem, answer: str) -> Verdict:
        return VERIFIERS[problem.key["verifier"]](problem.key["answer"], answer)

    def same(self, problem: Problem, answer: str, other: str) -> bool:
        """Whether one answer would be right if the other were the gold one; a pattern does not say."""
        verifier = problem.key["verifier"]
        return VERIFIERS["exact" if verifier == "regex" else verifier](answer, other).kind == "correct"

    def examples(self) -> Sequence[tuple[Problem, str, Verdict]]:
        """The gold answers of the first test problems, and no answer."""
        shown = [p for p in of_level(self, "test", None)[:3] if p.key["verifier"] != "regex"]
        gold: list[tuple[Problem, str, Verdict]] = [(p, p.key["answer"], correct()) for p in shown]
        return [*gold, *((p, "", wrong("no answer")) for p in shown)]


@lru_cache(maxsize=64)
def of_level(task: Listed, split: Split, level: int | None) -> tuple[Problem, ...]:
    """The problems of a split and of one level or (None) of all that the task is narrowed to."""
    every = tuple(task.listed(split)) if level is None else of_level(task, split, None)
    return tuple(p for p in every if (p.level in task.levels if level is None else p.level == level))


@lru_cache(maxsize=64)
def order(length: int, seed: str) -> Sequence[int]:
    return Random(seed).sample(range(length), length)
