"""The process that runs checks: one after another, until its pipe is closed. `pool.py` starts it.

It is a process of its own program, not a fork: it loads neither torch nor the main module of whoever started it, and
it holds none of their locks. Requests and replies are JSON, so that nothing a check returns is run by who asked.
"""

import faulthandler
import importlib
import json
import resource
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import psutil

from steep.sandbox.isolation import isolate

GRACE_S = 2.0
"""How long after the limit the worker ends itself, should whoever asked not have killed it by then."""


def main() -> None:
    connection = Connection(int(sys.argv[1]))
    while True:
        try:
            request = json.loads(connection.recv_bytes())
        except EOFError:
            return
        connection.send_bytes(reply_to(connection, **request))


def reply_to(
    connection: Connection, function: str, arguments: list[Any], prepare: list[Any], limit_s: float, memory_mb: int
) -> bytes:
    """`{"value": ...}` or `{"error": ...}`. Before it is timed, the check is got ready, and that is told."""
    try:
        check = find(function)
        if prepare:
            find(prepare[0])(*prepare[1:])
        if sys.argv[2] == "isolated":  # for good; what was just loaded may have kept something on disk
            isolate()
        connection.send_bytes(b"ready")
        faulthandler.dump_traceback_later(limit_s + GRACE_S, exit=True)  # a thread of its own: no signal, no GIL
        allow(memory_mb)
        try:
            value = check(*arguments)
        finally:
            allow(None)
            faulthandler.cancel_dump_traceback_later()
        return json.dumps({"value": value}).encode()
    except MemoryError:
        return json.dumps({"error": f"it needs more than {memory_mb} MB", "spent": True}).encode()
    except (Exception, SystemExit) as error:
        return json.dumps({"error": f"{type(error).__name__}: {error}"}).encode()


def find(name: str) -> Callable[..., Any]:
    """The function that "package.module:function" names."""
    module, _, attribute = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return found


def allow(memory_mb: int | None) -> None:
    """Let the process take so much more memory than it has; None: as much as it likes."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = hard if memory_mb is None else psutil.Process().memory_info().vms + (memory_mb << 20)
    resource.setrlimit(resource.RLIMIT_AS, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


if __name__ == "__main__":
    main()
