"""`steep doctor`: what this machine has, and what to do about what it lacks."""

import argparse
import importlib.metadata
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import torch

from steep.cli.outcome import Outcome, Output
from steep.engines.locate import PACKAGES
from steep.errors import to_install
from steep.models import kernels
from steep.runs import machine, number, versions
from steep.sandbox import shared

Status = Literal["ok", "warning", "problem"]
STYLES = {"ok": "green", "warning": "yellow", "problem": "red"}
LOW_MEMORY_GIB, LOW_DISK_GIB = 2.0, 2.0
SLOW_GFLOPS = 10.0
"""A core of the last ten years does more; less means that others are using it."""
TRIAL_S = 1.0
TRIAL_SIZE = 512


@dataclass(frozen=True, kw_only=True)
class Check:
    name: str
    status: Status
    found: str
    fix: str = ""
    """What to do, unless `status` is ok."""


def run(args: argparse.Namespace) -> Outcome:
    output, checks = Output(), []
    for check in all_checks():
        checks.append(check)
        output.say(f"{check.status:8} ", style=STYLES[check.status], end="")
        output.say(f"{check.name:12} {check.found}")
        if check.fix:
            output.say(f"{'':22}{check.fix}", style="bold")
    return Outcome(value={"checks": checks}, exit_code=int(any(check.status == "problem" for check in checks)))


def all_checks() -> Iterator[Check]:
    for name, version in versions().items():
        yield Check(name=name, status="ok", found=version)
    yield memory()
    yield disk()
    yield threads()
    yield graphics()
    yield compiler()
    yield compiled_kernels()
    yield speed()
    yield isolation()
    yield from extras()


def memory() -> Check:
    found = psutil.virtual_memory()
    free, total = found.available / 2**30, found.total / 2**30
    text = f"{free:.1f} of {total:.1f} GiB free"
    if free < LOW_MEMORY_GIB:
        return Check(name="memory", status="warning", found=text, fix="close other programs before a run")
    return Check(name="memory", status="ok", found=text)


def disk(path: Path = Path()) -> Check:
    free = shutil.disk_usage(path).free / 2**30
    text = f"{free:.1f} GiB free in {path.resolve()}"
    if not os.access(path, os.W_OK):
        return Check(name="disk", status="problem", found=f"{path.resolve()} cannot be written", fix="work elsewhere")
    if free < LOW_DISK_GIB:
        return Check(name="disk", status="warning", found=text, fix="free some space, or begin runs elsewhere")
    return Check(name="disk", status="ok", found=text)


def threads() -> Check:
    cores, used = machine()["cores"], torch.get_num_threads()
    text = f"{used} for {cores} cores"
    if used > cores:
        fix = f"set OMP_NUM_THREADS={cores}: threads that wait for each other's cores are slower than fewer of them"
        return Check(name="threads", status="warning", found=text, fix=fix)
    return Check(name="threads", status="ok", found=text)


def graphics() -> Check:
    gpus = machine()["gpus"]
    return Check(name="gpus", status="ok", found=", ".join(gpus) or "none; the recipes for a CPU do without")


def compiler() -> Check:
    named = os.environ.get("CXX", "").split()
    found = next(filter(None, map(shutil.which, named[:1] or ("c++", "g++", "clang++"))), None)
    if found:
        return Check(name="compiler", status="ok", found=found)
    missing = f"CXX={named[0]} is not there" if named else "none"
    return Check(name="compiler", status="warning", found=missing, fix="install g++ or clang++, for speed")


def compiled_kernels() -> Check:
    found = kernels.status()
    if found.startswith("compiled"):
        return Check(name="kernels", status="ok", found=found)
    fix = "everything works, but slower on a CPU: mend the cause, and run this again"
    return Check(name="kernels", status="warning", found=found, fix=fix)


def speed() -> Check:
    """Multiply matrices for a second."""
    matrix = torch.rand(TRIAL_SIZE, TRIAL_SIZE)
    torch.mm(matrix, matrix)
    began, count = time.monotonic(), 0
    while time.monotonic() - began < TRIAL_S:
        torch.mm(matrix, matrix)
        count += 1
    gflops = 2 * TRIAL_SIZE**3 * count / (time.monotonic() - began) / 1e9
    text = f"{number(gflops)} GFLOP/s in fp32 matrix products"
    if gflops < SLOW_GFLOPS * torch.get_num_threads():
        return Check(name="speed", status="warning", found=text, fix="see what else is running on the cores")
    return Check(name="speed", status="ok", found=text)


def isolation() -> Check:
    missing = shared(isolated=True).call("steep.sandbox.isolation:isolate")
    if missing:
        found = f"checks of gym tasks are not kept from {' and '.join(missing)}"
        return Check(name="isolation", status="warning", found=found, fix="docs/architecture.md says what that means")
    return Check(name="isolation", status="ok", found="checks of gym tasks can neither write files nor use the network")


def extras() -> Iterator[Check]:
    """Which optional parts of the installed package have all that they need."""
    needed: dict[str, list[str]] = {}
    for requirement in importlib.metadata.requires("steep") or []:
        match = re.fullmatch(r"([\w.-]+).*extra == ['\"](\w+)['\"].*", requirement)
        if match:
            needed.setdefault(match[2], []).append(match[1])
    for extra, packages in needed.items():
        missing = [package for package in packages if not installed(package)]
        install = PACKAGES[extra].install if extra in PACKAGES else to_install(extra)
        found = f"without {', '.join(missing)}; for it: {install}" if missing else "installed"
        yield Check(name=f"[{extra}]", status="ok", found=found)


def installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
