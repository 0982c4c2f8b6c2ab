"""What both APIs take. A field that is not known is refused, and so is a value that would have to be ignored."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetPydanticSchema, model_validator
from pydantic_core import core_schema

from steep.server.errors import refused
from steep.types import Sampling

T = TypeVar("T")
EffortName = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
MOST_TOKENS = 1 << 31
Tokens = Annotated[int, Field(ge=0, le=MOST_TOKENS)]
SomeTokens = Annotated[int, Field(ge=1, le=MOST_TOKENS)]
COLDEST = 1e-4  # below it a temperature is 0: logits divided by it would leave the range of a float
MOST_KEYS, MOST_ITEMS = 100, 10_000
Items = Annotated[list[T], Field(max_length=MOST_ITEMS, fail_fast=True)]
"""The first that is wrong is told, and the others are not looked at: a body may have a million."""


def only(*values: Any) -> GetPydanticSchema:
    """A field that is there for the sake of clients that send it, with what it may say."""

    def check(value: Any) -> Any:
        if not any(value == v and isinstance(value, bool) == isinstance(v, bool) for v in values):
            raise ValueError(f"nothing but {' or '.join(repr(v) for v in values)} is supported")
        return value

    return GetPydanticSchema(
        lambda source, handler: core_schema.no_info_after_validator_function(check, handler(source)),
        lambda schema, handler: {"enum": list(values)},
    )


def few(value: Any) -> Any:
    """What may be an object, before each of its keys is looked at."""
    if isinstance(value, dict) and len(value) > MOST_KEYS:
        raise ValueError(f"an object of {len(value)} keys has more than {MOST_KEYS}")
    return value


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _has_few_keys(cls, value: Any) -> Any:
        return few(value)


class Thinking(Model):
    """Anthropic's way to say it."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Tokens | None = None


class Reasoning(Model):
    effort: EffortName | None = None
    max_tokens: Tokens | None = None


class Text(Model):
    type: Literal["text", "input_text", "output_text"]
    text: str
    annotations: Annotated[Any, only(None, [])] = None
    logprobs: Any = None


class Asked(Model):
    model: str
    stream: bool | None = False
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    reasoning_effort: EffortName | None = None
    thinking_token_budget: Tokens | None = None
    thinking_budget_tokens: Tokens | None = None
    thinking: Thinking | None = None
    reasoning: Reasoning | None = None

    # without effect on the answer
    metadata: Annotated[dict[str, str], BeforeValidator(few)] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    parallel_tool_calls: bool | None = None
    service_tier: Annotated[str | None, only(None, "auto", "default")] = None
    store: bool | None = None

    tools: Annotated[Any, only(None, [])] = None
    tool_choice: Annotated[Any, only(None, "auto", "none")] = None
    top_logprobs: Annotated[Any, only(None, 0)] = None

    @property
    def sampling(self) -> Sampling:
        temperature = 1.0 if self.temperature is None else self.temperature
        top_p = 1.0 if self.top_p is None else self.top_p
        return Sampling(temperature=0.0 if temperature < COLDEST else temperature, top_p=top_p)

    @property
    def effort(self) -> EffortName | None:
        named = self.reasoning.effort if self.reasoning is not None else None
        return agreed({"reasoning_effort": self.reasoning_effort, "reasoning.effort": named})

    @property
    def thought(self) -> int | None:
        """Thinking tokens, if the request says how many, under any of the names that are in use."""
        says: dict[str, int | None] = {
            "thinking_token_budget": self.thinking_token_budget,
            "thinking_budget_tokens": self.thinking_budget_tokens,
        }
        if self.thinking is not None:
            says["thinking"] = 0 if self.thinking.type == "disabled" else self.thinking.budget_tokens
            if self.thinking.type == "enabled" and self.thinking.budget_tokens is None:
                raise refused("thinking that is enabled needs its budget_tokens", "thinking.budget_tokens")
        if self.reasoning is not None:
            says["reasoning.max_tokens"] = self.reasoning.max_tokens
        return agreed(says)


FormatName = Literal["text", "json_object", "json_schema"]


def schema_of(kind: FormatName, schema: dict[str, Any] | None) -> dict[str, Any] | None:
    """The JSON schema that an answer in a format must keep; None for free text."""
    match kind, schema:
        case "json_schema", None:
            raise refused("the format json_schema needs a schema", "response_format")
        case "json_schema", schema:
            return schema
        case "json_object", _:
            return {"type": "object"}
        case _:
            return None


def agreed(says: dict[str, T | None]) -> T | None:
    """The one value that fields of the same meaning have."""
    said = {name: value for name, value in says.items() if value is not None}
    if len(set(said.values())) > 1:
        raise refused(f"{' and '.join(said)} do not agree", next(iter(said)))
    return next(iter(said.values()), None)


def joined(content: str | list[Text] | None) -> str:
    if isinstance(content, list):
        return "".join(part.text for part in content)
    return content or ""
