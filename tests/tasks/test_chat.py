from collections import Counter
from itertools import islice
from random import Random
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steep.errors import ConfigError
from steep.tasks.chat import INTENTS, Chat, plain

TASK = Chat()
SPLITS = ("train", "valid", "test")


@pytest.mark.parametrize(
    ("intent", "answer", "kind"),
    [
        ("hello", "Hello! What shall we think about?", "correct"),
        ("hello", "hello what shall we think about", "correct"),
        ("hello", "  HELLO,  what shall we think about?\n", "correct"),
        ("hello", "Hi there! What can I do for you?", "correct"),
        ("hello", "Hello! What shall we think about? Hello!", "wrong"),
        ("hello", "Hello!", "wrong"),
        ("hello", "Goodbye! Come back soon.", "wrong"),
        ("hello", "", "wrong"),
        ("thanks", "You are welcome!", "correct"),
        ("thanks", "you are welcome.", "correct"),
        ("thanks", "Glad to help", "correct"),
        ("thanks", "You are welcome! Glad to help!", "wrong"),
        ("thanks", "Youarewelcome", "wrong"),
        ("goodbye", "Goodbye! Come back soon.", "correct"),
        ("goodbye", "Goodbye", "wrong"),
        ("name", "My name is steep. I think before I answer.", "correct"),
        ("name", "My name is Steep, I think before I answer", "correct"),
        ("name", "My name is steve. I think before I answer.", "wrong"),
        ("mood", "Very well, thank you! And you?", "correct"),
        ("mood", "You are welcome!", "wrong"),
        ("human", "I am a small language model, not a person.", "correct"),
        ("human", "I am a person.", "wrong"),
        ("help", "Of course! What is the question?", "correct"),
        ("help", "...", "wrong"),
    ],
)
def test_verify(intent: str, answer: str, kind: str) -> None:
    assert TASK.verify(TASK._problem(intent, "-"), answer).kind == kind


@given(st.text(), st.sampled_from(list(INTENTS)))
def test_verify_never_raises(answer: str, intent: str) -> None:
    assert TASK.verify(TASK._problem(intent, "-"), answer).kind in ("correct", "wrong")


@pytest.mark.parametrize("intent", INTENTS)
def test_every_intent_is_trained_and_tested(intent: str) -> None:
    for split, least in (("train", 10), ("test", 1)):
        ids = {problem.id for problem in islice(TASK.problems(split, 0), 2000) if problem.key["intent"] == intent}
        assert len(ids) >= least, split


def test_no_phrasing_is_in_two_splits_or_two_intents() -> None:
    ids = {split: {problem.id for problem in islice(TASK.problems(split, 0), 5000)} for split in SPLITS}
    assert len(ids["train"]) > 200
    assert len(ids["valid"]) > 20
    assert len(ids["test"]) > 50
    texts = Counter(id.rpartition("/")[2] for split in SPLITS for id in ids[split])
    assert set(texts.values()) == {1}


def test_case_and_punctuation_do_not_change_the_id() -> None:
    assert TASK._problem("hello", "Hi there!").id == TASK._problem("hello", "hi there").id == "chat/hello/hi there"


def test_demonstrations_are_right_and_short() -> None:
    rng = Random(0)
    lengths = []
    for problem in islice(TASK.problems("train", 0), 2000):
        shown = TASK.demonstrate(problem, rng)
        lengths.append(len(shown.thought.split()))
        assert TASK.verify(problem, shown.answer).kind == "correct"
    assert median(lengths) <= 4
    assert max(lengths) <= 14


def test_a_slip_is_mended() -> None:
    rng = Random(0)
    slipping = Chat(slips=1.0)
    for problem in islice(slipping.problems("train", 0), 500):
        mistake, _, mended = slipping.demonstrate(problem, rng).thought.partition(" no wait ")
        assert mended == INTENTS[problem.key["intent"]].thought
        assert mistake != mended


def test_a_reply_belongs_to_one_intent() -> None:
    replies = Counter(plain(reply) for intent in INTENTS.values() for reply in intent.replies)
    assert set(replies.values()) == {1}


def test_same_seed_same_problems() -> None:
    assert list(islice(TASK.problems("train", 5), 60)) == list(islice(Chat().problems("train", 5), 60))


def test_documents_hold_no_held_out_phrasing() -> None:
    rng = Random(0)
    held_out = {plain(problem.prompt[0].content) for problem in islice(TASK.problems("test", 0), 3000)}
    for _ in range(1000):
        said, _, reply = TASK.documents(rng).partition(" - ")
        assert plain(said) not in held_out
        assert reply


def test_unknown_level_says_what_there_is() -> None:
    with pytest.raises(ConfigError, match="level is 1"):
        Chat(levels=(2,))
