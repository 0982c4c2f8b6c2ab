"""Errors that a user can mend. Anything else that is raised is a bug and keeps its traceback."""

import shlex
import sys
from pathlib import Path

PIP = f"{shlex.quote(sys.executable)} -m pip install"
"""Into the Python that runs this."""


def to_install(extra: str) -> str:
    """The command that adds an optional part."""
    return f"{PIP} 'steep[{extra}]'"


class SteepError(Exception):
    """A user's mistake or a limit of the machine: the command line prints it and exits 2, with no traceback.

    `message` says what is wrong, `fix` what to do about it.
    """

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(f"{message}\n  {fix}" if fix else message)
        self.message = message
        self.fix = fix


class ConfigError(SteepError):
    """A recipe or an override that cannot be used."""


class ModelError(SteepError):
    """A model directory that cannot be read, or whose parts disagree."""


class UnknownFamilyError(ModelError):
    """A model of a family, or with an option, that steep does not compute itself."""


class CheckpointError(SteepError):
    """No whole checkpoint where one is needed."""


class FullDiskError(SteepError):
    """A disk, or a quota, has no room for something; what is on it already is as it was before."""

    def __init__(self, message: str, path: Path, needed: int) -> None:
        super().__init__(message, "free some space; a run then goes on with `steep resume RUN`")
        self.path, self.needed = path, needed
        """What could not be written, and how many bytes it takes."""


class PausedError(SteepError):
    """A rule of health stopped the run, which can be resumed."""
