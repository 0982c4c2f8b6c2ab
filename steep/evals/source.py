"""What a report reads: a run directory, or the directory of an evaluation, whatever of it there is."""

import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from steep.errors import SteepError
from steep.evals.findings import Findings, load_findings
from steep.evals.scaling import Measured, Scaling, scaling
from steep.evals.suite import FILE as CELLS
from steep.evals.suite import Cell, Mode, load_cells
from steep.runs import Run, Stage, read_json

TRAINING = ("pretrain", "sft", "rl", "distill")
COURSES = (
    ("pretrain", "loss", "Loss, pretraining", "nats a token"),
    ("sft", "loss", "Loss, fine-tuning", "nats a token"),
    ("rl", "reward", "Reward", "mean score"),
    ("rl", "signal", "Groups with signal", "share"),
    ("rl", "thought", "Thought length", "tokens"),
    ("rl", "entropy", "Entropy", "nats a token"),
    ("pretrain", "tokens/s", "Speed, pretraining", "tokens a second"),
    ("sft", "tokens/s", "Speed, fine-tuning", "tokens a second"),
    ("rl", "tokens/s", "Speed, sampling in RL", "tokens a second"),
)
"""Stage, metric, title and unit of the training curves."""
WATCHED = re.compile(r"(start/)?valid/(.+)@(\d+)")
"""Metrics of the evaluations in the RL loop: `valid/countdown@128`, its `_low` and `_high`; `start/` before step 0."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One path that was given to a report."""

    name: str
    path: Path
    run: Run | None
    """None for an evaluation that belongs to no run."""
    stages: Mapping[str, Stage]
    """The training stages that were entered, in order; of an evaluation those that its model went through."""
    evaluations: tuple[Stage, ...]
    cells: tuple[Cell, ...]
    findings: Findings
    """Of the o1 suite; empty if it was not carried out."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What `steep eval` wrote down of an evaluation that belongs to no run: its `command`, versions and machine."""

    @property
    def command(self) -> str:
        """What was typed to make it."""
        if self.run is None:
            models = dict.fromkeys(cell.model for cell in self.cells)
            return self.settings.get("command") or f"steep eval {shlex.join(models)} --task countdown"
        return shlex.join(["steep", "train", self.run.info.recipe, *self.run.info.overrides])

    @property
    def missing(self) -> list[str]:
        """What a whole run would have and this one has not, in words."""
        lacks = []
        if self.run is not None:
            config = self.run.info.config if isinstance(self.run.info.config, Mapping) else {}
            for name in TRAINING:
                if name in self.stages and not self.stages[name].finished:
                    lacks.append(f"{name} is not finished")
                elif name not in self.stages and config.get(name) is not None:
                    lacks.append(f"{name} has not begun")
        if not self.cells:
            lacks.append(
                f"there is no evaluation: `steep eval {shlex.quote(str(self.path))} --task countdown` makes it"
            )
        return lacks

    @cached_property
    def parameters(self) -> int | None:
        """Numbers in the model, counted on disk; None before the first checkpoint."""
        for stage in reversed(list(self.stages.values())):
            weights = (
                sorted(stage.model.glob("*.safetensors"))
                or sorted(stage.checkpoints.glob("step-*/weights.safetensors"))[-1:]
            )
            if weights:
                return sum(_count(file) for file in weights)
        return None

    @cached_property
    def scalings(self) -> Mapping[tuple[str, int], "CourseFit"]:
        """The fits to the course of RL that have enough points, by task and budget."""
        found: dict[tuple[str, int], list[Watched]] = {}
        for w in watched(self):
            found.setdefault((w.task, w.budget), []).append(w)
        fits = {key: course_fit(points) for key, points in found.items()}
        return {key: fit for key, fit in fits.items() if fit is not None}

    def flops(self, row: Mapping[str, Any]) -> float | None:
        """Compute of one recorded step: 6 for each parameter and trained token, 2 for each sampled one.

        None where the step does not say its tokens.
        """
        parameters = self.parameters
        if parameters is None or not any(name in row for name in ("tokens", "tokens_sampled", "tokens_trained")):
            return None
        trained = row.get("tokens", row.get("tokens_trained", 0))
        return float(6 * parameters * trained + 2 * parameters * row.get("tokens_sampled", 0))

    def tokens(self, stage: Stage) -> tuple[int, int]:
        """Tokens trained on, and sampled, in a stage."""
        rows = stage.metrics()
        trained = sum(row.get("tokens", row.get("tokens_trained", 0)) for row in rows)
        return trained, sum(row.get("tokens_sampled", 0) for row in rows)

    def seconds(self, stage: Stage) -> float:
        return float((stage.last_timing or {}).get("elapsed_s", 0.0))


@dataclass(frozen=True, kw_only=True)
class Watched:
    """One evaluation of the RL loop: a task at a budget after so much compute."""

    task: str
    budget: int
    flops: float
    value: float
    low: float | None
    high: float | None
    start: bool
    """Before the first update."""


