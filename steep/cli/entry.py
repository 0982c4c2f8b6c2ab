"""From the words of a command line to an exit code.

0: done; 1: `doctor` found a problem; 2: the user or the machine has something to mend, told without a traceback;
130: stopped by Ctrl-C. STEEP_DEBUG=1 shows tracebacks.
"""

import errno
import importlib
import json
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

from steep.cli.arguments import parse
from steep.errors import SteepError

STOPPED = 130
"""128 + SIGINT, as shells have it."""
FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
NO_SUCH_PLACE = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOENT, errno.ENAMETOOLONG)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; what `steep` on a terminal calls."""
    # Before torch is loaded: threads that wait by spinning for long lose a factor of ten where another program wants a
    # core, and threads that never spin a fifth where none does.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    debug = os.environ.get("STEEP_DEBUG") == "1"
    words = sys.argv[1:] if argv is None else argv
    try:
        code = dispatch(words)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever was reading has gone, which is no mistake: `steep runs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (SteepError, OSError, KeyboardInterrupt) as error:
        told = explain(error, words)
        if debug or told is None:
            raise
        print(told, file=sys.stderr)
        return STOPPED if isinstance(error, KeyboardInterrupt) else 2
    return code


def dispatch(words: Sequence[str]) -> int:
    """Import the command's module, which may be slow, and run it. With --json all it prints goes to stderr."""
    args = parse(words)
    command = importlib.import_module(f"steep.cli.{args.command}")
    with redirect_stdout(sys.stderr) if args.json else nullcontext():
        outcome = command.run(args)
    if args.json:
        print(json.dumps(outcome.json()))
    return int(outcome.exit_code)


def explain(error: BaseException, words: Sequence[str]) -> str | None:
    """What to tell about an error that is not a bug; None for one that is.

    A path that cannot be is the user's where the words of the command line name it, something in it or above it.
    """
    if isinstance(error, SteepError):
        return f"steep: {error}"
    if isinstance(error, KeyboardInterrupt):
        return "steep: stopped"
    assert isinstance(error, OSError)
    if error.errno in FULL:
        return f"steep: the disk is full: {error.filename or 'a file'} could not be written\n  free some space"
    if error.errno in FORBIDDEN:
        return f"steep: {error.filename or 'a file'}: {error.strerror}\n  choose another place, or mend its permissions"
    named = {Path(word.partition("=")[2] if word.startswith("-") else word) for word in words}
    if error.errno in NO_SUCH_PLACE and error.filename is not None:
        path = Path(os.fsdecode(error.filename))
        near = {path, Path(path.name), *path.parents} - {Path()}
        beside = path.parent if path.parent != Path() else None
        if named & near or any(path in name.parents or name.parent == beside for name in named):
            return f"steep: {path}: {error.strerror}\n  choose another path"
    return None
