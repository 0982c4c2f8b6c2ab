"""What steep lives through: kills, damaged checkpoints, a full disk, checks that go wrong; and what health sees.

    python -m benchmarks.survival            # counts them, and writes docs/results/survival.json
    python -m benchmarks.survival --json     # the same as JSON

kills        SIGKILL at any time of a run of all stages, a quarter of them inside a save; it is resumed each time.
             Survived: the finished run has the logs, rollouts and weights of one that was left alone. Stale kills are
             those of a run whose RL has two batches of rollouts under way (max_staleness 2).
corruptions  of the newest checkpoint: a bit flipped, a page zeroed, two pages swapped, an end cut off, a file gone or
             that of another checkpoint. Found: the damaged one is named, and the one before it is loaded.
full disk    that ends at any page of a checkpoint (on a tmpfs, so this needs root). Lived through: the stage says so
             and waits, the checkpoint before can be loaded meanwhile, and the save goes on by itself once there is
             room.
faults       checks that hang, compute for ever, crash, eat memory or raise. Labelled: with the reason, and no verdict.
health       Rules fired: of all rules, each on its own fault (benchmarks/injections.py). False alarms: whatever health
             tells in five short runs of which nothing is wrong (tests/recipes/coin.py).
cost         seconds of the loop that a checkpoint takes, as a share of a fine-tuning step of the nano model.
"""

import argparse
import io
import json
import logging
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from rich.console import Console

from benchmarks.injections import fired, inject
from benchmarks.worker import ROOT
from steep.config import load_recipe, override
from steep.policies import Policy
from steep.runs import Claim, Health, Run, Stage, checkpoint, files, write_evidence
from steep.runs.codec import encode
from steep.runs.health import RULES
from steep.sandbox import CheckError, Sandbox
from steep.tasks.arithmetic import Arithmetic
from steep.tasks.mixture import Share
from steep.training.recipe import Recipe, begin, run_recipe
from steep.training.sft import sft
from steep.types import Problem, Verdict, correct, wrong

COMMAND = "python -m benchmarks.survival"
RECIPE = ROOT / "tests" / "recipes" / "tiny.py"
CLEAN = RECIPE.with_name("coin.py")
RESULTS = ROOT / "docs" / "results" / "survival.json"
KILLS, STALE_KILLS, CORRUPTIONS, PAGES, FAULTS, CLEAN_RUNS = 50, 20, 200, 20, 100, 5
SAVE_CALLS = 40
"""A kill inside a save comes at one of so many calls that change the disk, counted over all saves."""
PAGE = 4096


class Luck(Arithmetic):
    """Sums that are right by chance: even an untrained model has something to learn from."""

    def verify(self, problem: Problem, answer: str) -> Verdict:
        return correct() if sum(answer.encode()) % 2 else wrong("bad luck")


def survivor(staleness: int = 0) -> Recipe:
    options = "--threads 1 --rl.num_steps 6 --rl.rollouts.answer 96 --rl.rollouts.curriculum.retire_at 0.2"
    options += f" --rl.max_staleness {staleness}"
    recipe = override(load_recipe(RECIPE), options.split())
    assert isinstance(recipe, Recipe)
    return replace(recipe, tasks=(Share(task=Luck(levels=(1,))),))


def kills(count: int, staleness: int = 0, seed: int = 0) -> tuple[int, int]:
    """Of so many kills, how many were survived; and how many were inside a save."""
    rng, recipe = random.Random(seed), survivor(staleness)
    survived = in_saves = killed = 0
    with tempfile.TemporaryDirectory() as scratch:
        whole, path = Path(scratch) / "whole", Path(scratch) / "killed"
        began = time.monotonic()
        attempt(whole, recipe)
        length_s = time.monotonic() - began
        while killed < count:
            before = killed
            while True:
                inside = killed % 4 == 0
                calls = rng.randrange(1, SAVE_CALLS) if inside and killed < count else None
                after_s = rng.uniform(0, length_s) if not inside and killed < count else None
                if not attempt(path, recipe, calls, after_s):
                    break
                killed += 1
                in_saves += inside
            survived += (killed - before) * (contents(path) == contents(whole))
            shutil.rmtree(path)
    return survived, in_saves


def attempt(path: Path, recipe: Recipe, calls: int | None = None, after_s: float | None = None) -> bool:
    """Begin a run or go on with it, in a child; whether it was killed, at a call inside a save or after some time."""
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if calls is not None:
                die_in_save(calls)
            carry_out(path, recipe)
            os._exit(0)
        finally:
            os._exit(1)
    deadline = None if after_s is None else time.monotonic() + after_s
    while True:
        ended, status = os.waitpid(child, os.WNOHANG if deadline else 0)
        if ended:
            break
        if deadline and time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            deadline = None
        else:
            time.sleep(0.002)
    if status not in (0, signal.SIGKILL):
        raise SystemExit(f"the run in {path} failed")
    return status != 0


