"""Text and conversations to token ids and back."""

from steep.tokens.template import Control, Template, TemplateConfig, Text, Turn, chatml, compact
from steep.tokens.tokenizer import StreamDecoder, Tokenizer

__all__ = [
    "Control",
    "StreamDecoder",
    "Template",
    "TemplateConfig",
    "Text",
    "Tokenizer",
    "Turn",
    "chatml",
    "compact",
]
