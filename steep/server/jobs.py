"""Background responses: this server's share of them, from the store to an engine and back.

Every half second, what they gained is saved as one piece each, their leases are renewed, and further ones are claimed
while rows are free. A client is told only of what is saved, so it never sees a token that a kill could still change.
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from uuid import uuid4

import numpy as np
from fastapi import Request as HttpRequest
from sqlalchemy.exc import SQLAlchemyError

from steep.errors import SteepError
from steep.server.asked import ResponseAsked
from steep.server.errors import ApiError, refused
from steep.server.generation import Generation
from steep.server.made import Made, News, wanted
from steep.server.model import ServedModel
from steep.server.service import Service
from steep.server.store import Gain, Record, State
from steep.types import Message, Progress

SAVE_S = 0.5
log = logging.getLogger("steep.server")


@dataclass
class Job:
    """A background response that is made here."""

    made: Made
    number: int
    """Of its next piece in the store."""
    seen: int
    """How many pieces of its generation are saved."""

    def gain(self) -> Gain:
        """What is new; taken as saved."""
        if self.made.generation.done:
            self.made.completed_at = time.time()
        pieces = self.made.generation.pieces[self.seen :]
        gain = Gain(
            number=self.number,
            piece=joined(pieces) if pieces else None,
            end=self.made.state if self.made.generation.done else None,
        )
        self.seen += len(pieces)
        self.number += bool(pieces)
        return gain


class Jobs:
    def __init__(self, service: Service) -> None:
        self.service, self.store = service, service.store
        self._jobs: dict[str, Job] = {}
        self._owner = _new_owner()
        self._wake = asyncio.Event()
        self._turned = asyncio.Event()
        self._closing = False

    async def add(self, asked: ResponseAsked, said: Sequence[Message], prompt: Sequence[Message]) -> Made:
        """Queue a response; refused like one that is waited for."""
        if asked.store is False:
            raise refused("a background response is stored", "store")
        model = self.service.model(asked.model)
        self.service.admit(model, 1)
        if await self.store.run(self.store.waiting, model.means) >= model.rows + self.service.config.queue:
            raise ApiError(429, "too many background responses are waiting: try again", code="queue_full")
        request = await self.service.request(model, asked, prompt, asked.max_output_tokens, 1, asked.schema_wanted)
        made = Made(Generation(model.name, model.template, request, wanted(asked, self.service)), asked, said)
        await self.store.run(self.store.add, made.record(model.means))
        self.wake()
        return made

    def wake(self) -> None:
        """Take the next turn now."""
        self._wake.set()

    async def news(self, id: str, http: HttpRequest) -> AsyncIterator[News]:
        """A stored response from its beginning until it or the server ends, or the client goes."""
        seen = 0
        while (found := await self.store.run(self.store.news, id, seen)) is not None:
            state, pieces = found
            seen += len(pieces)
            yield state, pieces
            if state.done or self.service.draining or await http.is_disconnected():
                return
            await self._turned.wait()

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        work = asyncio.create_task(self._work())
        try:
            yield
        finally:
            self._closing = True
            self.wake()
            await work

    async def _work(self) -> None:
        while not self._closing:
            self._wake.clear()
            try:
                await self._save()
                await self._claim()
            except Exception:
                log.exception("background responses could not be saved; they go on from what was")
                self._give_up()
            self._turned.set()
            self._turned = asyncio.Event()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), SAVE_S)
        with suppress(SQLAlchemyError):
            await self._save()
            await self.store.run(self.store.release, self._owner)
        self._give_up()

    async def _save(self) -> None:
        if not self._jobs:
            return
        gains = {id: job.gain() for id, job in self._jobs.items()}
        own = await self.store.run(self.store.save, self._owner, gains, self.service.config.lease_s)
        for id, gain in gains.items():
            generation = self._jobs[id].made.generation
            if id not in own or gain.end is not None:
                del self._jobs[id]
                generation.cancel()
            elif own[id]:
                generation.answer_now()

    async def _claim(self) -> None:
        for model in self.service.models.values():
            if self.service.draining or model.driver.failed:
                continue
            free = max(model.rows - 1, 1) - model.answers  # one row is left to those who wait
            if free > 0:
                lease_s = self.service.config.lease_s
                for record in await self.store.run(self.store.claim, self._owner, model.means, free, lease_s):
                    try:
                        await self._begin(model, record)
                    except (SteepError, ApiError) as error:
                        failed = State(status="failed", error=str(error))
                        await self.store.run(self.store.end, record.id, failed)

    async def _begin(self, model: ServedModel, record: Record) -> None:
        made = Made.stored(record, self.service, told=False)
        made.queued = False
        found = await self.store.run(self.store.news, record.id)
        pieces = [] if found is None else found[1]
        for piece in pieces:
            made.generation.take(piece)
        constraint = await self.service.constraint(model, made.asked.schema_wanted)
        ids = tuple(id for piece in pieces for id in piece.ids.tolist())
        request = replace(record.request, response_ids=ids, constraint=constraint)
        self.service.start(made.generation, request, self.service.background)
        self.service.count(model, 1, None)
        self._jobs[made.id] = Job(made, len(pieces), len(pieces))

    def _give_up(self) -> None:
        """Leave all that is made here to whoever claims it, for it is not known what the store holds of it."""
        for job in self._jobs.values():
            job.made.generation.cancel()
        self._jobs.clear()
        self._owner = _new_owner()


def _new_owner() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"


def joined(pieces: Sequence[Progress]) -> Progress:
    return Progress(
        sample=0,
        ids=np.concatenate([piece.ids for piece in pieces]),
        logprobs=np.concatenate([piece.logprobs for piece in pieces]),
        sampled=np.concatenate([piece.sampled for piece in pieces]),
        thought_len=sum(piece.thought_len for piece in pieces),
        stop=pieces[-1].stop,
    )
