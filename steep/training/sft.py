"""Supervised fine-tuning on the tasks' own demonstrations: thoughts as a human might write them.

Some demonstrations are cut, as a budget would cut them: the closing follows (not trained: the engine writes it), and
the answer. So the model learns to answer from whatever it has.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from steep.algorithms import token_weights
from steep.policies import Example, Policy
from steep.rollouts import told
from steep.runs import Stage
from steep.tasks.mixture import Share, by_name, numbered
from steep.tokens import Template
from steep.training.supervised import SupervisedConfig, train_supervised
from steep.types import Demonstrator, Problem


@dataclass(frozen=True, kw_only=True)
class SftConfig(SupervisedConfig):
    examples: int = 128
    """Demonstrations in a batch."""
    max_tokens: int = 640
    """Longer demonstrations are broken off, without an answer."""
    cut_share: float = 0.15
    """Share of the demonstrations whose thought is cut as by a budget."""
    told_share: float = 0.0
    """Share of the demonstrations whose prompt tells a budget that the thought keeps."""


def sft(
    stage: Stage, policy: Policy, template: Template, shares: Sequence[Share], config: SftConfig, seed: int
) -> None:
    tasks = by_name(shares)

    def batch(step: int) -> list[Example]:
        start = step * config.examples
        problems = numbered(shares, "train", seed, start)
        drawn = [next(problems) for _ in range(config.examples)]
        made = [demonstration(template, tasks[p.task], p, config, Random(f"sft/{seed}/{n}")) for n, p in drawn]
        lengths = [[len(trained)] for _, trained in made]
        weights = token_weights(lengths, "token_mean")
        return [
            Example(ids=ids, trained=trained, weights=np.full(len(trained), w[0], np.float32))
            for (ids, trained), w in zip(made, weights, strict=True)
        ]

    train_supervised(stage, policy, config, batch)


def demonstration(
    template: Template, task: Demonstrator, problem: Problem, config: SftConfig, rng: Random
) -> tuple["np.ndarray[tuple[int], np.dtype[np.int32]]", "np.ndarray[tuple[int], np.dtype[np.int64]]"]:
    """Ids of prompt and response, and the places in them that are trained."""
    shown = task.demonstrate(problem, rng)
    _, response = template.demonstrate(problem.prompt, shown)
    thought, _ = template.split(response)
    answer = response[len(thought) + 1 :]  # after the end-of-thought token
    cut = rng.random() < config.cut_share
    kept = round(math.exp(rng.uniform(0, math.log(len(thought) + 1)))) - 1 if cut else len(thought)
    prompt = problem.prompt
    if rng.random() < config.told_share:
        prompt = told(prompt, kept if cut else round(kept * math.exp(rng.uniform(0, 1.5))) + 1)
    prompt_ids = template.render(prompt)
    closing = template.budget(kept, None).closing if cut else template.budget(0, None).closing
    ids = [*prompt_ids, *thought[:kept], *closing, *answer]
    trained = [*range(len(prompt_ids), len(prompt_ids) + kept)]
    if not cut:
        trained.append(len(prompt_ids) + kept)
    trained += range(len(prompt_ids) + kept + len(closing), len(ids))
    return np.array(ids[: config.max_tokens], np.int32), np.array([t for t in trained if t < config.max_tokens])
