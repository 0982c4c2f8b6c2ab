"""The plots of a report. Each function takes data and returns a figure; `svg` and `png` turn a figure into a file.

No global state of matplotlib is read or changed. Ink, grid and paper are three fixed colours, which `svg` turns into
CSS variables: so the same figure follows the reader's light or dark page.
"""

import io
import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from steep.evals.statistics import LogFit, fit_log

INK, GRID, PAPER = "#24292f", "#dfe3e8", "#fdfdfc"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's palette (2008), told apart by the colour-blind too, without its yellow, too faint for a line."""
VARIABLES = {INK: "--ink", GRID: "--grid", PAPER: "--paper", **{c: f"--c{i}" for i, c in enumerate(COLOURS)}}
MARKERS = "oDs^vP"
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 1.5, 1, 1.5)))
DOTTED = (0, (1, 2))
Size = tuple[float, float]
WIDE: Size = (4.5, 3.6)
SMALL: Size = (3.7, 2.8)
"""Inches; small enough that the text is legible when a telephone shows a figure at its full width."""
LEGEND_ROW = 0.2  # inches; two rows are within the sizes above
LEGEND_LINE = 0.6  # inches of a row before its words
LEGEND_LETTERS = 15.5  # an inch
BREAK = 1.3  # how far left of the smallest budget, in doublings, a budget of 0 stands
SMOOTHED_FROM = 40  # points; a shorter curve is drawn as it is
PNG_DPI = 160


@dataclass(frozen=True, kw_only=True)
class Point:
    """A figure at `x`, with its 95% interval if it has one."""

    x: float
    value: float
    low: float | None = None
    high: float | None = None
    hollow: bool = False
    """Drawn as a ring: it is of another kind than the rest of its curve."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Points in the order of `x`, under a name."""

    name: str
    points: tuple[Point, ...]
    colour: int = 0
    """Number of its colour and marker: the same for one model in all plots of a report."""
    dash: int = 0
    """Number of its dashes, to tell curves of one colour apart."""

    @property
    def fit(self) -> LogFit | None:
        """Value against log2 of x, over the points above 0; None with fewer than three."""
        points = [p for p in self.points if p.x > 0]
        return fit_log([p.x for p in points], [p.value for p in points]) if len(points) >= 3 else None


def accuracy_by_compute(curves: Sequence[Curve], title: str, size: Size = WIDE, fits: Sequence[Curve] = ()) -> Figure:
    """Accuracy against training compute in FLOPs, on a logarithmic axis; rings are measured before the stage.

    `fits` are dotted lines, each of a curve of the same colour.
    """
    figure, axes = _figure(title, "training compute so far, FLOPs", "accuracy", size)
    axes.set_xscale("log")
    for curve in curves:
        _draw(axes, curve, [p.x for p in curve.points], label=curve.name)
    for fit in fits:
        xs, ys = [p.x for p in fit.points], [p.value for p in fit.points]
        axes.plot(xs, ys, color=_colour(fit), linestyle=DOTTED, linewidth=1.2, zorder=2)
    xs = [p.x for curve in curves for p in curve.points]
    ticks = flops_ticks(min(xs), max(xs))
    axes.set_xticks(ticks, [scientific(t) for t in ticks])
    axes.set_xticks([], minor=True)
    _percent(axes, curves)
    _legend(figure, axes)
    return figure


def accuracy_by_budget(curves: Sequence[Curve], title: str, size: Size = WIDE) -> Figure:
    """Accuracy against the thinking budget, a doubling a unit; a budget of 0 stands left of a break of the axis.

    The dotted lines are least squares of accuracy on log2(budget), over the budgets above 0.
    """
    figure, axes = _figure(title, "thinking budget, tokens", "accuracy", size)
    budgets = sorted({p.x for curve in curves for p in curve.points})
    place = budget_places(budgets)
    for curve in curves:
        xs = [place[p.x] for p in curve.points]
        zero = [p for p in curve.points if p.x == 0]
        rest = Curve(name="", points=curve.points[len(zero) :], colour=curve.colour, dash=curve.dash)
        fit, label = curve.fit, curve.name
        if fit is not None:
            label += f": {fit.words}"
            ends = np.array([place[rest.points[0].x], place[rest.points[-1].x]])
            line = fit.intercept + fit.slope * ends
            axes.plot(ends, line, color=_colour(curve), linestyle=DOTTED, linewidth=1.2, zorder=2)
        _draw(axes, Curve(name="", points=tuple(zero), colour=curve.colour), [place[0.0]] * len(zero))
        _draw(axes, rest, xs[len(zero) :], label=label)
    axes.set_xticks([place[b] for b in budgets], [f"{b:g}" for b in budgets])
    if len(budgets) > 1 and budgets[0] == 0:
        _break_axis(axes, place[0], place[budgets[1]])
    _percent(axes, curves)
    _legend(figure, axes)
    return figure


