"""Messages to token ids and back: the format of a conversation, as data.

    prompt    <|user|>What is 2+3?<|end|><|assistant|><think>
    response  2+3 is 5.</think>5<|end|>

A prompt is rendered straight to ids. Control tokens come from the template alone; what a message says is encoded as
text, so that `</think>` in a question is eight characters and ends nothing. A response is split by ids.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from pydantic import ConfigDict, TypeAdapter, ValidationError

from steep.errors import ConfigError, ModelError
from steep.tokens.tokenizer import Tokenizer
from steep.types import Budget, Demonstration, Message, Role

FILE = "steep.json"
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


@dataclass(frozen=True)
class Control:
    """A control token, by name."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    control: str


@dataclass(frozen=True)
class Text:
    """Plain text, whatever it looks like."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    text: str


Piece = Control | Text


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What stands before and after the content of a message."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    prefix: tuple[Piece, ...]
    suffix: tuple[Piece, ...]


@dataclass(frozen=True, kw_only=True)
class TemplateConfig:
    """The format of one model's conversations, kept as `steep.json` beside its weights. See `compact` and `chatml`."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    pad: str
    """Control token that fills up a batch. Not the one that ends an answer: who masks padding by id would mask it."""
    end: tuple[str, ...]
    """Control tokens that stop generation. The first ends a demonstration, and begins the assistant's suffix."""
    start: tuple[Piece, ...] = ()
    """What a conversation begins with, before its first message."""
    default_system: str | None = None
    """The system message of a conversation that begins with another; None: it has none."""
    system: Turn
    user: Turn
    assistant: Turn
    think_open: str | None
    """Control token that opens the thought, the last of a prompt. None, with `think_close`, for a model without one."""
    think_close: str | None
    document: str | None = None
    """Control token between the documents of a pretraining corpus."""
    closing: str = ""
    """Plain text that ends a thought that ran out, before `think_close`; may be empty."""
    extension: str = " no "
    """Plain text that takes the place of `think_close` where a thought is made to go on. The demonstrations of steep's
    own tasks take a step back in these words."""
    efforts: dict[str, int | None]
    """Thinking tokens of each effort; None leaves the context as the only limit."""
    answer: int
    """Answer tokens at most, the end token included, where a request does not say."""
    keep_thoughts: bool = False
    """Whether the thoughts of earlier turns stay in the prompt."""

    def __post_init__(self) -> None:
        if (self.think_open is None) != (self.think_close is None):
            raise ConfigError("a template needs both think_open and think_close, or neither")
        if not self.end or self.assistant.suffix[:1] != (Control(self.end[0]),):
            raise ConfigError(
                "the assistant's suffix does not begin with the end token",
                "what a model learns to stop with must be what its earlier turns end with",
            )
        if self.pad == self.end[0] or self.think_close in self.end:
            raise ConfigError("pad or think_close is also the end token", "give each a control token of its own")
        if not self.extension:
            raise ConfigError("the template's extension is empty", "give a phrase with which a thought goes on")
        if not self.efforts.keys() <= set(EFFORTS):
            unknown = sorted(self.efforts.keys() - set(EFFORTS))
            raise ConfigError(f"unknown efforts: {', '.join(unknown)}", f"name them {', '.join(EFFORTS)}")
        _check_lengths(self.answer, *self.efforts.values())

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> "TemplateConfig":
        """The config that `to_json` wrote; `where` is for errors."""
        try:
            return TypeAdapter(cls).validate_json(text, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            entry = ".".join(str(part) for part in first["loc"]) or "the file"
            raise ModelError(
                f"{where} cannot be used: {entry}: {first['msg']}", "mend this entry, or copy the file again"
            ) from error

    def to_json(self) -> bytes:
        return TypeAdapter(TemplateConfig).dump_json(self, indent=2)

    def turn(self, role: Role) -> Turn:
        return {"system": self.system, "user": self.user, "assistant": self.assistant}[role]

    @property
    def opening(self) -> tuple[Piece, ...]:
        """What a prompt ends with: the assistant's prefix and, for a model that thinks, the opened thought."""
        thought = () if self.think_open is None else (Control(self.think_open),)
        return (*self.assistant.prefix, *thought)

    @property
    def control(self) -> tuple[str, ...]:
        """All control tokens, each once: what `Tokenizer.train` is to be given."""
        turns = [piece for role in get_args(Role) for piece in (*self.turn(role).prefix, *self.turn(role).suffix)]
        pieces = [*self.start, *turns]
        names = [self.pad, *self.end, *(piece.control for piece in pieces if isinstance(piece, Control))]
        optional = [name for name in (self.think_open, self.think_close, self.document) if name is not None]
        return tuple(dict.fromkeys([*names, *optional]))


def compact() -> TemplateConfig:
    """One control token a role and no other framing: for models made from nothing, with a context of some hundreds."""

    def turn(role: Role) -> Turn:
        return Turn(prefix=(Control(f"<|{role}|>"),), suffix=(Control("<|end|>"),))

    return TemplateConfig(
        pad="<|pad|>",
        end=("<|end|>",),
        system=turn("system"),
        user=turn("user"),
        assistant=turn("assistant"),
        think_open="<think>",
        think_close="</think>",
        document="<|document|>",
        efforts={"none": 0, "minimal": 16, "low": 32, "medium": 64, "high": 128, "xhigh": 256, "max": None},
        answer=64,
    )


def chatml(think_open: str | None = "<think>", think_close: str | None = "</think>") -> TemplateConfig:
    """ChatML, as Qwen and SmolLM2 speak it, with a thought between two control tokens.

    A model whose tokenizer has no `<think>` can use two control tokens that it has no other use for.
    """

    def turn(role: Role) -> Turn:
        return Turn(
            prefix=(Control("<|im_start|>"), Text(f"{role}\n")),
            suffix=(Control("<|im_end|>"), Text("\n")),
        )

    return TemplateConfig(
        pad="<|endoftext|>",
        end=("<|im_end|>", "<|endoftext|>"),
        system=turn("system"),
        user=turn("user"),
        assistant=turn("assistant"),
        think_open=think_open,
        think_close=think_close,
        document="<|endoftext|>",
        closing="\n\nTime is up, so I answer from what I have.\n",
        extension="\nWait",
        efforts={"none": 0, "minimal": 64, "low": 256, "medium": 1024, "high": 4096, "xhigh": 16384, "max": None},
        answer=1024,
    )


class Template:
    """Renders messages for one tokenizer and reads responses."""

    def __init__(self, tokenizer: Tokenizer, config: TemplateConfig) -> None:
        self.tokenizer = tokenizer
        self.config = config
        ids = {name: tokenizer.control(name) for name in config.control}
        self.pad_id = ids[config.pad]
        self.end_ids = frozenset(ids[name] for name in config.end)
        self.think_open_id = None if config.think_open is None else ids[config.think_open]
        self.think_close_id = None if config.think_close is None else ids[config.think_close]
        self.document_id = None if config.document is None else ids[config.document]

    @classmethod
    def load(cls, directory: Path) -> "Template":
        """The template of a model directory, with its tokenizer."""
        file = directory / FILE
        if not file.is_file():
            raise ModelError(
                f"{directory} has no {FILE}, which says how conversations are written for the model",
                "for a ChatML model, write it with Template(Tokenizer.load(directory), chatml()).save(directory)",
            )
        config = TemplateConfig.from_json(file.read_bytes(), str(file))
        return cls(Tokenizer.load(directory), config)

    def save(self, directory: Path) -> None:
        """Write the tokenizer, its chat template for other programs, and `steep.json`."""
        settings = {
            "eos_token": self.config.end[0],
            "pad_token": self.config.pad,
            "chat_template": self.chat_template(),
        }
        self.tokenizer.save(directory, settings)
        (directory / FILE).write_bytes(self.config.to_json() + b"\n")

    def render(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The prompt to answer `messages`. It ends where the model starts: in the thought, if it has one."""
        config = self.config
        if messages and messages[0].role != "system" and config.default_system is not None:
            messages = [Message(role="system", content=config.default_system), *messages]
        turns = (piece for message in messages for piece in self._turn(message))
        return self._ids((*config.start, *turns, *config.opening))

    def demonstrate(
        self, messages: Sequence[Message], demonstration: Demonstration
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The prompt, and the response that shows how: thought, think_close, answer, end.

        A model without a thought section is shown the answer only.
        """
        config = self.config
        response: tuple[Piece, ...] = (Text(demonstration.answer), Control(config.end[0]))
        if config.think_close is not None:
            response = (Text(demonstration.thought), Control(config.think_close), *response)
        return self.render(messages), self._ids(response)

    def budget(self, thought: int | None, answer: int | None = None, extensions: int = 0) -> Budget:
        """A budget of `thought` tokens, then `answer` tokens (None: as the config says).

        With 0 the closing has no phrase, since nothing was thought that could be cut short. A thought that the model
        ends is made to go on `extensions` times.
        """
        answer = self.config.answer if answer is None else answer
        _check_lengths(answer, thought)
        if self.think_close_id is None:
            return Budget(thought=0, answer=answer, closing=())
        phrase = [] if thought == 0 else self.tokenizer.encode(self.config.closing)
        return Budget(
            thought=thought,
            answer=answer,
            closing=(*phrase, self.think_close_id),
            extension=tuple(self.tokenizer.encode(self.config.extension)) if extensions else (),
            extensions=extensions,
        )

    def effort(self, name: str) -> Budget:
        """The budget of a named effort."""
        if name not in self.config.efforts:
            raise ConfigError(f"the model has no effort {name!r}", f"its efforts are {', '.join(self.config.efforts)}")
        return self.budget(self.config.efforts[name])

    def split(self, response_ids: Iterable[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Thought and answer, parted at the first think_close, which is in neither; no control token is in the answer.

        A thought that never ended is all thought, with an empty answer. Without a thought section all is answer.
        """
        ids = tuple(map(int, response_ids))
        thought: tuple[int, ...] = ()
        answer = ids
        if self.think_close_id is not None:
            at = ids.index(self.think_close_id) if self.think_close_id in ids else len(ids)
            thought, answer = ids[:at], ids[at + 1 :]
        return thought, tuple([id for id in answer if id not in self.tokenizer.control_ids])

    def thought(self, response_ids: Iterable[int]) -> str:
        return self.tokenizer.decode(self.split(response_ids)[0])

    def answer(self, response_ids: Iterable[int]) -> str:
        return self.tokenizer.decode(self.split(response_ids)[1])

    def chat_template(self) -> str:
        """The template in Jinja, for programs that know no other kind; a thought is the message's `reasoning_content`.

        It gives the ids of `render` for ordinary text. Such a program cannot tell `</think>` in a message from the
        control token: there the ids differ, and `render` is right.
        """
        config = self.config
        lines = [_say(config.start)] if config.start else []
        if config.default_system is not None:
            said = (*config.system.prefix, Text(config.default_system), *config.system.suffix)
            lines += ["{%- if messages and messages[0]['role'] != 'system' -%}", _say(said), "{%- endif -%}"]
        lines += ["{%- for message in messages -%}"]
        for keyword, role in zip(("if", "elif", "elif"), get_args(Role), strict=True):
            turn = config.turn(role)
            lines += ["{%- " + keyword + " message['role'] == '" + role + "' -%}", _say(turn.prefix)]
            if role == "assistant" and config.keep_thoughts and config.think_open and config.think_close:
                lines += ["{%- if message['reasoning_content'] is string -%}", _say([Control(config.think_open)])]
                lines += ["{{- message['reasoning_content'] -}}", _say([Control(config.think_close)]), "{%- endif -%}"]
            lines += ["{{- message['content'] -}}", _say(turn.suffix)]
        lines += ["{%- else -%}", "{{- raise_exception('unknown role ' + message['role']) -}}", "{%- endif -%}"]
        lines += ["{%- endfor -%}"]
        lines += ["{%- if add_generation_prompt -%}", _say(config.opening), "{%- endif -%}"]
        return "\n".join(lines)

    def _turn(self, message: Message) -> Iterator[Piece]:
        """One message of the history."""
        config = self.config
        turn = config.turn(message.role)
        yield from turn.prefix
        kept = message.role == "assistant" and config.keep_thoughts and message.thought is not None
        if kept and config.think_open and config.think_close:
            yield from (Control(config.think_open), Text(message.thought or ""), Control(config.think_close))
        yield Text(message.content)
        yield from turn.suffix

    def _ids(self, pieces: Iterable[Piece]) -> tuple[int, ...]:
        """Ids of pieces. Neighbouring texts are joined before they are encoded, so that merges cross their borders as
        they do for a program that tokenises the whole conversation at once.
        """
        ids: list[int] = []
        text = ""
        for piece in pieces:
            match piece:
                case Text():
                    text += piece.text
                case Control():
                    ids += [*self.tokenizer.encode(text), self.tokenizer.control(piece.control)]
                    text = ""
        return (*ids, *self.tokenizer.encode(text))


def _say(pieces: Iterable[Piece]) -> str:
    """Jinja that prints pieces. Its string literals have Python's escapes: JSON's, for all that JSON must escape."""
    text = "".join(piece.text if isinstance(piece, Text) else piece.control for piece in pieces)
    return "{{- " + json.dumps(text, ensure_ascii=False) + " -}}"


def _check_lengths(answer: int, *thoughts: int | None) -> None:
    if answer < 1:
        raise ConfigError(f"an answer of {answer} tokens has no room", "leave 1 or more: the end token counts")
    for thought in thoughts:
        if thought is not None and thought < 0:
            raise ConfigError(f"a model cannot think for {thought} tokens", "0 answers at once, None sets no limit")
