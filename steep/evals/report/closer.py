"""The chapters that look closer: what thoughts are worth, questions that models are said to get wrong, and the card."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from steep.errors import SteepError
from steep.evals.card import Card, Habits, card, find
from steep.evals.mending import MARKERS
from steep.evals.probes import SHIPPED, Tally, category, probes, together
from steep.evals.reading import Key, Survey
from steep.evals.report.html import heading, percent, table, text
from steep.evals.source import Source
from steep.evals.statistics import Estimate, Interval
from steep.evals.statistics import percent as told
from steep.evals.suite import Cell
from steep.evals.thoughts import FILE, Example, load_thoughts, share
from steep.runs import Log, read_json


def thoughts(sources: Sequence[Source], surveys: Sequence[Survey], by_level: str, kept: Sequence[Path]) -> str:
    """`by_level`: the curves of their length. `kept`: the directories that `steep thoughts` wrote."""
    parts = [by_level, _mended(sources, surveys), *map(_changed, kept)]
    return heading("What its thoughts are worth") + "".join(parts) if any(parts) else ""


def _mended(sources: Sequence[Source], surveys: Sequence[Survey]) -> str:
    def rows(figures: Callable[[Survey], Mapping[Key, Sequence[Estimate]]]) -> list[list[str]]:
        return [
            [text(task), text(model if len(sources) == 1 else f"{source.name} {model}"), mode, *map(_share, found)]
            for source, surveyed in zip(sources, surveys, strict=True)
            for (model, task, mode), found in figures(surveyed).items()
        ]

    mended = rows(lambda of: {key: (m.wrong, m.some, m.mended) for key, m in of.mended.items()})
    doubted = rows(lambda of: {key: (d.marked, d.right, d.right_else) for key, d in of.doubting.items()})
    of = ["task", "model", "mode"]
    told = ""
    if mended:
        heads = [*of, "with a wrong step", "of these some mended", "all mended"]
        told += (
            "<p>Every step of the thoughts at the largest budget is worked out again, of one thought to each problem. "
            f"A wrong step is mended where the same operation is next written with its right result.</p>"
            f"{table(heads, mended, texts=3)}"
        )
    if doubted:
        heads = [*of, "thoughts that say so", "right after these", "after the others"]
        told += (
            "<p>Steps of other tasks cannot be worked out again. Of their thoughts those are counted in which one of a "
            f"list of words stands.</p>{table(heads, doubted, texts=3)}"
            f'<p class="note">The words, as regular expressions: {" ".join(f"<code>{text(m)}</code>" for m in MARKERS)}'
            "</p>"
        )
    return f"<h3>Does it notice its own mistakes?</h3>{told}" if told else ""


def _changed(directory: Path) -> str:
    """What `steep thoughts` found: answers after thoughts that were changed, planted mistakes, off the rails."""
    written = read_json(directory / FILE)
    models = load_thoughts(written)
    parts = [f"<h3>Thoughts about {text(written['task'])}, changed</h3>"]
    figures = list(zip(*models.values(), strict=True))
    for part in dict.fromkeys(row[0].part for row in figures):
        of_part = [row for row in figures if row[0].part == part]
        rows = [[text(row[0].name), *(share(figure) for figure in row)] for row in of_part]
        examples = "".join(
            _example(example, f"{model}, {figure.name}")
            for row in of_part
            for model, figure in zip(models, row, strict=True)
            for example in figure.examples
        )
        parts.append(
            table([text(part.capitalize()), *map(text, models)], rows)
            + f"<details><summary>Examples to read: {text(part)}</summary>{examples}</details>"
        )
    parts.append(
        f'<p class="note">{written["problems"]} problems, each thought about once; of each figure are shown the '
        f"examples that count most and one that counts least. Measured by <code>{text(_command(written))}</code>, kept "
        f"in <code>{text(str(directory))}</code>.</p>"
    )
    return "".join(parts)


def _command(written: Mapping[str, Any]) -> str:
    """What was typed; older versions did not write it down."""
    return str(
        written.get("command") or shlex.join(["steep", "thoughts", *written["models"], "--task", written["task"]])
    )


def _example(example: Example, figure: str) -> str:
    reason = f": {text(example.reason)}" if example.reason else ""
    return (
        f'<div class="example"><header><span class="verdict">{text(example.verdict)}</span>{reason}'
        f"<span>{text(figure)}, counted {example.counted:.2g}</span></header>"
        f'<div class="prompt">{text(example.prompt)}</div><pre>{text(example.thought)}</pre>'
        f'<div class="answer">{text(example.answer)}</div></div>'
    )


def probed(sources: Sequence[Source], histories: Sequence[Path]) -> str:
    """What the models of the report last made of the probes, by category."""
    columns = [column for history in histories for column in _asked(sources, history)]
    if not columns:
        return ""
    categories: dict[str, list[str]] = {"all": list(dict.fromkeys(p for _, tallies in columns for p in tallies))}
    known = {problem.id: category(problem) for problem in probes([SHIPPED])}
    for probe in categories["all"]:
        categories.setdefault(known.get(probe, "your own"), []).append(probe)
    rows = [
        [text(name), str(len(ids)), *(_share(together([of[id] for id in ids if id in of])) for _, of in columns)]
        for name, ids in categories.items()
    ]
    where = " and ".join(f"<code>{text(str(history))}</code>" for history in histories)
    return (
        heading("Questions that models are said to get wrong")
        + "<p>Probes, each asked several times at temperature 1; the share of right answers.</p>"
        + table(["category", "probes", *(name for name, _ in columns)], rows)
        + f'<p class="note">Asked by <code>steep probes run MODEL</code>; every probe’s tally is kept in {where}.</p>'
    )


def _asked(sources: Sequence[Source], history: Path) -> list[tuple[str, Mapping[str, Tally]]]:
    """A column for each budget of the last time that each model of the report was asked."""
    own = [source.path.resolve() for source in sources if source.run]
    own += [Path(source.settings["model"]).resolve() for source in sources if "model" in source.settings]
    latest = {
        row["settings"]["model"]: row
        for row in Log(history).rows()
        if any(Path(row["settings"]["model"]).is_relative_to(path) for path in own)
    }
    if not latest:
        raise SteepError(
            f"{history} has no answers of these models",
            "ask them: steep probes run MODEL --history FILE, or leave the file away",
        )
    names = labels([Path(model) for model in latest])
    return [
        (
            f"{text(names[Path(model)])}<br>{f'{budget} tokens' if budget != '0' else 'no thought'}",
            {probe: Tally(**tally) for probe, tally in tallies.items()},
        )
        for model, row in latest.items()
        for budget, tallies in row["tallies"].items()
    ]


def labels(models: Sequence[Path]) -> dict[Path, str]:
    """The last two parts of their paths, without a stage's folder `model`; whole paths where these are the same."""
    short = {path: "/".join((path.parent if path.name == "model" else path).parts[-2:]) for path in models}
    return {path: str(path) if list(short.values()).count(name) > 1 else name for path, name in short.items()}