def carry_out(path: Path, recipe: Recipe) -> None:
    if (path / "run.json").exists():
        run = Run.open(path).resume(recipe)
    else:  # not begun, or killed before there was anything to go on with
        shutil.rmtree(path, ignore_errors=True)
        run = Run.create(path, recipe=RECIPE, overrides=[], config=recipe, seed=0)
    with run:
        run_recipe(run, recipe, Console(quiet=True))


def die_in_save(calls: int) -> None:
    """Have this process killed at that call inside a save that changes the disk."""
    left, save = calls, checkpoint.save

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return wrapper

    def watched(*args: Any, **kwargs: Any) -> Path:
        for module, name, call in writing:
            setattr(module, name, counted(call))
        try:
            return save(*args, **kwargs)
        finally:
            for module, name, call in writing:
                setattr(module, name, call)

    names = ((os, "fsync"), (os, "rename"), (checkpoint, "save_file"))
    writing = [(module, name, getattr(module, name)) for module, name in names]
    checkpoint.save = watched


def contents(path: Path) -> dict[str, Any]:
    """What a run must hold at its end, whatever happened on the way."""
    found: dict[str, Any] = {}
    for stage in Run.open(path).stages():
        found[f"{stage.name} metrics"] = stage.metrics()
        found[f"{stage.name} rollouts"] = list(stage.rollouts())
        found |= {f"{stage.name} {file.name}": file.read_bytes() for file in stage.model.glob("*.safetensors")}
        if (last := checkpoint.load_latest(stage.checkpoints)) is not None:
            structure, tensors = encode(last.state["state"])
            found[f"{stage.name} state"] = structure, {name: tensor.tolist() for name, tensor in tensors.items()}
    return found


