"""What asks a run to stop."""

import os
import subprocess
import sys

import pytest

from steep.runs import PARENT

ORPHAN = """
import os, signal
from steep.runs import Stopping, stop_with_parent
stop_with_parent()
with Stopping() as stopping:
    handler = signal.getsignal(signal.SIGHUP)
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGHUP)
    for _ in range(2):
        handler(signal.SIGHUP, None)  # the end of another thread is told before the first signal is answered
    print(stopping.asked)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
def test_a_parent_whose_threads_end_one_by_one_asks_once():
    environment = os.environ | {PARENT: str(os.getpid())}
    done = subprocess.run([sys.executable, "-c", ORPHAN], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
