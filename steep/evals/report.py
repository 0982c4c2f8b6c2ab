"""A report: one page that a person can read, its plots as PNG files, and its figures as JSON.

    out/index.html     everything in one file, which asks the network for nothing
    out/*.png          each plot
    out/report.json    the claims with commit, machine and versions; all cells, fits and rank correlations

A run that has not got far, or died, is reported as far as it goes, and the page says what is missing.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from importlib.resources import files
from math import isfinite
from pathlib import Path
from string import Template as Page
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table
from rich.text import Text

from steep.errors import SteepError
from steep.evals import plots
from steep.evals.plots import SMALL, WIDE, Curve, Point
from steep.evals.reading import Reading, Span, Survey, readings, survey
from steep.evals.source import COURSES, Source, Watched, modes, open_sources, tasks_by_weight, watched
from steep.evals.suite import Cell, Mode
from steep.runs import Claim, Stage, duration, evidence, number, printable, read_claims, write_atomic, write_json

READINGS = 60
FOLDED_FROM = 500  # characters of a thought
STAGE_WORDS = {
    "pretrain": "pretraining",
    "sft": "supervised fine-tuning",
    "rl": "reinforcement learning",
    "distill": "distillation",
}


@dataclass(frozen=True, kw_only=True)
class ReportFiles:
    """What was written."""

    index: Path
    json: Path
    plots: tuple[Path, ...]


def report(paths: Sequence[Path], out: Path, claims: Sequence[Claim] = ()) -> ReportFiles:
    """Report on runs, evaluations or both. `claims` are shown first, and written to `report.json`.

    Where none are given, those that the run of the first path has written down are taken.
    """
    sources = open_sources(paths)
    first = sources[0].path
    claims = claims or read_claims(first / "claims.json") or read_claims(first / "eval" / "claims.json")
    surveys = [survey(source) for source in sources]
    gallery = _Gallery(_directory(out))
    looks = _Looks(sources)
    title = " and ".join(source.name for source in sources)
    sections = [
        _opening(title, sources, claims),
        _thinking(sources, looks, gallery),
        _by_level(sources, surveys, looks, gallery),
        _courses(sources, looks, gallery),
        _reading(sources, surveys),
        _making(sources),
    ]
    page = Page(files("steep.evals").joinpath("report.html").read_text(encoding="utf-8"))
    html = page.substitute(title=_text(f"{title}: report"), content="\n".join(sections))
    write_atomic(out / "index.html", html.encode())
    write_json(out / "report.json", _document(sources, surveys, claims))
    return ReportFiles(index=out / "index.html", json=out / "report.json", plots=tuple(gallery.paths))


def summary(paths: Sequence[Path]) -> Table:
    """Accuracy of every model, sampled, with budgets across: what a demonstration ends with.

    The caption tells what thinking is worth in the lesser tasks: the last model without a thought and with the longest.
    """
    sources = open_sources(paths)
    cells = [(source, cell) for source in sources for cell in _whole(source, "sampled")]
    if not cells:
        raise SteepError(
            f"nothing is evaluated in {', '.join(str(path) for path in paths)}",
            "do so with `steep eval RUN --task countdown`",
        )
    budgets = sorted({cell.budget for _, cell in cells})
    table = Table(title="accuracy by thinking budget, sampled at temperature 1, with 95% intervals")
    table.add_column("task")
    table.add_column("model")
    for budget in budgets:
        table.add_column(str(budget), justify="right")
    told = []
    for place, task in enumerate(tasks_by_weight(sources)):
        shown = False
        for source in sources:
            for model, by_budget in _by_model(_whole(source, "sampled"), task).items():
                name = model if len(sources) == 1 else f"{source.name} {model}"
                figures = [_rich_figure(by_budget.get(budget)) for budget in budgets]
                table.add_row(Text("" if shown else printable(task)), Text(printable(name)), *figures)
                shown, last, last_name = True, by_budget, name
        if shown and place > 0 and 0 in last and max(last) > 0:
            first, most = last[0], last[max(last)]
            told.append(
                f"{task}, {last_name}: {first.value:.0%} without a thought, {most.value:.0%} with {most.budget} tokens"
            )
        table.add_section()
    table.caption = Text(printable("\n".join(told))) if told else None
    return table


def _directory(out: Path) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise SteepError(f"{out} cannot hold a report: a file is in the way", "name another directory") from None
    return out


# What is drawn


@dataclass
class _Gallery:
    """Puts figures into the page and beside it."""

    directory: Path
    paths: list[Path] = field(default_factory=list)

    def show(self, name: str, figure: Figure, told: str) -> str:
        """`told` says what the figure shows to who cannot see it."""
        stem = re.sub(r"[^\w.-]+", "-", name)
        stem += f"-{len(self.paths)}" if self.directory / f"{stem}.png" in self.paths else ""
        self.paths.append(self.directory / f"{stem}.png")
        write_atomic(self.paths[-1], plots.png(figure))
        drawn = plots.svg(figure, f"p{len(self.paths)}")
        return f'<figure role="img" aria-label="{_text(told)}">{drawn}</figure>'


class _Looks:
    """Name, colour and dashes of the curves, the same in all plots.

    A colour is a model; where there are several runs it is a run, and the models but the last are dashed.
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
        place = self._models[source.name].index(model)
        colour = place
        if self._several:
            colour = self._sources.index(source.name)
            evaluated = len({cell.model for cell in source.cells})
            dash = dash or max(evaluated - 1 - place, 0)
        label = " ".join(filter(None, [source.name if self._several else "", name or model]))
        return Curve(name=printable(label), points=tuple(points), colour=colour, dash=dash)


