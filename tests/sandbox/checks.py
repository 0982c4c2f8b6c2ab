"""Checks that go wrong in every way that a sandbox must survive. Workers import this file by its name."""

import os
import subprocess
import sys
import time
from functools import cache
from pathlib import Path


def double(number):
    return 2 * number


def pid():
    return os.getpid()


def loaded_modules():
    return sorted(sys.modules)


def hang(note):
    """Asleep for ever, without a processor."""
    mark(note)
    time.sleep(1000)


def burn(note):
    """One call into C that holds the interpreter's lock."""
    mark(note)
    return 9**9**9**9


def crash(note):
    mark(note)
    os._exit(3)


def crash_once(note):
    if mark(note) == 1:
        os._exit(3)
    return "well"


def leave():
    sys.exit("done")


def hog():
    return len(bytearray(4 << 30))


def refuse(text):
    raise ValueError(f"cannot read {text!r}")


def nothing_for_json():
    return {1, 2}


def start_a_child(note):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    Path(note).write_text(str(child.pid))
    time.sleep(1000)


def leave_a_child(note):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    Path(note).write_text(str(child.pid))
    os._exit(3)


@cache
def load(seconds):
    time.sleep(seconds)
    return "loaded"


def use(seconds):
    return load(seconds)


def mark(note):
    """Count the tries of a check, across workers."""
    with open(note, "a") as file:
        file.write(".")
    return len(Path(note).read_text())
