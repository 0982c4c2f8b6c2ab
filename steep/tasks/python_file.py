"""A task in a Python file, of one of two forms. What it verifies is verified in the sandbox.

    def problems():                                     TASK = Riddles()    # a `steep.types.Task`
        yield {"prompt": "Name a prime.", "answer": "7"}

    def verify(problem, answer):
        return answer.isdigit() and is_prime(int(answer))

`problems` gives rows as in a line of `jsonl.py`; `answer` is one that is right. `verify` gets a `steep.types.Problem`,
whose `key` has the row's `answer`, and returns True or False, a score from 0 to 1, or a `steep.types.Verdict`. Without
`verify` the verifiers that the rows name are used.

    def demonstrate(problem, rng):                      # so that fine-tuning can learn from it
        return f"{problem.key['answer']} has no divisor but 1 and itself."

returns the thought that leads to the row's answer, or a `steep.types.Demonstration`. A TASK may have one too, and
`same(problem, answer, other)`, which is asked in the sandbox as well.
"""

import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any, ClassVar

from steep.errors import SteepError
from steep.sandbox import CheckError, shared
from steep.tasks.jsonl import FromFile, InFile, Line, RowError, problem_of, task_name, unequivocal, whole
from steep.tasks.verifiers import sameness
from steep.types import Demonstration, Matcher, Message, Problem, Split, Task, Verdict, correct, invalid, wrong

LIMIT_S = 10.0
"""Of one check."""


@dataclass(frozen=True, kw_only=True)
class Rows(FromFile):
    """The task of a file with `problems()` and, if it has one, `verify()`."""

    def every(self) -> Sequence[Problem]:
        return rows(self.file, self.verifier)

    @property
    def verifies(self) -> bool:
        """Whether the file has a `verify()`."""
        return hasattr(load(self.file), "verify")

    def verify(self, problem: Problem, answer: str) -> Verdict:
        if self.verifies:
            return verified_apart(self.file, problem, answer)
        return super().verify(problem, answer)


@dataclass(frozen=True, kw_only=True)
class DemonstratedRows(Rows):
    """With `demonstrate()` in the file."""

    def demonstrate(self, problem: Problem, rng: Random) -> Demonstration:
        return shown(self.file, load(self.file), problem, rng)


@dataclass(frozen=True, kw_only=True)
class Apart(InFile):
    """A file's TASK, verified in the sandbox."""

    in_worker: ClassVar = True

    @property
    def task(self) -> Task:
        task: Task = load(self.file).TASK
        return task

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def levels(self) -> Sequence[int]:
        return self.task.levels

    def problems(self, split: Split, seed: int, level: int | None = None, start: int = 0) -> Iterator[Problem]:
        return self.task.problems(split, seed, level=level, start=start)

    def verify(self, problem: Problem, answer: str) -> Verdict:
        return verified_apart(self.file, problem, answer)

    def same(self, problem: Problem, answer: str, other: str) -> bool:
        """As the TASK has it. Where its own measure fails, the answers differ."""
        if not isinstance(self.task, Matcher):
            return sameness(self.task)(problem, answer, other)
        try:
            return bool(called_apart("alike", self.file, problem, answer, other))
        except CheckError:
            return False

    def examples(self) -> Sequence[tuple[Problem, str, Verdict]]:
        return self.task.examples()


@dataclass(frozen=True, kw_only=True)
class DemonstratedApart(Apart):
    """A TASK with `demonstrate()`."""

    def demonstrate(self, problem: Problem, rng: Random) -> Demonstration:
        return shown(self.file, self.task, problem, rng)


def task_of(file: Path, verifier: str = "exact", only_levels: tuple[int, ...] | None = None) -> Task:
    """The task of a Python file."""
    module = load(file)
    if hasattr(module, "TASK"):
        missing = [
            name for name in ("name", "levels", "problems", "verify", "examples") if not hasattr(module.TASK, name)
        ]
        if missing:
            raise SteepError(f"TASK in {file} has no {missing[0]}", "see steep.types.Task for what a task has")
        if only_levels is not None:
            raise SteepError(f"the levels of TASK in {file} are its own", "choose them in the file")
        return (DemonstratedApart if hasattr(module.TASK, "demonstrate") else Apart)(file=file)
    if not callable(getattr(module, "problems", None)):
        raise SteepError(
            f"{file} has neither TASK nor problems()", "write `def problems()` that gives prompts and answers"
        )
    kind = DemonstratedRows if hasattr(module, "demonstrate") else Rows
    return kind(file=file, verifier=verifier, only_levels=only_levels)


