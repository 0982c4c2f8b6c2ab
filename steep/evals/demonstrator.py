"""How well a task's own demonstrations do at each budget: what a model that copies them perfectly would reach."""

from collections.abc import Mapping, Sequence
from random import Random

import numpy as np

from steep.evals.evaluate import EvalConfig
from steep.rollouts import verified
from steep.tasks.mixture import demonstrated
from steep.tokens import Template
from steep.types import Budget, Demonstrator, Group, Problem, Rollout

DEMONSTRATOR = "demonstrator"
"""The name that it has among models."""


def demonstrations(
    task: Demonstrator, template: Template, problems: Sequence[Problem], config: EvalConfig
) -> Mapping[int, list[Group]]:
    """Verified groups for each budget, in the order of the problems. Every problem and sample has a seed of its own.

    A thought that does not end within the budget is cut, and its answer is left empty.
    """

    def rollout(problem: Problem, sample: int, budget: Budget) -> Rollout:
        rng = Random(f"{DEMONSTRATOR}/{config.seed}/{problem.id}/{sample}")
        prompt, response = template.demonstrate(problem.prompt, demonstrated(task, problem, rng))
        return verified(cut(template, prompt, response, budget, sample), problem, {problem.task: task}, template)

    return {
        budget: [
            Group(
                problem=problem,
                rollouts=tuple(
                    rollout(problem, sample, template.budget(budget, config.answer)) for sample in range(config.samples)
                ),
            )
            for problem in problems
        ]
        for budget in sorted(set(config.budgets))
    }


def cut(
    template: Template, prompt_ids: tuple[int, ...], response_ids: tuple[int, ...], budget: Budget, sample: int
) -> Rollout:
    """A demonstrated response as a rollout under a budget."""
    assert budget.thought is not None
    thought, _ = template.split(response_ids)
    fits = len(thought) <= budget.thought
    kept = len(thought) if fits else budget.thought
    ids = response_ids if fits else (*thought[:kept], *budget.closing, min(template.end_ids))
    thought_len = kept + (1 if fits else len(budget.closing))
    sampled = np.ones(len(ids), bool)
    sampled[kept:thought_len] = fits
    return Rollout(
        prompt_ids=prompt_ids,
        ids=np.array(ids, np.int32),
        logprobs=np.zeros(len(ids), np.float32),
        sampled=sampled,
        versions=np.zeros(len(ids), np.int32),
        thought_len=thought_len,
        stop="end",
        budget=budget,
        seed=0,
        sample=sample,
    )
