"""An engine that whoever waits for it drives, and what it knows of a request under way."""

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from steep.errors import SteepError
from steep.types import Progress, Receipt, Request, Rollout, Token

Sink = Callable[[Progress], None]


class Holding(Protocol):
    """How much an engine holds at once."""

    @property
    def rows(self) -> int:
        """Sequences decoded together."""
        ...

    @property
    def context(self) -> int:
        """Tokens of a sequence at most, prompt and response."""
        ...


@dataclass(eq=False)
class Job:
    """A request under way."""

    request: Request
    future: "Pending"
    sink: Sink | None = None
    started: int = 0
    """Samples begun so far."""
    done: dict[int, Rollout] = field(default_factory=dict)
    cancelled: bool = False
    ended: set[int] = field(default_factory=set)
    answer_now: bool = False

    def __post_init__(self) -> None:
        self.future.job = self

    def rollouts(self, sample: int) -> tuple[Rollout, ...]:
        """What a sample that is done has made."""
        return (self.done[sample],)

    def hand_over(self) -> None:
        self.future.set_result([rollout for sample in sorted(self.done) for rollout in self.rollouts(sample)])
        self.future.job = None

    def fail(self, error: Exception) -> None:
        """End as cancelled, with an error for whoever waits."""
        self.cancelled = True
        if not self.future.done():
            self.future.set_exception(error)
            self.future.job = None

    def end_cancelled(self) -> None:
        if not self.future.done():
            self.future.set_exception(CancelledError())
            self.future.job = None


class Pending(Future[list[Rollout]]):
    """A future that drives its engine when it is waited for, and whose `cancel` works on running rollouts too.

    `cancel`, `end` and `answer_now` may be called from any thread and take effect at the engine's next step.
    """

    def __init__(self, engine: "DrivenEngine") -> None:
        super().__init__()
        self._engine = engine
        self.job: Job | None = None
        """None when it is done: two that hold each other would wait for the garbage collector."""

    def result(self, timeout: float | None = None) -> list[Rollout]:
        until = None if timeout is None else time.monotonic() + timeout
        while not self.done():
            if until is not None and time.monotonic() >= until:
                raise TimeoutError(f"the rollouts were not done within {timeout} s; they go on when asked for again")
            self._engine.step()
        return super().result()

    def cancel(self) -> bool:
        job = self.job
        if job is None:
            return False
        self._engine.drop(job)
        return True

    def end(self, sample: int) -> None:
        """End one running sample; its rollout is what it has so far, `cancelled`."""
        job = self.job
        if job is not None:
            job.ended.add(sample)
            self._engine.asked = True

    def answer_now(self) -> None:
        """End the thoughts under way as if their budget were used up, and those not yet begun at once."""
        job = self.job
        if job is not None:
            job.answer_now = True
            self._engine.asked = True


class DrivenEngine(ABC):
    """What engines without a thread of their own have in common."""

    def __init__(self, config: Holding, version: int, vocab_size: int) -> None:
        self.config: Holding = config
        self.vocab_size = vocab_size
        self.version = version
        self.receipt: Receipt
        self.active = 0
        """Rows that are sampled now."""
        self.asked = False  # whether something was asked of a job since the last step
        self.lock = threading.RLock()

    @property
    def context(self) -> int:
        return self.config.context

    @property
    @abstractmethod
    def idle(self) -> bool: ...

    @abstractmethod
    def step(self) -> None:
        """Start what fits, sample a token or a few in every active row, retire what is done."""

    @abstractmethod
    def tell(self) -> None:
        """Tell the sinks what is new. Costs the same at every step or every tenth."""

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def _queue(self, request: Request, future: Pending, sink: Sink | None) -> None: ...

    def submit(self, request: Request, sink: Sink | None = None) -> Pending:
        """Queue a request. `sink` is called with what a sample gained: its first token, whenever `tell` is called, and
        at the sample's end.
        """
        _check(request, self.vocab_size)
        kept = max(self._begun(request) + request.budget.answer, len(request.response_ids) + 1)
        if len(request.prompt_ids) + kept > self.config.context:
            begun = f", {len(request.response_ids)} of a response" if request.response_ids else ""
            raise SteepError(
                f"a prompt of {len(request.prompt_ids)} tokens{begun} and an answer of {request.budget.answer} do not "
                f"fit a context of {self.config.context}",
                "shorten the prompt or the answer's limit, or give the engine a longer context",
            )
        future = Pending(self)
        self._queue(request, future, sink)
        return future

    def stream(self, request: Request) -> Iterator[Token]:
        """The tokens of one rollout (n must be 1) as they come. Closing the iterator cancels the rollout."""
        if request.n != 1:
            raise SteepError(f"a stream has one sample, not {request.n}")
        news: deque[Progress] = deque()
        pending = self.submit(request, news.append)
        try:
            while news or not pending.done():
                if not news:
                    self.step()
                    self.tell()
                while news:
                    yield from _tokens(news.popleft())
        finally:
            pending.cancel()

    def drop(self, job: Job) -> None:
        """End a job, waiting or running, at the next step."""
        job.cancelled = True
        self.asked = True

    @contextmanager
    def _blaming(self, job: Job) -> Iterator[None]:
        """What a request brings with it may raise: that ends the request, at the next step, and no other."""
        try:
            yield
        except Exception as error:
            job.fail(error)
            self.asked = True

    def _begun(self, request: Request) -> int:
        """Tokens of the response before its answer, at least."""
        closing, given = request.budget.closing, request.response_ids
        if closing and closing[-1] in given:
            return given.index(closing[-1]) + 1
        return len(closing) + (len(given) if closing else 0)

    def _thought_limit(self, request: Request) -> int:
        """The budget's thought tokens, or fewer where there would be no room left for the closing and an answer."""
        budget = request.budget
        room = self._total(request) - len(budget.closing) - budget.answer
        return room if budget.thought is None else min(budget.thought, room)

    def _total(self, request: Request) -> int:
        """Response tokens at most."""
        room = self.config.context - len(request.prompt_ids)
        return room if request.budget.total is None else min(request.budget.total, room)


def _check(request: Request, vocab_size: int) -> None:
    """A SteepError says what no engine can do."""
    if not request.prompt_ids:
        raise SteepError("a prompt has at least one token")
    beyond = [id for id in (*request.prompt_ids, *request.response_ids) if not 0 <= id < vocab_size]
    if beyond:
        raise SteepError(f"the token {beyond[0]} is none of the model's {vocab_size}")
    if request.n < 1:
        raise SteepError(f"a request has at least one sample, not {request.n}")
    if not -(2**63) <= request.seed < 2**63:
        raise SteepError(f"the seed {request.seed} does not fit 64 bits")
    if list(request.cuts) != sorted(set(request.cuts)):
        raise SteepError(f"cuts rise, and {list(request.cuts)} do not")
    if request.budget.extensions and not request.budget.extension:
        raise SteepError("the model's template has no words that extend a thought", "set its `extension`")


def _tokens(progress: Progress) -> Iterator[Token]:
    columns = (progress.ids.tolist(), progress.logprobs.tolist(), progress.sampled.tolist())
    for i, (id, logprob, sampled) in enumerate(zip(*columns, strict=True)):
        yield Token(id=id, logprob=logprob, sampled=sampled, in_thought=i < progress.thought_len)
