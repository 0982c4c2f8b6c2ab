"""What an isolated worker gives up for good, as far as its system lets a program do so without root.

| it may not                     | by                                                   | where                  |
| ------------------------------ | ---------------------------------------------------- | ---------------------- |
| put a byte into a file         | a file size limit of 0                               | any Unix               |
| make, change or delete files   | a mount namespace, all of it read-only, and Landlock | Linux 5.12, Linux 5.13 |
| reach the network              | a network namespace of its own                       | Linux                  |
| start a program, signal others | Landlock                                             | Linux 5.13, Linux 6.12 |

It may still read what its user may read, fork, and speak to a server on this machine over a socket that is a file. Some
systems, and some containers, allow no namespaces; `isolate` says what is then missing. Landlock needs no right and no
library: https://docs.kernel.org/userspace-api/landlock.html has its numbers.
"""

import ctypes
import resource
import struct
import sys
from functools import cache

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x20000, 0x10000000, 0x40000000
MOUNT_SETATTR, LANDLOCK_CREATE_RULESET, LANDLOCK_RESTRICT_SELF = 442, 444, 446
"""System calls for which the C library has no function; their numbers are the same on every processor."""
AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = -100, 0x8000, 1
PR_SET_NO_NEW_PRIVS = 38
LANDLOCK_VERSION = 1
READING = 0b1100
"""Of Landlock's rights over files: to read files and directories, which stay."""
RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
"""How many rights over files there are, by the version of Landlock; later versions have 16."""
TCP, OUTSIDE = 0b11, 0b11
"""To bind and to connect, from version 4 on; signals and abstract sockets, from version 6 on."""


@cache
def isolate() -> list[str]:
    """Give up writing files and the network; says which of them could not be. The program must have one thread only."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if sys.platform != "linux":
        return ["files", "network"]
    libc = ctypes.CDLL(None)
    alone = libc.unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET) == 0
    held = alone and _read_only(libc)
    held = _landlocked(libc) or held
    return [*([] if held else ["files"]), *([] if alone else ["network"])]


def _read_only(libc: ctypes.CDLL) -> bool:
    attributes = struct.pack("=4Q", MOUNT_ATTR_RDONLY, 0, 0, 0)
    return _called(libc, MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, attributes, len(attributes)) == 0


def _landlocked(libc: ctypes.CDLL) -> bool:
    """Allow nothing of what Landlock can forbid, but reading."""
    version = _called(libc, LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_VERSION)
    if version < 1:
        return False
    files = (1 << RIGHTS.get(version, 16)) - 1 & ~READING
    forbidden = [files, *([TCP] if version >= 4 else []), *([OUTSIDE] if version >= 6 else [])]
    ruleset = struct.pack(f"={len(forbidden)}Q", *forbidden)
    rules = _called(libc, LANDLOCK_CREATE_RULESET, ruleset, len(ruleset), 0)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return _called(libc, LANDLOCK_RESTRICT_SELF, rules, 0) == 0


def _called(libc: ctypes.CDLL, number: int, *arguments: int | bytes | None) -> int:
    """What a system call returns; -1 where the system does not know it or forbids it."""
    wide = (ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments)
    result: int = libc.syscall(ctypes.c_long(number), *wide)
    return result
