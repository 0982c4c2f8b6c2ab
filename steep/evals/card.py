"""A model card, made from what was measured: what a model is good and bad at, how it thinks, and what that costs."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from steep.errors import SteepError
from steep.evals.demonstrator import DEMONSTRATOR
from steep.evals.source import modes, open_source
from steep.evals.statistics import Estimate, percent, proportion
from steep.evals.suite import FILE, Cell
from steep.runs import Stage

ENOUGH = 0.02
"""Share of a task's thoughts in which a word must stand to be one that the model thinks with."""
WORDS = 8
COLUMNS = (
    *("model", "task", "level", "mode", "budget", "problem", "prompt", "key"),
    *("thought", "thought_tokens", "interrupted", "verdict", "score"),
)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What is on disk about one model."""

    model: str
    """What its rows are marked with."""
    path: Path
    stages: tuple[Stage, ...]
    cells: tuple[Cell, ...]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Its rollouts, each with its number of `tokens`, forced ones included."""
        for stage in self.stages:
            for step in stage.rollout_steps():
                lengths = pc.list_value_length(stage.rollout_table(step, ["ids"])["ids"]).to_pylist()
                for row, tokens in zip(stage.rollouts([step], COLUMNS), lengths, strict=True):
                    if row["model"] == self.model:
                        yield {**row, "tokens": tokens}


@dataclass(frozen=True, kw_only=True)
class Habits:
    """How a model thinks about a task, at the largest budget that was measured."""

    task: str
    budget: int
    rollouts: int
    thought: tuple[float, float, float]
    """Thinking tokens: the 10%, 50% and 90% quantiles."""
    thought_right: float
    """Their mean where the answer was right; NaN if none was."""
    thought_wrong: float
    cut_short: Estimate
    """Share of thoughts that the budget ended."""
    right_when_cut_short: Estimate
    words: tuple[tuple[str, float], ...]
    """Words that are not in the prompt, and the share of thoughts in which they stand."""
    tokens: float
    """Response tokens of an answer, forced ones included: the mean."""
    tokens_per_right: float
    """All response tokens, over the answers that were right; infinite if none was."""


@dataclass(frozen=True, kw_only=True)
class Card:
    model: str
    cells: tuple[Cell, ...]
    """All levels of each task together, at each budget."""
    mean: float
    """Of the tasks' and levels' accuracies at their largest budgets."""
    strengths: tuple[Cell, ...]
    """Tasks and levels whose interval lies above the mean, best first."""
    weaknesses: tuple[Cell, ...]
    """Those whose interval lies below it, worst first."""
    habits: tuple[Habits, ...]
    seconds: float | None
    """Time that an answer took, many made together; None where it was not taken."""


def measured(path: Path) -> Measured:
    """What is on disk about a run's last model, one of its stages, or the model of an evaluation."""
    found = find(path)
    if found is None:
        raise SteepError(f"nothing was measured of {path}", f"measure it: steep eval {path} --task countdown")
    return found


def find(path: Path) -> Measured | None:
    stage = path.parent if path.name == "model" else path
    for directory, name in ((path, None), (stage.parent, stage.name)):
        if (directory / "run.json").is_file() or (directory / FILE).is_file():
            source = open_source(directory)
            models = [cell.model for cell in source.cells if cell.model != DEMONSTRATOR]
            model = models[-1] if models and name is None else name
            if model is not None and model in models:
                cells = tuple(cell for cell in source.cells if cell.model == model)
                return Measured(model=model, path=path, stages=source.evaluations, cells=cells)
    return None


