"""Whether thoughts notice their own mistakes: wrong steps, and those that are put right later in the same thought."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steep.evals.statistics import Estimate, proportion
from steep.tasks.arithmetic import Arithmetic
from steep.tasks.countdown import Countdown
from steep.tasks.stories import Stories
from steep.types import Replayer

REPLAYERS: Mapping[str, Replayer] = {task.name: task for task in (Countdown(), Arithmetic(), Stories())}
"""The tasks whose saved thoughts can be worked out again, by name."""


@dataclass(frozen=True, kw_only=True)
class Mending:
    """Shares of thoughts, with Wilson's intervals."""

    wrong: Estimate
    """Those with a wrong step, of all."""
    mended: Estimate
    """Those in which every wrong step is mended, of those with a wrong step."""
    some: Estimate
    """Those in which at least one is mended, of the same."""


def mending(task: Replayer, thoughts: Iterable[str]) -> Mending:
    """Replay the thoughts and count."""
    replayed_N3 = replays(task, thoughts)
    wrong, mended, some = (int(count) for count in replayed_N3.sum(0))
    return Mending(
        wrong=proportion(wrong, len(replayed_N3)), mended=proportion(mended, wrong), some=proportion(some, wrong)
    )


def replays(task: Replayer, thoughts: Iterable[str]) -> NDArray[np.float64]:
    """[N, 3] of 0 and 1: whether a thought has a wrong step, mends every one it has, and mends at least one."""
    found = [task.replay(thought) for thought in thoughts]
    rows = [(r.wrong > 0, 0 < r.wrong == r.mended, r.mended > 0) for r in found]
    return np.array(rows, float).reshape(-1, 3)


def mended_share(replayed_N3: NDArray[np.float64]) -> float:
    """Of the thoughts with a wrong step the share in which every one is mended; NaN if there are none."""
    wrong, mended, _ = replayed_N3.sum(0)
    return float(mended / wrong) if wrong else float("nan")
