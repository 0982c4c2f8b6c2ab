"""Rollouts as rows for disk: everything needed to read them, and to verify them again."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from steep.tokens import Template
from steep.types import Group


def rows(groups: Sequence[Group], template: Template) -> Iterator[dict[str, Any]]:
    for number, group in enumerate(groups):
        problem = group.problem
        prompt, key = problem.prompt[-1].content, json.dumps(problem.key)
        for rollout in group.rollouts:
            verdict = rollout.verdict
            assert verdict is not None
            thought, answer = map(template.tokenizer.decode, template.split(rollout.ids.tolist()))
            yield {
                "group": number,
                "problem": problem.id,
                "task": problem.task,
                "level": problem.level,
                "prompt": prompt,
                "key": key,
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
