"""POST /v1/chat/completions."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse
from pydantic import Field

from steep.server.described import Chunk, Completion, refusals, told
from steep.server.errors import ApiError
from steep.server.fields import Asked, FormatName, Items, Model, SomeTokens, Text, agreed, joined, only, schema_of
from steep.server.generation import Generation, Sample, Wanted
from steep.server.reading import JsonRoute
from steep.server.service import Service
from steep.server.stream import EventStream, event
from steep.types import Message

DONE = b"data: [DONE]\n\n"
StopText = Annotated[str, Field(min_length=1, max_length=256)]


class ChatMessage(Model):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Items[Text] | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None

    # a message of ours that comes back may have these
    name: str | None = None
    refusal: Annotated[Any, only(None)] = None
    annotations: Annotated[Any, only(None, [])] = None
    audio: Annotated[Any, only(None)] = None
    function_call: Annotated[Any, only(None)] = None
    tool_calls: Annotated[Any, only(None, [])] = None

    def message(self) -> Message:
        thought = agreed({"reasoning": self.reasoning, "reasoning_content": self.reasoning_content})
        role = "system" if self.role == "developer" else self.role
        return Message(role=role, content=joined(self.content), thought=thought)


class JsonSchema(Model):
    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    json_schema: Annotated[dict[str, Any], Field(alias="schema")]


class ResponseFormat(Model):
    type: FormatName
    json_schema: JsonSchema | None = None


class StreamOptions(Model):
    include_usage: bool | None = False
    include_obfuscation: Annotated[Any, only(None, False)] = None


class ChatAsked(Asked):
    messages: Annotated[Items[ChatMessage], Field(min_length=1)]
    max_completion_tokens: SomeTokens | None = None
    max_tokens: SomeTokens | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    stop: StopText | Annotated[Items[StopText], Field(max_length=4)] | None = None
    logprobs: bool | None = False
    response_format: ResponseFormat | None = None
    stream_options: StreamOptions | None = None

    frequency_penalty: Annotated[float | None, only(None, 0)] = None
    presence_penalty: Annotated[float | None, only(None, 0)] = None
    logit_bias: Annotated[Any, only(None, {})] = None
    verbosity: Annotated[str | None, only(None, "medium")] = None
    modalities: Annotated[Any, only(None, ["text"])] = None

    @property
    def total(self) -> int | None:
        return agreed({"max_completion_tokens": self.max_completion_tokens, "max_tokens": self.max_tokens})

    @property
    def schema_wanted(self) -> dict[str, Any] | None:
        wanted = self.response_format
        if wanted is None:
            return None
        return schema_of(wanted.type, None if wanted.json_schema is None else wanted.json_schema.json_schema)


def chat_routes(service: Service) -> APIRouter:
    router = APIRouter(route_class=JsonRoute)

    @router.post("/v1/chat/completions", responses=told(Completion, Chunk, "[DONE]") | refusals([404, 429, 503]))
    async def create(asked: ChatAsked, http: HttpRequest) -> Response:
        stop = (asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ())
        generation = await service.begin(
            http,
            asked,
            [message.message() for message in asked.messages],
            wanted=Wanted(stop=stop, logprobs=bool(asked.logprobs), thoughts=service.config.thoughts),
            total=asked.total,
            n=asked.n or 1,
            schema=asked.schema_wanted,
        )
        if asked.stream:
            usage = bool(asked.stream_options and asked.stream_options.include_usage)
            return EventStream(chunks(generation, with_usage=usage))
        await generation.finished()
        if generation.error is not None:
            raise ApiError(500, generation.error)
        return JSONResponse(completion(generation))

    return router


def completion(generation: Generation) -> dict[str, Any]:
    choices = []
    for index, sample in enumerate(generation.samples):
        message = {"role": "assistant", "content": sample.answer, **_thought(sample.shown_thought)}
        logprobs = _logprobs(sample, 0, len(sample.answer)) if generation.wanted.logprobs else None
        choices.append({"index": index, "message": message, "logprobs": logprobs, "finish_reason": _finish(sample)})
    return {**_head(generation, "chat.completion"), "choices": choices, "usage": usage(generation)}


async def chunks(generation: Generation, *, with_usage: bool) -> AsyncIterator[bytes]:
    """The same in pieces: with the first news whose they are, then what each sample gained, then why it ended."""
    head = _head(generation, "chat.completion.chunk") | ({"usage": None} if with_usage else {})

    def chunk(index: int, delta: dict[str, Any], finish: str | None = None, logprobs: Any = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return event({**head, "choices": [choice]})

    roles = b"".join(chunk(i, {"role": "assistant", "content": ""}) for i in range(len(generation.samples)))
    sent = [(0, 0)] * len(generation.samples)
    ended: set[int] = set()
    async for _ in generation.updates():
        out = b""
        for index, sample in enumerate(generation.samples):
            if index in ended:
                continue
            (thought_sent, answer_sent), thought = sent[index], sample.shown_thought
            sent[index] = len(thought), len(sample.answer)
            if len(thought) > thought_sent:
                out += chunk(index, _thought(thought[thought_sent:]))
            if len(sample.answer) > answer_sent:
                wanted = generation.wanted.logprobs
                logprobs = _logprobs(sample, answer_sent, len(sample.answer)) if wanted else None
                out += chunk(index, {"content": sample.answer[answer_sent:]}, logprobs=logprobs)
            if sample.finish is not None:
                ended.add(index)
                out += chunk(index, {}, _finish(sample))
        if out or (roles and generation.tokens):
            yield roles + out
            roles = b""
    if generation.error is not None:
        yield event(ApiError(500, generation.error).body)
    elif with_usage:
        yield event({**head, "choices": [], "usage": usage(generation)})
    yield DONE


def usage(generation: Generation) -> dict[str, Any]:
    return {
        "prompt_tokens": generation.prompt_tokens,
        "completion_tokens": generation.tokens,
        "total_tokens": generation.prompt_tokens + generation.tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": generation.thought_tokens},
    }


def _head(generation: Generation, kind: str) -> dict[str, Any]:
    id = f"chatcmpl-{generation.id}"
    return {"id": id, "object": kind, "created": int(generation.created), "model": generation.model}


def _thought(text: str) -> dict[str, str]:
    """Under both of the names that clients read."""
    return {"reasoning": text, "reasoning_content": text} if text else {}


def _logprobs(sample: Sample, start: int, end: int) -> dict[str, Any]:
    return {"content": [entry.json() for entry in sample.logprobs_in(start, end)], "refusal": None}


def _finish(sample: Sample) -> str | None:
    """A cancelled answer was cut short; OpenAI has no word for it."""
    return "length" if sample.finish == "cancelled" else sample.finish