def _thinking(sources: Sequence[Source], looks: _Looks, gallery: _Gallery) -> str:
    """The two plots of o1, for the main task large, for the others small."""
    tasks = tasks_by_weight(sources)
    if not tasks:
        return ""
    measured = modes([cell for source in sources for cell in source.cells])
    parts = [
        "<h2>Accuracy by training compute and by thinking time</h2>",
        "<p>Held-out problems throughout; bars are 95% intervals. Left: accuracy as reinforcement learning goes on, "
        "on the validation split, against all compute spent so far (rings: before its first step). Right: accuracy on "
        "the test split as the same model may think longer. A thought that reaches its budget is cut, and the model "
        "answers from what it has.</p>",
        _mode_buttons(measured),
        _task_plots(sources, tasks[0], measured, looks, gallery, WIDE, "pair"),
    ]
    parts += [_task_plots(sources, task, measured, looks, gallery, SMALL, "panels") for task in tasks[1:]]
    parts += [_cells_table(sources, tasks, measured)] if measured else []
    parts.append(
        '<p class="note">Compute is counted as 6 FLOPs for each parameter and trained token and 2 for each parameter '
        "and sampled token. The dotted lines are least squares of accuracy on log2 of the budget, over the budgets "
        "above 0.</p>"
    )
    return "\n".join(parts)


def _task_plots(
    sources: Sequence[Source],
    task: str,
    measured: Sequence[Mode],
    looks: _Looks,
    gallery: _Gallery,
    size: plots.Size,
    kind: str,
) -> str:
    shown = printable(task)
    drawn = []
    curves = _compute_curves(sources, task, looks)
    if curves:
        figure = plots.accuracy_by_compute(curves, f"{shown}: while training", size)
        drawn.append(gallery.show(f"compute-{task}", figure, f"{shown}: accuracy against training compute"))
    for mode in measured:
        curves = _budget_curves(sources, task, mode, looks)
        if curves:
            figure = plots.accuracy_by_budget(curves, f"{shown}: while thinking, {mode}", size)
            html = gallery.show(f"budget-{task}-{mode}", figure, f"{shown}: accuracy against thinking budget, {mode}")
            drawn.append(f'<div data-mode="{mode}">{html}</div>')
    return f'<div class="{kind}">{"".join(drawn)}</div>'


def _compute_curves(sources: Sequence[Source], task: str, looks: _Looks) -> list[Curve]:
    """One for each budget that the loop measured; only the largest where there are several runs."""
    curves = []
    for source in sources:
        found = [w for w in watched(source) if w.task == task]
        budgets = sorted({w.budget for w in found}, reverse=True)
        for dash, budget in enumerate(budgets[:1] if len(sources) > 1 else budgets):
            points = [_watched_point(w) for w in found if w.budget == budget]
            curves.append(looks.curve(source, "rl", points, f"rl, {budget} tokens of thought", dash))
    return curves


def _watched_point(w: Watched) -> Point:
    return Point(x=w.flops, value=w.value, low=w.low, high=w.high, hollow=w.start)


def _budget_curves(sources: Sequence[Source], task: str, mode: Mode, looks: _Looks) -> list[Curve]:
    return [
        looks.curve(source, model, [Point(x=b, value=c.value, low=c.low, high=c.high) for b, c in by_budget.items()])
        for source in sources
        for model, by_budget in _by_model(_whole(source, mode), task).items()
    ]


def _by_level(sources: Sequence[Source], surveys: Sequence[Survey], looks: _Looks, gallery: _Gallery) -> str:
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
        "<h2>Does it think longer where it is hard?</h2><p>At the largest budget, so that the model decides. ρ is "
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


