import re
from collections import Counter
from itertools import islice
from random import Random
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steep.errors import ConfigError
from steep.tasks.generated import split_of
from steep.tasks.letters import (
    Letters,
    made_up_word,
    running_count,
    set_of_words,
    split_of_word,
    training_words,
    words,
)
from steep.types import Problem, Split

TASK = Letters()
CLEAN = Letters(slips=0.0)
SLIPPING = Letters(slips=1.0)
SPLITS = ("train", "valid", "test")


def ask(level: int, word: str, letter: str = "") -> Problem:
    return TASK._problem(level, word, letter, "{word} {letter}")


@pytest.mark.parametrize(
    ("problem", "answer", "kind"),
    [
        (ask(1, "straw"), "s-t-r-a-w", "correct"),
        (ask(1, "straw"), "s t r a w", "correct"),
        (ask(1, "straw"), "S, T, R, A, W.", "correct"),
        (ask(1, "straw"), " s - t - r - a - w \n", "correct"),
        (ask(1, "straw"), "straw", "wrong"),
        (ask(1, "straw"), "st-raw", "wrong"),
        (ask(1, "straw"), "s-t-r-a", "wrong"),
        (ask(1, "straw"), "s-t-r-a-w-s", "wrong"),
        (ask(1, "straw"), "-", "wrong"),
        (ask(1, "straw"), "", "wrong"),
        (ask(2, "strawberry", "r"), "3", "correct"),
        (ask(2, "strawberry", "r"), " 3. ", "correct"),
        (ask(2, "strawberry", "r"), "2", "wrong"),
        (ask(2, "strawberry", "r"), "33", "wrong"),
        (ask(2, "strawberry", "r"), "2 or 3", "wrong"),
        (ask(2, "strawberry", "r"), "3..", "wrong"),
        (ask(2, "strawberry", "r"), "", "wrong"),
        (ask(2, "strawberry", "z"), "0", "correct"),
        (ask(2, "strawberry", "z"), "", "wrong"),
        (ask(3, "straw"), "w a r t s", "correct"),
        (ask(3, "straw"), "warts", "correct"),
        (ask(3, "straw"), "W-A-R-T-S.", "correct"),
        (ask(3, "straw"), "w, a, r, t, s", "correct"),
        (ask(3, "straw"), "s t r a w", "wrong"),
        (ask(3, "straw"), "w a r t", "wrong"),
        (ask(3, "straw"), "warts warts", "wrong"),
        (ask(3, "straw"), "", "wrong"),
    ],
)
def test_verify(problem: Problem, answer: str, kind: str) -> None:
    assert TASK.verify(problem, answer).kind == kind


@given(st.text() | st.from_regex(r"[st3 ,.-]*", fullmatch=True), st.sampled_from([1, 2, 3]))
def test_verify_never_raises(answer: str, level: int) -> None:
    assert TASK.verify(ask(level, "strawberry", "r"), answer).kind in ("correct", "wrong")


def test_words_are_plain_and_clean() -> None:
    assert len(words()) > 7000
    assert all(re.fullmatch("[a-z]{3,14}", word) for word in words())
    assert "strawberry" in words()
    assert "bastard" not in words()


@pytest.mark.parametrize(
    ("problem", "thought", "answer"),
    [
        (ask(1, "straw"), "spell: s t r a w", "s-t-r-a-w"),
        (ask(2, "strawberry", "r"), "count r: s t r 1 a w b e r 2 r 3 y", "3"),
        (ask(2, "cat", "z"), "count z: c a t", "0"),
        (ask(3, "tree"), "1t 2r 3e 4e; 4e 3e 2r 1t", "e e r t"),
    ],
)
def test_thoughts(problem: Problem, thought: str, answer: str) -> None:
    shown = CLEAN.demonstrate(problem, Random(0))
    assert (shown.thought, shown.answer) == (thought, answer)


@pytest.mark.parametrize(("level", "middle", "most"), [(1, 22, 40), (2, 30, 50), (3, 50, 100)])
def test_demonstrations_are_right_and_short(level: int, middle: int, most: int) -> None:
    lengths = []
    for problem in islice(CLEAN.problems("train", 0, level), 2000):
        shown = CLEAN.demonstrate(problem, Random(0))
        lengths.append(len(shown.thought))
        assert CLEAN.verify(problem, shown.answer).kind == "correct"
    assert median(lengths) <= middle
    assert max(lengths) <= most


