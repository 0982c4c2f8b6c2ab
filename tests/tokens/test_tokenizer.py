"""Hostile text through tokenizers of our own making, and through one with every trap of other people's files."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from steep.errors import ConfigError, ModelError
from steep.tokens import StreamDecoder, Tokenizer

CONTROL = ["<|pad|>", "<|end|>", "<think>", "</think>"]
CORPUS = [
    "the cat thinks that 12 + 34 = 46 and the end is near",
    "<think> is text here, and so is </think>, <|end|> and <|pad|>",
    "Straße, naïve café, 数学, 🙂🙂",
] * 3

tokenizer = Tokenizer.train(CORPUS, vocab_size=320, control=CONTROL)


def test_tokenizers_of_the_same_tokens_have_the_same_pieces():
    spec = json.loads(tokenizer._spec)
    spec["model"]["merges"] = [" ".join(merge) for merge in spec["model"]["merges"]]  # another way to write it
    assert Tokenizer(json.dumps(spec)).pieces() == tokenizer.pieces()
    assert tokenizer.pieces()[tokenizer.control("<think>")] == b"<think>"
    other = Tokenizer.train(CORPUS, vocab_size=320, control=[*CONTROL[:3], "</thought>"])
    assert other.pieces() != tokenizer.pieces()


def traps() -> str:
    """A tokenizer.json where control tokens are not special, are merges of plain text, are the unknown token and are
    matched first; that cuts inputs off, pads them and puts a token before them; and where runs of spaces are added
    tokens.
    """
    spec = json.loads(Tokenizer.train(["think thinking unthinkable"] * 9, 300, ["<|end|>"])._spec)
    model = spec["model"]
    assert "think" in model["vocab"]
    first = max(model["vocab"].values()) + 1
    model["unk_token"] = "<|end|>"
    del model["vocab"]["Q"]  # a byte that cannot be encoded
    model["ignore_merges"] = True
    model["merges"] = [" ".join(merge) for merge in model["merges"]]  # as older files have it
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    spec["added_tokens"] += [
        {"id": model["vocab"]["think"], "content": "think", **plain},
        {"id": first, "content": "<think>", **plain},
        {"id": first + 1, "content": "    ", **plain},
    ]
    spec["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    spec["padding"] = {
        "strategy": {"Fixed": 8},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<|end|>",
    }
    spec["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|end|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [],
        "special_tokens": {"<|end|>": {"id": "<|end|>", "ids": [0], "tokens": ["<|end|>"]}},
    }
    return json.dumps(spec)


trapped = Tokenizer(traps())

pieces = [
    "<think>",
    "</think>",
    "<|end|>",
    "<|pad|>",
    "<thi",
    "nk>",
    "<|",
    "|>",
    "<<think>think>",
    "\0",
    "\ud800",
    "    ",
]
hostile = st.lists(st.one_of(st.text(), st.sampled_from([*pieces, "think", "Q", "1234", "🙂"]))).map("".join)
some_ids = st.lists(st.integers(0, tokenizer.vocab_size + 3))
check = settings(deadline=None, max_examples=60)


@given(hostile)
@check
def test_no_text_yields_a_control_token(text: str):
    for each in (tokenizer, trapped):
        assert not each.control_ids & set(each.encode(text))


@given(st.text())
@check
def test_any_text_comes_back(text: str):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(hostile)
@check
def test_hostile_text_comes_back_but_for_lone_surrogates(text: str):
    assert tokenizer.decode(tokenizer.encode(text), control=True) == text.replace("\ud800", "\ufffd")


def test_the_traps_catch_the_library_and_not_us():
    assert trapped.control_ids == {trapped.control("<|end|>"), trapped.control("think"), trapped.control("<think>")}
    library = tokenizers.Tokenizer.from_str(traps())
    library.encode_special_tokens = True
    library.no_truncation()
    for text in ("unthinkable", "a <think> b", "Q"):
        assert trapped.control_ids & set(library.encode(text, add_special_tokens=False).ids)
        assert not trapped.control_ids & set(trapped.encode(text))
    for text in ("unthinkable", "think", "a <think>    x", "<|end|>" * 4):
        assert trapped.decode(trapped.encode(text)) == text
    assert trapped.decode(trapped.encode("aQb")) == "ab"  # no byte, and not the unknown token either
    assert len(trapped.encode("x    y")) == 3  # the run of spaces is text


def test_the_longest_token_is_known():
    assert tokenizer.longest == max(len(tokenizer.token_bytes(id)) for id in range(tokenizer.vocab_size)) > 1


def test_other_threads_run_while_a_long_text_is_encoded():
    text = "the cat thinks " * 40_000
    with ThreadPoolExecutor(1) as pool:
        encoding, turns = pool.submit(tokenizer.encode, text), 0
        while not encoding.done():
            time.sleep(0.001)
            turns += 1
    assert turns > 5
    assert tokenizer.decode(encoding.result()) == text


def test_control_tokens_come_first():
    assert [tokenizer.control(name) for name in CONTROL] == [0, 1, 2, 3]
    assert tokenizer.control_ids == {0, 1, 2, 3}
    with pytest.raises(ModelError, match=r"no control token '<\|user\|>'\n.*<think>"):
        tokenizer.control("<|user|>")


def test_control_tokens_are_shown_or_hidden():
    ids = [2, *tokenizer.encode("so"), 3, *tokenizer.encode("5"), 1]
    assert tokenizer.decode(ids) == "so5"
    assert tokenizer.decode(ids, control=True) == "<think>so</think>5<|end|>"


def test_each_digit_is_a_token():
    numbers = Tokenizer.train(["12345 67890 1212 12 12 12"] * 20, 300, [])
    assert [numbers.decode([id]) for id in numbers.encode("a1212, 90")] == ["a", "1", "2", "1", "2", ",", " ", "9", "0"]


def test_every_byte_is_a_token():
    bare = Tokenizer.train([], vocab_size=len(CONTROL) + 256, control=CONTROL)
    assert bare.vocab_size == 260
    assert {bare.token_bytes(id) for id in range(4, 260)} == {bytes([byte]) for byte in range(256)}


def test_merges_are_learnt_up_to_the_vocabulary_size():
    assert tokenizer.vocab_size == 320
    assert len(tokenizer.encode("the cat thinks")) < len("the cat thinks")


def test_training_is_deterministic():
    assert Tokenizer.train(CORPUS, 320, CONTROL)._spec == tokenizer._spec


@pytest.mark.parametrize(("size", "control"), [(259, CONTROL), (400, ["<a>", "<a>"]), (400, [" "]), (400, ["<"])])
def test_training_refuses_what_cannot_work(size: int, control: list[str]):
    with pytest.raises(ConfigError):
        Tokenizer.train(CORPUS, size, control)


@given(some_ids, st.booleans())
@check
def test_a_stream_is_the_whole_decoded(ids: list[int], control: bool):
    stream = StreamDecoder(tokenizer, control)
    pushed = [stream.push(id) for id in ids]
    assert "".join(pushed) + stream.flush() == tokenizer.decode(ids, control)
    assert stream.flush() == ""


@given(st.text())
@check
def test_a_stream_never_emits_half_a_character(text: str):
    bare = Tokenizer.train([], 256, [])
    stream = StreamDecoder(bare)
    pushed = [stream.push(id) for id in bare.encode(text)]
    assert [part for part in pushed if part] == list(text)
    assert stream.flush() == ""


def test_a_stream_cut_within_a_character_says_so():
    stream = StreamDecoder(tokenizer)
    assert [stream.push(id) for id in Tokenizer.train([], 260, CONTROL).encode("é")[:1]] == [""]
    assert stream.flush() == "\ufffd"


def test_save_then_load(tmp_path: Path):
    tokenizer.save(tmp_path / "model")
    for path in (tmp_path / "model", tmp_path / "model" / "tokenizer.json"):
        loaded = Tokenizer.load(path)
        assert loaded.vocab_size == tokenizer.vocab_size
        assert loaded.control_ids == tokenizer.control_ids
        assert loaded.encode(CORPUS[0]) == tokenizer.encode(CORPUS[0])


def test_loading_says_what_is_wrong(tmp_path: Path):
    with pytest.raises(ModelError, match=r"there is no tokenizer at .*tokenizer.json"):
        Tokenizer.load(tmp_path)
    file = tmp_path / "tokenizer.json"
    for broken in ("", "{}", tokenizer._spec[:5000], tokenizer._spec.replace('"<|end|>": 1', '"<|end|>": "one"')):
        file.write_text(broken, encoding="utf-8")
        with pytest.raises(ModelError, match=r"tokenizer.json"):
            Tokenizer.load(tmp_path)
    file.write_text(tokenizer._spec.replace('"ByteLevel"', '"Metaspace"'), encoding="utf-8")
    with pytest.raises(ModelError, match=r"not byte-level BPE"):
        Tokenizer.load(tmp_path)


def test_transformers_agrees(tmp_path: Path):
    from transformers import AutoTokenizer

    tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in ("the cat thinks", " 12+34 = 46\n\n\t", "Straße 数学 🙂", "can't  stop , won't", "", "\0"):
        ids = tokenizer.encode(text)
        assert theirs.encode(text, add_special_tokens=False) == ids
        assert theirs.decode(ids) == tokenizer.decode(ids)
    assert theirs.encode("<think>5<|end|>") == [2, *tokenizer.encode("5"), 1]
    assert theirs.decode([2, 3, 1]) == tokenizer.decode([2, 3, 1], control=True)
    assert len(theirs) == tokenizer.vocab_size
