"""Ids from a GGUF file's tokenizer are those of BPE done by hand, and no text becomes one of its control tokens."""

import json
import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steep.errors import ModelError
from steep.tokens import Tokenizer
from steep.tokens.gguf import CUTS, from_gguf, to_gguf
from steep.tokens.tokenizer import BYTES

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CORPUS = [
    "the cat thinks that 12 + 34 = 46 and it's what they'll say, isn't it?\n\n    return x\n",
    "2024 and 1999, 100000 naïve cafés; Straße, 数学 🙂🙂   tabs\tand\r\nlines ... !!",
    "DON'T the the of of in  in   in    in",
] * 4
CHARACTERS = {byte: character for character, byte in BYTES.items()}
LETTER, NUMBER, SPACE = r"[^\W\d_]", r"\d", r"\s"  # for the characters used here as \p{L}, \p{N}, \s
GPT2_WORDS = rf"'s|'t|'re|'ve|'m|'ll|'d| ?{LETTER}+| ?{NUMBER}+| ?(?:_|[^\s\w])+|\s+(?!\S)|\s+"
QWEN2_WORDS = (
    rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|(?:_|[^\r\n\w])?{LETTER}+|{NUMBER}| ?(?:_|[^\s\w])+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def described(pre="smollm"):
    """The metadata of a tokenizer with control tokens first, then bytes, then merges, as SmolLM2 has them."""
    model = json.loads(Tokenizer.train(CORPUS, 420, CONTROL)._spec)["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in CONTROL else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in model["merges"]],
    }


METADATA = described()


def by_hand(words, metadata):
    """BPE from its definition: in each word, the earliest merge of the list that fits, until none does."""
    ids = {token: id for id, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    ranks = {merge: rank for rank, merge in enumerate(metadata["tokenizer.ggml.merges"])}
    out = []
    for word in words:
        parts = [CHARACTERS[byte] for byte in word.encode()]
        while True:
            pairs = [(ranks.get(f"{a} {b}", len(ranks)), at) for at, (a, b) in enumerate(pairwise(parts))]
            rank, at = min(pairs, default=(len(ranks), 0))
            if rank == len(ranks):
                break
            parts[at : at + 2] = ["".join(parts[at : at + 2])]
        out += [ids[part] for part in parts]
    return out


def smollm_words(text):
    return [word for piece in re.split(r"(\d)", text) for word in re.findall(GPT2_WORDS, piece)]


smollm, qwen2 = from_gguf(METADATA, "a file"), from_gguf(described("qwen2"), "a file")

PIECES = """12|2024|  | |\n|\n\n|\t|the| the cat|it's|DON'T|'ll|naïve| café|Straße|数学|🙂|!!| ...|_|x_1|\r\n|(a+b)"""
pieces = st.sampled_from([*PIECES.split("|"), *CONTROL])
texts = st.lists(pieces).map("".join)
check = settings(deadline=None, max_examples=150)


@given(texts)
@check
def test_smollm_splits_digits_one_by_one_then_words(text):
    assert smollm.encode(text) == by_hand(smollm_words(text), METADATA)


@given(texts)
@check
def test_qwen2_splits_as_its_pattern_says(text):
    assert qwen2.encode(text) == by_hand(re.findall(QWEN2_WORDS, text), METADATA)


def test_examples():
    def shown(tokenizer, text):
        return [tokenizer.decode([id]) for id in tokenizer.encode(text)]

    assert shown(smollm, "the 2024\n") == ["the", " ", "2", "0", "2", "4", "\n"]
    assert shown(qwen2, "the 2024\n") == ["the", " ", "2", "0", "2", "4", "\n"]
    llama3 = from_gguf(
        {**METADATA, "tokenizer.ggml.merges": [*METADATA["tokenizer.ggml.merges"][:-1], "1 2"]}
        | {
            "tokenizer.ggml.tokens": [*METADATA["tokenizer.ggml.tokens"][:-1], "12"],
            "tokenizer.ggml.pre": "llama-bpe",
        },
        "a file",
    )
    assert shown(llama3, "1212") == ["12", "1", "2"]  # 121, 2: threes from the left
    assert shown(llama3, "12") == ["12"]


@given(st.text())
@check
def test_any_text_comes_back(text):
    assert smollm.decode(smollm.encode(text)) == text


@given(st.lists(st.one_of(st.text(), st.sampled_from([*CONTROL, "<|im_", "end|>"]))).map("".join))
@check
def test_no_text_yields_a_control_token(text):
    assert not {0, 1, 2} & set(smollm.encode(text))


def test_control_tokens_keep_their_ids():
    assert [smollm.control(name) for name in CONTROL] == [0, 1, 2]
    assert smollm.control_ids == {0, 1, 2}
    assert smollm.vocab_size == len(METADATA["tokenizer.ggml.tokens"])
    assert smollm.decode([1, *smollm.encode("a"), 2], control=True) == "<|im_start|>a<|im_end|>"


def test_user_defined_and_unused_tokens_are_control_tokens_too():
    metadata = described()
    count = len(metadata["tokenizer.ggml.tokens"])
    metadata["tokenizer.ggml.tokens"] += ["<think>", "[PAD]"]
    metadata["tokenizer.ggml.token_type"] += [4, 5]
    tokenizer = from_gguf(metadata, "a file")
    assert (tokenizer.control("<think>"), tokenizer.control("[PAD]")) == (count, count + 1)
    assert not {count, count + 1} & set(tokenizer.encode("<think>[PAD]"))


@pytest.mark.parametrize("pre", CUTS)
def test_it_can_be_saved_for_other_programs(pre, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = from_gguf(described(pre), "a file")
    tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in ("it's 2024,\n\n  3.14 naïve 数学 🙂", " the   cat", ""):
        assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text)
        assert Tokenizer.load(tmp_path).encode(text) == tokenizer.encode(text)
    assert theirs.encode("<|im_end|>", add_special_tokens=False) == [2]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tokenizer.ggml.model": "llama"}, "the tokenizer is llama, not gpt2"),
        ({"tokenizer.ggml.model": None}, "the tokenizer is missing"),
        ({"tokenizer.ggml.pre": "default"}, "tokenizer.ggml.pre is 'default', not one of gpt-2, smollm"),
        ({"tokenizer.ggml.pre": None}, "tokenizer.ggml.pre is None"),
        ({"tokenizer.ggml.merges": None}, "no tokens or no merges"),
        ({"tokenizer.ggml.token_type": [1, 1]}, "and 2 kinds of them"),
        ({"tokenizer.ggml.tokens": ["a"] * 420}, "1 different tokens of 420"),
        ({"tokenizer.ggml.merges": ["no such"]}, "the merge 'no such' gives no token"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refused(changes, said):
    with pytest.raises(ModelError) as caught:
        from_gguf(METADATA | changes, "some/model.gguf")
    assert said in caught.value.message
    assert caught.value.message.startswith("some/model.gguf")
    assert caught.value.fix


@pytest.mark.parametrize("pre", CUTS)
def test_there_and_back(pre):
    metadata = described(pre)
    size = len(metadata["tokenizer.ggml.tokens"])
    metadata["tokenizer.ggml.tokens"] += ["<think>", "[PAD]"]
    metadata["tokenizer.ggml.token_type"] += [4, 3]
    tokenizer = from_gguf(metadata, "a file")
    back = to_gguf(tokenizer, size + 3)
    assert back["tokenizer.ggml.tokens"] == [*metadata["tokenizer.ggml.tokens"], f"[PAD{size + 2}]"]
    assert back["tokenizer.ggml.token_type"] == [*metadata["tokenizer.ggml.token_type"], 5]
    assert back["tokenizer.ggml.merges"] == metadata["tokenizer.ggml.merges"]
    again = from_gguf(back, "a file")
    for text in ("it's 2024,\n\n  3.14 naïve 数学 🙂", " the   cat"):
        assert again.encode(text) == tokenizer.encode(text)


def test_a_tokenizer_of_our_own_has_a_name():
    ours = Tokenizer.train(CORPUS, 420, CONTROL)
    metadata = to_gguf(ours, ours.vocab_size)
    assert metadata["tokenizer.ggml.pre"] == "smollm"
    assert from_gguf(metadata, "a file").encode("the 2024\n") == ours.encode("the 2024\n")


def test_a_way_of_cutting_that_has_no_name():
    spec = Tokenizer.train(CORPUS, 420, CONTROL).spec
    spec["normalizer"] = {"type": "NFKC"}
    with pytest.raises(ModelError, match="GGUF has no name"):
        to_gguf(Tokenizer(json.dumps(spec)), 420)
