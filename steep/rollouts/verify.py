"""From a rollout to its verdict. A check that fails is `invalid`, never a reward of 0."""

from collections.abc import Mapping
from dataclasses import replace

from steep.tokens import Template
from steep.types import Problem, Rollout, Task, Verdict, invalid, wrong


def verified(rollout: Rollout, problem: Problem, tasks: Mapping[str, Task], template: Template) -> Rollout:
    """The rollout with its verdict."""
    return replace(rollout, verdict=judge(rollout, problem, tasks[problem.task], template))


def judge(rollout: Rollout, problem: Problem, task: Task, template: Template) -> Verdict:
    if rollout.thought_len is None:
        return wrong("the thought never ended")
    if rollout.stop != "end":
        return wrong(f"the answer did not end: {rollout.stop}")
    try:
        return task.verify(problem, template.answer(rollout.ids.tolist()))
    except Exception as error:  # a checker is foreign code: whatever it raises is its failure, not the model's
        return invalid(f"{type(error).__name__}: {error}")
