"""Supervised fine-tuning on the tasks' own demonstrations: thoughts as a human might write them.

Some demonstrations are cut, as a budget would cut them: the closing follows (not trained: the engine writes it), and
the answer. So the model learns to answer from whatever it has. Where the prompt tells the budget, the thought is cut
some way before it and the closing is trained: so the model learns to end in time by itself.

A wrong step that a demonstration notices and mends is shown and not trained, where the task can replay its thoughts:
so the model learns to mend mistakes and not to make them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from steep.algorithms import token_weights
from steep.config import within
from steep.errors import SteepError
from steep.policies import Example, Policy
from steep.rollouts import told
from steep.runs import Health, Stage
from steep.tasks.mixture import Share, blaming, demonstrated, demonstrators, numbered
from steep.tokens import Template
from steep.training.supervised import SupervisedConfig, train_supervised
from steep.types import Demonstrator, Problem, Replayer


@dataclass(frozen=True, kw_only=True)
class SftConfig(SupervisedConfig):
    examples: int = 128
    """Demonstrations in a batch."""
    max_tokens: int = 640
    """Longer demonstrations are broken off, without an answer."""
    cut_share: float = 0.15
    """Share of the demonstrations whose thought is cut as by a budget."""
    told_share: float = 0.0
    """Share of the demonstrations whose prompt tells a budget that the thought keeps; half of them are cut for it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, 1, "examples", "max_tokens")
        within(self, 0, "cut_share", "told_share", high=1)


def sft(
    stage: Stage,
    policy: Policy,
    template: Template,
    shares: Sequence[Share],
    config: SftConfig,
    seed: int,
    health: Health,
) -> None:
    tasks = demonstrators(shares)

    def batch(step: int) -> list[Example]:
        start = step * config.examples
        problems = numbered(shares, "train", seed, start)
        drawn = [next(problems) for _ in range(config.examples)]
        made = [demonstration(template, tasks[p.task], p, config, Random(f"sft/{seed}/{n}")) for n, p in drawn]
        made = [(ids, trained) for ids, trained in made if len(trained)]  # some prompts leave no room for a response
        if not made:
            raise SteepError(
                f"every prompt of step {step} has {config.max_tokens} tokens or more", "set a larger sft.max_tokens"
            )
        lengths = [[len(trained)] for _, trained in made]
        weights = token_weights(lengths, "token_mean")
        return [
            Example(ids=ids, trained=trained, weights=np.full(len(trained), w[0], np.float32))
            for (ids, trained), w in zip(made, weights, strict=True)
        ]

    train_supervised(stage, policy, config, batch, health)


def demonstration(
    template: Template, task: Demonstrator, problem: Problem, config: SftConfig, rng: Random
) -> tuple["np.ndarray[tuple[int], np.dtype[np.int32]]", "np.ndarray[tuple[int], np.dtype[np.int64]]"]:
    """Ids of prompt and response, and the places in them that are trained."""
    shown = demonstrated(task, problem, rng)
    _, response = template.demonstrate(problem.prompt, shown)
    thought, _ = template.split(response)
    answer = response[len(thought) + len(template.budget(0).closing) :]
    tell = rng.random() < config.told_share
    cut = rng.random() < (0.5 if tell else config.cut_share)
    kept = round(math.exp(rng.uniform(0, math.log(len(thought) + 1)))) - 1 if cut else len(thought)
    # A model counts its tokens roughly: it should end between 35 and 65% of a budget that is too small.
    slack = math.exp(rng.uniform(0.4, 1.0 if cut else 1.5))
    prompt_ids = template.render(told(problem.prompt, round(kept * slack) + 1) if tell else problem.prompt)
    closing = template.budget(kept if cut else 0, None).closing
    ids = [*prompt_ids, *thought[:kept], *closing, *answer]
    thought_end, answer_start = len(prompt_ids) + kept, len(prompt_ids) + kept + len(closing)
    ending = range(thought_end, answer_start) if tell or not cut else range(0)
    slipped = slips(template, task, thought)
    thinking = (len(prompt_ids) + place for place in range(kept) if place not in slipped)
    trained = [*thinking, *ending, *range(answer_start, len(ids))]
    return np.array(ids[: config.max_tokens], np.int32), np.array(
        [t for t in trained if t < config.max_tokens], np.int64
    )


def slips(template: Template, task: Demonstrator, thought: Sequence[int]) -> set[int]:
    """The places in a thought of tokens that write a wrong step; none where the task cannot tell."""
    if not isinstance(task, Replayer):
        return set()
    pieces = [template.tokenizer.token_bytes(id) for id in thought]
    text = b"".join(pieces).decode(errors="replace")
    sizes = np.array([len(piece) for piece in pieces])
    ends = sizes.cumsum()
    starts = ends - sizes
    found: set[int] = set()
    with blaming(task, "replay", "sense of a thought"):
        replayed = task.replay(text)
    for slip in replayed.slips:
        first, last = (len(text[:at].encode()) for at in (slip.start, slip.end))
        found.update(np.flatnonzero((first < ends) & (starts < last)).tolist())
    return found
