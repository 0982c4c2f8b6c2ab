"""Text and conversations to token ids and back."""

from steep.tokens.derive import THINK, derive, load_template, spare_tokens
from steep.tokens.template import Control, Template, TemplateConfig, Text, Turn, chatml, compact
from steep.tokens.tokenizer import StreamDecoder, Tokenizer

__all__ = [
    "THINK",
    "Control",
    "StreamDecoder",
    "Template",
    "TemplateConfig",
    "Text",
    "Tokenizer",
    "Turn",
    "chatml",
    "compact",
    "derive",
    "load_template",
    "spare_tokens",
]
