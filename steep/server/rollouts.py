"""A stage's rollouts to leaf through: what is filtered by is kept in memory, the text of a page is read from disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from steep.evals.mending import REPLAYERS
from steep.evals.reading import Span, mark_slips, spans
from steep.runs import Stage, printable
from steep.tokens import Template

FILTERED = ("task", "verdict", "thought_tokens")
SHOWN = (
    "problem", "task", "level", "prompt", "verdict", "score", "reason", "budget", "thought_tokens", "interrupted",
    "stop", "model", "mode", "sample",
)  # fmt: skip
TEXT = ("thought", "answer", "ids", "sampled")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a reader asks for; None: whatever it is."""

    task: str | None = None
    verdict: str | None = None
    shortest: int | None = None
    """Thinking tokens, at least."""
    longest: int | None = None
    first: int | None = None
    """Step."""
    last: int | None = None


@dataclass(frozen=True, kw_only=True)
class Page:
    """Some of the rollouts that were asked for, of the latest step first."""

    total: int
    matching: int
    tasks: list[str]
    verdicts: list[str]
    steps: tuple[int, int] | None
    """The first and the last whose rollouts are kept."""
    longest: int
    """Thinking tokens of the longest thought."""
    rows: list[dict[str, Any]]


class Shelf:
    """The rollouts of one stage."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._lock = Lock()
        self._known: dict[int, tuple[tuple[int, int], pa.Table]] = {}
        """By step: when the file was written and how long it is, and the columns of FILTERED."""
        self._all: pa.Table | None = None

    def page(self, wanted: Wanted, offset: int, count: int, template: Template | None) -> Page:
        with self._lock:
            table = self._look()
        if table is None:
            return Page(total=0, matching=0, tasks=[], verdicts=[], steps=None, longest=0, rows=[])
        matching = _matching(table, wanted)
        steps = pc.min_max(table["step"]).as_py()
        return Page(
            total=len(table),
            matching=len(matching),
            tasks=sorted(pc.unique(table["task"]).to_pylist()),
            verdicts=sorted(pc.unique(table["verdict"]).to_pylist()),
            steps=(steps["min"], steps["max"]),
            longest=pc.max(table["thought_tokens"]).as_py(),
            rows=self._read(matching.slice(offset, count), template),
        )

    def _look(self) -> pa.Table | None:
        """All rollouts, those of new or rewritten files read now."""
        found = {step: self._stage.rollout_path(step).stat() for step in self._stage.rollout_steps()}
        written = {step: (stat.st_mtime_ns, stat.st_size) for step, stat in found.items()}
        if written != {step: known for step, (known, _) in self._known.items()}:
            kept = {step: pair for step, pair in self._known.items() if written.get(step) == pair[0]}
            self._known = kept | {s: (written[s], self._filtered(s)) for s in written if s not in kept}
            parts = [self._known[step][1] for step in sorted(self._known, reverse=True) if len(self._known[step][1])]
            self._all = pa.concat_tables(parts).combine_chunks() if parts else None
        return self._all

    def _filtered(self, step: int) -> pa.Table:
        table = self._stage.rollout_table(step, FILTERED)
        rows = np.arange(len(table))
        return table.append_column("row", pa.array(rows)).append_column("step", pa.array(np.full_like(rows, step)))

    def _read(self, chosen: pa.Table, template: Template | None) -> list[dict[str, Any]]:
        steps_N, rows_N = chosen["step"].to_numpy(), chosen["row"].to_numpy()
        found = []
        for step in dict.fromkeys(steps_N.tolist()):
            table = self._stage.rollout_table(step, (*SHOWN, *TEXT))
            rows = rows_N[steps_N == step]
            for number, row in zip(rows.tolist(), table.take(rows).to_pylist(), strict=True):
                found.append(_shown(step, number, row, template))
        return found


def _matching(table: pa.Table, wanted: Wanted) -> pa.Table:
    conditions = (
        (pc.equal, "task", wanted.task),
        (pc.equal, "verdict", wanted.verdict),
        (pc.greater_equal, "thought_tokens", wanted.shortest),
        (pc.less_equal, "thought_tokens", wanted.longest),
        (pc.greater_equal, "step", wanted.first),
        (pc.less_equal, "step", wanted.last),
    )
    for holds, column, value in conditions:
        if value is not None:
            table = table.filter(holds(table[column], value))
    return table


def _shown(step: int, number: int, row: dict[str, Any], template: Template | None) -> dict[str, Any]:
    thought, answer = spans(row, template)
    if row["task"] in REPLAYERS:
        thought = mark_slips(thought, REPLAYERS[row["task"]])
    texts = {
        name: printable(value) if isinstance(value, str) else value for name, value in row.items() if name in SHOWN
    }
    return {"step": step, "row": number, **texts, "thought": _pieces(thought), "answer": _pieces(answer)}


def _pieces(parts: Sequence[Span]) -> list[tuple[str, str]]:
    """Text with the marks that it carries: "forced control", "wrong", or none."""
    return [
        (printable(part.text), " ".join(filter(None, ["forced" * part.forced, "control" * part.control, part.slip])))
        for part in parts
    ]