def card(found: Measured, name: str, seconds: float | None = None) -> Card:
    tasks = dict.fromkeys(cell.task for cell in found.cells)
    main = {task: modes([cell for cell in found.cells if cell.task == task])[0] for task in tasks}
    cells = [cell for cell in found.cells if cell.mode == main[cell.task]]
    largest = {task: max(cell.budget for cell in cells if cell.task == task) for task in tasks}
    levelled = {cell.task for cell in cells if cell.level is not None}
    kinds = [c for c in cells if c.budget == largest[c.task] and (c.level is not None or c.task not in levelled)]
    mean = float(np.mean([cell.value for cell in kinds]))
    rows = [r for r in found.rows() if r["mode"] == main.get(r["task"]) and r["budget"] == largest[r["task"]]]
    return Card(
        model=name,
        cells=tuple(sorted((c for c in cells if c.level is None), key=lambda c: (c.task, c.budget))),
        mean=mean,
        strengths=tuple(sorted((c for c in kinds if c.low > mean), key=lambda c: -c.value)),
        weaknesses=tuple(sorted((c for c in kinds if c.high < mean), key=lambda c: c.value)),
        habits=tuple(habits(task, budget, [r for r in rows if r["task"] == task]) for task, budget in largest.items()),
        seconds=seconds,
    )


def habits(task: str, budget: int, rows: Sequence[Mapping[str, Any]]) -> Habits:
    right = [row for row in rows if row["verdict"] == "correct"]
    cut = [row for row in rows if row["interrupted"]]
    low, middle, high = np.quantile([row["thought_tokens"] for row in rows], [0.1, 0.5, 0.9]).tolist()
    tokens = sum(row["tokens"] for row in rows)
    return Habits(
        task=task,
        budget=budget,
        rollouts=len(rows),
        thought=(low, middle, high),
        thought_right=mean_thought(right),
        thought_wrong=mean_thought([row for row in rows if row["verdict"] == "wrong"]),
        cut_short=proportion(len(cut), len(rows)),
        right_when_cut_short=proportion(sum(row["verdict"] == "correct" for row in cut), len(cut)),
        words=words(rows),
        tokens=tokens / len(rows),
        tokens_per_right=tokens / len(right) if right else float("inf"),
    )


def mean_thought(rows: Sequence[Mapping[str, Any]]) -> float:
    return float(np.mean([row["thought_tokens"] for row in rows])) if rows else float("nan")


def words(rows: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, float], ...]:
    """The words that stand in most thoughts, without those of the prompts they are about."""
    counts = Counter(word for row in rows for word in letters(row["thought"]) - letters(row["prompt"]))
    often = [(word, count / len(rows)) for word, count in counts.most_common(WORDS)]
    return tuple((word, share) for word, share in often if share >= ENOUGH)


def letters(text: str) -> set[str]:
    """Words of two letters or more."""
    return set(re.findall(r"[^\W\d_]{2,}", text.casefold()))


def as_markdown(made: Card) -> str:
    lines = [f"# {made.model}", "", "| task | thinking tokens | accuracy | cut short | problems |"]
    lines.append("| --- | ---: | ---: | ---: | ---: |")
    for c in made.cells:
        cut = f"{c.interrupted:.0%}" if c.budget else "-"
        lines.append(f"| {c.task} | {c.budget} | {percent(c)} | {cut} | {c.problems} |")
    lines += ["", f"Mean of tasks and levels at the largest budgets: {made.mean:.0%}."]
    for title, cells in (("Good at", made.strengths), ("Bad at", made.weaknesses)):
        told = "; ".join(f"{c.task}{'' if c.level is None else f' level {c.level}'} {percent(c)}" for c in cells)
        lines += ["", f"**{title}** (the interval does not hold that mean): {told or 'nothing that stands out'}."]
    for one in made.habits:
        low, middle, high = one.thought
        told = ", ".join(f"{word} ({part:.0%})" for word, part in one.words)
        lines += [
            "",
            f"## Thinking about {one.task}, {one.budget} tokens at most",
            "",
            f"- thoughts of {middle:.0f} tokens (80% between {low:.0f} and {high:.0f}); "
            f"{one.thought_right:.0f} where the answer was right, {one.thought_wrong:.0f} where it was wrong",
            f"- cut short by the budget: {percent(one.cut_short)}, of which right {percent(one.right_when_cut_short)}",
            f"- words it thinks with: {told or 'none'}",
            f"- cost: {one.tokens:.0f} tokens an answer, {one.tokens_per_right:.0f} for each right one",
        ]
    if made.seconds is not None:
        lines += ["", f"An answer took {1000 * made.seconds:.0f} ms, many made together."]
    return "\n".join(lines) + "\n"
