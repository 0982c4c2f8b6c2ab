"""What an o1 report says of a trained run, and how long it takes.

    python -m benchmarks.o1                      # of runs/nano, into docs/results/o1.json
    python -m benchmarks.o1 runs/other --json    # of another run, and the figures as JSON last

suite      `steep eval --suite o1` on countdown: whether accuracy follows the log of the budget as far as it rises, and
           what the majority of 64 answers and the scorer's choice among them add to one, paired by problem
forecast   of RL: fitted to the first half of its compute, how far off in the second (the larger of two budgets' errors)
planted    share of the wrong steps put into thoughts after which the model ends right, after RL; and by how much that
           is more than before, on the problems that were planted in both
probes     seconds for all that steep ships, 8 answers without and 8 with a thought to each
evaluation minutes for 64 answers to 1,000 problems at six budgets, from thoughts that are cut at each
reuse      one answer to 1,000 problems at these budgets, from one thought and from six: the largest difference

All of it is done by steep's own commands, and is kept below RUN/o1: what is there is not measured again.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.worker import ROOT
from steep.evals.claims import Curve, claim_r2, curve
from steep.evals.statistics import bootstrap
from steep.evals.suite import load_cells
from steep.runs import Claim, Stage, environment, read_claims, read_json, write_evidence, write_json

RESULTS = ROOT / "docs" / "results" / "o1.json"
COMMAND = "python -m benchmarks.o1"
BUDGETS = (16, 32, 64, 128, 256, 512)
MINUTES, PROBES_S = 5, 60
LEAST_BUDGETS = 4
"""Of a straight line: any two points are on one."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, default=ROOT / "runs" / "nano", metavar="RUN")
    parser.add_argument("--problems", type=int, default=1000, metavar="N", help="of `evaluation` and `reuse` (1,000)")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE", help="where to keep the figures")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON last, and all else to stderr")
    args = parser.parse_args()
    began, told = time.monotonic(), sys.stderr if args.json else sys.stdout
    claims = []
    for claim in measured(Bench(args.run), args.problems):
        claims.append(claim)
        held = "holds" if claim.holds else "fails"
        print(
            f"{claim.id:32s} {claim.value:8.4g} [{claim.low:.4g}, {claim.high:.4g}]  {claim.bar:10s} {held}", file=told
        )
    document = write_evidence(args.out, claims, time.monotonic() - began)
    if args.json:
        print(json.dumps(document, indent=2))


class Bench:
    """steep's commands on one run; each is carried out once at one commit."""

    def __init__(self, run: Path) -> None:
        self.run, self.kept = run, run / "o1"
        self.kept.mkdir(parents=True, exist_ok=True)

    def steep(self, name: str, *words: str) -> dict[str, Any]:
        """What a command answers with --json, and the `seconds` that it took."""
        file = self.kept / f"{name}.json"
        asked = {"words": list(words), "git": environment.git()}
        found: dict[str, Any] = read_json(file) if file.exists() else {}
        if found.get("asked") != asked:
            shutil.rmtree(self.kept / name, ignore_errors=True)
            command = [str(Path(sys.executable).parent / "steep"), *words, "--json"]
            print(shlex.join(command), file=sys.stderr, flush=True)
            began = time.monotonic()
            answer = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            found = answer | {"seconds": time.monotonic() - began, "asked": asked}
            write_json(file, found)
        return found

    def eval(self, name: str, *words: str) -> dict[str, Any]:
        out = str(self.kept / name)
        return self.steep(name, "eval", str(self.run), "--task", "countdown", *words, "--out", out)


def measured(bench: Bench, problems: int) -> Iterator[Claim]:
    bench.eval("suite", "--suite", "o1")
    yield from follows_the_log(bench.kept / "suite")
    yield from read_claims(bench.kept / "suite" / "claims.json")
    bench.steep("report", "report", str(bench.run), "--out", str(bench.kept / "report"))
    yield from forecast(read_json(bench.kept / "report" / "report.json"))
    yield from planted(bench)
    took = bench.steep("probes", "probes", "run", str(bench.run), "--history", str(bench.kept / "history.jsonl"))
    yield at_most("o1.probes_s", took["seconds"], PROBES_S)
    budgets = ("--problems", str(problems), "--dtype", "bfloat16", "--budgets")
    took = bench.eval("evaluation", *budgets, ",".join(map(str, BUDGETS)), "--samples", "64")
    yield at_most("o1.evaluation_minutes", took["seconds"] / 60, MINUTES)
    once = bench.eval("once", *budgets, ",".join(map(str, BUDGETS)))["cells"]
    apart = [bench.eval(f"apart-{budget}", *budgets, str(budget))["cells"] for budget in BUDGETS]
    differences = [abs(a["value"] - b["value"]) for a, (b,) in zip(once, apart, strict=True)]
    yield Claim(
        id="o1.thoughts_cut_or_apart",
        value=max(differences),
        low=min(differences),
        high=max(differences),
        bar="<= 0.02",
        command=COMMAND,
    )


def follows_the_log(directory: Path) -> list[Claim]:
    """R^2 over the budgets above 0 up to the best one, over four at least; nothing where fewer were measured."""
    cells = [cell for cell in load_cells(directory) if cell.mode == "sampled" and cell.budget > 0]
    if len(cells) < LEAST_BUDGETS:
        return []
    best = max(cells, key=lambda cell: cell.value)
    budgets = [cell.budget for place, cell in enumerate(cells) if place < LEAST_BUDGETS or cell.budget <= best.budget]
    rising: Curve = curve(Stage(directory), model=best.model, task=best.task, mode="sampled", budgets=budgets)
    return claim_r2("o1.sequential_r2", rising, ">= 0.95", COMMAND)


def forecast(report: dict[str, Any]) -> Iterator[Claim]:
    found = [course["scaling"]["forecast_error"] for course in report["scaling"]]
    errors = [error for error in found if error is not None]
    if errors:
        yield Claim(
            id="o1.forecast_error",
            value=max(errors),
            low=min(errors),
            high=max(errors),
            bar="<= 0.05",
            command=COMMAND,
        )


def planted(bench: Bench) -> Iterator[Claim]:
    models = [str(bench.run / stage) for stage in ("sft", "rl")]
    out = ("--problems", "2000", "--out", str(bench.kept / "thoughts"))
    found = bench.steep("thoughts", "thoughts", *models, "--task", "countdown", *out)["models"]
    before, after = (
        next(figure for figure in figures if figure["name"] == "right after a wrong step") for figures in found.values()
    )
    interval = {"value": after["value"], "low": after["low"], "high": after["high"], "command": COMMAND}
    yield Claim(id="o1.planted_mistakes_recovered", bar=">= 0.7", **interval)
    shared = after["by_problem"].keys() & before["by_problem"].keys()  # after RL there are more, and harder ones
    gains = np.array([after["by_problem"][problem] - before["by_problem"][problem] for problem in sorted(shared)])
    gain = bootstrap(gains)
    yield Claim(
        id="o1.planted_more_than_before_rl", value=gain.value, low=gain.low, high=gain.high, bar="> 0", command=COMMAND
    )


def at_most(id: str, value: float, most: float) -> Claim:
    return Claim(id=id, value=value, low=value, high=value, bar=f"<= {most}", command=COMMAND)


if __name__ == "__main__":
    main()
