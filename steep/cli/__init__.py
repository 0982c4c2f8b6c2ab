"""The command line: `steep train`, `steep chat` and the rest, a file each."""

from steep.cli.entry import main

__all__ = ["main"]
