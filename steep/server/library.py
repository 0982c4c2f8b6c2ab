"""Everything under one root of runs, ready to be shown; read only, and read again only where it has grown."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from steep.errors import SteepError
from steep.evals.suite import load_cells
from steep.runs import (
    Comparison,
    Run,
    RunInfo,
    RunSummary,
    Stage,
    compare,
    list_runs,
    printable,
    read_claims,
    read_json,
)
from steep.runs.run import flat
from steep.server.charts import BudgetCurve, Chart, budget_curves, charts
from steep.server.courses import Columns, Thinned
from steep.server.rollouts import Page, Shelf, Wanted
from steep.tokens import Template, load_template

LOGS = ("metrics", "timing")
EVALUATIONS = "evals"
"""Where `steep eval` keeps evaluations, below the root."""
REPORT = Path("report") / "index.html"
"""Where `steep report` writes one, unless it is told to elsewhere."""
SPARK_POINTS = 60
KEPT = 512  # stages whose numbers stay in memory


@dataclass(frozen=True, kw_only=True)
class RunLine:
    """A run in the list."""

    summary: RunSummary
    metric: str | None
    """What the sparkline shows: the first metric of the latest stage that has any."""
    spark: list[float]
    report: bool
    """Whether there is a report on it."""


@dataclass(frozen=True, kw_only=True)
class EvaluationLine:
    """What `steep eval` has kept."""

    name: str
    """Below the root, as in "evals/nano-rl-o1"."""
    command: str
    report: bool


@dataclass(frozen=True, kw_only=True)
class StageView:
    name: str
    finished: bool
    step: int | None
    elapsed_s: float
    rollouts: int
    """Steps whose rollouts are kept."""
    version: str
    """Another one when there is anything new to plot."""
    charts: list[Chart]
    events: list[Mapping[str, Any]]
    """What health rules wrote: `step`, `rule`, `reaction`, `message`."""
    budgets: list[BudgetCurve]


@dataclass(frozen=True, kw_only=True)
class ClaimView:
    id: str
    value: float
    low: float
    high: float
    bar: str
    holds: bool


@dataclass(frozen=True, kw_only=True)
class RunView:
    name: str
    status: str
    info: RunInfo
    stages: list[StageView]
    arms: list[str]
    """Of a study, also those that have not begun."""
    claims: list[ClaimView]
    report: bool
    evaluations: list[EvaluationLine]
    """Of the models of this run."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A field of the resolved config."""

    key: str
    value: Any
    given: bool
    """Named on the command line."""
    chosen: bool | None
    """It has another value than its field's default; None: not known."""


