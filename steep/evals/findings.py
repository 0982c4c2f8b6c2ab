"""What the o1 suite finds, as it stands in `o1.json` beside the cells."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from steep.evals.levels import Choice, Tried
from steep.runs import read_json, write_json

FILE = "o1.json"
Method = Literal["one", "extended", "chunked", "majority", "best", "weighted", "any"]


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How far a scorer's chances are to be believed, on the held-out problems at one budget."""

    task: str
    budget: int
    answers: int
    error: float
    """Expected calibration error."""


@dataclass(frozen=True, kw_only=True)
class Spending:
    """What accuracy some answers to each problem give, and what they cost."""

    task: str
    level: int | None
    budget: int
    """Thinking tokens of each answer."""
    method: Method
    """`one` answer, or one whose thought is `extended` past its own end or `chunked` past the context; of several what
    the `majority` says, the `best` by the scorer, what is most said with each answer `weighted` by the scorer, or
    whether `any` is right."""
    samples: int
    """Answers to each problem."""
    tokens: float
    """Of all of them together, a problem."""
    problems: int
    value: float
    low: float
    high: float
    file: int
    """Number of the file with the rollouts that were counted."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    choices: tuple[Choice, ...] = ()
    scorings: tuple[Scoring, ...] = ()
    spendings: tuple[Spending, ...] = ()
    left_out: tuple[str, ...] = ()
    """What could not be measured, in words."""
    overlaps: tuple[str, ...] = ()
    """How many test problems are like training problems, in words; nothing of tasks that make their problems."""

    def plus(self, other: "Findings") -> "Findings":
        return Findings(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})


@dataclass(frozen=True, kw_only=True)
class Way:
    """How so many tokens a problem are best spent, by what was measured."""

    tokens: int
    """At most."""
    best: Spending
    alone: Spending | None
    """With one answer to each problem; None where that costs more."""


def best_ways(spendings: Sequence[Spending]) -> list[Way]:
    """For 16, 32, 64 ... tokens, as far as more of them were spent. What takes a verifier to choose is no way."""
    possible = [s for s in spendings if s.method != "any"]
    ways = []
    for tokens in (2**power for power in range(4, 64)):
        affordable = [s for s in possible if s.tokens <= tokens]
        if affordable:
            alone = [s for s in affordable if s.samples == 1]
            best = max(affordable, key=lambda s: (s.value, -s.tokens))
            ways.append(Way(tokens=tokens, best=best, alone=max(alone, key=lambda s: s.value, default=None)))
        if len(affordable) == len(possible):
            break
    return ways


def load_findings(directory: Path) -> Findings:
    """What is found so far; nothing if there is none."""
    path = directory / FILE
    if not path.is_file():
        return Findings()
    kept = read_json(path)
    choices = [{**row, "tried": tuple(Tried(**tried) for tried in row["tried"])} for row in kept["choices"]]
    return Findings(
        choices=tuple(Choice(**row) for row in choices),
        scorings=tuple(Scoring(**row) for row in kept["scorings"]),
        spendings=tuple(Spending(**row) for row in kept["spendings"]),
        left_out=tuple(kept["left_out"]),
        overlaps=tuple(kept.get("overlaps", ())),  # none in files of older versions
    )


def save_findings(directory: Path, findings: Findings) -> None:
    write_json(directory / FILE, asdict(findings))
