"""POST /v1/responses, and what can be done with a response by its id."""

import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse
from pydantic import Field

from steep.server.errors import ApiError, refused
from steep.server.fields import (
    Asked,
    FormatName,
    Model,
    Reasoning,
    SomeTokens,
    Text,
    joined,
    only,
    schema_of,
)
from steep.server.generation import Finish, Generation, Sample, Wanted
from steep.server.service import Service
from steep.server.stream import EventStream, event
from steep.types import Message

STATUS: dict[Finish | None, str] = {
    None: "in_progress",
    "stop": "completed",
    "length": "incomplete",
    "cancelled": "cancelled",
}
LOGPROBS = "message.output_text.logprobs"


class InputMessage(Model):
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Text]
    id: str | None = None
    status: str | None = None
    phase: str | None = None


class ThoughtText(Model):
    type: Literal["summary_text", "reasoning_text"]
    text: str


class InputThought(Model):
    """A reasoning item of ours that comes back; it belongs to the message after it."""

    type: Literal["reasoning"]
    content: list[ThoughtText] | None = None
    summary: list[ThoughtText] | None = None
    id: str | None = None
    status: str | None = None
    encrypted_content: Annotated[Any, only(None)] = None


class SummarisedReasoning(Reasoning):
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Annotated[Any, only(None)] = None


class TextFormat(Model):
    type: FormatName
    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    json_schema: Annotated[dict[str, Any] | None, Field(alias="schema")] = None


class TextAsked(Model):
    format: TextFormat = TextFormat(type="text")
    verbosity: Annotated[str | None, only(None, "medium")] = None


class StreamOptions(Model):
    include_obfuscation: Annotated[Any, only(None, False)] = None


class ResponseAsked(Asked):
    input: str | Annotated[list[InputMessage | InputThought], Field(min_length=1)]
    instructions: str | None = None
    previous_response_id: str | None = None
    reasoning: SummarisedReasoning | None = None
    max_output_tokens: SomeTokens | None = None
    text: TextAsked = TextAsked()
    include: list[Annotated[str, only(LOGPROBS)]] | None = None
    stream_options: StreamOptions | None = None

    background: Annotated[Any, only(None, False)] = None
    truncation: Annotated[str | None, only(None, "disabled")] = None
    conversation: Annotated[Any, only(None)] = None
    prompt: Annotated[Any, only(None)] = None
    max_tool_calls: Annotated[Any, only(None)] = None

    def messages(self) -> Iterator[Message]:
        if isinstance(self.input, str):
            yield Message(role="user", content=self.input)
            return
        thought = None
        for item in self.input:
            if isinstance(item, InputThought):
                thought = "".join(part.text for part in item.content or ())
                continue
            role = "system" if item.role == "developer" else item.role
            yield Message(role=role, content=joined(item.content), thought=thought if role == "assistant" else None)
            thought = None


