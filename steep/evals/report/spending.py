"""The chapters of the o1 suite: one longer thought or many answers, and which levels of a task still tell something."""

from collections.abc import Sequence

from steep.evals import plots
from steep.evals.findings import Method, Spending, Way, best_ways
from steep.evals.levels import EASY, SATURATED, Choice
from steep.evals.plots import Curve, Point
from steep.evals.report.gallery import Gallery
from steep.evals.report.html import heading, percent, table, text
from steep.evals.source import Source
from steep.runs import printable

MIDDLE = 0.4
"""Of one answer: where there is most room for several to be better."""
ALONE: dict[Method, str] = {
    "one": "one answer, thinking longer",
    "extended": "one answer, thought past its own end",
    "chunked": "one answer, thought in chunks",
}
APART = 1.25
"""How many times the tokens of that the longest thoughts must take for curves of their own."""


def spending(sources: Sequence[Source], gallery: Gallery) -> str:
    parts = [
        _of_task(source, choice, gallery, len(sources) > 1) for source in sources for choice in source.findings.choices
    ]
    found = [source.findings for source in sources]
    notes = [f'<p class="note">{text(line)}</p>' for each in found for line in (*each.overlaps, *each.left_out)]
    if not any(parts):
        return ""
    return (
        heading("The best way to spend a given number of tokens")
        + "<p>On the same held-out problems: one answer after an "
        "ever longer thought, or many answers, of which the one is taken that most of them give, that a scorer "
        "prefers, or that most give when each counts by its score. The scorer reads the model’s last hidden state, and "
        "was trained on other problems. Tokens are those of all answers to a problem together. Bands are 95% intervals "
        "over problems.</p>" + "".join([*parts, *notes])
    )


def _of_task(source: Source, choice: Choice, gallery: Gallery, named: bool) -> str:
    spent = [s for s in source.findings.spendings if s.task == choice.task]
    if not spent:
        return ""
    title = f"{source.name}, {choice.words}" if named else choice.words
    shown = printable(choice.task)
    ways = best_ways(spent)
    figure = plots.accuracy_by_tokens(_curves(spent), f"{shown}: tokens of all answers")
    drawn = gallery.show(f"tokens-{choice.task}", figure, f"{shown}: accuracy against tokens, by how they are spent")
    rows = [
        [f"{way.tokens:,}", _words(way.best), percent(way.best), percent(way.alone) if way.alone else ""]
        for way in ways
    ]
    best = table(["tokens at most", "best spent on", "accuracy", "one answer alone"], rows, texts=2)
    folded = _all(source, choice.task)
    return f'<h3>{text(title)}</h3><p>{text(_told(ways[-1]))}</p><div class="pair">{drawn}{best}</div>{folded}'


def _told(most: Way) -> str:
    """The best that could be bought, beside the best of one answer alone."""
    told = f"At most {most.tokens:,} tokens a problem are best spent on {_words(most.best)}: {most.best.value:.1%}"
    if most.alone is None or most.best.method == "one":
        return f"{told}."
    return f"{told}. One answer alone reaches {most.alone.value:.1%}, with {_words(most.alone).partition(', ')[2]}."


def _curves(spent: Sequence[Spending]) -> list[Curve]:
    """One answer at every budget, and many at the budget where they help most and, if it costs more, at the largest."""
    ones = [s for s in spent if s.method == "one"]
    middle = min(ones, key=lambda s: (s.budget == 0, abs(s.value - MIDDLE)))
    longest = max(ones, key=lambda s: s.budget)
    budgets = [middle.budget] + [longest.budget] * (longest.tokens > APART * middle.tokens)
    curves = [
        Curve(name=name, points=_points([s for s in spent if s.method == method]), dash=dash)
        for dash, (method, name) in enumerate(ALONE.items())
        if any(s.method == method for s in spent)
    ]
    methods: dict[Method, str] = {
        "majority": "majority of several",
        "best": "the scorer’s choice of several",
        "weighted": "majority weighted by the scorer",
    }
    for dash, budget in enumerate(budgets):
        for colour, (method, words) in enumerate(methods.items(), start=1):
            points = [s for s in spent if s.budget == budget and s.method in ("one", method)]
            if len(points) > 1:
                name = f"{words}, {budget} tokens of thought"
                curves.append(Curve(name=name, points=_points(points), colour=colour, dash=dash))
    return curves


def _points(spent: Sequence[Spending]) -> tuple[Point, ...]:
    return tuple(
        Point(x=s.tokens, value=s.value, low=s.low, high=s.high) for s in sorted(spent, key=lambda s: s.tokens)
    )


def _words(s: Spending) -> str:
    thought = f"up to {s.budget} tokens of thought" if s.budget else "no thought"
    several = {
        **ALONE,
        "one": "one answer",
        "majority": f"the majority of {s.samples}",
        "best": f"the scorer’s choice of {s.samples}",
        "weighted": f"the majority of {s.samples}, weighted by the scorer",
        "any": f"any of {s.samples}",
    }
    return f"{several[s.method]}, {thought}"


def levels(sources: Sequence[Source]) -> str:
    """The levels that the o1 suite tried, and what it made of them."""
    chosen = [(source, choice) for source in sources for choice in source.findings.choices if choice.tried]
    if not chosen:
        return ""
    rows, told = [], []
    for source, choice in chosen:
        name = text(f"{source.name} {choice.task}" if len(sources) > 1 else choice.task)
        told.append(f"<li><b>{name}</b>: {text(choice.story)}.</li>")
        for tried in choice.tried:
            marks = [m for m in (tried.mark, "measured" if tried.level == choice.level else "") if m]
            rows.append([f"{name}, level {tried.level}", ", ".join(marks), percent(tried)])
    return (
        heading("Which levels still tell something")
        + "<p>The suite goes up the levels of a task, and beyond those that it was trained on where there are any, "
        f"until no more than {EASY:.0%} of the answers at the largest budget are right. A level above {SATURATED:.0%}, "
        "or whose interval touches 100%, is saturated.</p>"
        f'<ul class="plain">{"".join(told)}</ul>' + table(["task", "", "accuracy"], rows, texts=2)
    )


def _all(source: Source, task: str) -> str:
    """Every figure, folded, with the file of the rollouts that it was counted from."""
    findings = source.findings
    errors = {scoring.budget: scoring.error for scoring in findings.scorings if scoring.task == task}
    rows = [
        [
            text(_words(s)),
            f"{s.tokens:,.0f}",
            percent(s),
            str(s.problems),
            f"{errors[s.budget]:.3f}" if s.method in ("best", "weighted") else "",
            f"<code>rollouts/step-{s.file:06d}.parquet</code>",
        ]
        for s in findings.spendings
        if s.task == task
    ]
    heads = ["answers", "tokens", "accuracy", "problems", "calibration error of the scorer", "rollouts"]
    summary = "All figures, and the rollouts that they are counted from"
    note = f'<p class="note">The rollouts are in <code>{text(str(source.path))}</code>.</p>'
    return f"<details><summary>{summary}</summary>{table(heads, rows)}{note}</details>"