@pytest.mark.parametrize("level", [1, 2, 3])
def test_a_slip_is_mended_at_once(level: int) -> None:
    rng = Random(level)
    for problem in islice(SLIPPING.problems("train", 0, level), 300):
        shown = SLIPPING.demonstrate(problem, rng)
        assert shown.thought.count(" no wait ") == 1
        slip = re.search(r"((?:\d+)?[a-z]|[a-z] \d) no wait ((?:\d+)?[a-z](?: \d+)?)(?= |$)", shown.thought)
        assert slip is not None
        assert slip[1] != slip[2]
        assert SLIPPING.verify(problem, shown.answer).kind == "correct"
    tree = {SLIPPING.demonstrate(ask(2, "tree", "e"), rng).thought for _ in range(500)}
    assert "count e: t r e 2 no wait e 1 e 2" in tree
    assert "count e: t r e 1 e 3 no wait e 2" in tree
    assert "count e: t x no wait r e 1 e 2" in tree


def test_counted_letters_are_absent_single_and_repeated() -> None:
    problems = islice(TASK.problems("train", 0, level=2), 2000)
    counts = Counter(p.key["word"].count(p.key["letter"]) for p in problems)
    assert 0.1 < counts[0] / 2000 < 0.2
    assert counts[1] / 2000 > 0.25
    assert counts[2] / 2000 > 0.25
    assert counts[3] / 2000 > 0.07
    assert running_count("noon", "o") == ["n", "o 1", "o 2", "n"]


def test_a_word_has_one_split_whatever_is_asked() -> None:
    seen: dict[str, set[str]] = {}
    for split in SPLITS:
        for problem in islice(TASK.problems(split, 1), 3000):
            assert problem.split == split
            seen.setdefault(problem.key["word"], set()).add(split)
    assert all(len(splits) == 1 for splits in seen.values())
    assert Counter(map(split_of_word, words()))["test"] == pytest.approx(0.2 * len(words()), rel=0.1)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("level", [1, 2, 3])
def test_every_level_is_in_every_split(split: str, level: int) -> None:
    assert len({problem.id for problem in islice(TASK.problems(split, 0, level), 200)}) > 150


def test_ids_tell_kind_and_letter_apart() -> None:
    assert ask(1, "tree").id == "letters/spell/tree"
    assert ask(2, "tree", "e").id == "letters/count/tree/e"
    assert ask(3, "tree").id == "letters/reverse/tree"


def test_strawberry_is_held_out() -> None:
    problem = TASK.strawberry()
    assert problem.split == "test"
    assert problem.prompt[0].content == "How many r's are in strawberry?"
    assert TASK.verify(problem, "3").kind == "correct"
    assert split_of("letters/strawberry") in SPLITS
    rng = Random(0)
    for _ in range(20_000):
        made = TASK.make(rng.choice((1, 2, 3)), rng)
        assert made.split == "test" or "strawberry" not in made.prompt[0].content
    for split in ("train", "valid"):
        assert not any("strawberry" in p.prompt[0].content for p in islice(TASK.problems(split, 0), 3000))
    assert any("strawberry" in p.prompt[0].content for p in islice(TASK.problems("test", 0), 10_000))
    assert not any("strawberry" in TASK.documents(rng) for _ in range(20_000))


def test_documents_spell_words_of_the_training_split() -> None:
    rng = Random(0)
    assert "rooster: r o o s t e r" in {TASK.documents(rng) for _ in range(40_000)}


def test_same_seed_same_problems() -> None:
    assert list(islice(TASK.problems("train", 5), 60)) == list(islice(Letters().problems("train", 5), 60))
    assert TASK.demonstrate(TASK.strawberry(), Random(1)) == TASK.demonstrate(TASK.strawberry(), Random(1))


def test_unknown_level_says_what_there_is() -> None:
    with pytest.raises(ConfigError, match="choose from"):
        Letters(levels=())


@given(st.integers())
def test_a_made_up_word_is_for_training_unless_it_is_a_held_out_word(seed: int) -> None:
    word = made_up_word(Random(seed))
    assert re.fullmatch("[a-z]{3,14}", word)
    assert split_of_word(word) == ("train" if word not in set_of_words() else split_of(f"letters/{word}"))


@pytest.mark.parametrize("level", TASK.levels)
def test_half_of_the_training_words_are_made_up_and_none_of_the_others(level: int) -> None:
    task = Letters(levels=(level,), made_up=0.5)

    def real(split: Split) -> float:
        drawn = islice(task.problems(split, seed=3), 1000)
        return sum(problem.key["word"] in set_of_words() for problem in drawn) / 1000

    assert real("valid") == real("test") == 1.0
    assert 0.35 < real("train") < 0.5  # of the real words those that are held out are not used, of the made-up all


def test_made_up_words_are_parts_of_training_words() -> None:
    begins = {word[:at] for word in training_words() for at in range(1, len(word) + 1)}
    ends = {word[at:] for word in training_words() for at in range(len(word))}
    for seed in range(2000):
        word = made_up_word(Random(seed))
        assert any(word[:at] in begins and word[at:] in ends for at in range(1, len(word)))


def test_words_for_testing_cannot_all_be_made_up() -> None:
    with pytest.raises(ConfigError, match="words for testing are real"):
        Letters(made_up=1.0)
