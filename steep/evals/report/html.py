"""HTML as text: tables, and numbers as people say them. Nothing that a model wrote is markup."""

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, Protocol

from steep.runs import duration, printable


class Figure(Protocol):
    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 1) -> str:
    """A table of HTML cells; the first `texts` columns are text, the others figures."""

    def line(tag: str, cells: Sequence[str]) -> str:
        kinds = [' class="text"' if place < texts else "" for place in range(len(cells))]
        return "<tr>" + "".join(f"<{tag}{k}>{c}</{tag}>" for k, c in zip(kinds, cells, strict=True)) + "</tr>"

    body = "".join(line("td", row) for row in rows)
    return f'<div class="scroll"><table><thead>{line("th", heads)}</thead><tbody>{body}</tbody></table></div>'


def heading(title: str) -> str:
    """The heading of a chapter, which the contents link to."""
    return f'<h2 id="{re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")}">{text(title)}</h2>'


def contents(page: str) -> str:
    """Links to the chapters of a page."""
    links = re.findall(r'<h2 id="(.*?)">(.*?)</h2>', page)
    return '<nav aria-label="contents">' + "".join(f'<a href="#{id}">{title}</a>' for id, title in links) + "</nav>"


def text(shown: str) -> str:
    """Any text as HTML that shows it: nothing in it is markup, and control characters are visible."""
    return escape(printable(shown))


def percent(figure: Figure) -> str:
    """A share with its interval below."""
    return f"{figure.value:.1%}<small>{100 * figure.low:.1f}–{100 * figure.high:.1f}</small>"


def machine_words(machine: Mapping[str, Any]) -> str:
    gpus = list(machine.get("gpus", ()))
    counted = [f"{gpus.count(gpu)} x {gpu}" for gpu in dict.fromkeys(gpus)]
    return ", ".join([machine["cpu"], f"{machine['cores']} cores", f"{machine['memory_gib']} GiB", *counted])


def time_words(seconds: float) -> str:
    """A duration that no line break parts."""
    return duration(seconds).replace(" ", "\u00a0")


def count_words(value: int) -> str:
    """A large number in words: "820 thousand", "1.24 million"."""
    for unit, word in ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (10**3, "thousand")):
        if value >= unit:
            return f"{value / unit:.3g} {word}"
    return str(value)
