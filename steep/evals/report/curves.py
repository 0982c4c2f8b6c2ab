"""The chapters of curves: accuracy by compute, by thinking time and by level, and how training went."""

from collections.abc import Sequence
from math import isfinite

import numpy as np

from steep.evals import plots
from steep.evals.plots import SMALL, WIDE, Curve, Point
from steep.evals.reading import Survey
from steep.evals.report.gallery import Gallery, Looks, budget_curves, by_model, levels_of, whole
from steep.evals.report.html import heading, percent, table, text
from steep.evals.report.words import spent
from steep.evals.scaling import LEAST, Scaling
from steep.evals.source import COURSES, MODES, CourseFit, Source, Watched, modes, tasks_by_weight, watched
from steep.evals.suite import Cell, Mode
from steep.runs import Stage, printable

OTHER_PROBLEMS = (
    "Curves of different levels are of different problems, and say nothing about which model is better. One level for "
    "all is chosen by <code>steep eval MODEL --suite o1 --task NAME --levels N</code>."
)
TOO_SELDOM = f"A sigmoid that tells where reinforcement learning is going is fitted from {LEAST} evaluations on."


def thinking(sources: Sequence[Source], surveys: Sequence[Survey], looks: Looks, gallery: Gallery) -> str:
    """The two plots of o1, for the main task large, for the others small."""
    tasks = tasks_by_weight(sources)
    if not tasks:
        return ""
    measured = modes([cell for source in sources for cell in source.cells])
    parts = [
        heading("Accuracy by training compute and by thinking time"),
        "<p>Held-out problems throughout; bars are 95% intervals. Left: accuracy as reinforcement learning goes on, "
        "on the validation split, against all compute spent so far (rings: before its first step). Right: accuracy on "
        "the test split as the same model may think longer. A thought that reaches its budget is cut, and the model "
        "answers from what it has.</p>",
        _mode_buttons(measured),
        _task_plots(sources, tasks[0], measured, looks, gallery, WIDE, "pair"),
    ]
    parts += [_task_plots(sources, task, measured, looks, gallery, SMALL, "panels twos") for task in tasks[1:]]
    parts.append(_saturations(sources, surveys))
    if any(len(levels_of(sources, task)) > 1 for task in tasks):
        parts.append(f'<p class="note">{OTHER_PROBLEMS}</p>')
    parts += [_cells_table(sources, tasks, measured)] if measured else []
    parts.append(_fits_table(sources))
    parts.append(
        '<p class="note">Compute is counted as 6 FLOPs for each parameter and trained token and 2 for each parameter '
        "and sampled token. The dotted lines are least squares: of a sigmoid on the compute of RL where there are "
        "enough evaluations, and of accuracy on log2 of the budget, over the budgets above 0.</p>"
    )
    return "\n".join(parts)


def _task_plots(
    sources: Sequence[Source],
    task: str,
    measured: Sequence[Mode],
    looks: Looks,
    gallery: Gallery,
    size: plots.Size,
    kind: str,
) -> str:
    shown = printable(task)
    drawn = []
    curves, fits = _compute_curves(sources, task, looks)
    if curves:
        figure = plots.accuracy_by_compute(curves, f"{shown}: while training", size, fits)
        drawn.append(gallery.show(f"compute-{task}", figure, f"{shown}: accuracy against training compute"))
    for mode in measured:
        curves = budget_curves(sources, task, mode, looks)
        if curves:
            how = f", {mode}" if len(measured) > 1 else ""
            figure = plots.accuracy_by_budget(curves, f"{shown}{_level(sources, task)}: while thinking{how}", size)
            html = gallery.show(f"budget-{task}-{mode}", figure, f"{shown}: accuracy against thinking budget, {mode}")
            drawn.append(f'<div data-mode="{mode}">{html}</div>')
    return f'<div class="{kind}">{"".join(drawn)}</div>'


def _level(sources: Sequence[Source], task: str) -> str:
    """The level that the o1 suite has measured the task at, where all agree."""
    level, *others = levels_of(sources, task)
    return "" if others or level is None else f", level {level}"


