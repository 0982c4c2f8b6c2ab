"""What a figure depends on besides the code that printed it: versions, commit and machine."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

import steep

GIT_LIMIT_S = 10


def versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "tokenizers": importlib.metadata.version("tokenizers"),
        "steep": steep.__version__,
    }


def git(source: Path = Path(steep.__file__).parent) -> dict[str, Any] | None:
    """Commit of the checkout that `source` (the package) stands at the top of, and whether tracked files differ.

    None when steep was installed otherwise, also where site-packages lies inside some other repository.
    """
    top = _git(source, "rev-parse", "--show-toplevel")
    commit = _git(source, "rev-parse", "HEAD")
    changes = _git(source, "status", "--porcelain", "--untracked-files=no")
    if top is None or commit is None or changes is None or Path(top).resolve() != source.resolve().parent:
        return None
    return {"commit": commit, "dirty": changes != ""}


def _git(source: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(source), *arguments]
    try:
        return subprocess.run(command, capture_output=True, check=True, text=True, timeout=GIT_LIMIT_S).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def machine() -> dict[str, Any]:
    """CPU model, cores that this process may use, threads that torch uses, memory in GiB, GPUs, host and system."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": _cpu_model(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "host": platform.node(),
        "system": f"{platform.system()} {platform.release()}",
    }


def machine_line() -> str:
    """The machine in words, such as "AMD EPYC 7B13, 2 cores, 15.6 GiB"."""
    m = machine()
    gpus = [f"{m['gpus'].count(name)} x {name}" for name in dict.fromkeys(m["gpus"])]
    return ", ".join([m["cpu"], f"{m['cores']} cores", f"{m['memory_gib']} GiB", *gpus])


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine() or "unknown"
