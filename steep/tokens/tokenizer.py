"""Text to token ids and back, where text can never become a control token.

A control token (`<|user|>`, `</think>`) has an id and a name. `Tokenizer.encode` cannot yield that id whatever the text
says; a control token is placed only by who asks for it by name, with `Tokenizer.control`. For this the text is encoded
by a copy of the tokenizer from which every control token was cut out, because the switches of the `tokenizers` library
do not suffice: `encode_special_tokens` still matches added tokens that are not marked special (Qwen3's `<think>`), and
a merge, an unknown byte or `ignore_merges` may lead to an id that an added token shares with the vocabulary.

Byte-level BPE only (Qwen, Llama 3, SmolLM, GPT-2, ...): there a token is a string of bytes, so that decoding is a join
and the text of a thought and its answer never depend on each other.
"""

import codecs
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from steep.errors import ConfigError, ModelError

FILE = "tokenizer.json"
SETTINGS_FILE = "tokenizer_config.json"

LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # legal in a Python or JSON string, not in UTF-8


def _byte_alphabet() -> dict[str, int]:
    """Which character stands for which byte in a byte-level vocabulary: itself where printable, else from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(rest)}


BYTES = _byte_alphabet()


class Tokenizer:
    """Byte-level BPE with control tokens apart. `spec` is the text of a `tokenizer.json`.

    tokenizer = Tokenizer.train(["2 + 2 = 4"], vocab_size=300, control=["<|end|>"])
    tokenizer.control("<|end|>")                      # 0
    tokenizer.decode(tokenizer.encode("<|end|>"))     # "<|end|>", as text: 0 is not among the ids
    """

    def __init__(self, spec: str) -> None:
        parsed = json.loads(spec)
        if (parsed.get("decoder") or {}).get("type") != "ByteLevel" or "merges" not in parsed["model"]:
            raise ModelError("the tokenizer is not byte-level BPE", "steep reads no other kind (yet)")
        added: dict[str, int] = {token["content"]: token["id"] for token in parsed["added_tokens"]}
        text_added = {content: id for content, id in added.items() if content.isspace()}  # GPT-NeoX: runs of spaces
        self._spec = spec
        self._control = {content: id for content, id in added.items() if not content.isspace()}
        self._text = _without_control(parsed, set(self._control.values()), text_added)
        self._bytes = {id: _token_bytes(token) for token, id in self._text.get_vocab().items()}
        self._control_bytes = {id: content.encode() for content, id in self._control.items()}
        self.control_ids = frozenset(self._control.values())
        self.control_names = tuple(sorted(self._control, key=lambda name: self._control[name]))
        self.vocab_size = max([*self._bytes, *self.control_ids]) + 1
        """Rows that an embedding needs: the largest id + 1."""
        self.longest = max(map(len, self._bytes.values()))
        """Bytes of the longest token of text."""

    @property
    def spec(self) -> dict[str, Any]:
        """What its `tokenizer.json` holds."""
        parsed: dict[str, Any] = json.loads(self._spec)
        return parsed

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, control: Sequence[str]) -> "Tokenizer":
        """A tokenizer of `control` (ids from 0 on, in this order), the 256 bytes, and merges learnt from `texts`.

        Every digit is a token of its own. The same texts in the same order give the same tokenizer; it stays smaller
        than `vocab_size` when the texts hold too few different words.
        """
        if len(set(control)) < len(control) or any(len(name.strip()) < 2 for name in control):
            raise ConfigError(
                f"control tokens {list(control)} cannot be told from each other or from text",
                "give each a name of its own, of two characters or more",
            )
        if vocab_size < len(control) + len(BYTES):
            raise ConfigError(
                f"a vocabulary of {vocab_size} cannot hold {len(control)} control tokens and the 256 bytes",
                f"use a vocab_size of {len(control) + len(BYTES)} or more",
            )
        trained = tokenizers.Tokenizer(models.BPE())
        trained.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        trained.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[AddedToken(name, normalized=False, special=True) for name in control],
            initial_alphabet=sorted(BYTES),
            show_progress=False,
        )
        trained.train_from_iterator((_encodable(text) for text in texts), trainer)
        return cls(trained.to_str(pretty=True))

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """The tokenizer in a model directory, or in a `tokenizer.json` itself."""
        file = path / FILE if path.is_dir() else path
        if not file.is_file():
            raise ModelError(f"there is no tokenizer at {file}", f"a model directory holds its {FILE}")
        try:
            return cls(file.read_text(encoding="utf-8"))
        except ModelError as error:
            raise ModelError(f"{file}: {error.message}", error.fix) from error
        except Exception as error:  # `tokenizers` raises bare Exception for a file that it cannot use
            raise ModelError(f"{file} is not a whole {FILE}: {error}", "copy or download it again") from error

    def extended(self, control: Sequence[str]) -> "Tokenizer":
        """This tokenizer with further control tokens, at the ids from `vocab_size` on; those that it has are kept."""
        parsed = self.spec
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        new = [name for name in control if name not in self._control]
        parsed["added_tokens"] += [
            {"id": self.vocab_size + number, "content": name, **flags} for number, name in enumerate(new)
        ]
        return Tokenizer(json.dumps(parsed, indent=2, ensure_ascii=False))

    def save(self, directory: Path, settings: Mapping[str, Any] | None = None) -> None:
        """Write `tokenizer.json` and the `tokenizer_config.json` with which `transformers.AutoTokenizer` loads it.

        `settings` are further entries of the latter (`eos_token`, `chat_template`).
        """
        directory.mkdir(parents=True, exist_ok=True)
        (directory / FILE).write_text(self._spec, encoding="utf-8")
        entries = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            **(settings or {}),
        }
        (directory / SETTINGS_FILE).write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")

    def encode(self, text: str) -> list[int]:
        """Ids of a text, none of them a control token. A lone surrogate becomes U+FFFD.

        `decode` gives the text back, if the tokenizer was made by `train`; a loaded one may normalise the text, or lack
        a byte and leave it out.
        """
        if not text:  # between control tokens there often is none, and a call costs 10 us
            return []
        # `encode` would stop all other threads meanwhile
        (encoding,) = self._text.encode_batch([_encodable(text)], add_special_tokens=False)
        ids: list[int] = encoding.ids
        return ids

    def decode(self, ids: Iterable[int], control: bool = False) -> str:
        """Text of ids, control tokens by name or (default) hidden. Bytes that are not UTF-8 become U+FFFD."""
        if control:
            return b"".join(self.token_bytes(id, control) for id in ids).decode("utf-8", errors="replace")
        get = self._bytes.get  # as `token_bytes` has it, in a third of the time: an evaluation decodes millions of ids
        return b"".join([get(id, b"") for id in ids]).decode("utf-8", errors="replace")

    def token_bytes(self, id: int, control: bool = False) -> bytes:
        """The bytes of one token: empty for a hidden control token, and for an id past the vocabulary, which a model
        with a padded embedding may sample.
        """
        shown = self._control_bytes.get(id, b"") if control else b""
        return self._bytes.get(id, shown)

    def pieces(self) -> list[bytes]:
        """What each id stands for, names of control tokens included: the same for two tokenizers of the same tokens."""
        return [self.token_bytes(id, control=True) for id in range(self.vocab_size)]

    def control(self, name: str) -> int:
        """The id of a control token."""
        if name not in self._control:
            raise ModelError(
                f"the tokenizer has no control token {name!r}",
                f"it has {', '.join(self._control) or 'none'}: name one of these, or train a tokenizer with {name!r}",
            )
        return self._control[name]


class StreamDecoder:
    """Decodes ids as they come. What `push` and at last `flush` return, joined, is what `Tokenizer.decode` gives."""

    def __init__(self, tokenizer: Tokenizer, control: bool = False) -> None:
        self._tokenizer = tokenizer
        self._control = control
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, *ids: int) -> str:
        """The text that these ids complete: empty while a character lacks bytes."""
        return self._utf8.decode(b"".join(self._tokenizer.token_bytes(id, self._control) for id in ids))

    @property
    def within_character(self) -> bool:
        """Whether bytes of a character that is not whole yet were pushed."""
        return bool(self._utf8.getstate()[0])

    def flush(self) -> str:
        """U+FFFD if the stream ended within a character, else nothing. The decoder may then be used again."""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return rest


def _without_control(parsed: dict[str, Any], control_ids: set[int], text_added: dict[str, int]) -> tokenizers.Tokenizer:
    """The tokenizer that text goes through: no control token can be matched, merged, looked up or fallen back to.

    Also without what belongs to whole inputs and not to a piece of text: truncation, padding, begin and end tokens.
    """
    model = parsed["model"]
    vocab = {token: id for token, id in model["vocab"].items() if id not in control_ids}
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    spec = {
        **parsed,
        "added_tokens": [token for token in parsed["added_tokens"] if token["id"] not in control_ids],
        "truncation": None,
        "padding": None,
        "post_processor": None,
        "model": {
            **model,
            "vocab": vocab | text_added,  # `tokenizers` numbers added tokens that are not in here anew
            "merges": [merge for merge in merges if {*merge, "".join(merge)} <= vocab.keys()],
            "unk_token": None,
            "dropout": None,
        },
    }
    return tokenizers.Tokenizer.from_str(json.dumps(spec))


def _token_bytes(token: str) -> bytes:
    """The bytes that an entry of a byte-level vocabulary stands for."""
    if all(character in BYTES for character in token):
        return bytes(BYTES[character] for character in token)
    return token.encode()  # an entry not written in the byte alphabet stands for itself


def _encodable(text: str) -> str:
    return LONE_SURROGATE.sub("\ufffd", text)
