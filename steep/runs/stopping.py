"""Ctrl-C as a request: the loop finishes its step, saves, and then stops. A second Ctrl-C stops at once.

Health asks in the same way.
"""

import signal
import threading
from types import FrameType, TracebackType
from typing import Self


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
