"""The numbers of a log, kept column by column, read on as the log grows, and thinned for a plot."""

import io
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import json as arrow_json

from steep.errors import SteepError
from steep.evals.plots import SMOOTHED_FROM, running_mean
from steep.runs.files import Tail

BLOCK_BYTES = 1 << 24  # read at once; a line must fit
NOT_FINITE = (b'"NaN"', b'"Infinity"', b'"-Infinity"')
"""As logs write them; to a plot they are gaps."""
DIGITS = 5  # significant ones, sent to a page


@dataclass(frozen=True, kw_only=True)
class Thinned:
    """A metric over the steps; where there are more than were asked for, a bucket of them stands at its first."""

    steps: list[int]
    low: list[float]
    """The least value of the bucket; for a measured share the lower end of its interval."""
    high: list[float]
    smooth: list[float]
    """A running mean over a twentieth of the values; for a few, the values."""


class Columns:
    """The numbers of one log."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        self._tail = Tail(path)
        self._rows = 0
        self._columns: dict[str, NDArray[np.float64]] = {}

    def names(self) -> list[str]:
        """Of the metrics, in the order in which they first occur."""
        with self._lock:
            self._read_on()
            return [name for name in self._columns if name != "step"]

    def thinned(self, name: str, points: int, first: int | None = None, last: int | None = None) -> Thinned:
        """At most `points` buckets of a metric, over all steps or those from `first` to `last`."""
        with self._lock:
            self._read_on()
            columns = self._columns
        if name not in columns:
            return Thinned(steps=[], low=[], high=[], smooth=[])
        steps_N, values_N = columns["step"], columns[name]
        low_N, high_N = columns.get(f"{name}_low", values_N), columns.get(f"{name}_high", values_N)
        start = [columns.get(f"start/{name}{end}", np.empty(0)) for end in ("", "_low", "_high")]
        if start[0].size and np.isfinite(start[0][0]):  # measured before the first step
            steps_N = np.concatenate([steps_N[:1] - 1, steps_N])
            values_N, low_N, high_N = (
                np.concatenate([before[:1], after])
                for before, after in zip(start, (values_N, low_N, high_N), strict=True)
            )
        kept = np.isfinite(values_N)
        kept &= (steps_N >= (-np.inf if first is None else first)) & (steps_N <= (np.inf if last is None else last))
        return thin(steps_N[kept], values_N[kept], low_N[kept], high_N[kept], points)

    def _read_on(self) -> None:
        lines, anew, tail = self._tail.read()
        if anew:
            self._rows, self._columns = 0, {}
        if lines:
            self._append(lines)
        self._tail = tail

    def _append(self, lines: bytes) -> None:
        for name in NOT_FINITE:
            lines = lines.replace(name, b"null")
        options = arrow_json.ReadOptions(use_threads=False, block_size=BLOCK_BYTES)
        try:
            table = arrow_json.read_json(io.BytesIO(lines), read_options=options)
        except pa.ArrowInvalid as error:
            raise SteepError(f"{self._path} has a damaged line: {error}", "restore it from a copy") from None
        new = {
            name: table[name].cast(pa.float64(), safe=False).to_numpy().astype(np.float64)
            for name in table.column_names
            if pa.types.is_integer(table[name].type) or pa.types.is_floating(table[name].type)
        }
        self._columns = {
            name: np.concatenate(
                [self._columns.get(name, np.full(self._rows, np.nan)), new.get(name, np.full(len(table), np.nan))]
            )
            for name in self._columns | new
        }
        self._rows += len(table)


def thin(
    steps_N: NDArray[np.float64],
    values_N: NDArray[np.float64],
    low_N: NDArray[np.float64],
    high_N: NDArray[np.float64],
    points: int,
) -> Thinned:
    """At most `points` buckets with as many values each, none of whose extremes is lost."""
    smooth_N = running_mean(values_N, len(values_N) // 20 if len(values_N) >= SMOOTHED_FROM else 1)
    if len(steps_N) > points:
        at = np.linspace(0, len(steps_N), points, endpoint=False, dtype=np.int64)
        low_N, high_N = np.minimum.reduceat(low_N, at), np.maximum.reduceat(high_N, at)
        steps_N, smooth_N = steps_N[at], smooth_N[np.append(at[1:], len(smooth_N)) - 1]
    return Thinned(
        steps=steps_N.astype(np.int64).tolist(), low=_short(low_N), high=_short(high_N), smooth=_short(smooth_N)
    )


def _short(values: NDArray[np.float64]) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values]
