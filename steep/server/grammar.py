"""Answers that must be JSON: a schema becomes a mask over the next token, by llguidance."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from steep.engines import LoadedModel
from steep.server.errors import refused
from steep.types import Constraint

try:
    import llguidance
except ImportError:
    llguidance = None  # type: ignore[assignment]

PARAM = "response_format"


class Grammars:
    """The grammars that one model's tokens can be held to."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._tokenizer: Any = None

    def matcher(self, schema: dict[str, Any]) -> Any:
        """A matcher for a JSON schema; see `Schema`."""
        if llguidance is None:
            raise refused(
                "this server cannot hold an answer to a schema: llguidance is not installed "
                "(pip install 'steep[serve]')",
                PARAM,
            )
        if self._tokenizer is None:
            self._tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Vocabulary(self._loaded)))
        try:
            grammar = llguidance.LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_flexible": False})
        except ValueError as error:  # half a surrogate pair, or a number of more than 64 bits
            raise refused(f"the schema cannot be kept: {error}", PARAM) from error
        matcher = llguidance.LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise refused(f"the schema cannot be kept: {matcher.get_error().splitlines()[0]}", PARAM)
        return matcher


class Schema(Constraint):
    """Holds one answer to a schema."""

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher = matcher.deep_copy()
        self._vocab_size = vocab_size

    def allowed(self) -> NDArray[np.bool_]:
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")
        allowed = np.zeros(self._vocab_size, np.bool_)
        known = min(len(bits), self._vocab_size)
        allowed[:known] = bits[:known]
        return allowed

    def advance(self, id: int) -> None:
        self._matcher.consume_token(id)


class _Vocabulary:
    """A tokenizer as llguidance wants it."""

    def __init__(self, loaded: LoadedModel) -> None:
        template = loaded.template
        self._tokenizer = template.tokenizer
        control = self._tokenizer.control_ids
        self.tokens = [self._tokenizer.token_bytes(id, control=True) for id in range(self._tokenizer.vocab_size)]
        self.special_token_ids = sorted(control)
        self.eos_token_id = self._tokenizer.control(template.config.end[0])
        self.bos_token_id = None

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)