class Library:
    def __init__(self, root: Path) -> None:
        self._root = root
        self._columns = lru_cache(KEPT)(Columns)
        self._shelf = lru_cache(KEPT)(lambda path: Shelf(Stage(path)))

    def runs(self) -> list[RunLine]:
        """Newest first; the arms of a study after it, in its order."""
        summaries = list_runs(self._root)
        newest = list(dict.fromkeys(Path(summary.name).parts[0] for summary in reversed(summaries)))
        summaries.sort(key=lambda summary: newest.index(Path(summary.name).parts[0]))
        return [self._line(summary) for summary in summaries]

    def run(self, name: str) -> RunView:
        run = self._open(name)
        config = run.info.config if isinstance(run.info.config, Mapping) else {}
        claims = read_claims(run.path / "claims.json") or read_claims(run.path / "eval" / "claims.json")
        return RunView(
            name=name,
            status=run.status,
            info=replace(run.info, config=None, chosen=None),
            stages=[self._stage(stage) for stage in run.stages()],
            arms=[f"{name}/{arm}" for arm in config.get("arms", {})],
            claims=[
                ClaimView(id=c.id, value=c.value, low=c.low, high=c.high, bar=c.bar, holds=c.holds) for c in claims
            ],
            report=self._reported(run.path),
            evaluations=self.evaluations(run.path),
        )

    def evaluations(self, of: Path | None = None) -> list[EvaluationLine]:
        """Those below the root, or those of one run, newest first."""
        found = []
        files = (self._root / EVALUATIONS).glob("*/eval.json")
        for file in sorted(files, key=lambda file: file.stat().st_mtime, reverse=True):
            with contextlib.suppress(SteepError):  # a damaged one is left out
                settings = read_json(self._inside(file))
                if of is None or Path(settings.get("model", "")).resolve().is_relative_to(of.resolve()):
                    name, command = f"{EVALUATIONS}/{file.parent.name}", printable(settings.get("command", ""))
                    found.append(EvaluationLine(name=name, command=command, report=self._reported(file.parent)))
        return found

    def report(self, name: str) -> Path:
        """The page that `steep report` wrote on a run or an evaluation."""
        path = self._inside(self._root / name / REPORT)
        if not path.is_file():
            raise SteepError(f"there is no report on {name}", f"write one: steep report {self._root / name}")
        return path

    def config(self, name: str) -> list[Setting]:
        info = self._open(name).info
        given = [word.removeprefix("--").partition("=")[0].replace("-", "_") for word in info.overrides]
        return [
            Setting(
                key=key, value=value, given=key in given, chosen=None if info.chosen is None else key in info.chosen
            )
            for key, value in flat(info.config).items()
        ]

    def courses(
        self, name: str, stage: str, metrics: Sequence[str], points: int, first: int | None, last: int | None
    ) -> dict[str, Thinned]:
        """Metrics of a stage, thinned; those that it does not have are left out."""
        found = {}
        for log in self._logs(self._open_stage(name, stage)):
            for metric in set(metrics) & set(log.names()):
                found[metric] = log.thinned(metric, points, first, last)
        return found

    def rollouts(self, name: str, stage: str, wanted: Wanted, offset: int, count: int) -> Page:
        opened = self._open_stage(name, stage)
        return self._shelf(opened.path).page(wanted, offset, count, template_of(self._open(name)))

    def compare(self, names: Sequence[str]) -> Comparison:
        return compare([self._open(name) for name in names])

    def _line(self, summary: RunSummary) -> RunLine:
        with contextlib.suppress(SteepError):  # what is wrong with a run is told on its own page
            for stage in reversed(self._open(summary.name).stages()):
                log = self._columns(stage.path / "metrics.jsonl")
                for metric in log.names()[:1]:
                    spark = log.thinned(metric, SPARK_POINTS).smooth
                    return RunLine(summary=summary, metric=metric, spark=spark, report=self._reported(summary.path))
        return RunLine(summary=summary, metric=None, spark=[], report=self._reported(summary.path))

    def _reported(self, directory: Path) -> bool:
        return (directory / REPORT).is_file()

    def _stage(self, stage: Stage) -> StageView:
        names = [name for log in self._logs(stage) for name in log.names()]
        steps = stage.rollout_steps()
        logs = [stage.log(name) for name in (*LOGS, "health")]
        return StageView(
            name=stage.name,
            finished=stage.finished,
            step=(stage.last_metrics or {}).get("step"),
            elapsed_s=float((stage.last_timing or {}).get("elapsed_s", 0.0)),
            rollouts=len(steps),
            version=" ".join(str(log.size) for log in logs),
            charts=charts(stage.name, names),
            events=[
                {key: printable(value) if isinstance(value, str) else value for key, value in row.items()}
                for row in stage.log("health").rows()
            ],
            budgets=budget_curves(load_cells(stage.path)),
        )

    def _logs(self, stage: Stage) -> list[Columns]:
        return [self._columns(stage.path / f"{name}.jsonl") for name in LOGS]

    def _open(self, name: str) -> Run:
        return Run.open(self._inside(self._root / name))

    def _open_stage(self, name: str, stage: str) -> Stage:
        opened = self._open(name).stage(stage)
        self._inside(opened.path)
        return opened

    def _inside(self, path: Path) -> Path:
        if not path.resolve().is_relative_to(self._root.resolve()):
            raise SteepError(
                f"{path} lies outside {self._root}", "only what lies within the directory of runs is shown"
            )
        return path


def template_of(run: Run) -> Template | None:
    """That of any stage with a model, since all share one; None before the first is written."""
    for stage in run.stages():
        if stage.model.is_dir():
            return _template(stage.model)
    return None


@lru_cache(16)
def _template(directory: Path) -> Template | None:
    try:
        return load_template(directory)
    except SteepError:
        return None
