"""The template of a model that comes without one: which of the formats that steep knows its tokenizer speaks.

ChatML (SmolLM2, Qwen2, Qwen3), DeepSeek-R1's and Llama 3's; a model that was taught none of them, as base models are,
is asked in plain text. A model whose tokenizer has `<think>` and `</think>` thinks between them; for another,
`spare_tokens` says which control tokens could take their place.
"""

import json
import logging
import re
from dataclasses import replace
from pathlib import Path

from steep.errors import ModelError
from steep.tokens.template import FILE, Control, Template, TemplateConfig, Text, Turn, chatml
from steep.tokens.tokenizer import SETTINGS_FILE, Tokenizer
from steep.types import Role

log = logging.getLogger(__name__)

THINK = ("<think>", "</think>")
CHATML = frozenset({"<|im_start|>", "<|im_end|>", "<|endoftext|>"})
DEEPSEEK = frozenset({"<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", *THINK})
DEEPSEEK_PADS = ("<｜▁pad▁｜>", "<|EOT|>", "<|endoftext|>")
"""What its models have to pad with, besides the token that ends an answer."""
LLAMA3 = frozenset({"<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"})
PLAIN_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")
"""What base models end a document with."""
CHAT_MARKS = frozenset(
    {"<|im_start|>", "<|start_header_id|>", "<start_of_turn>", "<|user|>", "<|assistant|>", "[INST]"}
)
"""Of whose format a model that has one was taught another: it must not be asked in plain text."""
DEFAULT_SYSTEM = re.compile(r"<\|im_start\|>system(?:\n|\\n)([^<>{}']+)<\|im_end\|>")
"""In a Jinja template, the system message of conversations that have none."""
SPARE = re.compile(r"<\|?reserved.*|\[PAD\d+\]|<unused\d+>|<\|?extra_\d+\|?>", re.IGNORECASE)
"""Names of control tokens that were set aside when a tokenizer was made, and that nothing was trained on."""


def derive(tokenizer: Tokenizer, chat_template: str | None, where: str) -> TemplateConfig:
    """The format of a model's conversations. `chat_template` is the model's own, in Jinja; `where` is for errors."""
    names = set(tokenizer.control_names)
    if names >= CHATML:
        config = chatml(*(THINK if names >= set(THINK) else (None, None)))
        system = DEFAULT_SYSTEM.search(chat_template or "")
        return replace(config, default_system=system and system[1])
    pad = next((name for name in DEEPSEEK_PADS if name in names), None)
    if names >= DEEPSEEK and pad is not None:
        return deepseek(pad)
    if names >= LLAMA3:
        return llama3(*(THINK if names >= set(THINK) else (None, None)))
    end = next((name for name in PLAIN_ENDS if name in names), None)
    pad = next((name for name in tokenizer.control_names if name != end and not name.startswith("<think")), None)
    if end is not None and pad is not None and chat_template is None and not names & CHAT_MARKS:
        log.warning("%s: its tokenizer has no tokens for turns, so it is asked in plain text", where)
        return plain(end, pad)
    raise ModelError(
        f"{where} has no steep.json, which says how conversations are written for the model, and its tokenizer speaks "
        "neither ChatML nor DeepSeek-R1's or Llama 3's format",
        "describe its format with a TemplateConfig, and write it with Template(tokenizer, config).save(directory)",
    )


def deepseek(pad: str) -> TemplateConfig:
    """DeepSeek-R1 and the models distilled from it: the system message stands bare at the start."""
    return replace(
        chatml(),
        pad=pad,
        end=("<｜end▁of▁sentence｜>",),
        start=(Control("<｜begin▁of▁sentence｜>"),),
        system=Turn(prefix=(), suffix=()),
        user=Turn(prefix=(Control("<｜User｜>"),), suffix=()),
        assistant=Turn(prefix=(Control("<｜Assistant｜>"),), suffix=(Control("<｜end▁of▁sentence｜>"),)),
        document="<｜end▁of▁sentence｜>",
    )


def llama3(think_open: str | None = None, think_close: str | None = None) -> TemplateConfig:
    """Llama 3's: a header names the role."""

    def turn(role: Role) -> Turn:
        header = (Control("<|start_header_id|>"), Text(role), Control("<|end_header_id|>"), Text("\n\n"))
        return Turn(prefix=header, suffix=(Control("<|eot_id|>"),))

    return replace(
        chatml(think_open, think_close),
        pad="<|end_of_text|>",
        end=("<|eot_id|>", "<|end_of_text|>"),
        start=(Control("<|begin_of_text|>"),),
        system=turn("system"),
        user=turn("user"),
        assistant=turn("assistant"),
        document="<|end_of_text|>",
    )


def plain(end: str, pad: str) -> TemplateConfig:
    """For a model that has seen documents alone: questions and answers in text, each answer ended as a document is."""
    return replace(
        chatml(None, None),
        pad=pad,
        end=(end,),
        system=Turn(prefix=(), suffix=(Text("\n\n"),)),
        user=Turn(prefix=(Text("Question: "),), suffix=(Text("\n"),)),
        assistant=Turn(prefix=(Text("Answer:"),), suffix=(Control(end), Text("\n\n"))),
        document=end,
    )


def spare_tokens(tokenizer: Tokenizer) -> tuple[str, str] | None:
    """Two control tokens that a model has no other use for, to open and close a thought; None if it has none."""
    spare = [name for name in tokenizer.control_names if SPARE.fullmatch(name)]
    return (spare[0], spare[1]) if len(spare) > 1 else None


def load_template(directory: Path) -> Template:
    """The template of a model directory: its own, or where it has none that which its tokenizer speaks."""
    if (directory / FILE).is_file():
        return Template.load(directory)
    tokenizer = Tokenizer.load(directory)
    return Template(tokenizer, derive(tokenizer, _chat_template(directory), str(directory)))


def _chat_template(directory: Path) -> str | None:
    """A Hugging Face directory's own template: a file, or an entry of the tokenizer's settings; the default of many."""
    file = directory / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    settings = directory / SETTINGS_FILE
    try:
        found = json.loads(settings.read_text(encoding="utf-8")).get("chat_template") if settings.is_file() else None
    except ValueError as error:
        raise ModelError(f"{settings} cannot be read: {error}", "copy or download it again") from error
    if isinstance(found, list):
        found = next((entry["template"] for entry in found if entry.get("name") == "default"), None)
    return found