def _courses(sources: Sequence[Source], looks: _Looks, gallery: _Gallery) -> str:
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
    return f'<h2>How training went</h2><div class="panels">{"".join(drawn)}</div>' if drawn else ""


def _course(stage: Stage | None, metric: str) -> list[Point]:
    if stage is None:
        return []
    rows = stage.timing() if metric == "tokens/s" else stage.metrics()
    return [Point(x=row["step"], value=row[metric]) for row in rows if isfinite(row.get(metric, float("nan")))]


# What is written


def _opening(title: str, sources: Sequence[Source], claims: Sequence[Claim]) -> str:
    parts = [f"<h1>{_text(title)}</h1>"]
    parts += [_story(source) for source in sources]
    parts += [_missing(source, len(sources) > 1) for source in sources if source.missing]
    if claims:
        rows = [
            [
                f"<code>{_text(claim.id)}</code>",
                number(claim.value),
                f"{number(claim.low)} to {number(claim.high)}",
                _text(claim.bar),
                '<span class="yes">✓ holds</span>' if claim.holds else '<span class="no">✗ fails</span>',
            ]
            for claim in claims
        ]
        parts += ["<h2>What is claimed</h2>", _table(["claim", "measured", "interval", "bar", ""], rows)]
        commands = dict.fromkeys(claim.command for claim in claims)
        said = " and ".join(f"<code>{_text(command)}</code>" for command in commands)
        parts.append(f'<p class="note">Measured again by {said}.</p>')
    stages = [_stage_cells(source, stage) for source in sources for stage in source.stages.values()]
    if stages:
        heads = ["stage", "steps", "tokens trained", "tokens sampled", "FLOPs", "time"]
        if len(sources) == 1:
            stages = [row[1:] for row in stages]
        else:
            heads = ["run", *heads]
        parts.append(_table(heads, stages, texts=min(len(sources), 2)))
    return "\n".join(parts)


def _story(source: Source) -> str:
    """What was trained, in a paragraph."""
    command = f"<code>{_text(source.command)}</code>"
    if source.run is None:
        models = ", ".join(dict.fromkeys(cell.model for cell in source.cells))
        return f"<p><b>{_text(source.name)}</b> is an evaluation of {_text(models)}, made by {command}.</p>"
    info = source.run.info
    size = f" of {_count(source.parameters)} parameters" if source.parameters else ""
    total = sum(source.seconds(stage) for stage in source.stages.values())
    steps = []
    for name, stage in source.stages.items():
        trained, sampled = source.tokens(stage)
        read = [f"{_count(trained)} tokens"] if trained else []
        read += [f"{_count(sampled)} sampled tokens"] if sampled else []
        where = f"on {' out of '.join(read)}, " if read else ""
        steps.append(f"{STAGE_WORDS[name]} ({where}{_time(source.seconds(stage))})")
    through = f", in {_time(total)}: {', then '.join(steps)}" if steps else ""
    config = info.config if isinstance(info.config, dict) else {}
    begun = f"from {config['start']} " if config.get("start") else ""
    begun = begun or ("from random weights " if "pretrain" in source.stages else "")
    ends = {
        "finished": "",
        "running": " The run is still going on.",
        "stopped": " The run was stopped before its end.",
        "interrupted": " The process of the run is gone before its end.",
        "failed": f" The run failed: {info.error}.",
    }[source.run.status]
    return (
        f"<p><b>{_text(source.name)}</b> is a language model{size}, trained {_text(begun)}by {command} on "
        f"{_text(_machine(info.machine))}{through}.{_text(ends)}</p>"
    )


def _missing(source: Source, named: bool) -> str:
    name = f" in {_text(source.name)}" if named else ""
    items = "".join(f"<li>{_text(lack)}</li>" for lack in source.missing)
    return f'<div class="missing">Missing{name}:<ul>{items}</ul></div>'


def _stage_cells(source: Source, stage: Stage) -> list[str]:
    rows = stage.metrics()
    trained, sampled = source.tokens(stage)
    flops = [source.flops(row) for row in rows]
    total = sum(f for f in flops if f is not None)
    return [
        _text(source.name),
        _text(stage.name),
        str(len(rows)),
        number(trained) if trained else "",
        number(sampled) if sampled else "",
        plots.scientific(total) if total else "",
        duration(source.seconds(stage)),
    ]


