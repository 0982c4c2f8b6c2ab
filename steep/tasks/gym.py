"""The datasets of reasoning-gym (Stojanovski et al., 2025, arXiv 2505.24760) as tasks: `Gym(dataset="spell_backward")`.

    steep eval MODEL --task gym:spell_backward --levels 1,2

Its generators and scorers run in isolated workers only, for several scorers execute the answer (`eval`, sympy). What
is not plain text of the kind that the dataset asks for never gets there: too long, characters that its answers do not
have (`PLAIN`), or names that are no mathematical function.

An answer is correct if it is the gold answer, up to what only sets it off (`normalised`), or if the scorer gives it
exactly 1. Anything less is wrong: many scorers pay a share for a prefix, for the length or for anything that they can
read. Datasets whose scorers pay 1 for a wrong answer, and those without an answer to test the scorer with, are refused
(`REFUSED`); tests/tasks/test_gym_datasets.py is the test that found them.
"""

import difflib
import importlib.metadata
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from random import Random
from typing import Any, ClassVar

from steep.cache import cache_directory
from steep.errors import ConfigError, SteepError, to_install
from steep.sandbox import CheckError, shared
from steep.tasks.generated import Generated, split_of
from steep.tasks.verifiers import stated
from steep.types import Message, Problem, Verdict, correct, invalid, wrong

PACKAGE = "reasoning-gym"
APART = "steep.tasks.gym_apart"
MAKE_S, SCORE_S = 20.0, 5.0
"""Limits of one entry and of one score."""
ATTEMPTS = 10

REFUSED = {
    "boxnet": "it has no answer of its own to test its scorer with",
    "coin_flip": "its scorer pays in full for the first digits of the answer",
    "composite": "it is made of other datasets",
    "game_of_life_halting": "its scorer takes any answer but an empty one",
    "graph_color": "it has no answer of its own to test its scorer with",
    "knight_swap": "no level of its curriculum can be made",
    "number_sequence": "its generator can search without end",
    "number_sorting": "its scorer takes numbers that are off by one",
    "propositional_logic": "it has no answer of its own to test its scorer with",
    "puzzle24": "its scorer takes any four numbers, not only those given",
    "rubiks_cube": "it has no answer of its own to test its scorer with",
    "rush_hour": "it has no answer of its own to test its scorer with",
    "sokoban": "its generator can search without end",
}
TOO_SLOW = {"bf": 3, "futoshiki": 4, "game_of_life": 4, "jugs": 3, "zebra_puzzles": 4}
"""Levels from this one on take seconds to minutes for a problem, and are left out."""
MANY = 2**31 - 1
NUMBERS = {
    **dict.fromkeys(("gsm_symbolic", "list_functions", "word_ladder"), 20_000),
    **dict.fromkeys(
        (
            "acre",
            "bf",
            "countdown",
            "futoshiki",
            "game_of_life",
            "intermediate_integration",
            "jugs",
            "polynomial_equations",
            "polynomial_multiplication",
            "sudoku",
            "zebra_puzzles",
        ),
        2000,
    ),
}
"""How many entries of a level there are: fewer, and kept on disk, where one takes 0.1 s and more or all are made at
once; else no end of them."""

