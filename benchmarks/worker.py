"""A side of a benchmark is a process that answers calls, one JSON object a line, and is stopped between them.

`Channel` and `serve` are the inner end: they need Python alone, for they also run where steep is not installed. `Side`
is the outer end. A side that is not asked is halted by SIGSTOP with all its children, so it cannot take time from the
one that is measured.
"""

import atexit
import contextlib
import importlib.metadata
import json
import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
TIMEOUT_S = 1200  # for one call


class Channel:
    """Calls come on standard input, answers go to what was standard output; what libraries print goes to stderr."""

    def __init__(self) -> None:
        self.answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def read(self) -> dict[str, Any] | None:
        line = sys.stdin.readline()
        return json.loads(line) if line else None

    def answer(self, values: Mapping[str, Any]) -> None:
        self.answers.write(json.dumps(values) + "\n")
        self.answers.flush()


def serve(channel: Channel, functions: Mapping[str, Callable[..., Mapping[str, Any] | None]]) -> None:
    """Answer calls until the input ends. What a function raises is an answer too."""
    known = {"versions": versions, **functions}
    while (request := channel.read()) is not None:
        try:
            answer = known[request.pop("call")](**request) or {}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        channel.answer(answer)


def versions(packages: Sequence[str]) -> dict[str, str]:
    return {package: importlib.metadata.version(package) for package in packages}


class SideError(Exception):
    """A side could not do what it was asked."""


class Side:
    """A worker process, in a session of its own with whatever it starts."""

    def __init__(
        self, module: str, python: Path, log: Path, threads: int, environment: Mapping[str, str] | None = None
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        self.log = log.open("w")
        self.process = subprocess.Popen(
            [str(python), "-m", module],
            cwd=ROOT,
            env=os.environ | offline | {"OMP_NUM_THREADS": str(threads)} | dict(environment or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            start_new_session=True,
        )
        self.read = b""
        self.loaded: dict[str, Any] = {}
        """What it answered when it was loaded."""
        atexit.register(self.close)  # a halted process would outlive us

    def load(self, **arguments: Any) -> None:
        self.loaded = self.call("load", **arguments)

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """For what is asked of the side by another way than a call."""
        self._signal(signal.SIGCONT)
        yield
        self._signal(signal.SIGSTOP)

    def call(self, name: str, **arguments: Any) -> dict[str, Any]:
        self._signal(signal.SIGCONT)
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"call": name, **arguments}).encode() + b"\n")
            self.process.stdin.flush()
            answer: dict[str, Any] = json.loads(self._line())
        except BrokenPipeError:
            raise SideError(f"ended with code {self.process.wait()}, see {self.log.name}") from None
        self._signal(signal.SIGSTOP)
        if "error" in answer:
            raise SideError(answer["error"])
        return answer

    def close(self) -> None:
        if self.log.closed:
            return
        self._signal(signal.SIGKILL)
        self.process.wait()
        self.log.close()

    def _line(self) -> bytes:
        assert self.process.stdout is not None
        handle = self.process.stdout.fileno()
        while b"\n" not in self.read:
            if not select.select([handle], [], [], TIMEOUT_S)[0]:
                raise SideError(f"no answer within {TIMEOUT_S} s")
            piece = os.read(handle, 1 << 16)
            if not piece:
                raise SideError(f"ended with code {self.process.wait()}, see {self.log.name}")
            self.read += piece
        line, _, self.read = self.read.partition(b"\n")
        return line

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)
