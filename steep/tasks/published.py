"""Published sets of problems: `gsm8k`, `math`, `svamp`, `arc` (multiple choice) and `aime`.

Each says where its rows are and how one becomes a row of `jsonl.py`. Rows come from `train.jsonl` and `test.jsonl` (or
`.jsonl.gz`) in a directory, as they were published: `directory`, or else a folder of the task's name in $STEEP_DATA.
Without either they come from the Hugging Face hub. A tenth of the training problems, by a hash of the prompt, is
`valid`. A training problem that shares 13 words in a row with one of the set's test problems is left out.
"""

import os
import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from string import ascii_uppercase
from typing import Any, ClassVar

from steep.errors import SteepError
from steep.tasks.arithmetic import solve, think
from steep.tasks.checking import grams
from steep.tasks.generated import split_of
from steep.tasks.jsonl import RowError, normal, parsed, problem_of, texts
from steep.tasks.listed import Listed
from steep.tasks.numerals import last_number, rational
from steep.tasks.verifiers import boxed
from steep.types import Demonstration, Problem, Split

DATA = "STEEP_DATA"
"""Environment variable: the directory with a folder for each set."""
CALCULATOR = re.compile(r"<<[^<>]*>>")
CALCULATION = re.compile(r"<<([^<>=]*[-+*/][^<>=]*)=([^<>=]+)>>[\d.,]*([^\d.,;:=()<>$%+*/\n]*)")
"""What is calculated, its result, and the words after it."""
LOOSE = re.compile(r"(?: (?:a|and|at|by|for|from|in|is|of|on|or|per|so|than|that|the|then|to|which|with))+$")
"""What such words end with where the next number cuts them off."""
WHOLE = re.compile(r"\d+(?:[-+*]\d+|/[1-9]\d*)+", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the rows of a split are."""

    folder: str
    """In $STEEP_DATA."""
    hub: str
    subset: str | None = None
    split: str = "train"
    """As the hub calls it."""


@dataclass(frozen=True, kw_only=True)
class Published(Listed):
    """What the sets share. Gold answers and prompts are as published."""

    TRAIN: ClassVar[Source | None]
    """None for a set that is for evaluation only."""
    TEST: ClassVar[Source]
    VERIFIER: ClassVar[str]
    LEVELS: ClassVar[tuple[int, ...]] = (1,)

    directory: Path | None = None
    """With `train.jsonl` and `test.jsonl`. None: look in $STEEP_DATA, then on the hub."""
    instruction: str = ""
    """Written below every question: how to answer, for a model that was not trained on the task."""
    only_levels: tuple[int, ...] | None = None
    """None: all."""

    @property
    def levels(self) -> Sequence[int]:
        return self.only_levels or self.LEVELS

    @abstractmethod
    def row(self, raw: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """A row of `jsonl.py`, and what else the key keeps."""

    def listed(self, split: Split) -> Sequence[Problem]:
        found = self._published(split)
        if split != "test":
            leaked = {problem.id for problem in self._leaked(found)}
            found = [problem for problem in found if problem.id not in leaked]
        return [self._instructed(problem) for problem in found]

    def left_out(self) -> Sequence[Problem]:
        """The training problems that are not used, for the test set has their like."""
        return [problem for split in self.splits[:-1] for problem in self._leaked(self._published(split))]

    @property
    def splits(self) -> Sequence[Split]:
        """Those that the set has."""
        return ("test",) if self.TRAIN is None else ("train", "valid", "test")

    def _leaked(self, problems: Sequence[Problem]) -> Sequence[Problem]:
        held_out = {gram for problem in self._published("test") for gram in grams(problem)}
        return [problem for problem in problems if not held_out.isdisjoint(grams(problem))]

    def _published(self, split: Split) -> Sequence[Problem]:
        source = self.TEST if split == "test" else self.TRAIN
        if source is None:
            raise SteepError(f"{self.name} has no {split} problems", "it is for evaluation only")
        found: dict[str, Problem] = {}
        for where, raw in self._rows(source, "test" if split == "test" else "train"):
            try:
                row, extra = self.row(raw)
                problem = problem_of({**row, "split": split}, self.name, self.VERIFIER, extra)
            except (RowError, KeyError, TypeError, ValueError, AttributeError) as error:
                reason = f"no field {error}" if isinstance(error, KeyError) else str(error)
                raise SteepError(f"{where}: {reason}", f"is it {source.hub} as published?") from error
            if split == "test" or (split_of(normal(problem.prompt)) == "valid") == (split == "valid"):
                found.setdefault(problem.id, problem)
        return list(found.values())

    @property
    def is_here(self) -> bool:
        """Whether the test problems are on this machine, in a directory."""
        return self._file(self.TEST, "test") is not None

    def _instructed(self, problem: Problem) -> Problem:
        *before, last = problem.prompt
        told = replace(last, content=f"{last.content}\n{self.instruction}".rstrip())
        return replace(problem, prompt=(*before, told))

    def _rows(self, source: Source, file_name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Raw rows, and what to call each in an error."""
        file = self._file(source, file_name)
        if file is None:
            yield from hub_rows(source, file_name)
            return
        for number, text in texts(file):
            where = f"{file}, line {number}"
            try:
                yield where, parsed(text)
            except RowError as error:
                raise SteepError(f"{where}: {error}", "copy the file again") from error

    def _file(self, source: Source, name: str) -> Path | None:
        home = os.environ.get(DATA)
        directory = self.directory or (Path(home) / source.folder if home else None)
        files = [directory / f"{name}{ending}" for ending in (".jsonl", ".jsonl.gz")] if directory else []
        found = next((file for file in files if file.is_file()), None)
        if found is None and self.directory is not None:
            raise SteepError(f"there is neither {files[0]} nor {files[1].name}", "name the directory that has it")
        return found


def hub_rows(source: Source, file_name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    import datasets  # seconds

    try:
        rows = datasets.load_dataset(source.hub, source.subset, split=source.split)
    except Exception as error:  # network, hub, disk: the library raises what each of them does
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        fix = f"set {DATA} to a directory with {source.folder}/{file_name}.jsonl, or connect to the hub"
        raise SteepError(f"{source.hub} cannot be loaded: {reason}", fix) from error
    for number, row in enumerate(rows, start=1):
        yield f"{source.hub}, {source.split}, row {number}", row


@dataclass(frozen=True, kw_only=True)
class Gsm8k(Published):
    """Grade-school word problems with worked answers (Cobbe et al., 2021)."""

    TRAIN = Source(folder="gsm8k", hub="openai/gsm8k", subset="main")
    TEST = Source(folder="gsm8k", hub="openai/gsm8k", subset="main", split="test")
    VERIFIER = "number"

    @property
    def name(self) -> str:
        return "gsm8k"

    def row(self, raw: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        solution, mark, answer = raw["answer"].rpartition("####")
        if not mark:
            raise RowError("the answer has no ####")
        return {"prompt": raw["question"].strip(), "answer": answer.strip()}, {"solution": solution.strip()}

    def demonstrate(self, problem: Problem, rng: Random) -> Demonstration:
        """The thought is what the worked answer tells a calculator, or all of it where that leads elsewhere."""
        solution, answer = problem.key["solution"], problem.key["answer"].replace(",", "")
        thought = calculations(solution)
        if last_number(thought) != last_number(answer):
            thought = CALCULATOR.sub("", solution)
        return Demonstration(thought=thought, answer=answer)


def calculations(solution: str) -> str:
    """The calculations of a worked answer, each with the words after it: "48/2=24 clips in May".

    What stands before may tell a result that is not worked out yet: "He eats 32 pieces because 2 x 16 = 32".
    """
    return "\n".join(
        LOOSE.sub("", f"{worked_out(operation.strip(), result.strip())} {found.strip()}".strip())
        for operation, result, found in CALCULATION.findall(solution)
    )


def worked_out(operation: str, result: str) -> str:
    """As `arithmetic` thinks, if all steps are whole numbers; otherwise the result at once."""
    if WHOLE.fullmatch(operation) and solve(operation)[-1].value == rational(result):
        return think(operation)
    return f"{operation}={result}"


@dataclass(frozen=True, kw_only=True)
class Math(Published):
    """Competition mathematics in five levels (Hendrycks et al., 2021), held out: MATH-500."""

    TRAIN = Source(folder="math", hub="DigitalLearningGmbH/MATH-lighteval")
    TEST = Source(folder="math500", hub="HuggingFaceH4/MATH-500", split="test")
    VERIFIER = "math"
    LEVELS = (1, 2, 3, 4, 5)

    @property
    def name(self) -> str:
        return "math"

    def row(self, raw: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        answer = raw.get("answer") or next(reversed(boxed(raw["solution"])), None)
        level = re.search(r"[1-5]", str(raw["level"]))
        # a few problems are of "Level ?"
        return {"prompt": raw["problem"], "answer": answer, "level": int(level[0]) if level else max(self.LEVELS)}, {}


@dataclass(frozen=True, kw_only=True)
class Svamp(Published):
    """Elementary word problems that punish who does not read the question (Patel et al., 2021)."""

    TRAIN = Source(folder="svamp", hub="ChilleD/SVAMP")
    TEST = Source(folder="svamp", hub="ChilleD/SVAMP", split="test")
    VERIFIER = "number"

    @property
    def name(self) -> str:
        return "svamp"

    def row(self, raw: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        body = raw["Body"].strip()
        question = f"{body}{'' if body.endswith(('.', '?', '!', ',')) else '.'} {raw['Question'].strip()}"
        return {"prompt": question, "answer": str(raw["Answer"])}, {}


@dataclass(frozen=True, kw_only=True)
class Arc(Published):
    """Multiple choice from school tests in science, the harder part (Clark et al., 2018)."""

    TRAIN = Source(folder="arc", hub="allenai/ai2_arc", subset="ARC-Challenge")
    TEST = Source(folder="arc", hub="allenai/ai2_arc", subset="ARC-Challenge", split="test")
    VERIFIER = "choice"

    @property
    def name(self) -> str:
        return "arc"

    def row(self, raw: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        labels = list(raw["choices"]["label"])  # A to E, or 1 to 5
        answer = ascii_uppercase[labels.index(raw["answerKey"])]
        return {"prompt": raw["question"], "choices": list(raw["choices"]["text"]), "answer": answer}, {}


@dataclass(frozen=True, kw_only=True)
class Aime(Published):
    """The American Invitational Mathematics Examination of 2024: answers are integers from 0 to 999."""

    TRAIN = None
    TEST = Source(folder="aime", hub="HuggingFaceH4/aime_2024")
    VERIFIER = "number"

    @property
    def name(self) -> str:
        return "aime"

    def row(self, raw: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        return {"prompt": raw["problem"], "answer": str(int(raw["answer"]))}, {}
