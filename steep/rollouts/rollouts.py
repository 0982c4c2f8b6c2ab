"""Tasks and an engine make groups: draw problems, sample, verify. The trainer takes groups and knows no more."""

import math
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from steep.rollouts.curriculum import Curriculum, CurriculumConfig
from steep.rollouts.verify import mean_score, verified_groups
from steep.tasks.mixture import Share, by_name, distinct, problems
from steep.tokens import Template
from steep.types import Engine, Group, Message, Problem, Request, Rollout, wrong

LATE = wrong("was told its budget and did not end in time")
MAX_DRAWS = 1000  # of problems that turn out to be retired, before one of them is taken all the same


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    group_size: int = 16
    thought: tuple[int, int] = (16, 512)
    """Each group gets a thinking budget between these, drawn evenly on a log scale: what is seen improves."""
    full_share: float = 0.0
    """Share of the groups that get the largest budget instead."""
    answer: int = 32
    """Answer tokens at most."""
    told_share: float = 0.0
    """Share of the groups whose prompt tells the budget. There an answer counts only if the thought kept to it, so that
    the model learns to finish in time by itself."""
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)


@dataclass
class Sampling:
    """A batch of groups under way."""

    first: int
    """Number of the batch's first group, from the start of the run."""
    problems: list[Problem] = field(default_factory=list)
    told: list[bool] = field(default_factory=list)
    """Whether the group's prompt tells its budget."""
    futures: "list[Future[list[Rollout]]]" = field(default_factory=list)


class Rollouts:
    """An endless supply of verified groups, none older than `max_staleness` updates."""

    def __init__(
        self,
        engine: Engine,
        template: Template,
        shares: Sequence[Share],
        config: RolloutConfig,
        seed: int,
        max_staleness: int = 0,
    ) -> None:
        self.engine, self.template, self.shares, self.config = engine, template, shares, config
        self.tasks = by_name(shares)
        self.seed, self.max_staleness = seed, max_staleness
        self.curriculum = Curriculum(shares, config.curriculum)
        self.next_group = 0  # number of the next group that is drawn
        self.under_way: deque[Sampling] = deque()

    def take(self, groups: int) -> list[Group]:
        """The oldest batch, complete. Up to `max_staleness` batches more are kept under way meanwhile."""
        while len(self.under_way) <= self.max_staleness:
            self.under_way.append(self._submit(groups))
        taken = self._judged(self.under_way.popleft())
        for group in taken:
            score = mean_score(group)
            if score is not None:
                self.curriculum.learn(group.problem, score)
        return taken

    def profile(self, per_level: int) -> None:
        """Sample a group of so many problems of every level, and have the curriculum begin with what it says."""
        batch = Sampling(self.next_group)
        for share in self.shares:
            for level in share.levels:
                for problem in distinct(share.task, "train", per_level, self.seed, level):
                    self._ask(batch, problem, Random(f"profile/{self.seed}/{problem.id}"))
        scored = [(group.problem, mean_score(group)) for group in self._judged(batch)]
        self.curriculum.begin([(problem, score) for problem, score in scored if score is not None])

    def state(self) -> dict[str, Any]:
        """Where to go on: the oldest batch that was not taken is drawn again."""
        first = self.under_way[0].first if self.under_way else self.next_group
        return {"next_group": first, "curriculum": self.curriculum.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.next_group = state["next_group"]
        self.curriculum.load_state(state["curriculum"])

    def _submit(self, groups: int) -> Sampling:
        batch = Sampling(self.next_group)
        for _ in range(groups):
            rng = Random(f"group/{self.seed}/{self.next_group}")
            self._ask(batch, self._draw(rng), rng)
            self.next_group += 1
        return batch

    def _ask(self, batch: Sampling, problem: Problem, rng: Random) -> None:
        """Ask the engine for a group of a problem, under a budget that is drawn."""
        thought = self._budget(rng)
        tell = rng.random() < self.config.told_share
        prompt = told(problem.prompt, thought) if tell else problem.prompt
        request = Request(
            prompt_ids=self.template.render(prompt),
            budget=self.template.budget(thought, self.config.answer),
            n=self.config.group_size,
            seed=rng.getrandbits(62),
        )
        batch.problems.append(problem)
        batch.told.append(tell)
        batch.futures.append(self.engine.submit(request))

    def _judged(self, batch: Sampling) -> list[Group]:
        """The groups of a batch when they are complete, with their verdicts."""
        sampled = zip(batch.problems, (future.result() for future in batch.futures), strict=True)
        groups = verified_groups(sampled, self.tasks, self.template)
        return [in_time(group) if tell else group for group, tell in zip(groups, batch.told, strict=True)]

    def _draw(self, rng: Random) -> Problem:
        for _ in range(MAX_DRAWS):
            share, level = self.curriculum.choose(rng)
            problem = next(problems(share.task, "train", self.seed, level, rng.getrandbits(40)))
            if problem.id not in self.curriculum.retired:
                break
        return problem

    def _budget(self, rng: Random) -> int:
        low, high = self.config.thought
        if rng.random() < self.config.full_share or low == high:
            return high
        return round(math.exp(rng.uniform(math.log(low), math.log(high))))


def told(messages: Sequence[Message], thought: int) -> tuple[Message, ...]:
    """The messages with the thinking budget said in the system message."""
    notice = f"Think for at most {thought} tokens."
    first, *rest = messages
    if first.role == "system":
        return (replace(first, content=f"{first.content}\n{notice}"), *rest)
    return (Message(role="system", content=notice), first, *rest)


def in_time(group: Group) -> Group:
    """The group of a prompt that told the budget: what did not end in time scores nothing."""
    return replace(group, rollouts=tuple(replace(r, verdict=LATE) if r.interrupted else r for r in group.rollouts))
