"""Problems from a file with one JSON object a line, which may be compressed (`.jsonl.gz`).

    {"prompt": "What is 3 * 8?", "answer": "24", "verifier": "number"}
    {"prompt": "Which is even?", "choices": ["3", "4"], "answer": "B", "level": 2, "split": "test", "id": "even"}

| field      | meaning                                                                                          |
| ---------- | ------------------------------------------------------------------------------------------------ |
| `prompt`   | the question, or messages as `[{"role": "user", "content": "..."}]` of which the last is a user's |
| `answer`   | the gold answer: text or a number; of a multiple choice the letter or the text of an option      |
| `id`       | a name that no other line has (a hash of the prompt)                                             |
| `level`    | difficulty, from 1 on (1)                                                                        |
| `split`    | `train`, `valid` or `test` (by a hash of the prompt: 70%, 10% and 20%)                           |
| `verifier` | how answers are checked: `exact`, `number`, `math`, `choice`, `regex` (the task's own)           |
| `choices`  | options, which are written below the prompt as "A) ...", "B) ..."                                |
| `thought`  | a thought that leads to the answer; fine-tuning needs one in every training row                  |
| `category` | what kind of question it is, for tables of probes                                                |

`pass_rate`, which `steep tasks check --keep` writes, is not read.
"""

import codecs
import gzip
import hashlib
import json
import math
import sys
import zlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from random import Random
from string import ascii_uppercase
from typing import Any, get_args

from steep.errors import SteepError
from steep.tasks.generated import split_of
from steep.tasks.listed import Listed
from steep.tasks.verifiers import VERIFIERS
from steep.types import Demonstration, Message, Problem, Role, Split

FIELDS = ("prompt", "answer", "id", "level", "split", "verifier", "choices", "thought", "category", "pass_rate")


class RowError(ValueError):
    """What is wrong with a row."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of a file: the problem that it holds, or what is wrong with it."""

    number: int
    problem: Problem | None = None
    error: str = ""
    unknown: tuple[str, ...] = ()
    """Fields that are not used."""


@dataclass(frozen=True, kw_only=True)
class InFile:
    """What lies in a file. Its config says what was in the file, so that a run goes on with nothing else."""

    file: Path
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha256", hashlib.sha256(content(self.file)).hexdigest())


@dataclass(frozen=True, kw_only=True)
class FromFile(InFile, Listed):
    """The task of a file with rows. It is called as the file, without its endings."""

    verifier: str = "exact"
    """How answers are checked where a row does not say."""
    only_levels: tuple[int, ...] | None = None
    """None: all that the file has."""

    @property
    def name(self) -> str:
        return task_name(self.file)

    @property
    def levels(self) -> Sequence[int]:
        return self.only_levels or levels_of(self)

    def listed(self, split: Split) -> Sequence[Problem]:
        return [problem for problem in self.every() if problem.split == split]

    @abstractmethod
    def every(self) -> Sequence[Problem]:
        """The problems of all splits. Raises for a file with a mistake."""


@lru_cache(maxsize=16)
def levels_of(task: FromFile) -> Sequence[int]:
    return sorted({problem.level for problem in task.every()})


@dataclass(frozen=True, kw_only=True)
class Jsonl(FromFile):
    def every(self) -> Sequence[Problem]:
        return read_whole(self.file, self.verifier)


@dataclass(frozen=True, kw_only=True)
class DemonstratedJsonl(Jsonl):
    """A file with a thought in every training row."""

    def demonstrate(self, problem: Problem, rng: Random) -> Demonstration:
        return Demonstration(thought=problem.key["thought"], answer=problem.key["answer"])


def task_of(file: Path, verifier: str = "exact", only_levels: tuple[int, ...] | None = None) -> Jsonl:
    """The task of a JSONL file."""
    problems = [line.problem for line in read(file, verifier) if line.problem is not None]
    thoughts = ["thought" in problem.key for problem in problems if problem.split == "train"]
    kind = DemonstratedJsonl if thoughts and all(thoughts) else Jsonl
    return kind(file=file, verifier=verifier, only_levels=only_levels)


def task_name(file: Path) -> str:
    return file.name.split(".")[0]


@lru_cache(maxsize=16)
def read_whole(file: Path, verifier: str) -> tuple[Problem, ...]:
    """The problems of a file without a mistake."""
    return whole(file, read(file, verifier))


