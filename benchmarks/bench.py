"""What the benchmarks share: their options, the rounds in which the sides take turns, and the document they write."""

import argparse
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import limits, models
from benchmarks.rivals import HOME, start
from benchmarks.tables import table
from benchmarks.worker import ROOT, Side, SideError
from steep.runs import Claim, evidence, machine, write_json

PAIRS = 5
MODELS = ("N", "S")
KEPT = 1.15
"""Rivals within this factor of the fastest one take part in all rounds, the others in the first alone."""
STEEP = "steep"

Run = Callable[[int], dict[str, Any]]
"""Does the work of round i (0 is not counted) and answers `seconds` and `tokens`."""


@dataclass(kw_only=True)
class Row:
    """One side at one piece of work."""

    cell: str
    side: str
    seconds: list[float] = field(default_factory=list)
    """Of each round."""
    tokens: int | None = None
    """Of one round; the table then shows tokens a second."""
    ratio: list[float] = field(default_factory=list)
    """Of a rival: its time over steep's, in each round."""
    limit_s: float | None = None
    """The least time that the processor's peak and bandwidth allow."""
    note: str = ""


def options(description: str | None, models: bool = False) -> argparse.ArgumentParser:
    """What every script takes, and a choice among MODELS where it measures both."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    cores = machine()["cores"]
    parser.add_argument("--quick", action="store_true", help="the smallest sizes, one round: shows that all works")
    parser.add_argument("--json", action="store_true", help="print the results as JSON, and all else to stderr")
    parser.add_argument("--pairs", type=int, default=PAIRS, help=f"rounds ({PAIRS})")
    if models:
        alone = "one alone has results of its own"
        parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, help=alone)
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", cores)))
    parser.add_argument("--rivals", type=Path, default=HOME, metavar="DIR", help="where `benchmarks.rivals` put them")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs" / "bench", metavar="DIR", help="models, logs and results"
    )
    return parser


class Bench:
    """One script's run: starts the sides, collects rows and claims, and writes them down at the end."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        self.name, self.args = name, args
        chosen = getattr(args, "models", MODELS)
        self.only = "" if set(chosen) == set(MODELS) else chosen[0]
        """The model that is measured alone."""
        self.work: Path = args.work.resolve()
        self.pairs = 1 if args.quick else args.pairs
        self.command = f"python -m benchmarks.{name}"
        self.told = sys.stderr if args.json else sys.stdout
        self.rows: list[Row] = []
        self.claims: list[Claim] = []
        self.notes: list[str] = []
        self.sides: dict[str, Side] = {}
        self.rivals: dict[str, dict[str, Any]] = {}
        self.began = time.monotonic()
        # A command that is told to end does so by way of atexit, which ends its sides.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        self.limits = self._limits()
        self.dtype = limits.dtype(self.limits)
        """That rivals compute in."""

    def model(self, name: str) -> Path:
        return models.make(name, self.work / "models")

    def steep(self, module: str = "benchmarks.sides.native", threads: int | None = None, **load: Any) -> Side:
        """A process of steep's own, with the spin count that its command line sets."""
        log = self.work / "logs" / f"{self.name}-{module.rpartition('.')[2]}.log"
        side = Side(module, Path(sys.executable), log, threads or self.args.threads, {"GOMP_SPINCOUNT": "10000"})
        if load:
            side.load(**load)
        return side

    def start(self, rivals: Sequence[str], **load: Any) -> dict[str, Side]:
        """steep and those rivals that are to be had, each with the model loaded; the sides before are ended."""
        self.close()
        self.sides[STEEP] = self.steep(**load)
        for rival in rivals:
            self.rival(rival, **load)
        return self.sides

    def rival(self, rival: str, **load: Any) -> None:
        """Start one of them, if it is to be had."""
        log = self.work / "logs" / f"{self.name}-{rival}.log"
        try:
            side, versions = start(self.args.rivals, rival, self.args.threads, log, **{"dtype": self.dtype} | load)
        except SideError as error:
            self.rivals[rival] = {"status": str(error)}
            print(f"{rival}: {error}", file=sys.stderr)
        else:
            self.sides[rival] = side
            self.rivals[rival] = {"status": "ok", "versions": versions}

    def compare(
        self, cell: str, runs: dict[str, Run], limit_s: float | None = None, pairs: int | None = None, warm: bool = True
    ) -> list[Row]:
        """Rounds of steep and each rival in turn, after one (`warm`) that is not counted. All rows; steep's is first.

        A rival that was slower than the fastest by more than `KEPT` in the first round is not asked again.
        """
        rows = {name: Row(cell=cell, side=name) for name in runs}
        rows[STEEP].limit_s = limit_s
        asked = list(runs)
        for number in range(0 if warm else 1, 1 + min(pairs or self.pairs, self.pairs)):
            for name in list(asked):
                try:
                    answer = runs[name](number)
                except SideError as error:
                    if name == STEEP:
                        raise
                    rows[name].note = f"failed: {error}"
                    asked.remove(name)
                    continue
                if number:
                    rows[name].seconds.append(answer["seconds"])
                    rows[name].tokens = answer.get("tokens")
                    if name != STEEP:
                        rows[name].ratio.append(answer["seconds"] / rows[STEEP].seconds[-1])
            if number == 1 and len(asked) > 1:
                fastest = min(rows[name].seconds[0] for name in asked if name != STEEP)
                asked = [name for name in asked if name == STEEP or rows[name].seconds[0] <= KEPT * fastest]
        self.rows += rows.values()
        print("\n".join(f"{cell:40s} {name:28s} {told(row)}" for name, row in rows.items()), file=self.told, flush=True)
        self.save()
        return list(rows.values())

    def claim(self, id: str, values: Sequence[float], bar: str) -> None:
        """The median of what was measured, with its lowest and highest; nothing measured is no claim, but a note."""
        if not values:
            self.notes.append(f"{id} was not measured on this machine.")
        else:
            middle = statistics.median(values)
            claim = Claim(id=id, value=middle, low=min(values), high=max(values), bar=bar, command=self.command)
            self.claims.append(claim)
            print(
                f"{id:40s} {middle:8.4g}  {bar:8s} {'holds' if claim.holds else 'missed'}", file=self.told, flush=True
            )
            self.save()

    def claim_ratio(self, id: str, rows: Sequence[Row], bar: str) -> None:
        """steep against the fastest rival."""
        if rivals := [row for row in rows if row.ratio]:
            self.claim(id, min(rivals, key=lambda row: statistics.median(row.seconds)).ratio, bar)

    def finish(self) -> None:
        """End the sides, write the document and print it, or its table."""
        self.close()
        document = self.save()
        print(json.dumps(document, indent=2) if self.args.json else table(document))

    def save(self) -> dict[str, Any]:
        """Write down what there is: a benchmark that is broken off keeps it."""
        document = evidence(self.claims, time.monotonic() - self.began) | {
            "name": self.name,
            "only": self.only,
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "quick": self.args.quick,
            "threads": self.args.threads,
            "limits": self.limits,
            "rivals": self.rivals,
            "rows": [asdict(row) for row in self.rows],
            "notes": self.notes,
        }
        out = self.work / ("quick" if self.args.quick else "results")
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / f"{'-'.join(filter(None, (self.name, self.only)))}.json", document)
        return document

    def close(self) -> None:
        for side in self.sides.values():
            side.close()
        self.sides.clear()

    def _limits(self) -> dict[str, float]:
        side = self.steep("benchmarks.limits")
        try:
            return side.call(
                "measure", size=256 if self.args.quick else 2048, megabytes=64 if self.args.quick else 1024
            )
        finally:
            side.close()


def told(row: Row) -> str:
    if not row.seconds:
        return row.note
    return f"{statistics.median(row.seconds):8.2f} s  x{statistics.median(row.ratio or [1.0]):.2f}  {row.note}"


def dropped(rows: Sequence[Row]) -> set[str]:
    """Rivals that did not take part in all rounds: slower than the fastest, or failed."""
    most = max(len(row.seconds) for row in rows)
    return {row.side for row in rows if len(row.seconds) < most}
