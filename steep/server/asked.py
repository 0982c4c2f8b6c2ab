"""What `POST /v1/responses` takes."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from steep.server.errors import refused
from steep.server.fields import (
    Asked,
    FormatName,
    Items,
    Model,
    Reasoning,
    SomeTokens,
    Text,
    joined,
    only,
    schema_of,
)
from steep.server.sealing import Seal
from steep.types import Message

LOGPROBS, SEALED_THOUGHT = "message.output_text.logprobs", "reasoning.encrypted_content"


class InputMessage(Model):
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Items[Text]
    id: str | None = None
    status: str | None = None
    phase: str | None = None


class ThoughtText(Model):
    type: Literal["summary_text", "reasoning_text"]
    text: str


class InputThought(Model):
    """A reasoning item of ours that comes back; it belongs to the message after it."""

    type: Literal["reasoning"]
    content: Items[ThoughtText] | None = None
    summary: Items[ThoughtText] | None = None
    id: str | None = None
    status: str | None = None
    encrypted_content: str | None = None


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
    input: str | Annotated[Items[InputMessage | InputThought], Field(min_length=1)]
    instructions: str | None = None
    previous_response_id: str | None = None
    reasoning: SummarisedReasoning | None = None
    max_output_tokens: SomeTokens | None = None
    text: TextAsked = TextAsked()
    include: Items[Annotated[str, only(LOGPROBS, SEALED_THOUGHT)]] | None = None
    stream_options: StreamOptions | None = None
    background: bool | None = False

    truncation: Annotated[str | None, only(None, "disabled")] = None
    conversation: Annotated[Any, only(None)] = None
    prompt: Annotated[Any, only(None)] = None
    max_tool_calls: Annotated[Any, only(None)] = None

    @property
    def schema_wanted(self) -> dict[str, Any] | None:
        return schema_of(self.text.format.type, self.text.format.json_schema)

    def messages(self, seal: Seal | None) -> Iterator[Message]:
        """What is said; a thought that comes back encrypted is opened."""
        if isinstance(self.input, str):
            yield Message(role="user", content=self.input)
            return
        thought = None
        for item in self.input:
            if isinstance(item, InputThought):
                thought = "".join(part.text for part in item.content or ())
                if item.encrypted_content is not None:
                    thought = sealed_with(seal).open(item.encrypted_content)
                continue
            role = "system" if item.role == "developer" else item.role
            yield Message(role=role, content=joined(item.content), thought=thought if role == "assistant" else None)
            thought = None


def sealed_with(seal: Seal | None) -> Seal:
    if seal is None:
        raise refused("this server has no secret to encrypt thoughts with: set STEEP_SECRET", "include")
    return seal
