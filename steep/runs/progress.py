"""The one progress display: a live bar on a terminal, a plain line every few seconds elsewhere.

It runs no thread, prints model text with control characters escaped, and gives up quietly when the stream that it
writes to is gone: a run does not die with its terminal.
"""

import math
import time
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

PLAIN_EVERY_S = 10.0
DRAW_EVERY_S = 0.2
SAMPLE_EVERY_S = 30.0
SAMPLE_CHARS = 600
RATE_HALF_LIFE_S = 60.0
"""How fast old steps lose their say in the rate."""
BAR_WIDTH = 30


class Progress:
    """Progress of a loop of `total` steps (None: not known), `start` of which were done before.

    with Progress(100, "rl") as progress:
        progress.update(step + 1, {"reward": 0.41, "thought": 182, "tokens/s": 5100})
    """

    def __init__(
        self,
        total: int | None,
        title: str,
        *,
        start: int = 0,
        rated: bool = True,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`rated`: whether steps are alike, so that rate and time left say something. `console` is where to print, by
        default standard output; `clock` tells seconds."""
        self._total, self._title, self._done, self._rated = total, title, start, rated
        self._metrics: Mapping[str, float | int | str] = {}
        self._below: Sequence[str] = ()
        self._clock = clock
        self._console = console or Console()
        self._on_terminal = self._console.is_terminal and not self._console.is_dumb_terminal
        self._lost = False
        """Whether there is nobody to show anything to any more."""
        self._rate = _Rate()
        self._last_update = clock()
        self._last_drawn = self._last_sample = -math.inf
        self._shown = start
        """The number of steps that the last plain line told."""
        self._live = Live(console=self._console, get_renderable=self._render, auto_refresh=False)

    def __enter__(self) -> Self:
        self._last_update = self._clock()
        if self._on_terminal:
            self._try(lambda: self._live.start(refresh=True))
        else:
            self._last_drawn = self._last_update
            self._print(self._plain_line())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._on_terminal:
            self._try(self._live.stop)
        elif self._shown != self._done:
            self._print(self._plain_line())

    def update(
        self, done: int, metrics: Mapping[str, float | int | str] | None = None, below: Sequence[str] = ()
    ) -> None:
        """`done` steps are done, and these are the metrics of the last one. `below` are lines for a terminal only."""
        now = self._clock()
        self._rate.add(done - self._done, now - self._last_update)
        self._done, self._last_update = done, now
        self._metrics, self._below = metrics or {}, below
        due = now - self._last_drawn >= (DRAW_EVERY_S if self._on_terminal else PLAIN_EVERY_S)
        if not due and done != self._total:
            return
        self._last_drawn = now
        if self._on_terminal:
            self._try(self._live.refresh)
        elif self._shown != done:
            self._shown = done
            self._print(self._plain_line())

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._print(text)

    def sample(self, text: str) -> None:
        """Show what a model wrote, dimmed, if some time has passed since the last sample."""
        now = self._clock()
        if now - self._last_sample >= SAMPLE_EVERY_S:
            self._last_sample = now
            short = text if len(text) <= SAMPLE_CHARS else text[:SAMPLE_CHARS] + " ..."
            self._print("\n".join("  | " + line for line in short.split("\n")), style="dim")

    def _print(self, text: str, style: str = "") -> None:
        text = printable(text, self._console.encoding)
        if self._on_terminal:
            self._try(lambda: self._console.print(Text(text, style=style)))
        else:  # written past rich, which would wrap lines at the width of a terminal that is not there
            self._try(lambda: (self._console.file.write(text + "\n"), self._console.file.flush()))

    def _try(self, show: Callable[[], object]) -> None:
        if self._lost:
            return
        try:
            show()
        except (OSError, ValueError) as error:  # the pipe was closed, the terminal hung up, the file was closed
            if isinstance(error, ValueError) and not self._console.file.closed:
                raise
            self._lost = True
            with suppress(OSError, ValueError):
                self._live.stop()

    def _render(self) -> Group:
        width, encoding = self._console.width, self._console.encoding
        head, tail = f"{self._title} ", " ".join(self._position())
        room = min(width - len(head) - len(tail) - 1, BAR_WIDTH)
        if self._total and room >= 5:
            filled = min(room * self._done // self._total, room)
            full, empty = ("━", "─") if encoding.startswith("utf") else ("#", "-")
            head += full * filled + empty * (room - filled) + " "
        metrics = "  ".join(self._shown_metrics())
        lines = [head + tail, *([metrics] if metrics or not self._below else []), *self._below]
        return Group(*(Text(printable(line, encoding), no_wrap=True, overflow="crop") for line in lines))

    def _plain_line(self) -> str:
        metrics = self._shown_metrics()
        return f"{self._title}: {', '.join(self._position())}" + (f" | {', '.join(metrics)}" if metrics else "")

    def _position(self) -> list[str]:
        """Steps done, rate and time left."""
        parts = [f"{self._done}/{self._total}" if self._total is not None else f"{self._done}"]
        rate = self._rate.per_second
        if rate and self._rated:
            parts.append(f"{number(rate)}/s" if rate >= 1 else f"{number(1 / rate)} s each")
            if self._total is not None and self._done < self._total:
                parts.append(f"{duration((self._total - self._done) / rate)} left")
        return parts

    def _shown_metrics(self) -> list[str]:
        return [f"{name} {value if isinstance(value, str) else number(value)}" for name, value in self._metrics.items()]


class _Rate:
    """Steps a second, as a mean that forgets."""

    def __init__(self) -> None:
        self._steps = self._seconds = 0.0

    def add(self, steps: int, seconds: float) -> None:
        kept = 0.5 ** (seconds / RATE_HALF_LIFE_S)
        self._steps = self._steps * kept + steps
        self._seconds = self._seconds * kept + seconds

    @property
    def per_second(self) -> float | None:
        return self._steps / self._seconds if self._steps > 0 and self._seconds > 0 else None


def printable(text: str, encoding: str = "utf-8") -> str:
    r"""`text` with everything that a terminal might obey, or that `encoding` lacks, written as an escape like \x1b.

    Line breaks stay.
    """
    escaped = "".join(
        char.encode("unicode_escape").decode()
        if char != "\n" and unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        else char
        for char in text
    )
    return escaped.encode(encoding, "backslashreplace").decode(encoding)


def number(value: float) -> str:
    """A number in few characters: 0.0123, 0.412, 41.2, 412, 41,234."""
    if isinstance(value, int) or not math.isfinite(value) or abs(value) >= 100:
        return f"{value:,.0f}" if math.isfinite(value) else str(value)
    return f"{value:.3g}"


def amount(count: int) -> str:
    """Bytes as "312 B", "4.5 kB", "12.3 MB" or "1.2 GB"."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{number(count / scale)} {unit}"
    return f"{count} B"


def duration(seconds: float) -> str:
    """A time as "45 s", "3 min 20 s", "1 h 02 min" or "2 d 5 h"."""
    s = round(seconds)
    if s < 60:
        return f"{s} s"
    if s < 3600:
        return f"{s // 60} min {s % 60:02d} s"
    if s < 86400:
        return f"{s // 3600} h {s % 3600 // 60:02d} min"
    return f"{s // 86400} d {s % 86400 // 3600} h"
