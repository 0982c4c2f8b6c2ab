"""Which charts a stage is shown in: those of a report, accuracy by budget, then whatever else it recorded."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from steep.evals.source import COURSES, WATCHED
from steep.evals.suite import Cell

AT_ONCE = 1  # of the charts of a report, those that stand before accuracy


@dataclass(frozen=True, kw_only=True)
class Line:
    metric: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One plot over the steps of a stage."""

    title: str
    unit: str
    lines: list[Line]
    main: bool
    """Shown at once; the others when they are asked for."""


@dataclass(frozen=True, kw_only=True)
class BudgetCurve:
    """Accuracy of a model on a task's held-out problems, by thinking budget."""

    model: str
    task: str
    mode: str
    budgets: list[int]
    values: list[float]
    lows: list[float]
    highs: list[float]


def charts(stage: str, metrics: Sequence[str]) -> list[Chart]:
    told = [
        Chart(title=title.partition(",")[0], unit=unit, lines=[Line(metric=metric, label=metric)], main=True)
        for of, metric, title, unit in COURSES
        if of == stage and metric in metrics
    ]
    watched = _watched(metrics)
    shown = {line.metric for chart in (*told, *watched) for line in chart.lines}
    derived = {f"{name}{end}" for name in shown for end in ("_low", "_high")}
    rest = [
        Chart(title=name, unit="", lines=[Line(metric=name, label=name)], main=not shown)
        for name in metrics
        if name not in shown | derived and not name.startswith("start/")
    ]
    return [*told[:AT_ONCE], *watched, *told[AT_ONCE:], *rest]


def _watched(metrics: Iterable[str]) -> list[Chart]:
    """A chart for each task that the loop measures, with a line for each budget, the largest first."""
    lines: dict[str, dict[int, Line]] = {}
    for name in metrics:
        match = WATCHED.fullmatch(name)
        if match and not match[1]:
            lines.setdefault(match[2], {})[int(match[3])] = Line(metric=name, label=f"{match[3]} tokens")
    return [
        Chart(
            title=f"Accuracy, {task}",
            unit="share, validation",
            lines=[line for _, line in sorted(by_budget.items(), reverse=True)],
            main=True,
        )
        for task, by_budget in lines.items()
    ]


def budget_curves(cells: Iterable[Cell]) -> list[BudgetCurve]:
    """Of whole tasks, over all levels."""
    found: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in cells:
        if cell.level is None:
            found.setdefault((cell.model, cell.task, cell.mode), []).append(cell)
    return [
        BudgetCurve(
            model=model,
            task=task,
            mode=mode,
            budgets=[cell.budget for cell in of],
            values=[cell.value for cell in of],
            lows=[cell.low for cell in of],
            highs=[cell.high for cell in of],
        )
        for (model, task, mode), unordered in found.items()
        for of in [sorted(unordered, key=lambda cell: cell.budget)]
    ]
