"""What leaves the server, for its description at /openapi.json. A field that is not named here is a mistake, which the
description's tests find.
"""

from collections.abc import Iterable
from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from steep.server.config import Thoughts
from steep.server.fields import EffortName, Model
from steep.server.store import Status

REF = "#/components/schemas/{model}"


class Problem(Model):
    message: str
    type: Literal[
        "invalid_request_error",
        "authentication_error",
        "permission_error",
        "not_found_error",
        "rate_limit_error",
        "server_error",
    ]
    param: str | None
    code: str | None


class Refusal(Model):
    error: Problem


REFUSALS = {
    400: "The request is not understood, or asks for what cannot be kept",
    401: "The API key is missing or wrong",
    403: "Pages of that origin may not call",
    404: "There is no such model or response",
    408: "The body did not arrive in time",
    413: "The body is too large",
    429: "Too many answers are waiting",
    500: "The server is at fault",
    503: "The server is shutting down",
}
ANY = (400, 401, 403, 408, 413, 500)
"""What any route may answer."""


def refusals(statuses: Iterable[int]) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Refusal, "description": REFUSALS[status]} for status in statuses}


def told(
    model: type[BaseModel], streamed: type[BaseModel] | None = None, last: str | None = None
) -> dict[int | str, dict[str, Any]]:
    """The answer of a route; what each event of its stream has as data, and the last one instead."""
    answer: dict[str, Any] = {"model": model, "description": "The answer"}
    if streamed is not None:
        answer["description"] = "The answer, or its events"
        content = {"$ref": REF.format(model=streamed.__name__)}
        data: dict[str, Any] = {"type": "string", "contentMediaType": "application/json", "contentSchema": content}
        if last is not None:
            data = {"anyOf": [data, {"const": last}]}
        fields = {"event": {"type": "string"}, "data": data}
        event = {"type": "object", "properties": fields, "required": ["data"]}
        answer["content"] = {"text/event-stream": {"schema": event}}
    return {200: answer}


# Both APIs


class Logprob(Model):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[Any] = Field(max_length=0)


class Cached(Model):
    cached_tokens: int


class Thought(Model):
    reasoning_tokens: int


# Chat completions


class Logprobs(Model):
    content: list[Logprob]
    refusal: None


class Usage(Model):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: Cached
    completion_tokens_details: Thought


class Delta(Model):
    role: Literal["assistant"] = "assistant"
    content: str = ""
    reasoning: str = ""
    reasoning_content: str = ""


class Answer(Delta):
    role: Literal["assistant"]
    content: str


class Choice(Model):
    index: int
    message: Answer
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"]


class ChunkChoice(Model):
    index: int
    delta: Delta
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"] | None


class Completion(Model):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class Chunk(Model):
    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


# Responses


class Part(Model):
    type: Literal["summary_text", "reasoning_text"]
    text: str


class AnswerPart(Model):
    type: Literal["output_text"]
    text: str
    annotations: list[Any] = Field(max_length=0)
    logprobs: list[Logprob]


class ReasoningItem(Model):
    id: str
    type: Literal["reasoning"]
    summary: list[Part]
    content: list[Part] | None = None
    encrypted_content: str | None = None
    status: Literal["in_progress", "completed", "incomplete"]


class MessageItem(Model):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    status: Literal["in_progress", "completed", "incomplete"]
    content: list[AnswerPart]


class Failure(Model):
    code: Literal["server_error"]
    message: str


class Incomplete(Model):
    reason: Literal["max_output_tokens"]


class ReasoningAsked(Model):
    effort: EffortName | None
    summary: Literal["auto", "concise", "detailed"] | None


class InputCached(Cached):
    cache_write_tokens: int


class ResponseUsage(Model):
    input_tokens: int
    input_tokens_details: InputCached
    output_tokens: int
    output_tokens_details: Thought
    total_tokens: int


class ResponseTold(Model):
    id: str
    object: Literal["response"]
    created_at: int
    completed_at: float | None
    status: Status
    background: bool
    error: Failure | None
    incomplete_details: Incomplete | None
    instructions: str | None
    max_output_tokens: int | None
    model: str
    output: list[ReasoningItem | MessageItem]
    parallel_tool_calls: Literal[True]
    previous_response_id: str | None
    reasoning: ReasoningAsked
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: Literal["auto"]
    tools: list[Any] = Field(max_length=0)
    top_p: float
    truncation: Literal["disabled"]
    usage: ResponseUsage | None
    metadata: dict[str, str]


class ResponseEvent(BaseModel):
    """An event of a stream, with what belongs to its type."""

    type: str = Field(pattern=r"^response\.")
    sequence_number: int


class Deleted(Model):
    id: str
    object: Literal["response"]
    deleted: Literal[True]


# The server


class ModelTold(Model):
    id: str
    object: Literal["model"]
    created: int
    owned_by: Literal["steep"]
    context: int
    thinks: bool
    efforts: dict[str, int | None]
    default_effort: str | None
    thinking: Literal["chunked", "whole"]
    max_thought: int | None
    answer: int
    thoughts: Thoughts


class ModelList(Model):
    object: Literal["list"]
    data: list[ModelTold]


class Health(Model):
    status: Literal["ok", "draining", "failed"]


class Described(FastAPI):
    """Describes what it really takes: its own models, and 400 where FastAPI would say 422."""

    def operations(self, route: Any) -> list[str]:
        """The methods that a route's path has."""
        return [method.upper() for method in self.openapi()["paths"].get(route.path_format, ())]

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is not None:
            return self.openapi_schema
        description = super().openapi()
        for operations in description["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
        _, events = models_json_schema([(Chunk, "serialization"), (ResponseEvent, "serialization")], ref_template=REF)
        schemas = description["components"]["schemas"]
        schemas.update(events["$defs"])
        for name in ("HTTPValidationError", "ValidationError"):
            del schemas[name]
        for asked in ("ChatAsked", "ResponseAsked"):
            schemas[asked]["properties"]["model"]["enum"] = list(self.state.service.models)
        return description