def two_checkpoints(directory: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    for step in (10, 20):
        weights = {"w": torch.randn(16, PAGE // 4, generator=rng)}
        state = {"step": step, "rng": rng.get_state(), "moment": torch.randn(16, PAGE // 4, generator=rng)}
        checkpoint.save(directory, step, state, weights)


def corruptions(count: int, seed: int = 0) -> int:
    """Of so many damaged checkpoints, how many were found."""
    rng, found = random.Random(seed), 0
    with tempfile.TemporaryDirectory() as scratch:
        whole, damaged = Path(scratch) / "whole", Path(scratch) / "damaged"
        two_checkpoints(whole)
        for _ in range(count):
            shutil.copytree(whole, damaged)
            damage(rng.choice(sorted((damaged / "step-000020").iterdir())), rng)
            told: list[str] = []
            loaded = checkpoint.load_latest(damaged, told.append)
            found += loaded is not None and loaded.step == 10 and "step-000020 is damaged" in told[0]
            shutil.rmtree(damaged)
    return found


def damage(path: Path, rng: random.Random) -> None:
    before = path.read_bytes()
    pages = [before[at : at + PAGE] for at in range(0, len(before), PAGE)]
    one, other = rng.randrange(len(pages)), rng.randrange(len(pages))
    match rng.choice(("flip", "zero", "swap", "cut", "gone", "stale")):
        case "flip":
            at = rng.randrange(len(before))
            after = before[:at] + bytes([before[at] ^ 1 << rng.randrange(8)]) + before[at + 1 :]
        case "zero":
            after = b"".join([*pages[:one], bytes(len(pages[one])), *pages[one + 1 :]])
        case "swap":
            pages[one], pages[other] = pages[other], pages[one]
            after = b"".join(pages)
        case "cut":
            after = before[: rng.randrange(len(before))]
        case "gone":
            path.unlink()
            return
        case _:
            after = (path.parent.parent / "step-000010" / path.name).read_bytes()
    if after == before:  # nothing swapped, or zeros zeroed
        damage(path, rng)
    else:
        path.write_bytes(after)


def full_disk(count: int) -> int:
    """Of so many places at which the disk ends while a checkpoint is written, how many were lived through."""
    lived = 0
    with tempfile.TemporaryDirectory() as scratch, small_disk(Path(scratch)) as disk:
        for number in range(count):
            stage = Stage(disk / "rl")
            two_checkpoints(stage.checkpoints)
            newest = checkpoint.load_latest(stage.checkpoints)
            assert newest is not None
            needed = sum(-(-file.stat().st_size // PAGE) for file in newest.path.iterdir())
            with Janitor(disk, number * needed // count, stage) as janitor:
                stage.save_checkpoint(30, newest.state, newest.weights)
                stage.wait()
            saved = checkpoint.load_latest(stage.checkpoints)
            lived += janitor.found == [20] and saved is not None and saved.step == 30
            shutil.rmtree(stage.path)
    return lived


@contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    """A disk of 4 MB at `path`, which needs Linux and root."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)  # what was loaded is still mapped


class Janitor(logging.Handler):
    """While entered, leaves a disk only some pages; when a stage says that it waits, looks at it, and makes room."""

    def __init__(self, disk: Path, pages: int, stage: Stage) -> None:
        super().__init__()
        self.ballast, self.stage = disk / "ballast", stage
        self.ballast.write_bytes(bytes(shutil.disk_usage(disk).free - pages * PAGE))
        self.found: list[int] = []
        """The steps of the newest whole checkpoints while the stage waited."""
        self.impatient = patch.object(files, "LOOK_EVERY_S", 0.01)

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg.startswith("there is room again"):
            return
        loaded = checkpoint.load_latest(self.stage.checkpoints)
        self.found.append(loaded.step if loaded else 0)
        self.ballast.unlink()

    def __enter__(self) -> "Janitor":
        self.impatient.start()
        files.log.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        files.log.removeHandler(self)
        self.impatient.stop()
        self.ballast.unlink(missing_ok=True)


FAULT_REASONS = {
    "hang": "took more than",
    "burn": "took more than",
    "crash": "ended its process",
    "hog": "MB",
    "refuse": "ValueError",
}


def faults(count: int) -> int:
    """Of so many checks that go wrong, how many came back without a verdict and with the right reason."""
    sandbox = Sandbox(memory_mb=512)
    names = [list(FAULT_REASONS)[number % len(FAULT_REASONS)] for number in range(count)]

    def labelled(name: str) -> bool:
        try:
            sandbox.call(f"benchmarks.sides.faults:{name}", limit_s=0.5)
        except CheckError as error:
            return FAULT_REASONS[name] in str(error)
        return False

    with ThreadPoolExecutor(2) as pool:
        found = sum(pool.map(labelled, names))
    sandbox.close()
    return found


def rules_fired() -> int:
    """How many rules of health see their own fault."""
    with tempfile.TemporaryDirectory() as scratch:
        return sum(any(row["rule"] == rule for row in fired(inject(rule, Path(scratch) / rule))) for rule in RULES)


def false_alarms(runs: int) -> int:
    """What health tells in so many runs of which nothing is wrong, but for what goes by the clock."""
    told = 0
    for seed in range(runs):
        recipe = load_recipe(CLEAN)
        assert isinstance(recipe, Recipe)
        with tempfile.TemporaryDirectory() as scratch, redirect_stdout(io.StringIO()):
            path = Path(scratch) / "clean"
            carry_out(path, replace(recipe, seed=seed))
            rows = (row for stage in Run.open(path).stages() for row in stage.log("health").rows())
            told += sum(RULES[row["rule"]].when != "clock" for row in rows)
    return told


class TimedStage(Stage):
    waited_s: list[float]

    def save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        began = time.monotonic()
        super().save_checkpoint(*args, **kwargs)
        self.waited_s.append(time.monotonic() - began)


def cost(steps: int = 20) -> list[float]:
    """While the nano model is fine-tuned: seconds that the loop waits for a checkpoint, over those of a step."""
    recipe = load_recipe(ROOT / "recipes" / "nano.py")
    assert isinstance(recipe, Recipe)
    assert recipe.sft is not None
    model, template = begin(recipe)
    with tempfile.TemporaryDirectory() as scratch:
        stage = TimedStage(Path(scratch))
        stage.waited_s = []
        with redirect_stdout(sys.stderr):
            health = Health(stage, recipe.health, print)
            often = replace(recipe.sft, steps=steps, checkpoint_every=1)
            sft(stage, Policy(model, often.policy, steps), template, recipe.tasks, often, recipe.seed, health)
        stage.wait()
        elapsed_s = [row["elapsed_s"] for row in stage.timing()]
    each_s = statistics.median(after - before for before, after in pairwise(elapsed_s))
    return [waited / each_s for waited in stage.waited_s[steps // 4 :]]  # the first ones warm up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the claims as JSON")
    args = parser.parse_args()
    began, told = time.monotonic(), sys.stderr if args.json else sys.stdout
    claims: list[Claim] = []

    def add(name: str, value: float, bar: str, low: float | None = None, high: float | None = None) -> None:
        low, high = value if low is None else low, value if high is None else high
        claims.append(Claim(id=f"survival.{name}", value=value, low=low, high=high, bar=bar, command=COMMAND))
        print(f"{name:28s} {value:7.4g}  {bar:8s} {'holds' if claims[-1].holds else 'fails'}", file=told, flush=True)

    survived, in_saves = kills(KILLS)  # first, for it forks, and nothing may have started a thread
    add("kills_survived", survived, f"== {KILLS}")
    add("kills_inside_a_save", in_saves, ">= 10")
    add("stale_kills_survived", kills(STALE_KILLS, staleness=2)[0], f"== {STALE_KILLS}")
    add("corruptions_found", corruptions(CORRUPTIONS), f"== {CORRUPTIONS}")
    if os.geteuid() == 0 and sys.platform == "linux":
        add("full_disks_lived_through", full_disk(PAGES), f"== {PAGES}")
    else:
        print("full disk: not measured, for mounting a small disk needs Linux and root", file=told)
    add("faults_labelled", faults(FAULTS), f"== {FAULTS}")
    add("health_rules_fired", rules_fired(), f"== {len(RULES)}")
    add("false_alarms", false_alarms(CLEAN_RUNS), "== 0")
    shares = cost()
    add("checkpoint_share_of_a_step", statistics.median(shares), "< 0.02", min(shares), max(shares))
    document = write_evidence(RESULTS, claims, time.monotonic() - began)
    if args.json:
        print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