class Made:
    """A response with what it answers: the object that clients see, at any time."""

    def __init__(self, generation: Generation, asked: ResponseAsked, said: Sequence[Message]) -> None:
        self.generation, self.asked = generation, asked
        self.said = said
        """The conversation before the answer, without the instructions."""
        self.id = f"resp_{generation.id}"
        self.reasoning_id, self.message_id = f"rs_{generation.id}", f"msg_{generation.id}"
        self.completed_at: float | None = None

    @property
    def sample(self) -> Sample:
        return self.generation.samples[0]

    @property
    def conversation(self) -> tuple[Message, ...]:
        return (*self.said, self.sample.message())

    @property
    def status(self) -> str:
        if self.generation.error is not None:
            return "failed"
        return STATUS[self.sample.finish]

    @property
    def answers(self) -> bool:
        """Whether there is a message yet, if only an empty one that is done."""
        return bool(self.sample.answer) or self.sample.finish in ("stop", "length")

    def body(self) -> dict[str, Any]:
        asked, generation = self.asked, self.generation
        output = [self.reasoning_item()] if generation.thinks else []
        output += [self.message_item()] if self.answers else []
        error = {"code": "server_error", "message": generation.error} if generation.error else None
        return {
            "id": self.id,
            "object": "response",
            "created_at": generation.created,
            "completed_at": self.completed_at if self.status == "completed" else None,
            "status": self.status,
            "error": error,
            "incomplete_details": {"reason": "max_output_tokens"} if self.status == "incomplete" else None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "model": generation.model,
            "output": output,
            "parallel_tool_calls": True,
            "previous_response_id": asked.previous_response_id,
            "reasoning": {"effort": asked.effort, "summary": asked.reasoning and asked.reasoning.summary},
            "store": asked.store is not False,
            "temperature": asked.sampling.temperature,
            "text": {"format": asked.text.format.model_dump(by_alias=True, exclude_none=True)},
            "tool_choice": "auto",
            "tools": [],
            "top_p": asked.sampling.top_p,
            "truncation": "disabled",
            "usage": usage(generation) if generation.done else None,
            "metadata": asked.metadata or {},
        }

    @property
    def summary(self) -> str:
        asked = self.asked.reasoning is not None and self.asked.reasoning.summary is not None
        thoughts = self.generation.wanted.thoughts
        return self.sample.summary if thoughts == "summary" or (asked and thoughts == "full") else ""

    def reasoning_item(self) -> dict[str, Any]:
        thinking = self.sample.thinking
        item: dict[str, Any] = {"id": self.reasoning_id, "type": "reasoning", "summary": []}
        if self.summary:
            item["summary"] = [{"type": "summary_text", "text": self.summary}]
        if self.generation.wanted.thoughts == "full":
            item["content"] = [{"type": "reasoning_text", "text": self.sample.shown_thought}]
        ended = "incomplete" if self.generation.done else "in_progress"
        return {**item, "status": ended if thinking else "completed"}

    def message_item(self) -> dict[str, Any]:
        ends = {"in_progress": "in_progress", "completed": "completed"}
        return {
            "id": self.message_id,
            "type": "message",
            "role": "assistant",
            "status": ends.get(self.status, "incomplete"),
            "content": [self.answer_part()],
        }

    def answer_part(self) -> dict[str, Any]:
        answer = self.sample.answer
        return {"type": "output_text", "text": answer, "annotations": [], "logprobs": self.logprobs(0, len(answer))}

    def logprobs(self, start: int, end: int) -> list[dict[str, Any]]:
        return [entry.json() for entry in self.sample.logprobs_in(start, end)]


class Events:
    """The events of one response, numbered from 0."""

    def __init__(self, made: Made) -> None:
        self.made = made
        self.number = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        made, sample, generation = self.made, self.made.sample, self.made.generation
        full = generation.wanted.thoughts == "full"
        thinking = generation.thinks
        begun = made.body() | {"output": []}
        message = int(thinking)  # its index in the output
        thought_sent = answer_sent = 0
        answering = False
        yield self.event("response.created", response=begun)
        yield self.event("response.in_progress", response=begun)
        if thinking:
            yield self.added(0, made.reasoning_item() | ({"content": []} if full else {}))
            if full:
                yield self.of_thought("content_part.added", content_index=0, part=_thought_part(""))
        async for _ in generation.updates():
            if full and thinking and len(sample.shown_thought) > thought_sent:
                delta = sample.shown_thought[thought_sent:]
                thought_sent += len(delta)
                so_far = sample.thought_tokens
                yield self.of_thought("reasoning_text.delta", content_index=0, delta=delta, reasoning_tokens=so_far)
            if thinking and (not sample.thinking or generation.done):
                thinking = False
                yield b"".join(self.thought_done(full))
            if made.answers and not answering:
                answering = True
                yield self.added(message, made.message_item() | {"status": "in_progress", "content": []})
                part = made.answer_part() | {"text": "", "logprobs": []}
                yield self.of_message("content_part.added", message, content_index=0, part=part)
            if len(sample.answer) > answer_sent:
                end = len(sample.answer)
                logprobs, delta = made.logprobs(answer_sent, end), sample.answer[answer_sent:]
                answer_sent = end
                yield self.of_message("output_text.delta", message, content_index=0, delta=delta, logprobs=logprobs)
        if answering:
            part = made.answer_part()
            text, logprobs = part["text"], part["logprobs"]
            yield self.of_message("output_text.done", message, content_index=0, text=text, logprobs=logprobs)
            yield self.of_message("content_part.done", message, content_index=0, part=part)
            yield self.event("response.output_item.done", output_index=message, item=made.message_item())
        how = made.status if made.status in ("completed", "failed") else "incomplete"
        yield self.event(f"response.{how}", response=made.body())

    def thought_done(self, full: bool) -> Iterator[bytes]:
        made = self.made
        if full:
            text = made.sample.shown_thought
            yield self.of_thought("reasoning_text.done", content_index=0, text=text)
            yield self.of_thought("content_part.done", content_index=0, part=_thought_part(text))
        if made.summary:
            part = {"type": "summary_text", "text": made.summary}
            yield self.of_thought("reasoning_summary_part.added", summary_index=0, part=part | {"text": ""})
            yield self.of_thought("reasoning_summary_text.delta", summary_index=0, delta=made.summary)
            yield self.of_thought("reasoning_summary_text.done", summary_index=0, text=made.summary)
            yield self.of_thought("reasoning_summary_part.done", summary_index=0, part=part)
        yield self.event("response.output_item.done", output_index=0, item=made.reasoning_item())

    def added(self, index: int, item: dict[str, Any]) -> bytes:
        return self.event("response.output_item.added", output_index=index, item=item)

    def of_thought(self, name: str, **data: Any) -> bytes:
        return self.event(f"response.{name}", item_id=self.made.reasoning_id, output_index=0, **data)

    def of_message(self, name: str, index: int, **data: Any) -> bytes:
        return self.event(f"response.{name}", item_id=self.made.message_id, output_index=index, **data)

    def event(self, name: str, **data: Any) -> bytes:
        number, self.number = self.number, self.number + 1
        return event({"type": name, "sequence_number": number, **data}, name)


