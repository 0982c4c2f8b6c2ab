"""A response while it is made. Whoever streams it, polls it or ends it looks here; what is shown of thoughts is decided
here, so that nothing further out holds the text of a thought that is not to be seen.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import uuid4

from steep.engines.driven import Pending
from steep.server.config import Thoughts
from steep.server.sealing import Seal
from steep.tokens import StreamDecoder, Template
from steep.types import Message, Progress, Request

Finish = Literal["stop", "length", "cancelled"]
FINISH: dict[str, Finish] = {"end": "stop", "length": "length", "cancelled": "cancelled"}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How the tokens of an answer become what is sent."""

    stop: tuple[str, ...] = ()
    """Texts that end the answer, and are not part of it."""
    logprobs: bool = False
    thoughts: Thoughts = "full"
    seal: Seal | None = None
    """Encrypts the thought for a client that asked for it so."""


@dataclass(frozen=True)
class Logprob:
    """The log-probability of one token of the answer."""

    end: int
    """How long the answer is, in characters, with the last that it has a part in."""
    token: bytes
    logprob: float

    def json(self) -> dict[str, Any]:
        text = self.token.decode("utf-8", errors="replace")
        return {"token": text, "logprob": self.logprob, "bytes": list(self.token), "top_logprobs": []}


class Sample:
    """One of the n answers, as far as it has come."""

    def __init__(self, template: Template, request: Request, wanted: Wanted) -> None:
        self.answer = ""
        """What may be sent of it: without the end of it that may yet become a stop text."""
        self.logprobs: list[Logprob] = []
        self.tokens = self.thought_tokens = 0
        self.thinking = bool(request.budget.closing)
        self.finish: Finish | None = None
        self._template, self._wanted = template, wanted
        self._at_once = request.budget.thought == 0
        self._decoder = StreamDecoder(template.tokenizer)
        self._thought = self._text = ""
        self._interrupted = False

    @property
    def shown_thought(self) -> str:
        """The thought as it may leave the server. It only ever grows."""
        if self._wanted.thoughts == "full":
            return self._thought
        return self.summary if self._wanted.thoughts == "summary" else ""

    @property
    def summary(self) -> str:
        """What may be told of a thought that has ended, without its text."""
        if self.thinking or self._at_once:
            return ""
        cut = ", until it was told to answer" if self._interrupted else ""
        return f"Thought for {self.thought_tokens} tokens{cut}."

    def message(self) -> Message:
        return Message(role="assistant", content=self.answer, thought=self._thought)

    def take(self, progress: Progress) -> None:
        """Add new tokens."""
        at = progress.thought_len
        if at:
            self._think(progress.ids[:at].tolist(), progress.sampled[:at].tolist())
        if at < len(progress.ids):
            self._say(progress.ids[at:].tolist(), progress.logprobs[at:].tolist())
        if progress.stop is not None and self.finish is None:
            self._text += "" if self.thinking else self._decoder.flush()
            self.answer, self.finish = self._text, FINISH[progress.stop]

    def logprobs_in(self, start: int, end: int) -> list[Logprob]:
        """Of the tokens that end in these characters of the answer."""
        return [entry for entry in self.logprobs if start < entry.end <= end]

    def _think(self, ids: Sequence[int], sampled: Sequence[bool]) -> None:
        closed = ids[-1] == self._template.think_close_id
        if not self._at_once:  # else it is the closing, and counted with the prompt
            self.tokens += len(ids)
            self.thought_tokens += sum(sampled) - (closed and sampled[-1])
            self._thought += self._decoder.push(*ids)
        if closed:
            self._thought += self._decoder.flush()
            self.thinking, self._interrupted = False, not sampled[-1]

    def _say(self, ids: Sequence[int], logprobs: Sequence[float]) -> None:
        if not self._wanted.stop and not self._wanted.logprobs:
            self.tokens += len(ids)
            self._text += self._decoder.push(*ids)
            self.answer = self._text
            return
        for id, logprob in zip(ids, logprobs, strict=True):
            self.tokens += 1
            self._text += self._decoder.push(id)
            token = self._template.tokenizer.token_bytes(id)
            if self._wanted.logprobs and token:
                self.logprobs.append(Logprob(len(self._text) + self._decoder.within_character, token, logprob))
            found = [at for stop in self._wanted.stop if (at := self._text.find(stop, len(self.answer))) >= 0]
            if found:
                self._text = self.answer = self._text[: min(found)]
                self.logprobs = self.logprobs_in(0, len(self.answer))
                self.finish = "stop"
                return
            self.answer = self._text[: len(self._text) - self._undecided()]

    def _undecided(self) -> int:
        """How many characters at the end of the answer may be the beginning of a stop text."""
        lengths = (n for stop in self._wanted.stop for n in range(1, len(stop)) if self._text.endswith(stop[:n]))
        return max(lengths, default=0)


