"""Accuracy of a model on fixed problems at a list of thinking budgets.

One thought serves all budgets: it is sampled once, at the largest, and answers on its way at each smaller one. A
rollout's random numbers depend on its seed and on the token's number alone, so this is what sampling at each budget
would have given (tests hold the two against each other).
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from steep.config import within
from steep.errors import ConfigError, SteepError
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
    apart: bool = False
    """Sample every budget on its own, as thoughts must be that are longer than the context."""
    extensions: int = 0
    """How often a thought that the model ends is made to go on, as far as the budget reaches (s1, arXiv 2501.19393)."""

    def __post_init__(self) -> None:
        within(self, 1, "answer", "samples")
        within(self, 0, "extensions")
        check_budgets(self.budgets)


def check_budgets(budgets: Sequence[int]) -> None:
    if not budgets or min(budgets) < 0:
        raise ConfigError(f"the budgets {list(budgets)} are none to measure at", "choose some of 0 or more tokens")


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
) -> Iterator[tuple[int, Callable[[], list[Group]]]]:
    """The same from the largest budget down, without those that are `done`; not verified yet, so that a thread can do
    it while the next are sampled.
    """
    budgets = sorted(budgets_of(template, config) - set(done), reverse=True)
    needed = room(template, problems, config)
    if needed > engine.context and not config.apart:
        raise SteepError(
            f"a budget of {max(budgets_of(template, config))} tokens takes a context of {needed} with the longest "
            f"prompt, and the engine's is {engine.context}",
            "choose smaller budgets, or give the engine a longer context",
        )
    apart = config.apart or config.tell_budget
    together = [] if apart else [budget for budget in budgets if budget > 0]  # nothing of a thought is kept at 0
    for these in filter(None, (together, *([budget] for budget in budgets if budget not in together))):
        sampled = _sample(engine, template, problems, these, config)
        for budget in these:
            answered = list(zip(problems, sampled.pop(budget), strict=True))
            yield budget, partial(verified_groups, answered, tasks, template)


def room(template: Template, problems: Sequence[Problem], config: EvalConfig) -> int:
    """Tokens of the longest prompt, at its largest budget, and of all that may follow it."""
    largest = max(budgets_of(template, config))
    budget = budget_of(template, largest, config)
    asked = [told(p.prompt, largest) if config.tell_budget else p.prompt for p in problems]
    longest = max((len(template.render(prompt)) for prompt in asked), default=0)
    return longest + largest + len(budget.closing) + config.answer


def budgets_of(template: Template, config: EvalConfig) -> set[int]:
    """Without a thought section the only budget is 0."""
    return {0} if template.think_close_id is None else set(config.budgets)


def budget_of(template: Template, thought: int, config: EvalConfig) -> Budget:
    return template.budget(thought, config.answer, config.extensions)


def _sample(
    engine: Engine, template: Template, problems: Sequence[Problem], thoughts: Sequence[int], config: EvalConfig
) -> dict[int, list[list[Rollout]]]:
    """By budget and problem: one thought at the first, which is the largest, cut at the others."""
    largest, *smaller = thoughts
    futures = [
        engine.submit(
            Request(
                prompt_ids=template.render(told(p.prompt, largest) if config.tell_budget else p.prompt),
                budget=budget_of(template, largest, config),
                n=config.samples,
                sampling=config.sampling,
                seed=(config.seed << 32) + number,
                cuts=tuple(reversed(smaller)),
            )
        )
        for number, p in enumerate(problems)
    ]
    found: dict[int, list[list[Rollout]]] = {thought: [] for thought in thoughts}
    for future in futures:
        at = {(rollout.sample, rollout.budget.thought): rollout for rollout in future.result()}
        for thought, by_problem in found.items():
            reached = [largest if _over(at[sample, largest], thought) else thought for sample in range(config.samples)]
            budget = budget_of(template, thought, config)
            by_problem.append([replace(at[key], budget=budget) for key in enumerate(reached)])
    return found


def _over(rollout: Rollout, thought: int) -> bool:
    """Whether it stopped thinking before such a budget would have stopped it, and so is what it would have been."""
    broken_off = rollout.thought_len is None and len(rollout.ids) <= thought  # by an end token within the thought
    return broken_off or (rollout.thought_len is not None and rollout.thought_tokens < thought)


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
