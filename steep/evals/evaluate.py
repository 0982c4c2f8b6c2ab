"""Accuracy of a model on fixed problems at a list of thinking budgets.

One thought serves all budgets: it is sampled once at the largest and cut at each smaller one, where only the answer is
sampled anew. A rollout's random numbers depend on its seed and on the token's number alone, so this is what sampling at
each budget would have given (tests hold the two against each other).
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from steep.evals.statistics import Estimate, mean_rate
from steep.rollouts import mean_score, told, verified_groups
from steep.tokens import Template
from steep.types import Budget, Engine, Group, Problem, Request, Rollout, Sampling, Task


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """What to measure."""

    budgets: tuple[int, ...] = (0, 16, 32, 64, 128, 256, 512)
    """Thinking tokens."""
    answer: int = 32
    """Answer tokens at most."""
    samples: int = 1
    """Rollouts of each problem."""
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    tell_budget: bool = False
    """Tell the model its budget in the prompt: then every budget is sampled on its own."""
    extensions: int = 0
    """How often a thought that the model ends is made to go on, as far as the budget reaches (s1, arXiv 2501.19393)."""


def evaluate(
    engine: Engine, template: Template, tasks: Mapping[str, Task], problems: Sequence[Problem], config: EvalConfig
) -> dict[int, list[Group]]:
    """Verified groups for each budget, in the order of the problems."""
    found = sweep(engine, template, tasks, problems, config)
    return dict(sorted((budget, verify()) for budget, verify in found))


def sweep(
    engine: Engine,
    template: Template,
    tasks: Mapping[str, Task],
    problems: Sequence[Problem],
    config: EvalConfig,
    done: Collection[int] = (),
    longest: list[list[Rollout]] | None = None,
) -> Iterator[tuple[int, Callable[[], list[Group]]]]:
    """The same one budget after the other, from the largest down, without those that are `done`; not verified yet, so
    that a thread can do it while the next are sampled.

    `longest` are the rollouts at the largest budget, where they were sampled before.
    """
    largest, *smaller = sorted(budgets_of(template, config), reverse=True)
    if longest is None:
        longest = _sample(engine, template, problems, largest, config)
    for budget in (largest, *smaller):
        if budget in done:
            continue
        if budget == largest:
            sampled = longest
        elif budget == 0 or config.tell_budget:  # nothing of the longest thought is kept
            sampled = _sample(engine, template, problems, budget, config)
        else:
            sampled = _cut(engine, template, longest, budget, config)
        yield budget, partial(verified_groups, list(zip(problems, sampled, strict=True)), tasks, template)


def budgets_of(template: Template, config: EvalConfig) -> set[int]:
    """Without a thought section the only budget is 0."""
    return {0} if template.think_close_id is None else set(config.budgets)


def budget_of(template: Template, thought: int, config: EvalConfig) -> Budget:
    return template.budget(thought, config.answer, config.extensions)


def _sample(
    engine: Engine, template: Template, problems: Sequence[Problem], thought: int, config: EvalConfig
) -> list[list[Rollout]]:
    futures = [
        engine.submit(
            Request(
                prompt_ids=template.render(told(p.prompt, thought) if config.tell_budget else p.prompt),
                budget=budget_of(template, thought, config),
                n=config.samples,
                sampling=config.sampling,
                seed=(config.seed << 32) + number,
            )
        )
        for number, p in enumerate(problems)
    ]
    return [future.result() for future in futures]


def _cut(
    engine: Engine, template: Template, longest: list[list[Rollout]], thought: int, config: EvalConfig
) -> list[list[Rollout]]:
    """What the rollouts would have been under a smaller budget."""
    budget = budget_of(template, thought, config)

    def over(rollout: Rollout) -> bool:
        """Whether it stopped thinking before the smaller budget did, so that it stays as it is."""
        broken_off = rollout.thought_len is None and len(rollout.ids) <= thought  # by an end token within the thought
        return broken_off or (rollout.thought_len is not None and rollout.thought_tokens < thought)

    futures = {
        (p, s): engine.submit(
            Request(
                prompt_ids=rollout.prompt_ids,
                budget=budget,
                sampling=config.sampling,
                seed=rollout.seed,
                first_sample=rollout.sample,
                response_ids=tuple(rollout.ids[:thought].tolist()),
            )
        )
        for p, rollouts in enumerate(longest)
        for s, rollout in enumerate(rollouts)
        if not over(rollout)
    }

    def cut(p: int, s: int, rollout: Rollout) -> Rollout:
        """With what is known of the thought that it was given: which tokens of it were forced."""
        if (p, s) not in futures:
            return replace(rollout, budget=budget)
        (found,) = futures[p, s].result()
        return replace(found, sampled=np.concatenate([rollout.sampled[:thought], found.sampled[thought:]]))

    return [[cut(p, s, rollout) for s, rollout in enumerate(rollouts)] for p, rollouts in enumerate(longest)]


def scores(groups: Sequence[Group]) -> NDArray[np.float64]:
    """Mean score of each problem that has a valid verdict."""
    means = (mean_score(group) for group in groups)
    return np.array([mean for mean in means if mean is not None])


def accuracy(groups: Sequence[Group]) -> Estimate:
    """pass@1 with its interval: Wilson's where every problem scored 0 or 1, otherwise a bootstrap over problems.

    Of a single problem the interval is that of its samples.
    """
    if len(groups) == 1:
        values = np.concatenate([scores([replace(groups[0], rollouts=(r,))]) for r in groups[0].rollouts])
    else:
        values = scores(groups)
    return mean_rate(values)
