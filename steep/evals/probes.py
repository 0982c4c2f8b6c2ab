"""Probes: questions that models are said to get wrong, each with its check, and what a model makes of them.

A file of probes is a file of problems (`tasks/jsonl.py`) whose lines have a category. Steep's own are `probes.jsonl`
beside this file; a user's own come on top.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from steep.errors import SteepError
from steep.evals.evaluate import EvalConfig, evaluate
from steep.evals.statistics import Estimate, mean_rate, proportion
from steep.runs import Log, write_atomic
from steep.tasks.checking import failing_gold
from steep.tasks.jsonl import Jsonl, Line, RowError, content, normal, problem_of, read, task_name, whole
from steep.tokens import Template
from steep.types import Engine, Group, Problem

SHIPPED = Path(__file__).with_name("probes.jsonl")
VERIFIER = "exact"
"""Of a line that names none."""
OTHER = "other"
"""The category of a line that names none."""

Turn = Literal["fixed", "came back"]


@dataclass(frozen=True, kw_only=True)
class Tally:
    """The verdicts on a model's answers to one probe."""

    right: int
    wrong: int
    invalid: int
    reason: str = ""
    """Why a check failed, if one did."""

    @property
    def share(self) -> Estimate:
        """Right, of those that could be checked."""
        return proportion(self.right, self.right + self.wrong)


Tallies = Mapping[int, Mapping[str, Tally]]
"""By thinking budget and the probe's id."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A probe that a model answers otherwise than when it was last asked, by more than chance explains."""

    probe: str
    budget: int
    turn: Turn
    before: Tally
    now: Tally


def probes(files: Sequence[Path]) -> list[Problem]:
    """The probes of all files, in their order. Raises for a file with a mistake."""
    found: dict[str, Problem] = {}
    for file in files:
        for problem in whole(file, read(file, VERIFIER)):
            if found.setdefault(problem.id, problem) != problem:
                name = problem.id.partition("/")[2]
                raise SteepError(f"{file} has another probe called {name!r} than the files before it", "rename it")
    return list(found.values())


def add(file: Path, row: Mapping[str, Any]) -> Problem:
    """Append a probe to a user's own file, new or not, once its answer was seen to pass its check."""
    try:
        problem = problem_of(row, task_name(file), VERIFIER)
    except RowError as error:
        raise SteepError(f"this is no probe: {error}", "see `steep probes --help`") from None
    for known in probes([SHIPPED, *([file] if file.exists() else [])]):
        if normal(known.prompt) == normal(problem.prompt):
            raise SteepError(f"this is a probe already: {known.id}", "`steep probes list` shows all")
        if known.id == problem.id:
            raise SteepError(f"another probe is called {known.id}", "choose another --id")
    for finding in failing_gold(Jsonl(file=SHIPPED), [Line(number=1, problem=problem)]):
        if finding is not None:
            raise SteepError(f"this is no probe: {finding.text}", "choose another --check, or write it otherwise")
    before = content(file) if file.exists() else b""
    gap = b"\n" if before and not before.endswith(b"\n") else b""
    write_atomic(file, before + gap + json.dumps(row, ensure_ascii=False).encode() + b"\n")
    return problem


def category(problem: Problem) -> str:
    return str(problem.key.get("category", OTHER))


def by_category(problems: Sequence[Problem]) -> dict[str, list[Problem]]:
    found: dict[str, list[Problem]] = {}
    for problem in problems:
        found.setdefault(category(problem), []).append(problem)
    return found


def ask(
    engine: Engine,
    template: Template,
    problems: Sequence[Problem],
    config: EvalConfig,
    told: Callable[[int], None] = lambda done: None,
) -> Tallies:
    """Sample and check answers, one category after the other; `told` is called with how many probes are done."""
    task = Jsonl(file=SHIPPED)  # it checks by what a problem's key says, whatever file that came from
    tasks = {problem.task: task for problem in problems}
    found: dict[int, dict[str, Tally]] = {}
    done = 0
    for part in by_category(problems).values():
        for budget, groups in evaluate(engine, template, tasks, part, config).items():
            found.setdefault(budget, {}).update({group.problem.id: tally(group) for group in groups})
        done += len(part)
        told(done)
    return found


def tally(group: Group) -> Tally:
    verdicts = [rollout.verdict for rollout in group.rollouts if rollout.verdict is not None]
    kinds = [verdict.kind for verdict in verdicts]
    return Tally(
        right=kinds.count("correct"),
        wrong=kinds.count("wrong"),
        invalid=kinds.count("invalid"),
        reason=next((verdict.reason for verdict in verdicts if verdict.kind == "invalid"), ""),
    )


def together(tallies: Sequence[Tally]) -> Estimate:
    """The mean share over probes, with an interval over probes; of a single one over its answers."""
    shares = [tally.share for tally in tallies if tally.right + tally.wrong]
    if len(shares) == 1:
        return shares[0]
    return mean_rate(np.array([share.value for share in shares])) if shares else proportion(0, 0)


def changes(before: Tallies, now: Tallies) -> list[Change]:
    """What is mostly right now and was mostly wrong, or the other way round, with intervals that do not overlap."""
    found = []
    for budget, tallies in now.items():
        for probe, tally in tallies.items():
            earlier = before.get(budget, {}).get(probe)
            if earlier is None:
                continue
            old, new = earlier.share, tally.share
            turn: Turn | None = "fixed" if old.high < new.low else "came back" if new.high < old.low else None
            if turn is not None and (old.value > 0.5) != (new.value > 0.5):
                found.append(Change(probe=probe, budget=budget, turn=turn, before=earlier, now=tally))
    return found


def last(history: Log, settings: Mapping[str, Any]) -> Tallies:
    """What was remembered last under the same settings: the model, above all."""
    for row in reversed(history.rows()):
        if row["settings"] == settings:
            return {
                int(budget): {probe: Tally(**tally) for probe, tally in tallies.items()}
                for budget, tallies in row["tallies"].items()
            }
    return {}


def remember(history: Log, settings: Mapping[str, Any], tallies: Tallies) -> None:
    history.path.parent.mkdir(parents=True, exist_ok=True)
    told = {budget: {probe: asdict(tally) for probe, tally in of.items()} for budget, of in tallies.items()}
    history.append({"time": datetime.now(UTC).isoformat(timespec="seconds"), "settings": settings, "tallies": told})
