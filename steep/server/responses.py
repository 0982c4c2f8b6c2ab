"""POST /v1/responses, and what can be done with a response by its id."""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator

from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError

from steep.server.asked import ResponseAsked
from steep.server.described import Deleted, ResponseEvent, ResponseTold, refusals, told
from steep.server.errors import ApiError, refused
from steep.server.jobs import Jobs
from steep.server.made import Events, Made, News, wanted
from steep.server.reading import JsonRoute
from steep.server.service import Service
from steep.server.store import Record, State
from steep.server.stream import EventStream
from steep.types import Message

ID = re.compile("resp_[0-9a-f]{32}")
"""What else a client may say, a database may not be able to look for."""
log = logging.getLogger("steep.server")


class Live:
    """The responses that somebody waits for, by id. Each is stored when it is done, if it may be."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._made: dict[str, Made] = {}
        self._kept: dict[str, asyncio.Task[None]] = {}

    def add(self, made: Made) -> None:
        self._made[made.id] = made
        self._kept[made.id] = asyncio.create_task(self._keep(made))

    def get(self, id: str) -> Made | None:
        return self._made.get(id)

    async def kept(self, made: Made) -> None:
        """Until it is done and stored."""
        if made.id in self._kept:
            await asyncio.wait([self._kept[made.id]])

    async def news(self, made: Made) -> AsyncIterator[News]:
        """A response from its beginning until it is done and stored."""
        seen = 0
        async for _ in made.generation.updates():
            pieces = made.generation.pieces[seen:]
            seen += len(pieces)
            if made.generation.done:
                await self.kept(made)
            yield made.state, pieces

    async def _keep(self, made: Made) -> None:
        await made.generation.finished()
        made.completed_at = time.time()
        store, model = self._service.store, self._service.model(made.generation.model)
        try:
            if made.asked.store is not False:
                await store.run(store.add, made.record(model.means), made.generation.pieces)
        except SQLAlchemyError:
            log.exception("a response could not be stored")
        finally:
            del self._made[made.id], self._kept[made.id]


def response_routes(service: Service, jobs: Jobs) -> APIRouter:
    router = APIRouter(route_class=JsonRoute)
    store, live = service.store, Live(service)

    @router.post("/v1/responses", responses=told(ResponseTold, ResponseEvent) | refusals([404, 429, 503]))
    async def create(asked: ResponseAsked, http: HttpRequest) -> Response:
        said = (*await _said_before(asked), *asked.messages(service.seal))
        instructions = () if asked.instructions is None else (Message(role="system", content=asked.instructions),)
        prompt = (*instructions, *said)
        if asked.background:
            made = await jobs.add(asked, said, prompt)
            if asked.stream:
                return EventStream(aiter(Events(made, jobs.news(made.id, http))))
            return JSONResponse(made.body())
        generation = await service.begin(
            http,
            asked,
            prompt,
            wanted=wanted(asked, service),
            total=asked.max_output_tokens,
            schema=asked.schema_wanted,
        )
        made = Made(generation, asked, said)
        live.add(made)
        if asked.stream:
            return EventStream(aiter(Events(made.blank(), live.news(made))))
        await live.kept(made)
        if generation.error is not None:
            raise ApiError(500, generation.error)
        return JSONResponse(made.body())

    async def _said_before(asked: ResponseAsked) -> tuple[Message, ...]:
        if asked.previous_response_id is None:
            return ()
        before = await _find(asked.previous_response_id)
        if not before.generation.done:
            raise refused("the previous response is still under way", "previous_response_id")
        return before.conversation

    async def _find(id: str) -> Made:
        if (made := live.get(id)) is not None:
            return made
        made = _stored(await _record(id))
        found = await store.run(store.news, id)
        if found is not None:
            await asyncio.to_thread(made.catch_up, *found)
        return made

    async def _record(id: str) -> Record:
        record = await store.run(store.find, id) if ID.fullmatch(id) else None
        if record is None:
            raise ApiError(404, f"there is no response {id!r}: it was not stored, or has made way", code="not_found")
        return record

    def _stored(record: Record) -> Made:
        return Made.stored(record, service)

    @router.get("/v1/responses/{id}", responses=told(ResponseTold, ResponseEvent) | refusals([404]))
    async def get(id: str, http: HttpRequest, stream: bool = False, starting_after: int = -1) -> Response:
        if not stream:
            return JSONResponse((await _find(id)).body())
        if (made := live.get(id)) is not None:
            return EventStream(aiter(Events(made.blank(), live.news(made), starting_after)))
        return EventStream(aiter(Events(_stored(await _record(id)), jobs.news(id, http), starting_after)))

    @router.delete("/v1/responses/{id}", responses=told(Deleted) | refusals([404]))
    async def delete(id: str) -> Response:
        if (made := live.get(id)) is not None:
            made.asked.store = False
            made.generation.cancel()
            await live.kept(made)
        else:
            await _record(id)
        await store.run(store.drop, id)  # in the first case too: it may have been on its way there
        jobs.wake()
        return JSONResponse({"id": id, "object": "response", "deleted": True})

    @router.post("/v1/responses/{id}/cancel", responses=told(ResponseTold) | refusals([404]))
    async def cancel(id: str) -> Response:
        if (made := live.get(id)) is not None:
            made.generation.cancel()
        else:
            await _record(id)
            await store.run(store.end, id, State(status="cancelled"))
            jobs.wake()
        return JSONResponse((await _find(id)).body())

    @router.post("/v1/responses/{id}/answer_now", responses=told(ResponseTold) | refusals([404]))
    async def answer_now(id: str) -> Response:
        if (made := live.get(id)) is not None:
            made.generation.answer_now()
        else:
            await _record(id)
            await store.run(store.answer_now, id)
            jobs.wake()
        return JSONResponse((await _find(id)).body())

    return router