def _mode_buttons(measured: Sequence[Mode]) -> str:
    if len(measured) < 2:
        return ""
    names = {"sampled": "sampled at temperature 1", "greedy": "greedy", "told": "with the budget told"}
    buttons = [f'<button type="button" data-show="{m}" aria-pressed="false">{names[m]}</button>' for m in measured]
    return f'<div class="bar" role="group" aria-label="How answers are drawn">{"".join(buttons)}</div>'


def _cells_table(sources: Sequence[Source], tasks: Sequence[str], measured: Sequence[Mode]) -> str:
    """All accuracies over whole tasks, folded."""
    budgets = sorted({cell.budget for source in sources for cell in source.cells})
    rows = []
    for task in tasks:
        for mode in measured:
            for source in sources:
                for model, by_budget in _by_model(_whole(source, mode), task).items():
                    name = model if len(sources) == 1 else f"{source.name} {model}"
                    figures = [_figure_cell(by_budget.get(budget)) for budget in budgets]
                    rows.append([_text(task), _text(name), mode, *figures])
    table = _table(["task", "model", "mode", *map(str, budgets)], rows, texts=3)
    return f"<details><summary>These accuracies in numbers, by budget in tokens</summary>{table}</details>"


def _figure_cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    return f"{cell.value:.1%}<small>{100 * cell.low:.1f}–{100 * cell.high:.1f}</small>"


def _rich_figure(cell: Cell | None) -> Text:
    if cell is None:
        return Text("")
    return Text.assemble(f"{cell.value:.0%}", "\n", (f"{100 * cell.low:.0f}-{100 * cell.high:.0f}", "dim"))