def accuracy_by_tokens(curves: Sequence[Curve], title: str, size: Size = WIDE) -> Figure:
    """Accuracy against all tokens that are spent on a problem, a doubling a unit, with bands for the intervals."""
    figure, axes = _figure(title, "tokens a problem, all answers together", "accuracy", size)
    axes.set_xscale("log", base=2)
    for curve in curves:
        xs = [p.x for p in curve.points]
        bare = [replace(p, low=None, high=None) for p in curve.points]
        _draw(axes, replace(curve, points=tuple(bare)), xs, label=curve.name)
        low, high = ([getattr(p, side) for p in curve.points] for side in ("low", "high"))
        axes.fill_between(xs, low, high, color=_colour(curve), alpha=0.12, linewidth=0)
    most = max((p.x for curve in curves for p in curve.points), default=16)
    ticks = [2.0**power for power in range(3, math.ceil(math.log2(most)) + 1, 2)]
    axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
    axes.set_xticks([], minor=True)
    _percent(axes, curves)
    _legend(figure, axes)
    return figure


def accuracy_by_level(curves: Sequence[Curve], title: str) -> Figure:
    figure, axes = _levels(curves, title, "accuracy")
    _percent(axes, curves)
    _legend(figure, axes)
    return figure


def thought_by_level(curves: Sequence[Curve], title: str) -> Figure:
    """Mean number of thinking tokens at each level."""
    figure, axes = _levels(curves, title, "thinking tokens used")
    axes.set_ylim(0, 1.08 * max((p.value for curve in curves for p in curve.points), default=1.0) + 1)
    _legend(figure, axes)
    return figure


