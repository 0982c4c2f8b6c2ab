"""What `benchmarks.survival` counts, in small, and that it notices what a checkpoint leaves out."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import survival
from steep.config import override
from steep.errors import PausedError
from steep.policies import Policy
from steep.rollouts import Rollouts
from steep.rollouts.curriculum import Curriculum
from steep.runs import Run
from steep.runs.health import RULES
from steep.training import rl as rl_module
from steep.training.recipe import run_recipe

ROOT = Path(__file__).parent.parent.parent
KILLS, STALENESS = 8, 2


@pytest.mark.slow
@pytest.mark.parametrize("staleness", [0, STALENESS])
def test_kills_are_survived(staleness: int):
    """In a process of its own: it forks, which a process with threads must not."""
    code = f"from benchmarks.survival import kills; print(*kills({KILLS}, {staleness}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    survived, in_saves = map(int, done.stdout.split())
    assert survived == KILLS
    assert in_saves >= 2


def test_corruptions_are_found():
    assert survival.corruptions(40) == 40


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounting a small disk needs Linux and root")
def test_full_disks_are_lived_through():
    assert survival.full_disk(20) == 20


def test_faults_are_labelled():
    assert survival.faults(len(survival.FAULT_REASONS)) == len(survival.FAULT_REASONS)


def test_rules_of_health_fire_and_a_clean_run_raises_no_alarm():
    assert survival.rules_fired() == len(RULES)
    assert survival.false_alarms(1) == 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("survival") / "whole"
    survival.carry_out(path, survival.survivor(STALENESS))
    return survival.contents(path)


def fresh(load, key):
    """`load` of a state in which the value at `key` is that of an object that was just made."""
    return lambda self, state, *weights: load(self, {**state, key: self.state()[key]}, *weights)


LOST = {
    "nothing": (Policy, lambda load: load),
    "the step, and with it the schedule": (Policy, lambda load: fresh(load, "step")),
    "the moments of the optimizer": (Policy, lambda load: fresh(load, "optimizer")),
    "the weights": (Policy, lambda load: lambda self, state, weights: load(self, state, self.weights())),
    "which groups were drawn": (Rollouts, lambda load: fresh(load, "next_group")),
    "what is under way": (Rollouts, lambda load: fresh(load, "under_way")),
    "pass rates": (Curriculum, lambda load: fresh(load, "rates")),
    "what is retired": (Curriculum, lambda load: fresh(load, "retired")),
}


@pytest.mark.parametrize("lost", LOST)
def test_a_run_that_lost_a_piece_of_its_state_does_not_go_on(lost: str, whole, tmp_path: Path, monkeypatch):
    learn, asked = rl_module.learn_from, 0

    def cut(*args, **kwargs):
        nonlocal asked
        asked += 1
        if asked == 4:
            raise RuntimeError("cut")
        return learn(*args, **kwargs)

    path, recipe = tmp_path / "cut", survival.survivor(STALENESS)
    monkeypatch.setattr(rl_module, "learn_from", cut)
    with pytest.raises(RuntimeError, match="cut"):
        survival.carry_out(path, recipe)
    owner, spoil = LOST[lost]
    monkeypatch.setattr(owner, "load_state", spoil(owner.load_state))
    if lost != "nothing":
        with pytest.raises(PausedError, match="lost_state"):
            survival.carry_out(path, recipe)
    unwatched = ["--health.lost_state", "none"]  # what comes out if nobody looks
    recipe = override(recipe, unwatched)
    with Run.open(path).resume(recipe, unwatched) as run:
        run_recipe(run, recipe, Console(quiet=True))
    assert all(stage.finished for stage in Run.open(path).stages())
    assert (survival.contents(path) == whole) == (lost == "nothing")
