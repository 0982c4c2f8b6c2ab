"""How much memory this process took, and what becomes of what it frees, where the C library is glibc.

An update frees and asks for the same large blocks at every micro-batch. glibc hands them back to the system each time,
which must clear them page by page when they are wanted again: up to a fifth of a training step's processor time.

A server holds blocks of all sizes and ages. glibc takes ever larger ones from its arenas, one for each thread, and the
gaps between those that live on stay with the process: it grows for as long as it serves.
"""

import ctypes
import resource
import sys
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # malloc.h
MAPPED = 256 << 10
"""Bytes of a block that gets pages of its own: so large that most blocks of a step are smaller."""


def peak_gib() -> float:
    """The most memory that this process has held so far, in GiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


@cache
def keep_freed_memory() -> bool:
    """From now on, all freed memory stays with this process. Whether the C library can."""
    never = -1
    return _set({M_TRIM_THRESHOLD: never, M_MMAP_MAX: 0})


@cache
def return_freed_memory() -> bool:
    """From now on, large blocks go back to the system as soon as they are freed. Whether the C library can."""
    return _set({M_MMAP_THRESHOLD: MAPPED})


def _set(settings: dict[int, int]) -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all(mallopt(name, value) for name, value in settings.items())