def whole(file: Path, lines: Sequence[Line], unit: str = "line") -> tuple[Problem, ...]:
    """The problems, each once; raises for the first line with a mistake. `unit`: what lines are called."""
    mistakes = [line for line in lines if line.error]
    if mistakes:
        more = f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
        message = f"{file}, {unit} {mistakes[0].number}: {mistakes[0].error}{more}"
        raise SteepError(message, f"`steep tasks check {file}` lists all mistakes")
    if not lines:
        raise SteepError(f"{file} has no problems", "write one JSON object a line, with a prompt and an answer")
    found: dict[str, Problem] = {}
    for line in lines:
        if line.problem is not None:
            found.setdefault(line.problem.id, line.problem)
    return tuple(found.values())


def read(file: Path, verifier: str) -> list[Line]:
    """All lines of a file but the empty ones, whether they hold a problem or a mistake."""
    if verifier not in VERIFIERS:
        raise SteepError(f"there is no verifier {verifier!r}", f"choose one of {', '.join(VERIFIERS)}")
    lines = []
    for number, text in texts(file):
        try:
            row = parsed(text)
            unknown = tuple(name for name in row if name not in FIELDS)
            problem = problem_of(row, task_name(file), verifier)
            lines.append(Line(number=number, problem=problem, unknown=unknown))
        except RowError as error:
            lines.append(Line(number=number, error=str(error)))
    return unequivocal(lines)


