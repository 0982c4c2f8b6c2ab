"""What `steep runs` prints, as plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from steep.errors import SteepError
from steep.runs import checkpoint
from steep.runs.health import Trouble, troubles
from steep.runs.run import Run, RunInfo, RunStatus, flat
from steep.runs.stage import Stage

MAIN_METRICS = 4
"""How many metrics a line of the list has room for: the first that a stage records."""

ABSENT = "-"
"""Stands in a comparison for what a run does not have."""


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """One line of the list."""

    name: str
    path: Path
    status: RunStatus | Literal["unreadable"]
    recipe: str = ""
    stage: str | None = None
    step: int | None = None
    """The last one recorded in the stage."""
    metrics: dict[str, Any]
    """The first few that the last step recorded."""
    elapsed_s: float = 0.0
    """Time spent on all stages, pauses left out."""
    created: str = ""


@dataclass(frozen=True, kw_only=True)
class StageSummary:
    name: str
    finished: bool
    step: int | None
    metrics: dict[str, Any]
    """All that the last step recorded."""
    elapsed_s: float
    checkpoints: list[int]
    rollouts: list[int]
    """Steps whose rollouts are kept."""
    summary: dict[str, Any] | None
    health: list[Trouble]
    """What is wrong now, or was when the stage ended."""


@dataclass(frozen=True, kw_only=True)
class RunDetail:
    summary: RunSummary
    info: RunInfo
    stages: list[StageSummary]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A config field or a metric, with its value in each of the compared runs, ABSENT where there is none."""

    key: str
    values: tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    names: tuple[str, ...]
    config: list[Row]
    """What differs: recipe, seed, commit, versions and fields of the config (`config.rl.optimizer.lr`)."""
    metrics: list[Row]
    """The last value of every metric of every stage (`rl.reward`), also where all agree."""


def list_runs(root: Path) -> list[RunSummary]:
    """All runs in a directory, newest last, the arms of a study after it. What cannot be read is `unreadable`."""
    summaries = [_summary_or_unreadable(path.parent) for path in root.glob("*/run.json")]
    summaries.sort(key=lambda summary: (summary.created, summary.name))
    return [listed for summary in summaries for listed in (summary, *_arms(summary))]


def show(run: Run) -> RunDetail:
    return RunDetail(summary=_summary(run), info=run.info, stages=[_stage_summary(stage) for stage in run.stages()])


def compare(runs: Sequence[Run]) -> Comparison:
    """The runs side by side, in the order given."""
    metrics = [
        {f"{stage.name}.{name}": value for stage in run.stages() for name, value in (stage.last_metrics or {}).items()}
        for run in runs
    ]
    return Comparison(
        names=tuple(run.name for run in runs),
        config=[row for row in _rows([_origin(run) for run in runs]) if any(v != row.values[0] for v in row.values)],
        metrics=_rows(metrics),
    )


def _rows(columns: Sequence[dict[str, Any]]) -> list[Row]:
    keys = dict.fromkeys(key for column in columns for key in column)
    return [Row(key=key, values=tuple(column.get(key, ABSENT) for column in columns)) for key in keys]


def _origin(run: Run) -> dict[str, Any]:
    info = run.info
    return flat(
        {"recipe": info.recipe, "seed": info.seed, "git": info.git, "versions": info.versions, "config": info.config}
    )


def _summary_or_unreadable(path: Path) -> RunSummary:
    try:
        return _summary(Run.open(path))
    except SteepError:
        return RunSummary(name=path.name, path=path, status="unreadable", metrics={})


def _arms(study: RunSummary) -> list[RunSummary]:
    """The runs within a study that have begun, in its order; none for another run."""
    if study.status == "unreadable":
        return []
    config = Run.open(study.path).info.config
    arms = config.get("arms", {}) if isinstance(config, Mapping) else {}
    begun = [study.path / arm for arm in arms if (study.path / arm / "run.json").is_file()]
    return [replace(_summary_or_unreadable(path), name=str(path.relative_to(study.path.parent))) for path in begun]


def _summary(run: Run) -> RunSummary:
    now = Stage(run.path / run.info.stage).last_metrics if run.info.stage else None
    metrics = {name: value for name, value in (now or {}).items() if name != "step" and not isinstance(value, str)}
    return RunSummary(
        name=run.name,
        path=run.path,
        status=run.status,
        recipe=run.info.recipe,
        stage=run.info.stage,
        step=now.get("step") if now else None,
        metrics=dict(list(metrics.items())[:MAIN_METRICS]),
        elapsed_s=sum(_elapsed_s(stage) for stage in run.stages()),
        created=run.info.created,
    )


def _stage_summary(stage: Stage) -> StageSummary:
    last = stage.last_metrics or {}
    return StageSummary(
        name=stage.name,
        finished=stage.finished,
        step=last.get("step"),
        metrics={name: value for name, value in last.items() if name != "step"},
        elapsed_s=_elapsed_s(stage),
        checkpoints=checkpoint.steps(stage.checkpoints),
        rollouts=stage.rollout_steps(),
        summary=stage.summary,
        health=troubles(stage),
    )


def _elapsed_s(stage: Stage) -> float:
    return float((stage.last_timing or {}).get("elapsed_s", 0.0))