SYMPY = re.compile(r"[-+*/^().\s0-9A-Za-z]*")
PLAIN = {
    "binary_matrix": re.compile(r"[\s0-9]*"),
    "complex_arithmetic": re.compile(r"[-+.\s0-9ij]*"),
    "countdown": re.compile(r"(?!.*(\*\*|//))[-+*/()\s0-9]*", re.DOTALL),
    "fraction_simplification": re.compile(r"\$?(\\d?frac\{-?[0-9]+\}\{-?[0-9]+\}|-?[0-9]+\s*/\s*-?[0-9]+)\$?"),
    "gsm_symbolic": re.compile(r"-?[0-9,]*(\.[0-9]*)?"),
    "intermediate_integration": SYMPY,
    "n_queens": re.compile(r"[\sQ_]*"),
    "polynomial_multiplication": SYMPY,
    "simple_integration": SYMPY,
    "spiral_matrix": re.compile(r"[-\s0-9]*"),
    "string_insertion": re.compile(r"[A-E]*"),
    "time_intervals": re.compile(r"([0-9]+ days?)?(, )?([0-9]+(:[0-9.]+)+)?"),
}
"""What an answer must be made of where the scorer executes it, or reads more into it than it says (nan, a sentence)."""
FUNCTIONS = {"sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "exp", "log", "ln", "sqrt", "Abs"}
CONSTANTS = {"pi", "e", "E", "C"}
NAME = re.compile(r"[A-Za-z_]\w*")
FRAMES = (
    re.compile(r"\A```\w*\n(?P<inside>.*?)\n?```\Z", re.DOTALL),
    re.compile(r"\A([\"'`])(?P<inside>((?!\1).)*)\1\Z", re.DOTALL),
)
GOLD_ONLY = {"figlet_font", "knights_knaves", "letter_jumble"}
"""Whose scorers overlook what stands after a right answer."""


@dataclass(frozen=True, kw_only=True)
class Gym(Generated):
    """A dataset of reasoning-gym. A problem's id is a hash of its question."""

    in_worker: ClassVar = True
    dataset: str
    """As reasoning-gym calls it."""
    levels: tuple[int, ...] = ()
    """Of its curriculum, from 1 on. Empty: all."""

    def __post_init__(self) -> None:
        there = levels_of(self.dataset)
        if not set(self.levels) <= set(there):
            raise ConfigError(f"{self.name} has no levels {list(self.levels)}", f"choose from {list(there)}")
        object.__setattr__(self, "levels", self.levels or there)

    @property
    def name(self) -> str:
        return f"gym:{self.dataset}"

    def make(self, level: int, rng: Random) -> Problem:
        """Some generators find nothing for some numbers, or search for ever: then another number is drawn."""
        for _ in range(ATTEMPTS):
            number = rng.randrange(self._numbers)
            made = self._kept if self._numbers < MANY else self._made
            try:
                return self._problem(level, made(level, number))
            except CheckError as error:
                failure = error
        raise SteepError(f"{self.name} cannot make a problem of level {level}: {failure}", "choose other levels")

    def verify(self, problem: Problem, answer: str) -> Verdict:
        gold, given = problem.key["answer"], normalised(answer)
        if not given:
            return wrong("no answer")
        if gold.strip() in (answer.strip(), given):
            return correct()
        reason = not_plain(self.dataset, gold, given)
        if reason:
            return wrong(reason)
        entry = {"question": problem.prompt[-1].content, **problem.key}
        try:
            score = self._apart("score", problem.level, given, entry, limit_s=SCORE_S)
        except CheckError as error:
            return invalid(f"{self.name}: {error}")
        return correct() if score == 1.0 else wrong(f"reasoning-gym scores it {score:.2f}")

    def same(self, problem: Problem, answer: str, other: str) -> bool:
        return normalised(answer) == normalised(other)

    def examples(self) -> Sequence[tuple[Problem, str, Verdict]]:
        """The gold answers of a problem of each level, and what is no answer."""
        shown = [next(self.problems("test", 0, level)) for level in self.levels]
        gold: list[tuple[Problem, str, Verdict]] = [(p, f" {p.key['answer']}\n", correct()) for p in shown]
        return [*gold, *((p, answer, wrong("")) for p in shown for answer in ("", "hello", p.prompt[0].content))]

    def _problem(self, level: int, entry: Mapping[str, Any]) -> Problem:
        question = entry["question"].strip()
        problem_id = f"{self.name}/{sha256(question.encode()).hexdigest()[:16]}"
        return Problem(
            id=problem_id,
            task=self.name,
            split=split_of(problem_id),
            level=level,
            prompt=(Message(role="user", content=question),),
            key={"answer": entry["answer"], "metadata": entry["metadata"]},
        )

    @property
    def _numbers(self) -> int:
        return NUMBERS.get(self.dataset, MANY)

    def _kept(self, level: int, number: int) -> Mapping[str, Any]:
        """An entry from the cache, or made and put there: as a whole, for other processes do the same."""
        release = f"{PACKAGE}-{importlib.metadata.version(PACKAGE)}"
        file = cache_directory() / release / self.dataset / str(level) / f"{number}.json"
        try:
            kept: Mapping[str, Any] = json.loads(file.read_bytes())
            return kept
        except (OSError, ValueError):  # not made yet, or damaged by a power cut
            made = self._made(level, number)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=file.parent, suffix=".tmp", delete=False) as part:
                json.dump(made, part)
            os.replace(part.name, file)
        except OSError as error:
            raise SteepError(f"{file} cannot be written: {error.strerror}", "STEEP_CACHE moves the cache") from error
        return made

    def _made(self, level: int, number: int) -> Mapping[str, Any]:
        made: Mapping[str, Any] = self._apart("entry", level, number, limit_s=MAKE_S)
        return made

    def _apart(self, function: str, level: int, *arguments: Any, limit_s: float) -> Any:
        which = (self.dataset, level, self._numbers)
        return shared(isolated=True).call(
            f"{APART}:{function}", *which, *arguments, limit_s=limit_s, prepare=(f"{APART}:dataset", *which)
        )