def texts(file: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not empty, with their numbers from 1 on."""
    data = content(file)
    try:
        data = gzip.decompress(data) if file.suffix == ".gz" else data
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SteepError(f"{file} cannot be decompressed: {error}", "copy the file again") from error
    for number, text in enumerate(data.removeprefix(codecs.BOM_UTF8).split(b"\n"), start=1):
        if text.strip():
            yield number, text


def content(file: Path) -> bytes:
    if not file.is_file():
        raise SteepError(f"there is no file {file}", "name a file of problems")
    return file.read_bytes()


def parsed(text: bytes) -> Mapping[str, Any]:
    try:
        row = json.loads(text.decode("utf-8"))
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise RowError(f"byte {error.start + 1} is not UTF-8") from None
    except UnicodeEncodeError:
        raise RowError(r"half a surrogate pair (\ud800 to \udfff) is no character") from None
    except json.JSONDecodeError as error:
        raise RowError(f"not JSON: {error.msg} at character {error.pos + 1}") from None
    except RecursionError:
        raise RowError("not JSON that can be read: nested too deeply") from None
    except ValueError:
        raise RowError(f"a number of more than {sys.get_int_max_str_digits():,} digits") from None
    if not isinstance(row, dict):
        raise RowError(f"a {type(row).__name__}, not an object with a prompt and an answer")
    return row


def problem_of(row: Mapping[str, Any], task: str, verifier: str, extra: Mapping[str, Any] | None = None) -> Problem:
    """The problem that a row holds. Raises RowError. `extra` is kept beside its answer in the key."""
    choices = choices_of(row)
    prompt = with_choices(prompt_of(row), choices)
    verifier = row.get("verifier") or ("choice" if choices else verifier)
    if not isinstance(verifier, str) or verifier not in VERIFIERS:
        raise RowError(f"there is no verifier {verifier!r}: choose one of {', '.join(VERIFIERS)}")
    level, split, name = row.get("level", 1), row.get("split"), row.get("id")
    if not isinstance(level, int) or isinstance(level, bool) or level < 1:
        raise RowError(f"the level {level!r} is not a whole number from 1 on")
    if split is not None and split not in get_args(Split):
        raise RowError(f"the split {split!r} is not train, valid or test")
    if name is not None and (not isinstance(name, (str, int)) or isinstance(name, bool) or name == ""):
        raise RowError(f"the id {name!r} is not a text or a whole number")
    text = normal(prompt)
    return Problem(
        id=f"{task}/{hashlib.sha256(text.encode()).hexdigest()[:16] if name is None else name}",
        task=task,
        split=split or split_of(text),
        level=level,
        prompt=prompt,
        key={
            "verifier": verifier,
            "answer": answer_of(row, choices),
            **thought_of(row, verifier),
            **category_of(row),
            **(extra or {}),
        },
    )


def row_of(problem: Problem) -> dict[str, Any]:
    """The row of a problem, which makes the same problem again."""
    turns = [{"role": message.role, "content": message.content} for message in problem.prompt]
    optional = {name: problem.key[name] for name in ("thought", "category") if name in problem.key}
    return {
        "id": problem.id.partition("/")[2],
        "prompt": turns if len(turns) > 1 else turns[0]["content"],
        "answer": problem.key["answer"],
        "verifier": problem.key["verifier"],
        "level": problem.level,
        "split": problem.split,
        **optional,
    }


def normal(prompt: Sequence[Message]) -> str:
    """A prompt's text without what does not make another problem of it: case and white space."""
    return " ".join("\n".join(f"{message.role}: {message.content}" for message in prompt).casefold().split())


def prompt_of(row: Mapping[str, Any]) -> tuple[Message, ...]:
    prompt = row.get("prompt")
    if prompt is None:
        raise lacking("prompt", row)
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        raise RowError("the prompt is neither a text nor a list of messages")
    for turn in turns:
        if turn.get("role") not in get_args(Role):
            raise RowError(f"the role {turn.get('role')!r} is not system, user or assistant")
        if not isinstance(turn.get("content"), str) or not turn["content"].strip():
            raise RowError("the prompt is empty" if isinstance(prompt, str) else "a message has no text")
    if turns[-1]["role"] != "user":
        raise RowError("the last message is not a user's")
    return tuple(Message(role=turn["role"], content=turn["content"]) for turn in turns)


def lacking(field: str, row: Mapping[str, Any]) -> RowError:
    """That a row lacks a field; and the fields that it has instead, which may be called otherwise."""
    others = [name for name in row if name not in FIELDS]
    return RowError(f"no {field}, but {', '.join(others)}" if others else f"no {field}")


def choices_of(row: Mapping[str, Any]) -> Sequence[str]:
    choices = row.get("choices")
    if choices is None:
        return ()
    texts = isinstance(choices, list) and all(isinstance(choice, str) and choice.strip() for choice in choices)
    if not texts or not 2 <= len(choices) <= len(ascii_uppercase):
        raise RowError(f"the choices are not a list of 2 to {len(ascii_uppercase)} texts")
    return tuple(choices)


def with_choices(prompt: tuple[Message, ...], choices: Sequence[str]) -> tuple[Message, ...]:
    *before, last = prompt
    options = [f"{letter}) {choice}" for letter, choice in zip(ascii_uppercase, choices, strict=False)]
    return (*before, Message(role="user", content="\n".join([last.content, *options])))


def answer_of(row: Mapping[str, Any], choices: Sequence[str]) -> str:
    """The gold answer as text; of a multiple choice its letter, which comes before an option of that text."""
    answer = row.get("answer")
    if answer is None or (isinstance(answer, str) and not answer.strip()):
        raise lacking("answer", row)
    if isinstance(answer, bool) or not isinstance(answer, (str, int, float)):
        raise RowError(f"the answer is a {type(answer).__name__}, not a text or a number")
    if isinstance(answer, float) and not math.isfinite(answer):
        raise RowError(f"the answer is {answer}")
    if not choices or row.get("verifier") not in (None, "choice"):
        return str(answer)
    letters = ascii_uppercase[: len(choices)]
    if str(answer).strip().upper() in tuple(letters):
        return str(answer).strip().upper()
    if choices.count(str(answer)) != 1:
        raise RowError(f"the answer {answer!r} is neither one of the choices nor a letter from A to {letters[-1]}")
    return letters[choices.index(str(answer))]


def thought_of(row: Mapping[str, Any], verifier: str) -> Mapping[str, str]:
    """What the key keeps of a row's thought."""
    thought = row.get("thought")
    if thought is None:
        return {}
    if not isinstance(thought, str) or not thought.strip():
        raise RowError("the thought is not a text")
    if verifier == "regex":
        raise RowError("a thought leads to an answer, and a pattern is none")
    return {"thought": thought}


def category_of(row: Mapping[str, Any]) -> Mapping[str, str]:
    """What the key keeps of a row's category."""
    category = row.get("category")
    if category is None:
        return {}
    if not isinstance(category, str) or not category.strip():
        raise RowError(f"the category {category!r} is not a text")
    return {"category": category.strip()}


def unequivocal(lines: Sequence[Line], unit: str = "line") -> list[Line]:
    """The lines, with a mistake where one contradicts a line before it."""
    by_id: dict[str, Line] = {}
    by_text: dict[str, Line] = {}
    checked = []
    for line in lines:
        error = ""
        if line.problem is not None:
            same_id = by_id.setdefault(line.problem.id, line)
            same_text = by_text.setdefault(normal(line.problem.prompt), line)
            error = contradiction(line.problem, same_text, unit) or contradiction(line.problem, same_id, unit)
        checked.append(Line(number=line.number, error=error) if error else line)
    return checked


def contradiction(problem: Problem, earlier: Line, unit: str) -> str:
    before = earlier.problem
    assert before is not None
    if normal(problem.prompt) != normal(before.prompt):
        return f"{unit} {earlier.number} has the same id"
    if problem.key != before.key:
        return f"{unit} {earlier.number} has the same prompt with another answer, verifier, thought or category"
    if problem.split != before.split:
        return f"{unit} {earlier.number} has the same prompt in split {before.split!r}"
    return ""
