"""Whether thoughts notice their own mistakes: wrong steps, and those that are put right later in the same thought.

Where steps cannot be worked out again, what is left is to count the thoughts that say so, by a list of words: a hint,
for words are cheap, and some mistakes are mended without any.
"""

import re
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


MARKERS = (
    *(
        r"wait\b",
        r"hmm+\b",
        "oops",
        r"no, (?:it|that|this|wait|because)\b",
        r"no wait\b",
        r"actually,",
        "hold on",
        "on second thought",
    ),
    *("mistake", "miscount", "miscalculat", r"(?:this|that|which|it)(?: is|'s) (?:wrong|not right|incorrect|not \d)"),
    r"(?:let me|let's|i should|i will|i'll) (?:(?:re-?|double-?)?check|verify|re-?consider|re-?count)",
    *("try again", "start over", "start again", "once more", "try another way", "try something else"),
)
"""What English thoughts say where they doubt a step, give one up or go over it again. In regular expressions, each from
the beginning of a word, whatever its case."""
MARKED = re.compile(rf"\b(?:{'|'.join(MARKERS)})", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Doubting:
    """Thoughts in which a marker stands, with Wilson's intervals."""

    marked: Estimate
    """Their share of all."""
    right: Estimate
    """Share of right answers after them."""
    right_else: Estimate
    """After the others."""


def doubting(thoughts: Iterable[tuple[str, bool]]) -> Doubting:
    """Of thoughts and whether the answer was right."""
    found = [(MARKED.search(thought) is not None, right) for thought, right in thoughts]
    after, otherwise = ([right for marked, right in found if marked is kind] for kind in (True, False))
    return Doubting(
        marked=proportion(len(after), len(found)),
        right=proportion(sum(after), len(after)),
        right_else=proportion(sum(otherwise), len(otherwise)),
    )


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
