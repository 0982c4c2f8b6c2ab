"""What the native engine knows of its requests and rows."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from steep.engines.decoders import Order, Prefix
from steep.engines.driven import Job
from steep.types import Constraint, Rollout, Stop

AT_CUT = ("count", "position", "last", "thought_left", "answer_left", "forcing", "extensions")
"""What an answer at a cut changes, and thinking on does not know of."""
STOPS: tuple[Stop | None, ...] = (None, "end", "length", "cancelled")
END, LENGTH, CANCELLED = 1, 2, 3


@dataclass(eq=False)
class NativeJob(Job):
    cuts: dict[int, list[Rollout]] = field(default_factory=dict)
    """Of each sample, what it answered at the cuts so far."""
    returns: dict[int, dict[str, Any]] = field(default_factory=dict)
    """What each sample that answers at a cut goes back to."""
    prefix: Prefix | None = None
    logits_V: Tensor | None = None
    constraints: dict[int, Constraint] = field(default_factory=dict)

    def rollouts(self, sample: int) -> tuple[Rollout, ...]:
        return (*self.cuts.get(sample, ()), self.done[sample])


class Rows:
    """What the engine knows of each row: one array entry a row, the active rows first."""

    def __init__(self, rows: int, context: int) -> None:
        def zeros(dtype: type) -> NDArray[Any]:
            return np.zeros(rows, dtype)

        self.jobs: list[NativeJob | None] = [None] * rows
        self.stream, self.sample = zeros(np.uint64), zeros(np.int64)  # of random numbers; index among its job's samples
        self.temperature, self.top_p = zeros(np.float32), zeros(np.float32)
        self.position = zeros(np.int64)  # where the last token stands; the next is decoded after it
        self.last = zeros(np.int64)  # the last token, not yet in the cache
        self.count = zeros(np.int64)  # response tokens so far
        self.thinking = zeros(np.bool_)
        self.thought_left = zeros(np.int64)  # thought tokens until the interruption
        self.cut_left = zeros(np.int64)  # thought tokens until the next cut; below 0 when none is left
        self.aside = zeros(np.bool_)  # whether the row answers at a cut, to go back and think on
        self.answer_left = zeros(np.int64)
        self.total = zeros(np.int64)  # response tokens at most, 0 where only the answer has a limit
        self.must_answer = zeros(np.bool_)
        self.pause = zeros(np.bool_)
        self.dropped = zeros(np.int64)
        self.constrained = zeros(np.bool_)
        self.think_end = np.full(rows, -1, np.int64)  # the end-of-thought token, -1 without a thought section
        self.forcing = np.full(rows, -1, np.int64)  # index into closing and extension, -1 when nothing is forced
        self.closing = zeros(np.int64)  # tokens of the closing: where the extension begins
        self.extensions = zeros(np.int64)  # how often the end of the thought is still put off
        self.thought_len = np.full(rows, -1, np.int64)
        self.stop = zeros(np.int64)  # index into STOPS; 0 while running
        self.watched = zeros(np.bool_)
        self.told = zeros(np.int64)  # response tokens that the job's sink knows of
        self.ids = np.zeros((rows, context), np.int32)
        self.logprobs = np.zeros((rows, context), np.float32)
        self.sampled = np.zeros((rows, context), np.bool_)
        self.versions = np.zeros((rows, context), np.int32)
        self.columns = [v for v in vars(self).values() if isinstance(v, np.ndarray)]

    def move(self, source: int, target: int) -> None:
        for column in self.columns:
            column[target] = column[source]
        self.jobs[target] = self.jobs[source]

    def phases(self, at: Order) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Of each row, whether its next token is sampled, and whether it will count as a thought token."""
        free = self.forcing[at] < 0
        return free, self.thinking[at] & (free | (self.forcing[at] >= self.closing[at]))
