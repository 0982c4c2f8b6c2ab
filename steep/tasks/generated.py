"""What generated tasks share: numbered problems that are a function of (seed, split, level, number), and their splits.

A problem's split is decided by a hash of its id alone, so no seed, level order or run can move a held-out problem into
training.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from random import Random

from steep.errors import ConfigError
from steep.types import Problem, Split

MAX_DRAWS = 100_000  # draws without a new problem of the split before a level is called empty


def split_of(problem_id: str) -> Split:
    """70% train, 10% valid, 20% test, by the sha256 of the id."""
    bucket = int.from_bytes(hashlib.sha256(problem_id.encode()).digest()[:4], "big") % 10
    return "test" if bucket < 2 else "valid" if bucket < 3 else "train"


class Generated(ABC):
    """Mixin: implements `Task.problems` from `make`."""

    @property
    @abstractmethod
    def name(self) -> str: ...

    @property
    @abstractmethod
    def levels(self) -> Sequence[int]: ...

    @abstractmethod
    def make(self, level: int, rng: Random) -> Problem:
        """One random problem of a level, in whatever split its id falls (`split_of`)."""

    def problems(self, split: Split, seed: int, level: int | None = None, start: int = 0) -> Iterator[Problem]:
        if level is not None and level not in self.levels:
            raise ConfigError(f"{self.name} has no level {level}", f"its levels are {list(self.levels)}")
        number = start
        while True:
            at = self.levels[number % len(self.levels)] if level is None else level
            yield self._numbered(split, seed, at, number)
            number += 1

    def _numbered(self, split: Split, seed: int, level: int, number: int) -> Problem:
        rng = Random(f"{self.name}/{split}/{seed}/{level}/{number}")
        for _ in range(MAX_DRAWS):
            problem = self.make(level, rng)
            if problem.split == split:
                return problem
        raise ConfigError(f"{self.name} level {level} has no problem in split {split!r}")
