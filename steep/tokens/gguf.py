"""The tokenizer in a GGUF file's metadata: byte-level BPE, with its way of cutting text named, not written out.

llama.cpp calls this kind `gpt2` and the cut `tokenizer.ggml.pre`. A cut that is not known here is refused: numbers and
spaces would get other ids than those that the model was trained on.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from steep.errors import ModelError
from steep.tokens.tokenizer import Tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5
"""Kinds of tokens (`tokenizer.ggml.token_type`)."""

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
"""Bytes as characters, within words that GPT-2's pattern cuts out."""
LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2_WORDS = LLAMA3_WORDS.replace(r"\p{N}{1,3}", r"\p{N}")


def _cut_by(pattern: str) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, {**BYTE_LEVEL, "use_regex": False}]}


GPT2: dict[str, Any] = {"pre_tokenizer": BYTE_LEVEL}
SMOLLM = {
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL]}
}
LLAMA3 = {"pre_tokenizer": _cut_by(LLAMA3_WORDS), "ignore_merges": True}
QWEN2 = {"pre_tokenizer": _cut_by(QWEN2_WORDS), "normalizer": {"type": "NFC"}}
CUTS = {
    "gpt-2": GPT2,
    "smollm": SMOLLM,
    "llama-bpe": LLAMA3,
    "llama3": LLAMA3,
    "qwen2": QWEN2,
    "deepseek-r1-qwen": QWEN2,
}
"""What each `tokenizer.ggml.pre` stands for, as the models' own tokenizer.json files have it."""


def from_gguf(metadata: Mapping[str, Any], where: str) -> Tokenizer:
    """The tokenizer that a file's metadata describe. `where` names the file in errors.

    Tokens that are not normal text become control tokens: also those that llama.cpp calls user-defined (Qwen3's
    `<think>`) and unused, which a template may take.
    """
    kind, cut = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if kind != "gpt2":
        raise ModelError(
            f"{where}: the tokenizer is {kind or 'missing'}, not gpt2 (byte-level BPE)",
            "choose a model with a byte-level tokenizer: SmolLM2, Qwen2, Qwen3, Llama 3",
        )
    if cut not in CUTS:
        raise ModelError(
            f"{where}: tokenizer.ggml.pre is {cut!r}, not one of {', '.join(CUTS)}",
            "get a newer file of the model, or its Hugging Face directory",
        )
    tokens, merges = metadata.get("tokenizer.ggml.tokens"), metadata.get("tokenizer.ggml.merges")
    if not tokens or merges is None:
        raise ModelError(f"{where}: the tokenizer has no tokens or no merges", "get the file again")
    kinds = metadata.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
    known = set(tokens)
    if len(kinds) != len(tokens) or len(known) != len(tokens):
        raise ModelError(
            f"{where}: {len(known)} different tokens of {len(tokens)}, and {len(kinds)} kinds of them",
            "the file is damaged: get it again",
        )
    if alien := next((merge for merge in merges if merge.replace(" ", "", 1) not in known), None):
        raise ModelError(f"{where}: the merge {alien!r} gives no token", "the file is damaged: get it again")
    return _tokenizer(tokens, kinds, merges, CUTS[cut])


def to_gguf(tokenizer: Tokenizer, size: int) -> dict[str, Any]:
    """The metadata from which `from_gguf` makes the tokenizer, filled up to a vocabulary of `size` tokens."""
    spec = tokenizer.spec
    cut = next((name for name, cut in CUTS.items() if _plain(cut) == _plain(spec | spec["model"])), None)
    if cut is None:
        raise ModelError("GGUF has no name for the way in which the tokenizer cuts text", "export the model as hf")
    tokens = {id: token for token, id in spec["model"]["vocab"].items()}
    added = {token["id"]: token for token in spec["added_tokens"]}
    tokens |= {id: token["content"] for id, token in added.items()}

    def kind(id: int) -> int:
        if id not in tokens:
            return UNUSED
        return NORMAL if id not in added else CONTROL if added[id]["special"] else USER_DEFINED

    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in spec["model"]["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": cut,
        "tokenizer.ggml.tokens": [tokens.get(id, f"[PAD{id}]") for id in range(size)],
        "tokenizer.ggml.token_type": [kind(id) for id in range(size)],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
    }


def _plain(cut: Mapping[str, Any]) -> str:
    """How text is cut, for comparing: without what only concerns the places of tokens in it."""
    parts = {
        "normalizer": cut.get("normalizer"),
        "pre_tokenizer": cut["pre_tokenizer"],
        "ignore_merges": bool(cut.get("ignore_merges")),
    }
    return re.sub(r'"trim_offsets": (true|false)', "", json.dumps(parts, sort_keys=True))


def _tokenizer(tokens: list[str], kinds: list[int], merges: list[str], cut: Mapping[str, Any]) -> Tokenizer:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    spec = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": id, "content": token, **flags, "special": kind != USER_DEFINED}
            for id, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
            if kind in (UNKNOWN, CONTROL, USER_DEFINED, UNUSED)
        ],
        "normalizer": cut.get("normalizer"),
        "pre_tokenizer": cut["pre_tokenizer"],
        "post_processor": None,
        "decoder": BYTE_LEVEL,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": cut.get("ignore_merges", False),
            "vocab": {token: id for id, token in enumerate(tokens)},
            "merges": merges,
        },
    }
    return Tokenizer(json.dumps(spec, ensure_ascii=False))