@cache
def every_level() -> Mapping[str, Sequence[int]]:
    """Of each dataset of the installed package, the levels that can be made."""
    try:
        importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise SteepError(f"gym tasks need {PACKAGE}", to_install("gym")) from None
    try:
        found = shared(isolated=True).call(f"{APART}:levels", limit_s=MAKE_S, prepare=(f"{APART}:levels",))
    except CheckError as error:
        raise SteepError(f"{PACKAGE} cannot be loaded: {error}", "pip install --force-reinstall 'steep[gym]'") from None
    return {name: [n for n in found[name] if n < TOO_SLOW.get(name, n + 1)] for name in sorted(found)}


def levels_of(dataset: str) -> tuple[int, ...]:
    if dataset in REFUSED:
        raise ConfigError(
            f"gym:{dataset} cannot be used: {REFUSED[dataset]}", "`steep tasks list gym` shows the others"
        )
    if dataset not in every_level():
        near = difflib.get_close_matches(dataset, every_level(), 2)
        fix = f"did you mean {' or '.join(near)}?" if near else "see `steep tasks list gym`"
        raise ConfigError(f"{PACKAGE} has no dataset {dataset!r}", fix)
    return tuple(every_level()[dataset])


def normalised(answer: str) -> str:
    """An answer without what only sets it off: "The answer is **3**." is 3."""
    before, text = None, answer
    while text != before:
        before, text = text, text.strip()
        for frame in FRAMES:
            text = frame.sub(r"\g<inside>", text)
        text = stated(text)
    return text


def not_plain(dataset: str, gold: str, given: str) -> str:
    """Why an answer is not shown to the scorer; empty if it is."""
    if len(given) > 200 + 2 * len(gold):
        return "longer than an answer is"
    strange = {sign for sign in given if not (sign.isascii() and (sign.isprintable() or sign in "\n\t"))} - set(gold)
    if strange:
        return f"characters that no answer has: {''.join(sorted(strange))!r}"
    if dataset in GOLD_ONLY and given.casefold() != normalised(gold).casefold():
        return "not the gold answer"
    form = PLAIN.get(dataset)
    if form and not form.fullmatch(given):
        return "not written as its answers are"
    names = set(NAME.findall(given)) - set(NAME.findall(gold)) - FUNCTIONS - CONSTANTS
    if form is SYMPY and names:
        return f"no mathematical function: {' '.join(sorted(names))}"
    return ""