class Store:
    """Responses by id: those under way, and the newest of those that are to be kept."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._made: OrderedDict[str, Made] = OrderedDict()

    def add(self, made: Made) -> None:
        self._made[made.id] = made
        done = [id for id, m in self._made.items() if m.generation.done]
        for id in done[: max(len(done) - self._size, 0)]:
            del self._made[id]

    def find(self, id: str) -> Made:
        if id not in self._made:
            raise ApiError(404, f"there is no response {id!r}: it was not stored, or has made way", code="not_found")
        return self._made[id]

    def drop(self, id: str) -> None:
        self._made.pop(id, None)


def response_routes(service: Service) -> APIRouter:
    router = APIRouter()
    store = Store(service.config.stored)

    @router.post("/v1/responses")
    async def create(asked: ResponseAsked, http: HttpRequest) -> Response:
        said = (*_said_before(asked), *asked.messages())
        told = () if asked.instructions is None else (Message(role="system", content=asked.instructions),)
        generation = await service.begin(
            http,
            asked,
            (*told, *said),
            wanted=Wanted(logprobs=LOGPROBS in (asked.include or ()), thoughts=service.config.thoughts),
            total=asked.max_output_tokens,
            schema=schema_of(asked.text.format.type, asked.text.format.json_schema),
        )
        made = Made(generation, asked, said)
        store.add(made)
        counted = generation.on_done

        def done(generation: Generation) -> None:
            counted(generation)
            made.completed_at = time.time()
            if asked.store is False:
                store.drop(made.id)

        generation.on_done = done
        if asked.stream:
            return EventStream(aiter(Events(made)))
        await generation.finished()
        if generation.error is not None:
            raise ApiError(500, generation.error)
        return JSONResponse(made.body())

    def _said_before(asked: ResponseAsked) -> tuple[Message, ...]:
        if asked.previous_response_id is None:
            return ()
        before = store.find(asked.previous_response_id)
        if not before.generation.done:
            raise refused("the previous response is still under way", "previous_response_id")
        return before.conversation

    @router.get("/v1/responses/{id}")
    async def get(id: str, stream: bool = False) -> Response:
        if stream:
            raise refused("a response can be streamed by who creates it alone", "stream")
        return JSONResponse(store.find(id).body())

    @router.delete("/v1/responses/{id}")
    async def delete(id: str) -> Response:
        made = store.find(id)
        made.generation.cancel()
        store.drop(id)
        return JSONResponse({"id": id, "object": "response", "deleted": True})

    @router.post("/v1/responses/{id}/cancel")
    async def cancel(id: str) -> Response:
        made = store.find(id)
        made.generation.cancel()
        return JSONResponse(made.body())

    @router.post("/v1/responses/{id}/answer_now")
    async def answer_now(id: str) -> Response:
        made = store.find(id)
        made.generation.answer_now()
        return JSONResponse(made.body())

    return router


def usage(generation: Generation) -> dict[str, Any]:
    return {
        "input_tokens": generation.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": generation.tokens,
        "output_tokens_details": {"reasoning_tokens": generation.thought_tokens},
        "total_tokens": generation.prompt_tokens + generation.tokens,
    }


def _thought_part(text: str) -> dict[str, Any]:
    return {"type": "reasoning_text", "text": text}
