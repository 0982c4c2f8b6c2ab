"""The chapters of the page as Markdown, with its plots as pictures beside it.

What only a page can do is left out (`data-page`), and of the rollouts the first few are shown. No text of a model
becomes markup, as in the page.
"""

import re
from html import escape
from html.parser import HTMLParser

ARTICLES = 6
"""Rollouts that are shown."""
BLOCKS = {"p", "div", "header", "dt", "dd", "li", "h1", "h2", "h3"}
VOID = {"br", "input"}


def as_markdown(page: str, prefix: str) -> str:
    """`prefix`: what the names of the pictures begin with."""
    reader = _Reader(prefix)
    reader.feed(page)
    reader.close()
    return "\n\n".join(reader.blocks) + "\n"


class _Reader(HTMLParser):
    """Turns what the chapters are made of into blocks; it knows no other HTML."""

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self.blocks: list[str] = []
        self._prefix = prefix
        self._line: list[str] = []
        self._rows: list[list[str]] = []
        self._articles = 0
        self._skipped = 0
        """Depth within what is left out."""
        self._row = False
        """Behind a picture of the same group."""
        self._raw = False
        """Within code or preformatted text."""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self._articles += tag == "article"
        if self._skipped or "data-page" in given or (tag == "article" and self._articles > ARTICLES):
            self._skipped += tag not in VOID
        elif tag == "figure":
            self._picture(given["aria-label"] or "", f"{self._prefix}{given['data-picture']}")
            self._skipped = 1
        elif tag in BLOCKS:
            self._end_block()
            self._row = self._row and tag == "div" and "class" not in given
        elif tag in ("code", "pre"):
            if tag == "pre":
                self._end_block()
            self._raw = True
        elif tag == "tr":
            self._rows.append([])
        elif tag == "details":
            self.blocks.append("<details>")
        elif tag == "span" and not given:
            self._line.append(" · ")
        else:
            self._line.append({"b": "**", "small": " (", "br": " "}.get(tag, ""))

    def handle_endtag(self, tag: str) -> None:
        if self._skipped:
            self._skipped -= 1
        elif tag in ("code", "pre"):
            self._raw = False
            if tag == "pre":
                self._fence()
        elif tag in ("th", "td"):
            self._rows[-1].append(self._taken())
        elif tag == "table":
            heads, *rows = self._rows
            lines = [heads, ["---"] * len(heads), *rows]
            self.blocks.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
            self._rows = []
        elif tag == "summary":
            self.blocks[-1] += f"<summary>{self._taken()}</summary>"
        elif tag == "details":
            self.blocks.append("</details>")
        elif tag in BLOCKS:
            marks = {"h1": "# ", "h2": "## ", "h3": "### ", "li": "- ", "dt": "- **", "dd": "  "}
            self._end_block(marks.get(tag, ""), "**" if tag == "dt" else "")
        else:
            self._line.append({"b": "**", "small": ")"}.get(tag, ""))

    def handle_data(self, data: str) -> None:
        if self._skipped:
            return
        if self.lasttag == "code" and self._raw:
            data = data.replace("|", "\\|") if self._rows else data
            ticks = "``" if "`" in data else "`"
            self._line.append(f"{ticks}{data}{ticks}")
        else:
            self._line.append(data if self._raw else plain(data))

    def _picture(self, told: str, file: str) -> None:
        """Those of one group stand in rows of two."""
        shown = f'<img src="{file}" alt="{escape(told)}" width="48%">'
        if self._row:
            self.blocks[-1] += f" {shown}"
        else:
            self.blocks.append(shown)
        self._row = True

    def _taken(self) -> str:
        """The line so far, whose spaces and line breaks are one space each."""
        line = " ".join("".join(self._line).split())
        self._line = []
        return line.removeprefix("· ")

    def _end_block(self, before: str = "", after: str = "") -> None:
        line = self._taken()
        if line:
            self.blocks.append(f"{before}{line}{after}")

    def _fence(self) -> None:
        text = "".join(self._line)
        fence = "`" * (1 + max([2, *map(len, re.findall("`+", text))]))
        self.blocks.append(f"{fence}\n{text}\n{fence}")
        self._line = []


def plain(text: str) -> str:
    """Text that Markdown takes for nothing else."""
    return re.sub(r"([\\`*_\[\]|$~#])", r"\\\1", escape(text, quote=False))