def _reading(sources: Sequence[Source], surveys: Sequence[Survey]) -> str:
    chosen = [r for s, v in zip(sources, surveys, strict=True) for r in readings(s, v, READINGS // len(sources))]
    if not chosen:
        return ""
    filters = [
        _select("source", "all runs", (r.source for r in chosen)),
        _select("origin", "all origins", (r.origin for r in chosen)),
        _select("task", "all tasks", (r.task for r in chosen)),
        _select("verdict", "all verdicts", (r.verdict for r in chosen)),
        _select("budget", "all budgets", (str(b) for b in sorted({r.budget or 0 for r in chosen}))),
        '<input type="search" data-filter="words" placeholder="words" aria-label="words in the rollout">',
        "<output></output>",
    ]
    return (
        "<h2>Rollouts to read</h2><p>Of each kind a few, not the best. "
        '<mark>Marked</mark> tokens were not chosen by the model: its budget had run out.</p><div class="bar">'
        + "".join(filters)
        + "</div>"
        + "\n".join(_article(reading) for reading in chosen)
    )


def _select(name: str, every: str, values: Iterable[str]) -> str:
    """A filter; none where there is nothing to choose."""
    distinct = list(dict.fromkeys(values))
    options = "".join(f'<option value="{_text(v)}">{_text(v)}</option>' for v in distinct)
    hidden = " hidden" if len(distinct) < 2 else ""
    return (
        f'<select data-filter="{name}" aria-label="{name}"{hidden}><option value="">{every}</option>{options}</select>'
    )


def _article(reading: Reading) -> str:
    data = {
        "source": reading.source,
        "origin": reading.origin,
        "task": reading.task,
        "verdict": reading.verdict,
        "budget": str(reading.budget or 0),
    }
    attributes = "".join(f' data-{name}="{_text(value)}"' for name, value in data.items())
    look = {"correct": "yes", "wrong": "no"}.get(reading.verdict, "")
    reason = f": {_text(reading.reason)}" if reading.reason else ""
    budget = "no budget" if reading.budget is None else f"budget {reading.budget}"
    said = [
        f'<span class="verdict {look}">{_text(reading.verdict)}</span>{reason}',
        f"{_text(reading.task)}, level {reading.level}",
        f"{budget}, {reading.thought_tokens} used{', cut' if reading.interrupted and reading.budget else ''}",
        _text(f"{reading.model}, {reading.origin}" if reading.model not in reading.origin else reading.origin),
    ]
    length = sum(len(span.text) for span in reading.thought)
    opened = "" if length >= FOLDED_FROM else " open"
    return (
        f"<article{attributes}><header>{''.join(f'<span>{part}</span>' for part in said)}</header>"
        f'<div class="prompt">{_text(reading.prompt)}</div>'
        f"<details{opened}><summary>thought</summary><pre>{_spans(reading.thought)}</pre></details>"
        f'<div class="answer">{_spans(reading.answer)}</div></article>'
    )


def _spans(spans: Iterable[Span]) -> str:
    parts = []
    for span in spans:
        text = _text(span.text)
        text = f'<span class="control">{text}</span>' if span.control else text
        parts.append(f'<mark title="forced by the budget">{text}</mark>' if span.forced else text)
    return "".join(parts)


def _making(sources: Sequence[Source]) -> str:
    parts = ["<h2>How it was made</h2>"]
    for source in sources:
        if source.run is None:
            continue
        info = source.run.info
        changed = ", with uncommitted changes" if info.git and info.git["dirty"] else ""
        facts = {
            "command": source.command,
            "begun": info.created,
            "seed": info.seed,
            "commit": f"{info.git['commit']}{changed}" if info.git else "not from a checkout",
            "versions": ", ".join(f"{name} {version}" for name, version in info.versions.items()),
            "machine": _machine(info.machine),
            "resumed": f"{len(info.resumed)} times" if info.resumed else "never",
        }
        entries = "".join(f"<dt>{name}</dt><dd>{_text(str(fact))}</dd>" for name, fact in facts.items())
        config = _text(json.dumps(info.config, indent=2, ensure_ascii=False))
        parts += [f"<h3>{_text(source.name)}</h3>"] if len(sources) > 1 else []
        parts.append(f"<dl>{entries}</dl><details><summary>the whole config</summary><pre>{config}</pre></details>")
    return "\n".join(parts) if len(parts) > 1 else ""


def _document(sources: Sequence[Source], surveys: Sequence[Survey], claims: Sequence[Claim]) -> dict[str, Any]:
    """The content of report.json."""
    seconds = sum(source.seconds(stage) for source in sources for stage in source.stages.values())
    cells, fits, ranks = [], [], []
    for source, surveyed in zip(sources, surveys, strict=True):
        cells += [{"run": source.name, **asdict(cell)} for cell in source.cells]
        for mode in modes(source.cells):
            for task in dict.fromkeys(cell.task for cell in source.cells):
                for curve in _budget_curves([source], task, mode, _Looks([source])):
                    where = {"run": source.name, "model": curve.name, "task": task, "mode": mode}
                    fits += [{**where, **asdict(curve.fit)}] if curve.fit else []
        ranks += [
            {"run": source.name, "model": model, "task": task, "mode": mode, "spearman": rank}
            for (model, task, mode), rank in surveyed.longer_where_hard.items()
        ]
    course = [{"run": source.name, **asdict(w)} for source in sources for w in watched(source)]
    missing = {source.name: source.missing for source in sources}
    return evidence(claims, seconds) | {
        "missing": missing, "cells": cells, "fits": fits, "thought_by_level": ranks, "training": course
    }  # fmt: skip


# Small things


def _whole(source: Source, mode: Mode) -> list[Cell]:
    """The cells of whole tasks that have a figure."""
    return [cell for cell in source.cells if cell.mode == mode and cell.level is None and isfinite(cell.value)]


def _by_model(cells: Sequence[Cell], task: str) -> dict[str, dict[int, Cell]]:
    """Cells of a task by model and, in order, by budget."""
    found: dict[str, dict[int, Cell]] = {}
    for cell in sorted((cell for cell in cells if cell.task == task), key=lambda cell: cell.budget):
        found.setdefault(cell.model, {})[cell.budget] = cell
    order = list(dict.fromkeys(cell.model for cell in cells))
    return {model: found[model] for model in order if model in found}


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 1) -> str:
    """A table of HTML cells; the first `texts` columns are text, the others figures."""

    def line(tag: str, cells: Sequence[str]) -> str:
        kinds = [' class="text"' if place < texts else "" for place in range(len(cells))]
        return "<tr>" + "".join(f"<{tag}{k}>{c}</{tag}>" for k, c in zip(kinds, cells, strict=True)) + "</tr>"

    body = "".join(line("td", row) for row in rows)
    return f'<div class="scroll"><table><thead>{line("th", heads)}</thead><tbody>{body}</tbody></table></div>'


def _text(text: str) -> str:
    """Any text as HTML that shows it: nothing in it is markup, and control characters are visible."""
    return escape(printable(text))


def _machine(machine: Mapping[str, Any]) -> str:
    gpus = list(machine.get("gpus", ()))
    counted = [f"{gpus.count(gpu)} x {gpu}" for gpu in dict.fromkeys(gpus)]
    return ", ".join([machine["cpu"], f"{machine['cores']} cores", f"{machine['memory_gib']} GiB", *counted])


def _time(seconds: float) -> str:
    """A duration that no line break parts."""
    return duration(seconds).replace(" ", "\u00a0")


def _count(value: int) -> str:
    """A large number in words: "820 thousand", "1.24 million"."""
    for unit, word in ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (10**3, "thousand")):
        if value >= unit:
            return f"{value / unit:.3g} {word}"
    return str(value)