def course(curves: Sequence[Curve], title: str, y: str) -> Figure:
    """A training curve: every step faintly, and a running mean over a twentieth of the steps."""
    figure, axes = _figure(title, "step", y, SMALL)
    for curve in curves:
        xs = np.array([p.x for p in curve.points])
        ys = np.array([p.value for p in curve.points])
        long = len(xs) >= SMOOTHED_FROM
        axes.plot(xs, ys, color=_colour(curve), linewidth=0.8 if long else 1.6, alpha=0.35 if long else 1.0)
        smooth = running_mean(ys, len(ys) // 20 if long else 1)
        axes.plot(xs, smooth, color=_colour(curve), linewidth=1.6, label=curve.name)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if len(curves) > 1:
        _legend(figure, axes)
    return figure


def svg(figure: Figure, prefix: str) -> str:
    """The figure as an SVG element to stand in a page: colours are CSS variables, text is the page's.

    `prefix` keeps the ids of several figures on one page apart.
    """
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", text)
    text = re.sub(r"(font-family: |font: [^;\"]*?px )[^;\"]*", r"\g<1>var(--sans)", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return text.strip()


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=PNG_DPI, facecolor=PAPER, metadata={"Software": None})
    return buffer.getvalue()


def flops_ticks(low: float, high: float) -> list[float]:
    """A few round numbers from `low` to `high` on a logarithmic axis: powers of ten, and others where those are few."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    tenths = tuple(n / 10 for n in range(10, 100))
    for digits in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), tenths[::10], tenths[::5], tenths[::2], tenths):
        ticks = [d * 10.0**k for k in decades for d in digits if low <= d * 10.0**k <= high]
        if len(ticks) >= 3:
            return ticks[:: math.ceil(len(ticks) / 6)]
    return [low] if low == high else [low, high]


def scientific(value: float) -> str:
    """A large number as "2×10¹⁴"; two digits, the second only where it is not 0."""
    digits, exponent = f"{value:.1e}".split("e")
    power = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    digits = digits.removesuffix(".0")
    return f"10{power}" if digits == "1" else f"{digits}×10{power}"


def budget_places(budgets: Sequence[float]) -> dict[float, float]:
    """Where each budget stands on the axis: at its log2, and 0 left of all others."""
    places = {b: math.log2(b) for b in budgets if b > 0}
    return {0.0: min(places.values(), default=0.0) - BREAK} | places


def running_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """The mean of the last `window` values, of fewer at the beginning; steps that are NaN are left out."""
    known = ~np.isnan(values)
    sums = np.concatenate([[0.0], np.where(known, values, 0.0).cumsum()])
    counts = np.concatenate([[0], known.cumsum()])
    last = np.arange(1, len(values) + 1)
    first = np.maximum(last - max(window, 1), 0)
    count = counts[last] - counts[first]
    return np.where(count > 0, (sums[last] - sums[first]) / np.maximum(count, 1), np.nan)


def _figure(title: str, x: str, y: str, size: Size) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    headline = figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK)
    headline.set_parse_math(False)
    axes.set_xlabel(x, fontsize=10, color=INK)
    axes.set_ylabel(y, fontsize=10, color=INK)
    axes.set_facecolor("none")
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9, length=3, width=0.8)
    axes.tick_params(axis="y", length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_edgecolor(INK)
        spine.set_linewidth(0.8)
    axes.margins(x=0.06)
    return figure, axes


def _levels(curves: Sequence[Curve], title: str, y: str) -> tuple[Figure, Axes]:
    figure, axes = _figure(title, "level", y, SMALL)
    for curve in curves:
        _draw(axes, curve, [p.x for p in curve.points], label=curve.name)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    return figure, axes


def _draw(axes: Axes, curve: Curve, xs: Sequence[float], label: str = "") -> None:
    """A line with a marker at each point and a thin bar for its interval."""
    colour, marker = _colour(curve), MARKERS[curve.colour % len(MARKERS)]
    line = DASHES[curve.dash % len(DASHES)]
    ys = [p.value for p in curve.points]
    look: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 5, "clip_on": False}  # whole at 0% too
    axes.plot(xs, ys, linewidth=1.5, linestyle=line, label=label, zorder=3, **look)
    for x, p in zip(xs, curve.points, strict=True):
        if p.low is not None and p.high is not None:
            axes.plot([x, x], [p.low, p.high], color=colour, linewidth=1.0, alpha=0.7, zorder=2)
        if p.hollow:
            axes.plot([x], [p.value], markerfacecolor=PAPER, zorder=4, **look)


def _colour(curve: Curve) -> str:
    return COLOURS[curve.colour % len(COLOURS)]


def _percent(axes: Axes, curves: Sequence[Curve]) -> None:
    """From 0% to the next tenth above all intervals."""
    highest = max((p.value if p.high is None else p.high for curve in curves for p in curve.points), default=1.0)
    axes.set_ylim(0, min(math.ceil(10 * highest + 0.2) / 10, 1.0) + 0.01)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _break_axis(axes: Axes, left: float, right: float) -> None:
    """Two slanted strokes across the axis midway, and nothing between them; of one size whatever the axis spans."""
    first, last = axes.get_xlim()
    at = ((left + right) / 2 - first) / (last - first)
    across: dict[str, Any] = {"transform": axes.transAxes, "clip_on": False}
    axes.plot([at - 0.012, at + 0.012], [0, 0], color=PAPER, linewidth=3, zorder=5, **across)
    for x in (at - 0.012, at + 0.012):
        axes.plot([x - 0.009, x + 0.009], [-0.02, 0.02], color=INK, linewidth=0.8, zorder=6, **across)


def _legend(figure: Figure, axes: Axes) -> None:
    """Below the plot, where it hides nothing; the figure grows with it, so that the plot keeps its size."""
    handles, labels = axes.get_legend_handles_labels()
    letters = int(LEGEND_LETTERS * (figure.get_figwidth() - LEGEND_LINE))
    labels = [textwrap.fill(label, letters) for label in labels]
    rows = sum(label.count("\n") + 1 for label in labels)
    figure.set_figheight(figure.get_figheight() + LEGEND_ROW * max(rows - 2, 0))
    legend = figure.legend(
        handles,
        labels,
        loc="outside lower left",
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        handlelength=3.2,
        borderaxespad=0.2,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
