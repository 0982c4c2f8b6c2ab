"""Freed memory stays with the process.

An update frees and asks for the same large blocks at every micro-batch. glibc hands them back to the system each time,
which must clear them page by page when they are wanted again: up to a fifth of a training step's processor time.
"""

import ctypes
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


@cache
def keep_freed_memory() -> bool:
    """From now on, in this process. Whether the C library can: glibc alone has these settings."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    never = -1
    return bool(mallopt(M_TRIM_THRESHOLD, never) and mallopt(M_MMAP_MAX, 0))
