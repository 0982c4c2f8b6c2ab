"""The chapter of rollouts to read, with filters."""

from collections.abc import Iterable, Sequence

from steep.evals.reading import Reading, Span, Survey, readings
from steep.evals.report.html import heading, text
from steep.evals.source import Source

READINGS = 60
FOLDED_FROM = 500  # characters of a thought


def to_read(sources: Sequence[Source], surveys: Sequence[Survey]) -> str:
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
        heading("Rollouts to read") + "<p>Of each kind a few, not the best. "
        "<mark>Marked</mark> tokens were not chosen by the model: its budget had run out. A step of a thought may be "
        '<mark class="wrong">wrong</mark>, <mark class="mended">wrong and mended later</mark>, or '
        '<mark class="mending">what mends one</mark>.</p><div class="bar" data-page>'
        + "".join(filters)
        + "</div>"
        + "\n".join(_article(reading) for reading in chosen)
    )


def _select(name: str, every: str, values: Iterable[str]) -> str:
    """A filter; none where there is nothing to choose."""
    distinct = list(dict.fromkeys(values))
    options = "".join(f'<option value="{text(v)}">{text(v)}</option>' for v in distinct)
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
    attributes = "".join(f' data-{name}="{text(value)}"' for name, value in data.items())
    look = {"correct": "yes", "wrong": "no"}.get(reading.verdict, "")
    reason = f": {text(reading.reason)}" if reading.reason else ""
    budget = "no budget" if reading.budget is None else f"budget {reading.budget}"
    said = [
        f'<span class="verdict {look}">{text(reading.verdict)}</span>{reason}',
        f"{text(reading.task)}, level {reading.level}",
        f"{budget}, {reading.thought_tokens} used{', cut' if reading.interrupted and reading.budget else ''}",
        text(f"{reading.model}, {reading.origin}" if reading.model not in reading.origin else reading.origin),
    ]
    length = sum(len(span.text) for span in reading.thought)
    opened = "" if length >= FOLDED_FROM else " open"
    return (
        f"<article{attributes}><header>{''.join(f'<span>{part}</span>' for part in said)}</header>"
        f'<div class="prompt">{text(reading.prompt)}</div>'
        f"<details{opened}><summary>thought</summary><pre>{_spans(reading.thought)}</pre></details>"
        f'<div class="answer">{_spans(reading.answer)}</div></article>'
    )


def _spans(spans: Iterable[Span]) -> str:
    parts = []
    for span in spans:
        shown = text(span.text)
        shown = f'<span class="control">{shown}</span>' if span.control else shown
        shown = f'<mark title="forced by the budget">{shown}</mark>' if span.forced else shown
        parts.append(f'<mark class="{span.slip}">{shown}</mark>' if span.slip else shown)
    return "".join(parts)