def open_source(path: Path) -> Source:
    if (path / "run.json").is_file():
        run = Run.open(path)
        stages = {stage.name: stage for stage in run.stages() if stage.name in TRAINING}
        evaluations = tuple(Stage(file.parent) for file in sorted(path.glob(f"*/{CELLS}")))
        cells = tuple(cell for stage in evaluations for cell in load_cells(stage.path))
        return Source(
            name=run.name, path=path, run=run, stages=stages, evaluations=evaluations, cells=cells, findings=Findings()
        )
    if (path / CELLS).is_file():
        settings = read_json(path / "eval.json") if (path / "eval.json").is_file() else {}
        return Source(
            name=path.name,
            path=path,
            run=None,
            stages=trained(Path(settings["model"])) if "model" in settings else {},
            evaluations=(Stage(path),),
            cells=tuple(load_cells(path)),
            findings=load_findings(path),
            settings=settings,
        )
    raise SteepError(
        f"{path} is neither a run nor an evaluation: it has no run.json and no {CELLS}",
        "name a run directory (`steep runs` lists them) or one that `steep eval` wrote",
    )


def trained(model: Path) -> dict[str, Stage]:
    """The stages that a run's model went through; none if it belongs to no run, or that is gone."""
    path = model.parent.parent
    if model.name != "model" or not (path / "run.json").is_file():
        return {}
    names = [stage.name for stage in Run.open(path).stages()]
    last = model.parent.name
    return {name: Stage(path / name) for name in names[: names.index(last) + 1] if name in TRAINING}


def open_sources(paths: Sequence[Path]) -> list[Source]:
    """The sources, under names that differ; a path given twice is read once."""
    if not paths:
        raise SteepError("there is nothing to report on", "name one or more run directories")
    paths = list({path.resolve(): path for path in paths}.values())
    sources = [open_source(path) for path in paths]
    runs = {source.path.resolve() for source in sources if source.run}
    for place, source in enumerate(sources):  # the training of a run that is here itself is not told twice
        if not source.run and {stage.path.parent.resolve() for stage in source.stages.values()} <= runs:
            sources[place] = replace(source, stages={})
    names = [source.name for source in sources]
    return [source if names.count(source.name) == 1 else replace(source, name=str(source.path)) for source in sources]


def watched(source: Source) -> list[Watched]:
    """The evaluations of the RL loop in order; those whose compute is not known are left out."""
    if "rl" not in source.stages:
        return []
    before = [source.flops(row) for name, stage in source.stages.items() if name != "rl" for row in stage.metrics()]
    if None in before:
        return []
    total, found = sum(f for f in before if f is not None), []
    for row in source.stages["rl"].metrics():
        at_start = list(_watched_in(row, total, start=True))
        step = source.flops(row)
        if step is None and row["step"] >= 0:
            return []
        total += step or 0.0
        found += at_start + list(_watched_in(row, total, start=False))
    return [w for w in found if w.flops > 0 and math.isfinite(w.value)]


@dataclass(frozen=True, kw_only=True)
class CourseFit:
    """How accuracy followed the compute of RL."""

    before: float
    """FLOPs that were spent before RL."""
    scaling: Scaling


def course_fit(points: Sequence[Watched]) -> CourseFit | None:
    """None without an evaluation before the first step, or with too few after it."""
    first = next((w.flops for w in points if w.start), None)
    measured = [
        Measured(compute=w.flops - first, value=w.value, low=w.low, high=w.high)
        for w in points
        if first is not None and w.low is not None and w.high is not None
    ]
    found = scaling(measured)
    return None if first is None or found is None else CourseFit(before=first, scaling=found)


def _watched_in(row: Mapping[str, Any], flops: float, start: bool) -> Iterator[Watched]:
    for key, value in row.items():
        match = WATCHED.fullmatch(key)
        if match and bool(match[1]) == start:
            low, high = row.get(f"{key}_low"), row.get(f"{key}_high")
            before = start or row["step"] < 0
            yield Watched(
                task=match[2], budget=int(match[3]), flops=flops, value=value, low=low, high=high, start=before
            )


MODES: tuple[Mode, ...] = ("sampled", "greedy", "told")
"""In which the plots of thinking time are drawn."""


def modes(cells: Sequence[Cell]) -> list[Mode]:
    """The modes in which anything was measured, sampled first."""
    return [mode for mode in MODES if any(c.mode == mode for c in cells)]


def tasks_by_weight(sources: Sequence[Source]) -> list[str]:
    """All tasks, the main one first: the one measured at most budgets, among equals the first."""
    cells = [cell for source in sources for cell in source.cells]
    seen = [w.task for source in sources for w in watched(source)]
    names = list(dict.fromkeys([*(c.task for c in cells), *seen]))
    return sorted(names, key=lambda name: -len({c.budget for c in cells if c.task == name}))


def _count(file: Path) -> int:
    """Numbers in a safetensors file, from its header: 8 bytes of length, then JSON."""
    with open(file, "rb") as opened:
        header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
