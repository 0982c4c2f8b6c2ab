"""Spell a word, count a letter in it, reverse it: hard for a reader that sees a word as two or three tokens.

    1, spell      "Spell tree."                     "spell: t r e e"                    "t-r-e-e"
    2, count      "How many e's are in tree?"       "count e: t r e 1 e 2"              "2"
    3, reverse    "Write tree backwards."           "1t 2r 3e 4e; 4e 3e 2r 1t"          "e e r t"

A thought puts every letter in a token of its own. The count stands right after each letter that is counted, and a
reversed word is read off by numbers, so that the next letter is never further than one look away. Reversed words are
answered with spaces, because a reversed word in one piece would be cut into tokens that were never seen.

The split is by word, whatever is asked about it: a word that is held out is held out for all three levels.
"strawberry" is always held out for testing. Made-up words, the beginning of one word and the end of another, are for
training only: there are thousands of words, which can be learned by heart, and millions of these.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from random import Random
from string import ascii_lowercase

from steep.errors import ConfigError
from steep.tasks.generated import Generated, split_of
from steep.types import Demonstration, Message, Problem, Split, Verdict, correct, wrong

KINDS = {1: "spell", 2: "count", 3: "reverse"}
QUESTIONS = {
    "spell": (
        "Spell {word}.",
        "Spell the word {word}.",
        "How do you spell {word}?",
        "How is {word} spelled?",
        "What are the letters in {word}?",
        'Spell the word "{word}".',
    ),
    "count": (
        "How many {letter}'s are in {word}?",
        "How many {letter}'s are in the word {word}?",
        "How many times is {letter} in {word}?",
        "How many letters {letter} are in the word {word}?",
        "Count the {letter}'s in {word}.",
        "Count the letter {letter} in the word {word}.",
        'How many {letter}\'s are in the word "{word}"?',
    ),
    "reverse": (
        "Reverse {word}.",
        "Reverse the word {word}.",
        "Write {word} backwards.",
        "Write the word {word} in reverse.",
        "How do you spell {word} backwards?",
        'Write the word "{word}" backwards.',
    ),
}
DOCUMENTS = ("{word}: {letters}", "spell {word}: {letters}", "The letters in {word} are {letters}.")
HELD_OUT = "strawberry"
WORD = re.compile("[a-z]{3,14}")

SEPARATORS = re.compile(r"[\s,-]+")


@cache
def words() -> tuple[str, ...]:
    """Nouns, verbs and adjectives of 3 to 14 letters a-z from the lists of wonderwords, without its profanity list."""
    found = {word for name in ("noun", "verb", "adjective") for word in _listed(name)} | {HELD_OUT}
    return tuple(sorted(word for word in found - _listed("profanity") if WORD.fullmatch(word)))


@cache
def _listed(name: str) -> frozenset[str]:
    text = (files("wonderwords") / "assets" / f"{name}list.txt").read_text(encoding="utf-8")
    return frozenset(text.split("\n"))


@cache
def crowded_words() -> tuple[str, ...]:
    """Words with some letter three times or more."""
    return tuple(word for word in words() if max(map(word.count, word)) >= 3)


def split_of_word(word: str) -> Split:
    if word == HELD_OUT:
        return "test"
    return split_of(f"letters/{word}") if word in set_of_words() else "train"


@cache
def set_of_words() -> frozenset[str]:
    return frozenset(words())


@cache
def training_words() -> tuple[str, ...]:
    return tuple(word for word in words() if split_of_word(word) == "train")


def made_up_word(rng: Random) -> str:
    """The beginning of one training word and the end of another, by chance a word of the lists."""
    while True:
        first, second = rng.choice(training_words()), rng.choice(training_words())
        word = first[: rng.randint(1, len(first))] + second[rng.randrange(len(second)) :]
        if WORD.fullmatch(word) and word not in _listed("profanity"):
            return word


@dataclass(frozen=True, kw_only=True)
class Letters(Generated):
    """Questions about the letters of common English words."""

    levels: tuple[int, ...] = (1, 2, 3)
    """1 spells a word, 2 counts a letter, 3 reverses a word."""
    slips: float = 0.04
    """Chance that a demonstration writes one thing wrong, notices it and mends it."""
    absent: float = 0.15
    """Share of the letters to count that are not in the word."""
    crowded: float = 0.2
    """Share of the words to count in that are drawn from those with some letter three times or more."""
    made_up: float = 0.0
    """Share of the words that are made up."""

    def __post_init__(self) -> None:
        if not 0 <= self.made_up < 1:
            raise ConfigError(
                f"made_up is {self.made_up}", "give a share from 0 to below 1: words for testing are real"
            )
        if not self.levels or not set(self.levels) <= set(KINDS):
            raise ConfigError(f"letters has no levels {list(self.levels)}", f"choose from {list(KINDS)}")

    @property
    def name(self) -> str:
        return "letters"

    def make(self, level: int, rng: Random) -> Problem:
        counts = KINDS[level] == "count"
        word = rng.choice(crowded_words() if counts and rng.random() < self.crowded else words())
        if self.made_up and rng.random() < self.made_up:
            word = made_up_word(rng)
        letter = self._letter(word, rng) if counts else ""
        return self._problem(level, word, letter, rng.choice(QUESTIONS[KINDS[level]]))

    def verify(self, problem: Problem, answer: str) -> Verdict:
        """A count is a number. Letters may be set apart by spaces, hyphens or commas; in a spelling they must be."""
        kind, word = problem.key["kind"], problem.key["word"]
        if kind == "count":
            count = str(word.count(problem.key["letter"]))
            return correct() if bare(answer) == count else wrong(f"the count is {count}")
        letters = SEPARATORS.split(bare(answer))
        if kind == "spell":
            return correct() if letters == list(word) else wrong(f"not the letters of {word}, one by one")
        return correct() if "".join(letters) == word[::-1] else wrong(f"not {word} reversed")

    def same(self, problem: Problem, answer: str, other: str) -> bool:
        letters, others = SEPARATORS.split(bare(answer)), SEPARATORS.split(bare(other))
        return letters == others or (problem.key["kind"] == "reverse" and "".join(letters) == "".join(others))

    def demonstrate(self, problem: Problem, rng: Random) -> Demonstration:
        kind, word, letter = problem.key["kind"], problem.key["word"], problem.key["letter"]
        numbered = [f"{number}{at}" for number, at in enumerate(word, start=1)]
        slips = rng.random() < self.slips

        def write(parts: Sequence[str]) -> str:
            return " ".join(slip(parts, rng) if slips else parts)

        if kind == "spell":
            return Demonstration(thought=f"spell: {write(list(word))}", answer="-".join(word))
        if kind == "count":
            thought = f"count {letter}: {write(running_count(word, letter))}"
            return Demonstration(thought=thought, answer=str(word.count(letter)))
        return Demonstration(thought=f"{' '.join(numbered)}; {write(numbered[::-1])}", answer=" ".join(word[::-1]))

    def phrasings(self, problem: Problem) -> Sequence[str]:
        key = problem.key
        return [q.format(word=key["word"], letter=key["letter"]) for q in QUESTIONS[key["kind"]]]

    def documents(self, rng: Random) -> str:
        """A word of the training split and its letters."""
        word = rng.choice(training_words())
        return rng.choice(DOCUMENTS).format(word=word, letters=" ".join(word))

    def strawberry(self) -> Problem:
        """How many r's are in strawberry?"""
        return self._problem(2, HELD_OUT, "r", QUESTIONS["count"][0])

    def examples(self) -> Sequence[tuple[Problem, str, Verdict]]:
        spell = self._problem(1, "tree", "", "Spell {word}.")
        reverse = self._problem(3, "tree", "", "Reverse {word}.")
        return [
            (spell, "t-r-e-e", correct()),
            (spell, "T R E E.", correct()),
            (spell, "tree", wrong("not the letters of tree, one by one")),
            (spell, "t-r-e", wrong("not the letters of tree, one by one")),
            (self.strawberry(), "3", correct()),
            (self.strawberry(), "3.", correct()),
            (self.strawberry(), "2", wrong("the count is 3")),
            (self.strawberry(), "2 or 3", wrong("the count is 3")),
            (reverse, "e e r t", correct()),
            (reverse, "eert", correct()),
            (reverse, "t r e e", wrong("not tree reversed")),
            (reverse, "", wrong("not tree reversed")),
        ]

    def _letter(self, word: str, rng: Random) -> str:
        """A letter to count: an absent one, a repeated one, or any letter of the word."""
        if rng.random() < self.absent:
            return rng.choice([letter for letter in ascii_lowercase if letter not in word])
        repeated = [letter for letter in word if word.count(letter) > 1]
        return rng.choice(repeated if repeated and rng.random() < 0.5 else word)

    def _problem(self, level: int, word: str, letter: str, question: str) -> Problem:
        kind = KINDS[level]
        return Problem(
            id="/".join(part for part in (self.name, kind, word, letter) if part),
            task=self.name,
            split=split_of_word(word),
            level=level,
            prompt=(Message(role="user", content=question.format(word=word, letter=letter)),),
            key={"kind": kind, "word": word, "letter": letter},
        )


def bare(answer: str) -> str:
    return answer.strip().removesuffix(".").strip().lower()


def running_count(word: str, letter: str) -> list[str]:
    """The letters of a word, each one that is counted with its count: tree, e -> ["t", "r", "e 1", "e 2"]."""
    counted = [f"{letter} {word[: at + 1].count(letter)}" for at in range(len(word))]
    return [counted[at] if word[at] == letter else word[at] for at in range(len(word))]


def slip(parts: Sequence[str], rng: Random) -> list[str]:
    """The parts with one of them wrong at first: another letter, or a count that is one too high."""
    at = rng.randrange(len(parts))
    part = parts[at]
    if part[-1].isalpha():
        mistake = part[:-1] + rng.choice([letter for letter in ascii_lowercase if letter != part[-1]])
    else:
        letter, count = part.split(" ")
        mistake = f"{letter} {int(count) + 1}"
    return [*parts[:at], f"{mistake} no wait {part}", *parts[at + 1 :]]
