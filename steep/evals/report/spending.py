"""The chapter on tokens: one longer thought, or many answers, and which of them to take."""

from collections.abc import Sequence

from steep.evals import plots
from steep.evals.findings import Findings, Method, Spending, best_ways
from steep.evals.levels import Choice
from steep.evals.plots import Curve, Point
from steep.evals.report.gallery import Gallery
from steep.evals.report.html import percent, table, text
from steep.evals.source import Source
from steep.runs import printable

MIDDLE = 0.4
"""Of one answer: where there is most room for several to be better."""
ALONE: dict[Method, str] = {
    "one": "one answer",
    "extended": "one answer, thought past its own end",
    "chunked": "one answer, thought in chunks",
}


def spending(sources: Sequence[Source], gallery: Gallery) -> str:
    parts = [
        _of_task(source, choice, gallery, len(sources) > 1) for source in sources for choice in source.findings.choices
    ]
    left_out = [f'<p class="note">{text(line)}</p>' for source in sources for line in source.findings.left_out]
    if not any(parts):
        return ""
    return (
        "<h2>The best way to spend a given number of tokens</h2><p>On the same held-out problems: one answer after an "
        "ever longer thought, or many answers, of which the one is taken that most of them give, that a scorer "
        "prefers, or that most give when each counts by its score. The scorer reads the model’s last hidden state, and "
        "was trained on other problems. Tokens are those of all answers to a problem together. Bands are 95% intervals "
        "over problems.</p>" + "".join([*parts, *left_out])
    )


def _of_task(source: Source, choice: Choice, gallery: Gallery, named: bool) -> str:
    spent = [s for s in source.findings.spendings if s.task == choice.task]
    if not spent:
        return ""
    title = f"{source.name}, {choice.words}" if named else choice.words
    shown = printable(choice.task)
    figure = plots.accuracy_by_tokens(_curves(spent), f"{shown}: tokens of all answers")
    drawn = gallery.show(f"tokens-{choice.task}", figure, f"{shown}: accuracy against tokens, by how they are spent")
    rows = [
        [f"{way.tokens:,}", _words(way.best), percent(way.best), percent(way.alone) if way.alone else ""]
        for way in best_ways(spent)
    ]
    best = table(["tokens at most", "best spent on", "accuracy", "one answer alone"], rows, texts=2)
    folded = _levels(choice) + _all(source.findings, choice.task)
    return f'<h3>{text(title)}</h3><div class="pair">{drawn}{best}</div>{folded}'


def _curves(spent: Sequence[Spending]) -> list[Curve]:
    """One answer at every budget, and many at the budget where they help most and at the largest."""
    ones = [s for s in spent if s.method == "one"]
    middle = min(ones, key=lambda s: (s.budget == 0, abs(s.value - MIDDLE)))
    budgets = dict.fromkeys([middle.budget, max(s.budget for s in ones)])
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
        "majority": f"the majority of {s.samples}",
        "best": f"the scorer’s choice of {s.samples}",
        "weighted": f"the majority of {s.samples}, weighted by the scorer",
        "any": f"any of {s.samples}",
    }
    return f"{several[s.method]}, {thought}"


def _levels(choice: Choice) -> str:
    rows = [[str(t.level), percent(t), "saturated" if t.saturated else ""] for t in choice.tried]
    return f"<details><summary>The levels that were tried</summary>{table(['level', 'accuracy', ''], rows)}</details>"


def _all(findings: Findings, task: str) -> str:
    """Every figure, folded, with the file of the rollouts that it was counted from."""
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
    return f"<details><summary>{summary}</summary>{table(heads, rows)}</details>"
