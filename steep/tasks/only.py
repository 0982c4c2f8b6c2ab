"""A task narrowed to a few chosen problems: the one question that everybody asks, a regression, a probe."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from steep.tasks.verifiers import sameness
from steep.types import Problem, Split, Task, Verdict


@dataclass(frozen=True, kw_only=True)
class Only:
    """Finite: each problem comes once, whatever its split; `task` checks the answers."""

    name: str
    """Of this selection."""
    task: Task
    chosen: tuple[Problem, ...]

    @property
    def levels(self) -> Sequence[int]:
        return sorted({problem.level for problem in self.chosen})

    def problems(self, split: Split, seed: int, level: int | None = None, start: int = 0) -> Iterator[Problem]:
        fitting = [p for p in self.chosen if level in (None, p.level)]
        yield from (replace(p, task=self.name) for p in fitting[start:])

    def verify(self, problem: Problem, answer: str) -> Verdict:
        return self.task.verify(problem, answer)

    def same(self, problem: Problem, answer: str, other: str) -> bool:
        return sameness(self.task)(problem, answer, other)

    def examples(self) -> Sequence[tuple[Problem, str, Verdict]]:
        ids = {problem.id for problem in self.chosen}
        return [example for example in self.task.examples() if example[0].id in ids]
