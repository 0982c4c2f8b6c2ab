"""Seconds of RL until a held-out accuracy is reached, from one fine-tuned model.

    python -m benchmarks.time_to_reward

steep fine-tunes a model of 0.9M parameters on countdown, once. Then steep and TRL's GRPOTrainer (at three learning
rates, the best counts) learn from it in turn, with as many rollouts a step and as many tokens a rollout. Every few
steps the weights are evaluated by the same code on the same held-out problems with the same random numbers; that time
is not counted. The goal is reached when two evaluations in a row are above the start by `GAIN`. steep runs first and
last, with different seeds. A rival that has not got there in `CAP` times steep's time is given up, and that is a lower
bound of the ratio.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.bench import STEEP, Bench, Row, options
from benchmarks.rivals import start
from benchmarks.worker import ROOT, Side, SideError
from steep.engines import load_model
from steep.tasks.countdown import Countdown

BAR = ">= 5"
CAP = 6.0
STEEP_CAP_S = 1200.0
GAIN = 0.05
STEEP_LR = 3e-4
RIVAL_LRS = (1e-4, 3e-4, 1e-3)
TRAIN_PROBLEMS = 20_000
RECIPE = ROOT / "benchmarks" / "sides" / "countdown.py"


@dataclass(frozen=True, kw_only=True)
class Plan:
    fine_tuning_steps: int = 1600
    groups: int = 32
    copies: int = 16
    thought: int = 128
    answer: int = 32
    every: int = 5
    """Steps between evaluations."""
    problems: int = 1000
    gain: float = GAIN
    micro: int = 128
    """Completions that TRL forwards together."""


QUICK = Plan(fine_tuning_steps=2, groups=2, copies=4, thought=8, answer=4, every=1, problems=8, gain=0.0, micro=8)


def main() -> None:
    args = options(__doc__).parse_args()
    bench = Bench("time_to_reward", args)
    plan = QUICK if args.quick else Plan()
    model = fine_tuned(bench, plan)
    judge = bench.sides["judge"] = bench.steep("benchmarks.sides.learner")
    first = measure(judge, model, model, plan)
    goal = first + plan.gain
    cell = f"held-out accuracy from {first:.3f} to {goal:.3f}, {plan.groups} x {plan.copies} rollouts"
    race = Race(bench, plan, judge, model, goal)

    ours = Row(cell=cell, side=STEEP)
    seeds = (1,) if args.quick else (1, 2)
    reached = race.steep(seeds[0])
    if reached is None:
        bench.rows.append(Row(cell=cell, side=STEEP, note=f"not reached in {STEEP_CAP_S:.0f} s"))
        bench.finish()
        return
    ours.seconds.append(reached)
    rivals = [race.trl(cell, lr, CAP * reached) for lr in RIVAL_LRS]
    for seed in seeds[1:]:
        ours.seconds.append(race.steep(seed) or STEEP_CAP_S)
    for row in rivals:
        row.ratio = [seconds / mine for seconds in row.seconds for mine in ours.seconds]
    bench.rows += [ours, *rivals]
    bench.claim_ratio("time_to_reward", rivals, BAR)
    bench.notes.append("A model of 0.9M parameters. steep has one seed a figure, TRL one learning rate a figure.")
    bench.finish()


@dataclass
class Race:
    bench: Bench
    plan: Plan
    judge: Side
    model: Path
    goal: float

    def steep(self, seed: int) -> float | None:
        plan = self.plan
        side = self.bench.steep("benchmarks.sides.learner")
        self.bench.sides[STEEP] = side
        lengths = {"copies": plan.copies, "thought": plan.thought, "answer": plan.answer}
        side.call("begin", directory=str(self.model), lr=STEEP_LR, seed=seed, **lengths)
        seconds, reached = self.run(side, lambda: side.call("step", groups=plan.groups), STEEP_CAP_S)
        side.close()
        return seconds if reached else None

    def trl(self, cell: str, lr: float, cap_s: float) -> Row:
        row = Row(cell=cell, side=f"trl, rate {lr:g}")
        log = self.bench.work / "logs" / f"time_to_reward-trl-{lr:g}.log"
        try:
            side, versions = start(self.bench.args.rivals, "trl", self.bench.args.threads, log)
            self.bench.sides["trl"] = side
            self.bench.rivals["trl"] = {"status": "ok", "versions": versions}
            side.call("train", **self.lesson(lr))
            seconds, reached = self.run(side, lambda: side.call("step"), cap_s)
        except SideError as error:
            self.bench.rivals.setdefault("trl", {"status": str(error)})
            row.note = str(error)
            return row
        side.close()
        row.seconds.append(seconds)
        row.note = "" if reached else "and not reached: the ratio is a lower bound"
        return row

    def run(self, side: Side, step: Callable[[], dict[str, Any]], cap_s: float) -> tuple[float, bool]:
        """Steps until the goal is met twice in a row or the time is up: seconds of steps, and whether it was met."""
        seconds, above, steps = 0.0, 0, 0
        directory = self.bench.work / "time_to_reward" / "candidate"
        while above < 2 and seconds < cap_s:
            answer = step()
            seconds, steps = seconds + answer["seconds"], steps + 1
            if steps % self.plan.every == 0:
                side.call("save", directory=str(directory))
                accuracy = measure(self.judge, directory, self.model, self.plan)
                above = above + 1 if accuracy >= self.goal else 0
                told = f"step {steps}  {seconds:.0f} s  reward {answer['reward']:.3f}  held out {accuracy:.3f}"
                print(told, file=sys.stderr, flush=True)
        return seconds, above == 2

    def lesson(self, lr: float) -> dict[str, Any]:
        """What TRL is to learn: the prompts as text, and what steep's check needs with each."""
        plan, template = self.plan, load_model(self.model).template
        problems = list(islice(Countdown().problems("train", seed=0), TRAIN_PROBLEMS if plan is not QUICK else 16))
        ids = [template.render(problem.prompt) for problem in problems]
        return {
            "directory": str(self.model),
            "prompts": [template.tokenizer.decode(prompt, control=True) for prompt in ids],
            "keys": [json.dumps(dict(problem.key)) for problem in problems],
            "score": "countdown",
            "copies": plan.copies,
            "groups": plan.groups,
            "new": plan.thought + 1 + plan.answer,
            "micro": plan.micro,
            "autocast": self.bench.dtype == "bfloat16",
            "lr": lr,
            "exactly": False,
        }


def fine_tuned(bench: Bench, plan: Plan) -> Path:
    run = bench.work / "time_to_reward" / f"run-{plan.fine_tuning_steps}"
    model = run / "sft" / "model"
    if not (model / "model.safetensors").is_file():
        steps = ["--sft.steps", str(plan.fine_tuning_steps)]
        subprocess.run([sys.executable, "-m", "steep.cli", "train", str(RECIPE), "--run", str(run), *steps], check=True)
    return model


def measure(judge: Side, directory: Path, model: Path, plan: Plan) -> float:
    sizes = {"problems": plan.problems, "thought": plan.thought, "answer": plan.answer}
    answer = judge.call("measure", directory=str(directory), template=str(model), **sizes)
    return float(answer["accuracy"])


if __name__ == "__main__":
    main()
