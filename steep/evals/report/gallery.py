"""Figures for the page and beside it, and the curves on them, which look the same in all."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

from matplotlib.figure import Figure

from steep.evals import plots
from steep.evals.plots import Curve, Point
from steep.evals.report.html import text
from steep.evals.source import Source
from steep.evals.suite import Cell, Mode
from steep.runs import printable, write_atomic


@dataclass
class Gallery:
    """Puts figures into the page and beside it."""

    directory: Path
    pictures: bool
    """Whether PNG files are written."""
    prefix: str = ""
    """What their names begin with."""
    paths: list[Path] = field(default_factory=list)

    def show(self, name: str, figure: Figure, told: str) -> str:
        """`told` says what the figure shows to who cannot see it."""
        stem = re.sub(r"[^\w.-]+", "-", name)
        stem += f"-{len(self.paths)}" if self.directory / f"{self.prefix}{stem}.png" in self.paths else ""
        self.paths.append(self.directory / f"{self.prefix}{stem}.png")
        if self.pictures:
            write_atomic(self.paths[-1], plots.png(figure))
        drawn = plots.svg(figure, f"p{len(self.paths)}")
        return f'<figure role="img" aria-label="{text(told)}" data-picture="{stem}.png">{drawn}</figure>'


class Looks:
    """Name, colour and dashes of the curves, the same in all plots.

    A colour is a model, and the last stage that an evaluation's model went through is that model; where there are
    several runs it is a run, and the models but the last are dashed.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._several = len(sources) > 1
        self._sources = [source.name for source in sources]
        self._models = {
            source.name: list(dict.fromkeys([*(c.model for c in source.cells), *list(source.stages)[::-1]]))
            for source in sources
        }

    def curve(self, source: Source, model: str, points: Iterable[Point], name: str = "", dash: int = 0) -> Curve:
        """The points of a model or stage; `name` stands for the model's, `dash` tells curves of one model apart."""
        trained_last = source.run is None and source.cells and [model] == list(source.stages)[-1:]
        colour = place = self._models[source.name].index(source.cells[-1].model if trained_last else model)
        if self._several:
            colour = self._sources.index(source.name)
            evaluated = len({cell.model for cell in source.cells})
            dash = dash or max(evaluated - 1 - place, 0)
        label = " ".join(filter(None, [source.name if self._several else "", name or model]))
        return Curve(name=printable(label), points=tuple(points), colour=colour, dash=dash)


def whole(source: Source, mode: Mode) -> list[Cell]:
    """The cells of whole tasks that have a figure."""
    return [cell for cell in source.cells if cell.mode == mode and cell.level is None and isfinite(cell.value)]


def by_model(cells: Sequence[Cell], task: str) -> dict[str, dict[int, Cell]]:
    """Cells of a task by model and, in order, by budget."""
    found: dict[str, dict[int, Cell]] = {}
    for cell in sorted((cell for cell in cells if cell.task == task), key=lambda cell: cell.budget):
        found.setdefault(cell.model, {})[cell.budget] = cell
    order = list(dict.fromkeys(cell.model for cell in cells))
    return {model: found[model] for model in order if model in found}


def level_of(source: Source, task: str) -> int | None:
    """The one at which the o1 suite measured the task; None: all of its levels, or no suite."""
    return next((choice.level for choice in source.findings.choices if choice.task == task), None)


def levels_of(sources: Sequence[Source], task: str) -> set[int | None]:
    """Those of all sources that measured the task: several are not the same problems."""
    return {level_of(source, task) for source in sources if any(cell.task == task for cell in source.cells)}


def budget_curves(sources: Sequence[Source], task: str, mode: Mode, looks: Looks) -> list[Curve]:
    several = len(levels_of(sources, task)) > 1
    curves = []
    for source in sources:
        level = level_of(source, task) if several else None
        for model, by_budget in by_model(whole(source, mode), task).items():
            points = [Point(x=b, value=c.value, low=c.low, high=c.high) for b, c in by_budget.items()]
            curves.append(looks.curve(source, model, points, "" if level is None else f"{model}, level {level}"))
    return curves
