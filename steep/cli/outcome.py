"""What a command hands back, and how it prints."""

import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from steep.runs import printable
from steep.runs.files import plain


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    value: Any
    """What --json prints: dataclasses, mappings, sequences, paths and scalars."""
    exit_code: int = 0

    def json(self) -> Any:
        return plain(_without_classes(self.value))


class Output(Console):
    """Standard output. When nobody reads it any more it falls silent: a run does not die with its terminal."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def say(self, text: str, style: str = "", end: str = "\n") -> None:
        """Print text as it is: no markup, no wrapping, nothing that a terminal would obey."""
        self.print(Text(printable(text, self.encoding), style=style), end=end, soft_wrap=True)

    def tell_table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], numeric: Sequence[str] = ()) -> None:
        """Print a table; the columns named in `numeric` are set flush right."""
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for column in columns:
            right = column in numeric
            table.add_column(column, header_style="bold", justify="right" if right else "left", no_wrap=right)
        for row in rows:
            table.add_row(*(Text(printable(str(cell), self.encoding)) for cell in row))
        self.print(table)


def _without_classes(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _without_classes(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _without_classes(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_classes(item) for item in value]
    return str(value) if isinstance(value, Path) else value
