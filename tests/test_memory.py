"""Processes of their own, for malloc's settings stay for good."""

import platform
import subprocess
import sys

import pytest

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc's settings are glibc's")

HELD = """
import numpy as np, os, psutil
from steep.memory import keep_freed_memory, return_freed_memory
{setting}
held = lambda: psutil.Process().memory_info().rss / 2**20
np.ones(20 << 17)  # from now on glibc would take blocks of up to 20 MB from an arena
before = held()
blocks = [np.ones(1 << 17) for _ in range(100)]  # of 1 MB
full = held() - before
del blocks[:-1]  # the last is above all others
print(full, held() - before)
"""


def held(setting: str) -> tuple[float, float]:
    """MB that 100 blocks of 1 MB take, and what is left when 99 are freed."""
    made = subprocess.run([sys.executable, "-c", HELD.format(setting=setting)], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    full, left = map(float, made.stdout.split())
    return full, left


@glibc
def test_a_training_process_keeps_what_it_frees():
    full, left = held("assert keep_freed_memory()")
    assert full > 75  # the first 20 MB are there again
    assert left > 75


@glibc
def test_a_server_returns_what_it_frees_where_glibc_would_keep_the_gaps():
    _, left = held("")
    assert left > 95
    full, left = held("assert return_freed_memory()")
    assert full > 95
    assert left < 10