def _saturations(sources: Sequence[Source], surveys: Sequence[Survey]) -> str:
    """What a reader should take from the curves of thinking time, in words."""
    told = [  # those of modes that have no button are always shown
        f"<li{_shown_in(mode)}>"
        f"<b>{text(task)}, {text(f'{source.name} {model}' if len(sources) > 1 else model)}, "
        f"{mode}</b>: {text(found.words)}.</li>"
        for source, surveyed in zip(sources, surveys, strict=True)
        for (model, task, mode), found in surveyed.saturations.items()
    ]
    return f'<ul class="plain">{"".join(told)}</ul>' if told else ""


def _shown_in(mode: str) -> str:
    return f' data-mode="{mode}"' if mode in MODES else ""


def _compute_curves(sources: Sequence[Source], task: str, looks: Looks) -> tuple[list[Curve], list[Curve]]:
    """One for each budget that the loop measured, and the fits; only the largest where there are several runs."""
    curves, fits = [], []
    for source in sources:
        found = [w for w in watched(source) if w.task == task]
        budgets = sorted({w.budget for w in found}, reverse=True)
        for dash, budget in enumerate(budgets[:1] if len(sources) > 1 else budgets):
            points = [_watched_point(w) for w in found if w.budget == budget]
            curves.append(looks.curve(source, "rl", points, f"rl, {budget} tokens of thought", dash))
            fit = source.scalings.get((task, budget))
            if fit is not None and not fit.scaling.doubt:
                fits.append(looks.curve(source, "rl", _fit_points(fit, points[-1].x), dash=dash))
    return curves, fits


def _fit_points(fit: CourseFit, until: float) -> list[Point]:
    spent = np.geomspace(0.01, 1, 40) * (until - fit.before)
    return [Point(x=fit.before + x, value=y) for x, y in zip(spent, fit.scaling.curve.at(spent), strict=True)]


def _fits_table(sources: Sequence[Source]) -> str:
    """Where RL is going, folded."""
    rows = []
    for source in sources:
        for (task, budget), fit in source.scalings.items():
            found = fit.scaling
            name = text(task if len(sources) == 1 else f"{source.name} {task}")
            missed = "" if found.forecast_error is None else f"{100 * found.forecast_error:.1f} points"
            shape = [found.doubt, "", ""] if found.doubt else _shape(found)
            rows.append([name, str(budget), *shape, str(found.points), missed])
    if not rows:
        return f'<p class="note">{TOO_SELDOM}</p>' if any(map(watched, sources)) else ""
    heads = ["task", "budget", "approaches", "half way, FLOPs of RL", "steepness", "evaluations", "forecast off by"]
    return (
        "<details><summary>Where reinforcement learning is going</summary>"
        + table(heads, rows)
        + '<p class="note">Least squares of ScaleRL’s sigmoid (arXiv 2510.13786) on the evaluations after the first '
        "tenth of the compute, with intervals of a bootstrap over their noise. The forecast is fitted to the first "
        "half of the compute, and its mean error is that over the second. No rise is measured where the interval of "
        "the curve’s rise so far holds 0.</p></details>"
    )


def _shape(found: Scaling) -> list[str]:
    half, steepness = found.half, found.steepness
    return [
        percent(found.asymptote),
        f"{plots.scientific(half.value)}<small>{plots.scientific(half.low)}–{plots.scientific(half.high)}</small>",
        f"{steepness.value:.2f}<small>{steepness.low:.2f}–{steepness.high:.2f}</small>",
    ]


def _watched_point(w: Watched) -> Point:
    return Point(x=w.flops, value=w.value, low=w.low, high=w.high, hollow=w.start)