def load(file: Path) -> ModuleType:
    """The module in a file. Whatever it raises is told as its author's to mend."""
    if not file.is_file():
        raise SteepError(f"there is no file {file}", "name a Python file with a task")
    return _loaded(file.resolve())


@lru_cache(maxsize=16)
def _loaded(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"steep_task_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise SteepError(f"{file} is not a Python file", "name a file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise SteepError(f"{file} cannot be read: {type(error).__name__}: {error}") from error
    return module


@lru_cache(maxsize=16)
def rows(file: Path, verifier: str) -> tuple[Problem, ...]:
    """The problems of a file without a mistake."""
    return whole(file, read_rows(file, verifier), "row")


def read_rows(file: Path, verifier: str) -> list[Line]:
    """What `problems()` gives, numbered from 1 on: problems or what is wrong with them."""
    found = []
    try:
        for number, row in enumerate(load(file).problems(), start=1):
            try:
                if not isinstance(row, Mapping):
                    raise RowError(f"a {type(row).__name__}, not a dict with a prompt and an answer")
                found.append(Line(number=number, problem=problem_of(row, task_name(file), verifier)))
            except RowError as error:
                found.append(Line(number=number, error=str(error)))
    except Exception as error:
        raise SteepError(f"problems() in {file} fails: {type(error).__name__}: {error}", "mend it") from error
    return unequivocal(found, "row")


def shown(file: Path, owner: Any, problem: Problem, rng: Random) -> Demonstration:
    """What the `demonstrate` of a file or of its TASK says about a problem."""
    try:
        said = owner.demonstrate(problem, rng)
        shown = Demonstration(thought=said, answer=problem.key["answer"]) if isinstance(said, str) else said
    except Exception as error:
        message = f"demonstrate() in {file} fails on {problem.id}: {type(error).__name__}: {error}"
        raise SteepError(message, "mend it") from error
    if not isinstance(shown, Demonstration):
        raise SteepError(f"demonstrate() in {file} returned {said!r}", "return a text or a steep.types.Demonstration")
    return shown


def verified_apart(file: Path, problem: Problem, answer: str) -> Verdict:
    try:
        return Verdict(**called_apart("verdict", file, problem, answer))
    except CheckError as error:
        return invalid(str(error))


def called_apart(function: str, file: Path, problem: Problem, *answers: str) -> Any:
    """What a function below returns in a worker. Raises CheckError."""
    path, here = str(file.resolve()), "steep.tasks.python_file"
    arguments = (path, asdict(problem), *answers)
    return shared().call(f"{here}:{function}", *arguments, limit_s=LIMIT_S, prepare=(f"{here}:warm", path))


def warm(path: str) -> None:
    """Run by workers before a check is timed."""
    load(Path(path))


def verdict(path: str, problem: dict[str, Any], answer: str) -> dict[str, Any]:
    """Run by workers: what the file's `verify` says, as a verdict's fields."""
    module = load(Path(path))
    verify = module.TASK.verify if hasattr(module, "TASK") else module.verify
    return asdict(as_verdict(verify(restored(problem), answer)))


def alike(path: str, problem: dict[str, Any], answer: str, other: str) -> bool:
    """Run by workers: what the TASK's `same` says."""
    return bool(load(Path(path)).TASK.same(restored(problem), answer, other))


def restored(problem: dict[str, Any]) -> Problem:
    return Problem(**{**problem, "prompt": tuple(Message(**message) for message in problem["prompt"])})


def as_verdict(said: object) -> Verdict:
    if isinstance(said, Verdict):
        return said
    if isinstance(said, bool):
        return correct() if said else wrong("verify said so")
    if isinstance(said, (int, float)) and 0 <= said <= 1:
        return Verdict(kind="correct" if said == 1 else "wrong", score=float(said))
    raise TypeError(f"verify returned {said!r}, not a verdict, a truth value or a score from 0 to 1")