class Generation:
    """The samples of one request. Lives in the event loop; the engine's news come through `take`."""

    def __init__(
        self,
        model: str,
        template: Template,
        request: Request,
        wanted: Wanted,
        id: str | None = None,
        created: float | None = None,
    ) -> None:
        self.id = id or uuid4().hex
        self.model, self.template, self.request = model, template, request
        self.created = created or time.time()
        self.thinks = bool(request.budget.closing) and request.budget.thought != 0
        self.wanted = wanted
        self.samples = [Sample(template, request, wanted) for _ in range(request.n)]
        closing = 0 if self.thinks else len(request.budget.closing)
        self.prompt_tokens = len(request.prompt_ids) + closing
        """With the end-of-thought token where nothing is thought, for then it comes before all that is sampled."""
        self.error: str | None = None
        self.on_done: Callable[[Generation], None] = lambda _: None
        self.pending: Pending | None = None
        """What the engine makes of it; None if it is made elsewhere, or done."""
        self.key: str | None = None
        """What the client who waits for it showed as its key."""
        self.timers: tuple[asyncio.TimerHandle, ...] = ()
        """What will end it, if it takes too long."""
        self.pieces: list[Progress] = []
        """All that was taken."""
        self._unfinished = request.n
        self._changes = 0
        self._changed = asyncio.Event()

    @property
    def done(self) -> bool:
        return self.error is not None or not self._unfinished

    @property
    def tokens(self) -> int:
        return sum(sample.tokens for sample in self.samples)

    @property
    def thought_tokens(self) -> int:
        return sum(sample.thought_tokens for sample in self.samples)

    def sealed_thought(self) -> str | None:
        """The encrypted thought of the only sample, once it has ended."""
        (sample,) = self.samples
        if self.wanted.seal is None or sample.thinking:
            return None
        return self.wanted.seal.close(self.id, sample.message().thought or "")

    def blank(self) -> "Generation":
        """The same before its first token."""
        return Generation(self.model, self.template, self.request, self.wanted, self.id, self.created)

    def take(self, progress: Progress) -> None:
        if self.done:
            return
        sample = self.samples[progress.sample]
        if sample.finish is not None:  # by a stop text, which the engine did not know of when it sampled this
            return
        self.pieces.append(progress)
        sample.take(progress)
        if sample.finish is not None:
            self._unfinished -= 1
            if progress.stop is None:
                assert self.pending is not None
                self.pending.end(progress.sample)
        self._change()

    def cancel(self) -> None:
        """End it now, if it is not done; its rows are free after the engine's next step."""
        self._end("cancelled")

    def cut(self) -> None:
        """The same, as at a limit of its tokens."""
        self._end("length")

    def fail(self, message: str) -> None:
        if not self.done:
            if self.pending is not None:
                self.pending.cancel()
            self.error = message
            self._change()

    def answer_now(self) -> None:
        """End the thoughts under way: the closing is injected, and the model answers."""
        if not self.done:
            assert self.pending is not None
            self.pending.answer_now()

    async def updates(self) -> AsyncIterator[None]:
        """Comes back now, and whenever there is something new, for the last time when it is done."""
        while True:
            seen, done = self._changes, self.done
            yield
            if done:
                return
            while self._changes == seen:
                await self._changed.wait()

    async def finished(self) -> None:
        async for _ in self.updates():
            pass

    def _end(self, how: Finish) -> None:
        if not self.done:
            if self.pending is not None:
                self.pending.cancel()
            for sample in self.samples:
                sample.finish = sample.finish or how
            self._unfinished = 0
            self._change()

    def _change(self) -> None:
        self._changes += 1
        self._changed.set()
        self._changed = asyncio.Event()
        if self.done:
            self.on_done(self)
