"""The one thread that drives an engine, and brings what is new to the event loop.

    event loop:  submit ─────► engine.arrived            take(progress) ◄──┐
    thread:                    step, step, step ... tell ─► one batch of news for all streams

What a stream costs in Python it costs per batch, not per token. So batches are the rarer the more rows are active, and
none is made before the loop has taken the last one; only the first token and the end of a sample travel at once.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from functools import partial

from steep.engines import DrivenEngine, NativeEngine
from steep.engines.driven import Pending
from steep.engines.native import BURST
from steep.types import Progress, Request, Rollout

PREFILL_TOKENS = 128
"""Prompt tokens of a step: those who came first are told soon."""
PATIENCE_S = 0.05
"""A token may come so much later because others get their first: nobody sees it, and the last of a burst of prompts
wait a third less."""
SERVED_BURST = BURST // 32
"""A row that is done waits for the end of its step, and somebody for the row. And what decodes without a pause leaves
no core to what reads requests: at 16 streams of N on two cores first tokens took 30 ms (p95) with a quarter of it, and
23 to 26 with this."""
TELL_S, TELL_ROW_S, TELL_MOST_S = 0.02, 0.002, 0.2
"""Time between two batches: the second for each active row (a chunk costs about 90 us of a core, and the engine's other
threads wait for it), but neither less than the first nor more than the third."""
Take = Callable[[Progress], None]
Fail = Callable[[], None]
log = logging.getLogger("steep.server")


class Driver:
    def __init__(self, engine: DrivenEngine) -> None:
        self.engine = engine
        if isinstance(engine, NativeEngine):
            engine.prefill_tokens, engine.patience_s = PREFILL_TOKENS, PATIENCE_S
            engine.burst = min(engine.burst, SERVED_BURST)
        self.on_failure: Callable[[], None] = lambda: None
        """Called in the event loop if the engine fails."""
        self.failed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news: list[tuple[Take, Fail, Progress]] = []
        self._taken = True  # the loop has taken the last batch
        self._closed = False
        self._work = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, request: Request, take: Take, fail: Fail) -> Pending:
        """Queue a request. In the running event loop, `take` is called with what its samples gained, and `fail` when
        something that the request brought with it has raised, or `take` has: that ends it, and no other.
        """
        self._loop = asyncio.get_running_loop()
        pending = self.engine.submit(request, lambda progress: self._news.append((take, fail, progress)))
        pending.add_done_callback(partial(self._ended, fail))
        self._work.set()
        return pending

    def close(self) -> None:
        self._closed = True
        self._work.set()
        self._thread.join()
        self.engine.close()

    def _run(self) -> None:
        try:
            due = 0.0
            while not self._closed:
                if self.engine.idle:
                    self._work.wait()
                    self._work.clear()
                self.engine.step()
                now = time.monotonic()
                if self._taken and now >= due:
                    due = now + min(max(TELL_S, TELL_ROW_S * self.engine.active), TELL_MOST_S)
                    self.engine.tell()
                if self._news:
                    self._bring()
        except Exception:  # whatever it was, nobody may wait for this thread any longer
            log.exception("the engine failed")
            self.failed = True
            self._call(self.on_failure)

    def _bring(self) -> None:
        news, self._news = self._news, []
        self._taken = False
        self._call(partial(self._deliver, news))

    def _deliver(self, news: list[tuple[Take, Fail, Progress]]) -> None:
        for take, fail, progress in news:
            try:
                take(progress)
            except Exception as error:
                _report(fail, error)
        self._taken = True

    def _ended(self, fail: Fail, pending: Future[list[Rollout]]) -> None:
        error = pending.exception()
        if error is not None and not isinstance(error, CancelledError):
            self._call(partial(_report, fail, error))

    def _call(self, function: Callable[[], None]) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop has ended, and nobody waits any more
            self._loop.call_soon_threadsafe(function)


def _report(fail: Fail, error: BaseException) -> None:
    log.error("an answer failed", exc_info=error)
    fail()
