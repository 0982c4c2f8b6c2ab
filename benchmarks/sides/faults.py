"""Checks that go wrong. Needs Python alone: workers of the sandbox import it."""

import os
import time


def hang() -> None:
    time.sleep(1000)


def burn() -> str:
    return str(9**9**9**9)


def crash() -> None:
    os._exit(3)


def hog() -> int:
    return len(bytearray(4 << 30))


def refuse() -> None:
    raise ValueError("cannot read this")
