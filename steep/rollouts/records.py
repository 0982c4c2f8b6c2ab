"""Rollouts as rows for disk: everything needed to read them, and to verify them again."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from steep.tokens import Template
from steep.types import Budget, Group, Rollout, Stop


def rows(groups: Sequence[Group], template: Template) -> Iterator[dict[str, Any]]:
    for number, group in enumerate(groups):
        problem = group.problem
        for rollout in group.rollouts:
            verdict = rollout.verdict
            assert verdict is not None
            thought, answer = map(template.tokenizer.decode, template.split(rollout.ids.tolist()))
            yield {
                "group": number,
                "problem": problem.id,
                "task": problem.task,
                "level": problem.level,
                "prompt": problem.prompt[-1].content,
                "key": json.dumps(problem.key),
                "thought": thought,
                "answer": answer,
                "verdict": verdict.kind,
                "score": verdict.score,
                "reason": verdict.reason,
                "budget": rollout.budget.thought,
                "thought_tokens": rollout.thought_tokens,
                "tokens": len(rollout.ids),
                "interrupted": rollout.interrupted,
                "ended": rollout.ended,
                "stop": rollout.stop,
                "seed": rollout.seed,
                "sample": rollout.sample,
                "prompt_ids": list(rollout.prompt_ids),
                "ids": rollout.ids,
                "sampled": rollout.sampled,
                "version": int(rollout.versions[-1]) if len(rollout.ids) else None,
            }


RESTORED = ("group", "prompt_ids", "ids", "sampled", "version", "stop", "seed", "sample")


def restored(row: Mapping[str, Any], template: Template, budget: Budget) -> Rollout:
    """The rollout of a row with the columns RESTORED, without its verdict and the sampler's log-probabilities."""
    ids, close = row["ids"], template.think_close_id
    ended = 0 if close is None else ids.index(close) + 1 if close in ids else None
    stop: Stop = row["stop"]
    return Rollout(
        prompt_ids=tuple(row["prompt_ids"]),
        ids=np.array(ids, np.int32),
        logprobs=np.zeros(len(ids), np.float32),
        sampled=np.array(row["sampled"], bool),
        versions=np.full(len(ids), row["version"] or 0, np.int32),
        thought_len=ended,
        stop=stop,
        budget=budget,
        seed=row["seed"],
        sample=row["sample"],
    )
