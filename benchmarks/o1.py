"""The bars of the o1 evaluation as figures, on a run that went through fine-tuning and RL.

    python -m benchmarks.o1                   # of runs/nano, on cores that do nothing else
    python -m benchmarks.o1 --json RUN        # of another run; the claims as JSON

sequential   R^2 of accuracy over the log of the thinking budget, from where it begins to rise to where it ends.
reranking    64 answers to each problem of the o1 suite, where one is right in 20 to 60%: by how much the majority, and
             the one weighted by the scorer, are above one answer (the lower end of the interval), and above each other.
forecast     how far the evaluations of the second half of RL are from what the first half foretold.
planted      share of thoughts that end right although a wrong step was planted in them, after RL and beyond before.
probes       seconds for all of them, eight answers without a thought and eight with one.
grid         seconds for six budgets and 64 answers to each of 1,000 problems: each thought is sampled once and cut at
             the smaller budgets. Accuracy is compared with that of thoughts that are sampled at each budget anew, in
             halves of the interval of the difference.

Everything is measured anew; commands and their results are below --work.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.worker import ROOT
from steep.cli.eval import engine_for
from steep.engines import load_model
from steep.evals.claims import Curve, by_problem, claim_r2, stacked
from steep.evals.evaluate import EvalConfig, evaluate, scores
from steep.evals.source import open_source
from steep.evals.statistics import bootstrap
from steep.evals.suite import Cell, load_cells
from steep.runs import Claim, Stage, evidence, read_claims, write_evidence
from steep.tasks.countdown import Countdown
from steep.tasks.mixture import distinct

TASK = "countdown"
LEVEL = 1
FEWEST = 3
"""Budgets of a straight line."""
SEPARATE_SAMPLES = 4
BEFORE, AFTER = "sft", "rl"
RIGHT_AFTER_WRONG = "right after a wrong step"
"""A figure of `steep thoughts`."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    budgets: tuple[int, ...] = (0, 32, 64, 128, 256, 512)
    problems: int = 1000
    samples: int = 64
    suite: tuple[str, ...] = ()
    """Further options of `steep eval --suite o1`."""
    planted: int = 400
    """Problems that are thought about, to plant mistakes in the thoughts."""


FEW = ("--problems", "4", "--samples", "2", "--budgets", "0,16")
QUICK = Sizes(budgets=(0, 4, 8, 16), problems=4, samples=2, suite=FEW, planted=4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", type=Path, nargs="?", default=Path("runs/nano"))
    parser.add_argument("--json", action="store_true", help="print the claims as JSON")
    parser.add_argument("--quick", action="store_true", help="the smallest sizes: shows that all works")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "bench" / "o1", metavar="DIR")
    args = parser.parse_args()
    began, told = time.monotonic(), sys.stderr if args.json else sys.stdout
    sizes = QUICK if args.quick else Sizes()
    shutil.rmtree(args.work, ignore_errors=True)
    args.work.mkdir(parents=True)
    command = f"python -m benchmarks.o1 {args.run}"
    claims: list[Claim] = []
    for part in (grid, reranking, forecast, planted, probes):
        for claim in part(args.run, args.work, sizes, command):
            claims.append(claim)
            figures = f"{claim.value:8.4g}  ({claim.low:.4g} to {claim.high:.4g})"
            print(
                f"{claim.id:44s} {figures:32s} {claim.bar:8s} {'holds' if claim.holds else 'fails'}",
                file=told,
                flush=True,
            )
    seconds = time.monotonic() - began
    write_evidence(args.work / "o1.json", claims, seconds)
    if args.json:
        print(json.dumps(evidence(claims, seconds), indent=2))


