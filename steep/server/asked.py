"""What `POST /v1/responses` takes."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from steep.server.fields import Asked, FormatName, Model, Reasoning, SomeTokens, Text, joined, only, schema_of
from steep.types import Message

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
    background: bool | None = False

    truncation: Annotated[str | None, only(None, "disabled")] = None
    conversation: Annotated[Any, only(None)] = None
    prompt: Annotated[Any, only(None)] = None
    max_tool_calls: Annotated[Any, only(None)] = None

    @property
    def schema_wanted(self) -> dict[str, Any] | None:
        return schema_of(self.text.format.type, self.text.format.json_schema)

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
