"""From rollouts to their verdicts. A check that fails is `invalid`, never a reward of 0."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from steep.sandbox import WORKERS
from steep.tasks.mixture import verdict_on
from steep.tokens import Template
from steep.types import Group, Problem, Rollout, Stop, Task, Verdict, wrong


def verified_groups(
    sampled: Iterable[tuple[Problem, Sequence[Rollout]]], tasks: Mapping[str, Task], template: Template
) -> list[Group]:
    """The rollouts of problems with their verdicts.

    Where checks are made by the sandbox (`in_worker`), a thread for each of its workers keeps all of them busy while
    the next rollouts are waited for. Other checks would only take the processor from the engine.
    """

    def group(problem: Problem, rollouts: Sequence[Rollout]) -> Group:
        found: dict[tuple[Stop, bytes | None], Verdict] = {}  # many give the same answer: it is checked once
        judged = []
        for rollout in rollouts:
            ended = rollout.thought_len
            same = rollout.stop, None if ended is None else rollout.ids[ended:].tobytes()
            if same not in found:
                found[same] = judge(rollout, problem, tasks[problem.task], template)
            judged.append(replace(rollout, verdict=found[same]))
        return Group(problem=problem, rollouts=tuple(judged))

    if not any(getattr(task, "in_worker", False) for task in tasks.values()):
        return [group(*one) for one in sampled]
    pool = ThreadPoolExecutor(WORKERS)
    try:
        return [future.result() for future in [pool.submit(group, *one) for one in sampled]]
    finally:
        pool.shutdown(cancel_futures=True)


def verified(rollout: Rollout, problem: Problem, tasks: Mapping[str, Task], template: Template) -> Rollout:
    """The rollout with its verdict."""
    return replace(rollout, verdict=judge(rollout, problem, tasks[problem.task], template))


def judge(rollout: Rollout, problem: Problem, task: Task, template: Template) -> Verdict:
    if rollout.thought_len is None:
        return wrong("the thought never ended")
    if rollout.stop != "end":
        return wrong(f"the answer did not end: {rollout.stop}")
    return verdict_on(task, problem, template.answer(rollout.ids.tolist()))


def mean_score(group: Group) -> float | None:
    """Of the rollouts that could be checked; None if there are none."""
    valid = [r.verdict.score for r in group.rollouts if r.verdict is not None and r.verdict.kind != "invalid"]
    return sum(valid) / len(valid) if valid else None
