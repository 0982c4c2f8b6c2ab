"""Whether RL can learn from problems: how often a model is right on each, before anything is trained."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from steep.evals.statistics import Estimate, chance_of_difference, mean_rate, proportion
from steep.types import Group

LITTLE = 0.1
"""Where a smaller share of groups teaches, RL is mostly waste."""


@dataclass(frozen=True, kw_only=True)
class Signal:
    """What the answers to some problems say."""

    level: int | None
    """None: all levels together."""
    never: int
    """Problems of which no answer was correct."""
    sometimes: int
    always: int
    invalid: int
    """Problems of which no answer could be checked; they are in no other figure."""
    pass_at_1: Estimate
    pass_at_n: Estimate
    """Of all the answers to a problem, one is correct."""
    group_size: int
    varied: float
    """Expected share of groups of that size whose scores differ: RL learns from no others."""


def signals(groups: Sequence[Group], group_size: int) -> list[Signal]:
    """Of all levels together and, where there are several, of each."""
    levels = sorted({group.problem.level for group in groups})
    return [
        signal([g for g in groups if level in (None, g.problem.level)], level, group_size)
        for level in ([None, *levels] if len(levels) > 1 else [None])
    ]


def signal(groups: Sequence[Group], level: int | None, group_size: int) -> Signal:
    rates = [rate for group in groups if (rate := pass_rate(group)) is not None]
    scores = [[r.verdict.score for r in g.rollouts if r.verdict and r.verdict.kind != "invalid"] for g in groups]
    varied = [chance_of_difference(of_problem, group_size) for of_problem in scores if of_problem]
    return Signal(
        level=level,
        never=rates.count(0.0),
        sometimes=sum(0 < rate < 1 for rate in rates),
        always=rates.count(1.0),
        invalid=len(groups) - len(rates),
        pass_at_1=mean_rate(np.array(rates)),
        pass_at_n=proportion(sum(rate > 0 for rate in rates), len(rates)),
        group_size=group_size,
        varied=sum(varied) / max(len(varied), 1),
    )


def pass_rate(group: Group) -> float | None:
    """The share of answers that are correct; None if none could be checked."""
    kinds = [r.verdict.kind for r in group.rollouts if r.verdict is not None]
    valid = len(kinds) - kinds.count("invalid")
    return kinds.count("correct") / valid if valid else None


def judgement(found: Signal) -> str:
    """What to do about it, in words."""
    if found.never + found.sometimes + found.always == 0:
        return "no answer could be checked: see why with `steep tasks check` and without a model"
    if found.varied == 0:
        if found.never >= found.always:
            return "no signal: RL has nothing to learn from; start with easier problems or demonstrations"
        return "no signal: RL has nothing to learn from; choose harder problems"
    share = f"scores differ in about {found.varied:.0%} of groups of {found.group_size}"
    if found.varied < LITTLE:
        easier = "easier" if found.never >= found.always else "harder"
        return f"little signal: {share}; choose {easier} problems, or those in between with --keep"
    return f"signal: {share}, and RL can learn from these"