def steep(*words: object) -> tuple[dict[str, Any], float]:
    """What a command of steep's prints last, and the seconds that it takes."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "steep.cli", *map(str, words), "--json"], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1]), time.monotonic() - began


def count(id: str, value: float, bar: str, command: str) -> Claim:
    return Claim(id=f"o1.{id}", value=value, low=value, high=value, bar=bar, command=command)


def grid(run: Path, work: Path, sizes: Sizes, command: str) -> list[Claim]:
    out = work / "grid"
    size = ("--samples", sizes.samples, "--problems", sizes.problems)
    budgets = ("--budgets", ",".join(map(str, sizes.budgets)))
    _, seconds = steep("eval", run, "--task", TASK, "--levels", LEVEL, *budgets, *size, "--out", out)
    rows = Stage(out).rollouts(columns=("problem", "budget", "score", "verdict"))
    by = by_problem([row for row in rows if row["verdict"] != "invalid"], "score", sizes.budgets)
    found = [count("grid_s", seconds, "< 300", command)]
    rising = rising_part(load_cells(out))
    if len(rising) >= FEWEST:
        scores_PB = stacked(by, len(sizes.budgets))[:, [sizes.budgets.index(budget) for budget in rising]]
        found.append(claim_r2("o1.sequential_r2", Curve(rising, scores_PB), ">= 0.95", command))
    return [*found, apart(run, by, sizes.budgets, command)]


def rising_part(cells: Sequence[Cell]) -> tuple[int, ...]:
    """Budgets above 0: from the last whose interval reaches down to the smallest's accuracy, to the first whose
    interval reaches up to the greatest."""
    thinking = sorted((cell for cell in cells if cell.budget), key=lambda cell: cell.budget)
    first = max(n for n, cell in enumerate(thinking) if cell.low <= thinking[0].value)
    last = min(n for n, cell in enumerate(thinking) if cell.high >= max(c.value for c in thinking))
    return tuple(cell.budget for cell in thinking[first : last + 1])


def apart(run: Path, cut: Mapping[str, NDArray[np.float64]], budgets: tuple[int, ...], command: str) -> Claim:
    """How far the accuracy of cut thoughts is from that of thoughts sampled at each budget, over all budgets."""
    loaded, task = load_model(str(run)), Countdown(levels=(LEVEL,))
    problems = distinct(task, "test", len(cut))
    config = EvalConfig(budgets=budgets, answer=loaded.template.config.answer, samples=SEPARATE_SAMPLES)
    engine = engine_for(loaded, problems, config)
    anew = [
        evaluate(engine, loaded.template, {TASK: task}, problems, replace(config, budgets=(budget,), seed=seed))[budget]
        for seed, budget in enumerate(budgets, start=1)
    ]
    scores_PB = np.stack([scores(groups) for groups in anew], axis=1)
    gap = bootstrap((scores_PB - np.stack([cut[problem.id] for problem in problems])).mean(1))
    half = max(gap.high - gap.low, 1e-9) / 2  # nobody is right: no difference, and no interval
    return count("cut_against_separate", abs(gap.value) / half, "<= 1", command)


def reranking(run: Path, work: Path, sizes: Sizes, command: str) -> list[Claim]:
    out = work / "suite"
    steep("eval", run, "--suite", "o1", "--task", TASK, *sizes.suite, "--out", out)
    claims = [replace(claim, command=command) for claim in read_claims(out / "claims.json")]
    return [
        replace(claim, id=f"{claim.id}_at_least", value=claim.low) if "_over_one_" in claim.id else claim
        for claim in claims
    ]


def forecast(run: Path, work: Path, sizes: Sizes, command: str) -> list[Claim]:
    return [
        count(f"forecast_error.{task}_at_{budget}", fit.scaling.forecast_error, "<= 0.05", command)
        for (task, budget), fit in open_source(run).scalings.items()
        if fit.scaling.forecast_error is not None
    ]


def planted(run: Path, work: Path, sizes: Sizes, command: str) -> list[Claim]:
    size = ("--levels", LEVEL, "--problems", sizes.planted)
    told, _ = steep("thoughts", run / BEFORE, run / AFTER, "--task", TASK, *size, "--out", work / "thoughts")
    by_name = [{figure["name"]: figure for figure in figures} for figures in told["models"].values()]
    before, after = (figures[RIGHT_AFTER_WRONG] for figures in by_name)
    if not before["rollouts"] or not after["rollouts"]:
        return []
    gain, half = after["value"] - before["value"], np.hypot(*(f["high"] - f["low"] for f in (before, after))) / 2
    interval = {name: after[name] for name in ("value", "low", "high")}
    return [
        Claim(id="o1.planted_right", bar=">= 0.7", command=command, **interval),
        Claim(id="o1.planted_gain_of_rl", value=gain, low=gain - half, high=gain + half, bar="> 0", command=command),
    ]


def probes(run: Path, work: Path, sizes: Sizes, command: str) -> list[Claim]:
    _, seconds = steep("probes", "run", run, "--history", work / "probes.jsonl")
    return [count("probes_s", seconds, "< 60", command)]


if __name__ == "__main__":
    main()