def by_level(sources: Sequence[Source], surveys: Sequence[Survey], looks: Looks, gallery: Gallery) -> str:
    """Accuracy and thought length by level, at each model's largest budget."""
    drawn = []
    for task in tasks_by_weight(sources):
        for mode in modes([cell for source in sources for cell in source.cells]):
            accuracies, thoughts = [], []
            for source, surveyed in zip(sources, surveys, strict=True):
                for model, cells in _by_level_of(source, task, mode).items():
                    points = [Point(x=c.level or 0, value=c.value, low=c.low, high=c.high) for c in cells]
                    accuracies.append(looks.curve(source, model, points))
                    rank = surveyed.longer_where_hard.get((model, task, mode))
                    told = f"{model}: ρ = {rank:.2f}" if rank is not None and isfinite(rank) else model
                    points = [Point(x=c.level or 0, value=c.thought) for c in cells]
                    thoughts.append(looks.curve(source, model, points, told))
            if accuracies:
                shown = f"{printable(task)}, {mode}"
                left, right = plots.accuracy_by_level, plots.thought_by_level
                pair = (("accuracy", left(accuracies, shown)), ("thought", right(thoughts, shown)))
                for kind, figure in pair:
                    html = gallery.show(f"{kind}-by-level-{task}-{mode}", figure, f"{shown}: {kind} by level")
                    drawn.append(f'<div data-mode="{mode}">{html}</div>')
    if not drawn:
        return ""
    return (
        "<h3>Does it think longer where it is hard?</h3><p>At the largest budget, so that the model decides. ρ is "
        "Spearman’s rank correlation of a problem’s level with the length of its thought.</p>"
        f'<div class="panels twos">{"".join(drawn)}</div>'
    )


def _by_level_of(source: Source, task: str, mode: Mode) -> dict[str, list[Cell]]:
    """The cells of single levels at each model's largest budget, by model."""
    found: dict[str, list[Cell]] = {}
    cells = [c for c in source.cells if (c.task, c.mode) == (task, mode) and c.level is not None and isfinite(c.value)]
    for model in dict.fromkeys(cell.model for cell in cells):
        largest = max(cell.budget for cell in cells if cell.model == model)
        at_largest = [cell for cell in cells if (cell.model, cell.budget) == (model, largest)]
        found[model] = sorted(at_largest, key=lambda cell: cell.level or 0)
    return found


def courses(sources: Sequence[Source], looks: Looks, gallery: Gallery) -> str:
    drawn = []
    for stage, metric, title, unit in COURSES:
        curves = []
        for source in sources:
            points = _course(source.stages.get(stage), metric)
            if points:
                curves.append(looks.curve(source, stage, points))
        if curves:
            figure = plots.course(curves, title, unit)
            drawn.append(gallery.show(f"course-{stage}-{metric}", figure, f"{title} over the steps of {stage}"))
    if not drawn:
        return ""
    return heading("How training went") + spent(sources) + f'<div class="panels">{"".join(drawn)}</div>'


def _course(stage: Stage | None, metric: str) -> list[Point]:
    if stage is None:
        return []
    rows = stage.timing() if metric == "tokens/s" else stage.metrics()
    return [Point(x=row["step"], value=row[metric]) for row in rows if isfinite(row.get(metric, float("nan")))]


def _mode_buttons(measured: Sequence[Mode]) -> str:
    if len(measured) < 2:
        return ""
    names = {"sampled": "sampled at temperature 1", "greedy": "greedy", "told": "with the budget told"}
    buttons = [f'<button type="button" data-show="{m}" aria-pressed="false">{names[m]}</button>' for m in measured]
    return f'<div class="bar" data-page role="group" aria-label="How answers are drawn">{"".join(buttons)}</div>'


def _cells_table(sources: Sequence[Source], tasks: Sequence[str], measured: Sequence[Mode]) -> str:
    """All accuracies over whole tasks, folded."""
    budgets = sorted({cell.budget for source in sources for cell in source.cells})
    rows = []
    for task in tasks:
        for mode in measured:
            for source in sources:
                for model, by_budget in by_model(whole(source, mode), task).items():
                    name = model if len(sources) == 1 else f"{source.name} {model}"
                    figures = [percent(by_budget[b]) if b in by_budget else "" for b in budgets]
                    rows.append([text(task), text(name), mode, *figures, _files(list(by_budget.values()))])
    numbers = table(["task", "model", "mode", *map(str, budgets), "rollouts"], rows, texts=3)
    where = " and ".join(f"<code>{text(str(stage.path))}/rollouts</code>" for s in sources for stage in s.evaluations)
    numbers += f'<p class="note">The rollouts that they are counted from are in {where}.</p>'
    return f"<details><summary>These accuracies in numbers, by budget in tokens</summary>{numbers}</details>"


def _files(cells: Sequence[Cell]) -> str:
    """The first and the last file of their rollouts; evaluations of older versions do not name them."""
    files = sorted({cell.file for cell in cells if cell.file is not None})
    return " to ".join(f"<code>step-{file:06d}</code>" for file in dict.fromkeys([*files[:1], *files[-1:]]))
