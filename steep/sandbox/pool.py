"""A few workers, started when first needed, that run checks under a limit of time and memory.

    shared().call("steep.tasks.symbolic:same", "1/2", "0.5", limit_s=2.0)

What is limited is accident, not malice: a check that hangs, crashes or eats memory takes its worker with it and nothing
else. It may still read files and use the network. No signal is used, so any thread may call.

A check that may execute what a model wrote is run by `shared(isolated=True)`, whose workers can do less
(`isolation.py`).
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from multiprocessing import Pipe
from typing import Any

import psutil

WORKERS = 2
MEMORY_MB = 1024
READY_S = 60.0
"""For a worker to start and to load a check: imports take seconds on a busy machine."""
KINDS = ("plain", "isolated")
SETTINGS = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""The same results in every worker; and one thread, for only a program of one thread can isolate itself."""
LOOK_S = 0.05
"""Between two looks at the memory of a worker."""


class CheckError(Exception):
    """A check that came to no result: why. It says nothing about what was checked."""


class WorkerLostError(Exception):
    """A worker that did not reply. `again` says whether another one might."""

    def __init__(self, reason: str, again: bool = True) -> None:
        super().__init__(reason)
        self.again = again


class Sandbox:
    """Runs up to `workers` checks at a time; who comes when all are busy waits."""

    def __init__(self, workers: int = WORKERS, memory_mb: int = MEMORY_MB, isolated: bool = False) -> None:
        self.memory_mb, self.isolated = memory_mb, isolated
        self._free = threading.Semaphore(workers)
        self._lock = threading.Lock()
        self._idle: list[Worker] = []
        self._busy: set[Worker] = set()
        self._closed = False

    def call(self, function: str, *arguments: Any, limit_s: float = 2.0, prepare: Sequence[Any] = ()) -> Any:
        """What `function`, named "package.module:function", returns for the arguments; all are JSON values.

        `prepare` is another function and its arguments, called first and outside of the limits: to load a file, say.
        If the worker is lost the check is tried once more, for it may not have been its fault. Only a check that kept
        the processor busy for all of its time is not: it would again. Raises CheckError.
        """
        request = {"function": function, "arguments": arguments, "prepare": prepare, "limit_s": limit_s}
        with self._free:
            try:
                return self._once(request)
            except WorkerLostError as lost:
                if not lost.again:
                    raise CheckError(str(lost)) from None
            try:
                return self._once(request)
            except WorkerLostError as lost:
                raise CheckError(f"{lost}, twice") from None

    def close(self) -> None:
        """Kill all workers. Checks under way raise."""
        with self._lock:
            self._closed = True
            for worker in (*self._idle, *self._busy):
                worker.kill()
            self._idle.clear()

    def _once(self, request: dict[str, Any]) -> Any:
        with self._lock:
            if self._closed:
                raise CheckError("the sandbox is closed")
            worker = self._idle.pop() if self._idle else Worker(self.isolated)
            self._busy.add(worker)
        kept = False
        try:
            reply = worker.run({**request, "memory_mb": self.memory_mb})
            kept = "spent" not in reply
        finally:
            with self._lock:
                self._busy.remove(worker)
                if kept and not self._closed:
                    self._idle.append(worker)
                else:
                    worker.kill()
        if "error" in reply:
            raise CheckError(reply["error"])
        return reply["value"]


class Worker:
    """One process (`worker.py`) and the pipe to it."""

    def __init__(self, isolated: bool) -> None:
        self.connection, theirs = Pipe()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "steep.sandbox.worker", str(theirs.fileno()), KINDS[isolated]],
                env=os.environ | SETTINGS | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
                cwd="/" if isolated else None,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for whoever asks; and what a check starts is killed with it
            )

    def run(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply. Raises WorkerLostError, after which the worker must be killed."""
        try:
            self.connection.send_bytes(json.dumps(request).encode())
            if not self.connection.poll(READY_S):
                raise WorkerLostError(f"it was not ready after {READY_S:g} s")
            reply = self.connection.recv_bytes()
            if reply == b"ready":
                self._watch(request["limit_s"], request["memory_mb"])
                reply = self.connection.recv_bytes()
        except (EOFError, OSError, psutil.Error):
            raise WorkerLostError("it ended its process") from None
        result: dict[str, Any] = json.loads(reply)
        return result

    def kill(self) -> None:
        """And what it has started, which may outlive it. Until it is waited for, its number is no other's."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):  # nobody is left, or only what is to be waited for
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.connection.close()

    def _watch(self, limit_s: float, memory_mb: int) -> None:
        """Return when there is something to read; raise when the time is up or too much memory is taken.

        The worker limits its own memory as well, which costs nothing and comes at once, but not every system heeds it.
        """
        process = psutil.Process(self.process.pid)
        began, worked, held = time.monotonic(), _cpu_s(process), process.memory_info().rss
        while not self.connection.poll(LOOK_S):
            if process.memory_info().rss > held + (memory_mb << 20):
                raise WorkerLostError(f"it needs more than {memory_mb} MB", again=False)
            if time.monotonic() - began > limit_s:
                busy = _cpu_s(process) - worked > 0.7 * limit_s
                raise WorkerLostError(f"it took more than {limit_s:g} s", again=not busy)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


@cache
def shared(isolated: bool = False) -> Sandbox:
    """The one sandbox of this process, of either kind."""
    sandbox = Sandbox(isolated=isolated)
    atexit.register(sandbox.close)
    return sandbox
