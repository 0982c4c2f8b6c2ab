"""Tasks and an engine make groups: draw problems, sample, verify. The trainer takes groups and knows no more.

With `max_staleness` above 0 batches are under way while the trainer takes the one before them. Between two steps they
are not in the engine: their rollouts are called back as far as they are, and carried on with the weights of the next
step, which compute keys and values of what is there anew (as in AReaL, arXiv 2505.24298). So what is under way is data,
and a part of the state: a cache that several versions of the weights have filled could not be made again.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field, replace
from random import Random
from typing import Any

import numpy as np

from steep.config import within
from steep.errors import ConfigError
from steep.rollouts.curriculum import Curriculum, CurriculumConfig
from steep.rollouts.verify import mean_score, verified_groups
from steep.tasks.mixture import Share, by_name, distinct, problems
from steep.tokens import Template
from steep.types import Engine, Group, Message, Problem, Request, Rollout, wrong

LATE = wrong("was told its budget and did not end in time")
MAX_DRAWS = 1000  # of problems that turn out to be retired, before one of them is taken all the same
SAVED = ("ids", "logprobs", "sampled", "versions", "thought_len", "stop", "sample")  # of a rollout under way


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    group_size: int = 16
    thought: tuple[int, int] = (16, 512)
    """Each group gets a thinking budget between these, drawn evenly on a log scale: what is seen improves."""
    full_share: float = 0.0
    """Of the groups with a thought, the share that gets the largest budget instead."""
    none_share: float = 0.0
    """Share of the groups that get no thought at all. They cost a few tokens each and are told nothing."""
    answer: int = 32
    """Answer tokens at most."""
    told_share: float = 0.0
    """Share of the groups whose prompt tells the budget. There an answer counts only if the thought kept to it, so that
    the model learns to finish in time by itself."""
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)

    def __post_init__(self) -> None:
        within(self, 1, "group_size", "answer")
        within(self, 0, "full_share", "none_share", "told_share", high=1)
        low, high = self.thought
        if not 0 <= low <= high or (low == 0 and high > 0):
            raise ConfigError(
                f"budgets are not drawn from {low} to {high}", "begin at 1 or more; none_share is for no thought"
            )


@dataclass
class Unfinished:
    """A group under way."""

    problem: Problem
    thought: int
    """Tokens that were drawn for it."""
    tells: bool
    """Whether its prompt tells them."""
    request: Request
    rollouts: list[Rollout] = field(default_factory=list)
    """Of the first samples, as far as they are. Those that are `cancelled` are to be carried on."""
    futures: "list[Future[list[Rollout]]]" = field(default_factory=list)

    def submit(self, engine: Engine) -> None:
        """Ask for what is missing."""
        begun = len(self.rollouts)
        asked = [
            replace(self.request, n=1, first_sample=r.sample, response_ids=tuple(r.ids.tolist()))
            for r in self.rollouts
            if r.stop == "cancelled"
        ]
        if begun < self.request.n:
            asked.append(replace(self.request, n=self.request.n - begun, first_sample=begun))
        self.futures = [engine.submit(request) for request in asked]

    def collect(self) -> list[Rollout]:
        """Take in what came of it."""
        known = {rollout.sample: rollout for rollout in self.rollouts}
        for future in self.futures:
            known |= {r.sample: carried_on(known.get(r.sample), r) for r in future.result()}
        self.futures, self.rollouts = [], [known[sample] for sample in sorted(known)]
        return self.rollouts


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
        self.under_way: deque[list[Unfinished]] = deque()

    def take(self, groups: int) -> list[Group]:
        """The oldest batch, complete. Up to `max_staleness` batches more are under way meanwhile."""
        while len(self.under_way) <= self.max_staleness:
            self.under_way.append([self._next() for _ in range(groups)])
        for batch in self.under_way:
            self._submit(batch)
        taken = self._judged(self.under_way.popleft())
        self.engine.recall()
        for batch in self.under_way:
            for group in batch:
                group.collect()
        for judged in taken:
            score = mean_score(judged)
            if score is not None:
                self.curriculum.learn(judged.problem, score)
        return taken

    def pass_over(self, batches: int, groups: int) -> None:
        """Leave out the batches that would be taken next."""
        for _ in range(batches):
            if self.under_way:
                self.under_way.popleft()
            else:
                self.next_group += groups

    def profile(self, per_level: int) -> None:
        """Sample a group of so many problems of every level, and have the curriculum begin with what it says."""

        def seed(problem: Problem) -> int:
            return Random(f"profile/{self.seed}/{problem.id}").getrandbits(62)

        batch = [
            self._asked(problem, self._thought(problem, self.config.thought[1]), False, seed(problem))
            for share in self.shares
            for level in share.levels
            for problem in distinct(share.task, "train", per_level, self.seed, level)
            if self.room(problem) >= 0
        ]
        self._submit(batch)
        scored = [(group.problem, mean_score(group)) for group in self._judged(batch)]
        self.curriculum.begin([(problem, score) for problem, score in scored if score is not None])

    def state(self) -> dict[str, Any]:
        return {
            "next_group": self.next_group,
            "under_way": [[self._saved(group) for group in batch] for batch in self.under_way],
            "curriculum": self.curriculum.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.next_group = state["next_group"]
        self.under_way = deque([self._loaded(saved) for saved in batch] for batch in state.get("under_way", ()))
        self.curriculum.load_state(state["curriculum"])

    def _saved(self, group: Unfinished) -> dict[str, Any]:
        return {
            "problem": asdict(group.problem),
            "tells": group.tells,
            "thought": group.thought,
            "seed": group.request.seed,
            "rollouts": [{name: getattr(rollout, name) for name in SAVED} for rollout in group.rollouts],
        }

    def _loaded(self, saved: Mapping[str, Any]) -> Unfinished:
        messages = tuple(Message(**message) for message in saved["problem"]["prompt"])
        problem = Problem(**{**saved["problem"], "prompt": messages})
        group = self._asked(problem, saved["thought"], saved["tells"], saved["seed"])
        asked = group.request
        group.rollouts = [
            Rollout(prompt_ids=asked.prompt_ids, budget=asked.budget, seed=asked.seed, **rollout)
            for rollout in saved["rollouts"]
        ]
        return group

    def _next(self) -> Unfinished:
        rng = Random(f"group/{self.seed}/{self.next_group}")
        self.next_group += 1
        return self._unfinished(self._draw(rng), rng)

    def _unfinished(self, problem: Problem, rng: Random) -> Unfinished:
        """A group of a problem, under a budget that is drawn."""
        thought = self._thought(problem, self._budget(rng))
        tells = rng.random() < self.config.told_share and thought > 0
        return self._asked(problem, thought, tells, rng.getrandbits(62))

    def _thought(self, problem: Problem, drawn: int) -> int:
        return 0 if self.template.think_close_id is None else min(drawn, max(self.room(problem), 0))

    def room(self, problem: Problem) -> int:
        """Thought tokens that the context has room for, of told prompts too; below 0 if there is none for an answer."""
        longest = self.config.thought[1]
        messages = told(problem.prompt, longest) if self.config.told_share else problem.prompt
        prompt, closing = self.template.render(messages), self.template.budget(longest).closing
        return self.engine.context - len(prompt) - len(closing) - self.config.answer

    def _asked(self, problem: Problem, thought: int, tells: bool, seed: int) -> Unfinished:
        request = Request(
            prompt_ids=self.template.render(told(problem.prompt, thought) if tells else problem.prompt),
            budget=self.template.budget(thought, self.config.answer),
            n=self.config.group_size,
            seed=seed,
        )
        return Unfinished(problem, thought, tells, request)

    def _submit(self, batch: Sequence[Unfinished]) -> None:
        for group in batch:
            group.submit(self.engine)

    def _judged(self, batch: Sequence[Unfinished]) -> list[Group]:
        """The groups of a batch when they are complete, with their verdicts."""
        sampled = ((group.problem, group.collect()) for group in batch)
        groups = verified_groups(sampled, self.tasks, self.template)
        return [in_time(judged) if group.tells else judged for group, judged in zip(batch, groups, strict=True)]

    def _draw(self, rng: Random) -> Problem:
        for _ in range(MAX_DRAWS):
            share, level = self.curriculum.choose(rng)
            problem = next(problems(share.task, "train", self.seed, level, rng.getrandbits(40)))
            if problem.id in self.curriculum.retired:
                continue
            if self.room(problem) >= 0:
                break
            self.curriculum.retired.add(problem.id)
        return problem

    def _budget(self, rng: Random) -> int:
        low, high = self.config.thought
        drawn, none = rng.random(), self.config.none_share
        if drawn < none:
            return 0
        if drawn - none < self.config.full_share * (1 - none) or low == high:
            return high
        return round(math.exp(rng.uniform(math.log(low), math.log(high))))


def carried_on(before: Rollout | None, rollout: Rollout) -> Rollout:
    """A rollout whose first tokens were sampled `before`, with what is known of them.

    If it is cut short again within the closing of its thought, that is left away: it will be forced once more.
    """
    if before is not None:
        given = len(before.ids)
        rollout = replace(
            rollout,
            logprobs=np.concatenate([before.logprobs, rollout.logprobs[given:]]),
            sampled=np.concatenate([before.sampled, rollout.sampled[given:]]),
            versions=np.concatenate([before.versions, rollout.versions[given:]]),
        )
    if rollout.stop != "cancelled" or rollout.thought_len is not None:
        return rollout
    chosen = rollout.sampled
    return replace(
        rollout,
        ids=rollout.ids[chosen],
        logprobs=rollout.logprobs[chosen],
        sampled=rollout.sampled[chosen],
        versions=rollout.versions[chosen],
    )


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
