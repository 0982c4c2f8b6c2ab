"""Thoughts longer than the context, in chunks, after Delethink (Aghajohari et al. 2025, arXiv 2510.06557).

    chunk 0   prompt | tokens 0 to L of the thought
    chunk 1   prompt | the last half of chunk 0 | further tokens, up to L
    chunk 2   prompt | the last half of chunk 1 | further tokens ... and in the chunk where the thought ends, the answer

L is what the prompt, the closing and the answer leave of the context. So a thought of any length takes a row of
constant size. Budgets and random numbers count all of its tokens; where a chunk begins follows from their number alone,
so that a response can be carried on from any of them.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steep.engines.driven import DrivenEngine, Pending, Sink
from steep.engines.native import NativeEngine
from steep.errors import SteepError
from steep.types import Budget, Progress, Request, Rollout


class Chunking(DrivenEngine):
    """Lets thoughts be longer than the context of an engine, where a budget says how long: stands before its class."""

    def submit(self, request: Request, sink: Sink | None = None) -> Pending:
        budget = request.budget
        limit = thought_limit(budget)
        length = chunk_length(self.config.context - len(request.prompt_ids), budget)
        if not budget.closing or limit is None or limit <= length:
            return super().submit(request, sink)
        if budget.extensions or request.cuts:
            raise SteepError("a thought in chunks goes on to its own end", "leave its extensions and cuts away")
        if length < 2:
            raise SteepError(
                f"a prompt of {len(request.prompt_ids)} tokens and an answer of {budget.answer} leave no room for a "
                f"thought in a context of {self.config.context}",
                "shorten the prompt or the answer's limit, or give the engine a longer context",
            )
        return Chunks(self, request, limit, length, sink)

    def submit_chunk(self, request: Request, sink: Sink | None) -> Pending:
        return super().submit(request, sink)


class ChunkedEngine(Chunking, NativeEngine):
    """The native engine, for thoughts longer than its context."""


def thought_limit(budget: Budget) -> int | None:
    """Thought tokens at most; None if only the context limits them."""
    if budget.thought is None or budget.total is None:
        return budget.thought
    return min(budget.thought, budget.total - len(budget.closing) - budget.answer)


def chunk_length(room: int, budget: Budget) -> int:
    """Thought tokens of a chunk, of the `room` that the prompt leaves."""
    return room - len(budget.closing) - budget.answer


class Chunks(Pending):
    """The samples of a request whose thoughts take several chunks. Each becomes one rollout."""

    def __init__(self, engine: Chunking, request: Request, limit: int, length: int, sink: Sink | None) -> None:
        super().__init__(engine)
        self._chunked, self._request, self._sink = engine, request, sink
        self._limit, self._length = limit, length
        self._cancelled = self._answer_now = False
        self._ended: set[int] = set()
        self._running: dict[int, Pending] = {}
        self._columns: dict[int, dict[str, list[NDArray[Any]]]] = {}
        self._rollouts: dict[int, Rollout] = {}
        done = request.response_ids
        dropped = dropped_before(done, limit, length, request.budget.closing)
        for sample in range(request.first_sample, request.first_sample + request.n):
            self._columns[sample] = {
                "ids": [np.array(done, np.int32)],
                "logprobs": [np.zeros(len(done), np.float32)],
                "sampled": [np.ones(len(done), np.bool_)],
                "versions": [np.full(len(done), engine.version, np.int32)],
            }
            self._start(sample, dropped, done[dropped:])

    def cancel(self) -> bool:
        self._cancelled = True
        ended = [pending.cancel() for pending in self._running.values()]
        return any(ended)

    def end(self, sample: int) -> None:
        self._ended.add(sample)
        self._running[sample].end(sample)

    def answer_now(self) -> None:
        self._answer_now = True
        for pending in self._running.values():
            pending.answer_now()

    def _start(self, sample: int, dropped: int, window: tuple[int, ...]) -> None:
        """The chunk that goes on after `window`, before which the model does not see so many tokens."""
        budget = self._request.budget
        left = self._limit - dropped
        chunk = replace(
            budget,
            thought=min(left, self._length),
            total=None if budget.total is None else budget.total - dropped,
            pause=left > self._length,
        )
        request = replace(self._request, n=1, first_sample=sample, dropped=dropped, response_ids=window, budget=chunk)
        pending = self._chunked.submit_chunk(request, None if self._sink is None else self._tell)
        self._running[sample] = pending
        if self._cancelled:  # while there was no chunk to be told
            pending.cancel()
        if self._answer_now:
            pending.answer_now()
        if sample in self._ended:
            pending.end(sample)
        pending.add_done_callback(lambda _: self._take(sample, dropped, len(window), pending))

    def _take(self, sample: int, dropped: int, carried: int, pending: Pending) -> None:
        """Go on after a chunk, or hand over the rollout."""
        if (error := pending.exception()) is not None:
            if not self.done():
                self.set_exception(error)
                self.cancel()
            return
        last = next(iter(pending.result()), None)
        if last is not None:
            for name, parts in self._columns[sample].items():
                parts.append(getattr(last, name)[carried:])
            if last.stop == "length" and last.thought_len is None:
                step = chunk_step(self._length)
                self._start(sample, dropped + step, tuple(last.ids[step:].tolist()))
                return
        whole: dict[str, Any] = {name: np.concatenate(parts) for name, parts in self._columns.pop(sample).items()}
        if last is not None or len(whole["ids"]) > len(self._request.response_ids):
            ended = None if last is None else last.thought_len
            self._rollouts[sample] = Rollout(
                prompt_ids=self._request.prompt_ids,
                thought_len=None if ended is None else dropped + ended,
                stop="cancelled" if last is None else last.stop,  # recalled before this chunk had a row
                budget=self._request.budget,
                seed=self._request.seed,
                sample=sample,
                **whole,
            )
        if not self._columns:
            self.set_result([self._rollouts[sample] for sample in sorted(self._rollouts)])

    def _tell(self, progress: Progress) -> None:
        assert self._sink is not None
        if progress.stop == "length" and progress.thought_len == len(progress.ids):  # a chunk's end is none
            progress = replace(progress, stop=None)
        self._sink(progress)


def chunk_step(length: int) -> int:
    """Tokens that each chunk but the first adds, and the next no longer sees."""
    return length - length // 2


def dropped_before(ids: Sequence[int], limit: int, length: int, closing: tuple[int, ...]) -> int:
    """How many of the tokens so far are before the chunk in which they go on."""
    thought = len(ids)
    if closing[-1] in ids:
        thought = ids.index(closing[-1])
        if tuple(ids[max(thought - len(closing) + 1, 0) : thought]) == closing[:-1]:
            thought -= len(closing) - 1
    beyond = min(thought, limit - 1) - length  # what ends a thought at its limit is in the chunk of its last token
    step = chunk_step(length)
    return 0 if beyond < 0 else (beyond // step + 1) * step
