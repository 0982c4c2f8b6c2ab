"""Ctrl-C as a request: the loop finishes its step, saves, and then stops. A second Ctrl-C stops at once.

Health asks in the same way.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Self

PARENT = "STEEP_PARENT"
"""The variable in which a study tells its arms which process they are to end with."""
PR_SET_PDEATHSIG = 1  # of Linux' prctl: the signal to send to this process when its parent is gone


def stop_with_parent() -> None:
    """As Ctrl-C does, ask this process to stop when the study that it is an arm of is killed; on Linux only."""
    parent = os.environ.pop(PARENT, None)
    if parent is not None and sys.platform == "linux":
        signal.signal(signal.SIGHUP, _orphaned)
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGHUP)
        if os.getppid() != int(parent):
            raise KeyboardInterrupt


def _orphaned(number: int, frame: FrameType | None) -> None:
    """Ask once: the parent's threads end one after another, and the end of each is told, even while this runs."""
    if signal.signal(signal.SIGHUP, signal.SIG_IGN) is _orphaned:
        signal.raise_signal(signal.SIGINT)


class Stopping:
    """While entered, SIGINT and SIGTERM set `asked`; the loop looks at it after each step.

    with Stopping() as stopping:
        for step in ...:
            ...
            if stopping.asked:
                save()
                raise stopping.reason
    """

    def __init__(self) -> None:
        self.asked = False
        self.reason: BaseException = KeyboardInterrupt()

    def stop(self, reason: Exception) -> None:
        """Ask for it from within the loop."""
        self.asked, self.reason = True, reason

    def sleep(self, seconds: float) -> None:
        """Wait; where Ctrl-C was pressed there is nothing to wait for."""
        if self.asked and isinstance(self.reason, KeyboardInterrupt):
            raise self.reason
        time.sleep(seconds)

    def __enter__(self) -> Self:
        self._before = {}
        if threading.current_thread() is threading.main_thread():  # signals cannot be handled elsewhere
            self._before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