def cards(sources: Sequence[Source]) -> str:
    """What the last model of each source is good and bad at, how it thinks, and what that costs."""
    made = [
        card(found, f"{source.name} {found.model}" if len(sources) > 1 else found.model)
        for source in sources
        if (found := find(source.path))
    ]
    return heading("The card") + "".join(map(_card, made)) if made else ""


def _card(made: Card) -> str:
    rows = [_habits(habits) for habits in made.habits]
    heads = [
        *(
            "task, tokens at most",
            "thought, median",
            "80% between",
            "where right",
            "where wrong",
            "cut short",
            "right when cut",
        ),
        *("tokens an answer", "for each right one"),
    ]
    words = "".join(
        f"<li>{text(one.task)}: {text(', '.join(f'{word} ({part:.0%})' for word, part in one.words))}</li>"
        for one in made.habits
        if one.words
    )
    return (
        f"<h3>{text(made.model)}</h3><p><b>Good at:</b> {_stand_out(made.strengths)}. <b>Bad at:</b> "
        f"{_stand_out(made.weaknesses)}. That is where the interval leaves out the mean of tasks and levels at the "
        f"largest budgets, {made.mean:.0%}.</p>"
        + table(heads, rows)
        + (f"<p>Words it thinks with, by the share of thoughts:</p><ul>{words}</ul>" if words else "")
    )


def _stand_out(cells: Sequence[Cell]) -> str:
    shown = [f"{c.task}{'' if c.level is None else f' level {c.level}'} {told(c)}" for c in cells]
    return text("; ".join(shown)) or "nothing that stands out"


def _habits(one: Habits) -> list[str]:
    low, middle, high = one.thought
    return [
        text(f"{one.task}, {one.budget}"),
        f"{middle:.0f}",
        f"{low:.0f} and {high:.0f}",
        f"{one.thought_right:.0f}",
        f"{one.thought_wrong:.0f}",
        _share(one.cut_short),
        _share(one.right_when_cut_short),
        f"{one.tokens:.0f}",
        f"{one.tokens_per_right:.0f}",
    ]


def _share(figure: Interval) -> str:
    """With its interval, or a dash where nothing was measured."""
    return percent(figure) if figure.value == figure.value else "–"
