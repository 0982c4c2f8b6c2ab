"""The real packages, offline; a test whose package is not installed is skipped and says so."""

import sqlite3
import sys
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from steep.config import load_recipe, override
from steep.errors import ConfigError, SteepError
from steep.runs import Run, Trackers
from steep.runs import trackers as trackers_module

RECIPE = load_recipe(Path(__file__).parents[1] / "recipes" / "tiny.py")


def train(path: Path, tracker: str, steps: int) -> Run:
    """Two stages of a loop that saves every second step; begun or gone on with."""
    exists = (path / "run.json").exists()
    run = Run.open(path).resume() if exists else Run.create(path, recipe="r", overrides=[], config=RECIPE, seed=0)
    with run, Trackers(run, [tracker]):
        run.stage("sft").finish({}) if exists else run.stage("sft").record(0, {"loss": 2.0})
        stage = run.stage("rl")
        checkpoint = stage.resume()
        for step in range(checkpoint.step if checkpoint else 0, steps):
            stage.record(step, {"reward": step / 4, "note": "x"}, {"tokens/s": 5.0})
            if step % 2:
                stage.save_checkpoint(step + 1, {}, {})
    return run


@pytest.mark.filterwarnings("ignore")  # of packages that are not ours
def test_tensorboard_goes_on_with_the_curves_of_a_run(tmp_path):
    pytest.importorskip("tensorboard", reason="needs the [tensorboard] extra")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path, "tensorboard", 3)  # the last step is after the last checkpoint
    train(tmp_path, "tensorboard", 5)
    rewards = EventAccumulator(str(tmp_path / "rl")).Reload().Scalars("reward")
    assert [(event.step, event.value) for event in rewards] == [(step, step / 4) for step in range(5)]
    (loss,) = EventAccumulator(str(tmp_path / "sft")).Reload().Scalars("loss")
    assert (loss.step, loss.value) == (0, 2.0)


@pytest.mark.filterwarnings("ignore")
def test_wandb_goes_on_with_its_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="needs the [wandb] extra")
    monkeypatch.setenv("WANDB_MODE", "offline")
    train(tmp_path, "wandb", 3)
    train(tmp_path, "wandb", 5)
    id = (tmp_path / "tracked").read_text()
    files = sorted((tmp_path / "wandb").glob(f"offline-run-*-{id}/run-{id}.wandb"))
    assert len(files) == 2  # `wandb sync` puts files of one id into one run
    assert all(b"rl/reward" in file.read_bytes() for file in files)


@pytest.mark.filterwarnings("ignore")
def test_trackio_goes_on_with_its_run(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # which is read when the package is imported
    trackio = pytest.importorskip("trackio", reason="needs the [trackio] extra")
    train(tmp_path / "nano", "trackio", 3)
    train(tmp_path / "nano", "trackio", 4)
    id = (tmp_path / "nano" / "tracked").read_text()
    (run,) = trackio.Api().runs("steep")
    assert run.name == f"nano {id}"
    with closing(sqlite3.connect(tmp_path / "trackio" / "steep.db")) as database:
        rows = database.execute("select step, metrics from metrics order by step").fetchall()
    steps = [step for step, metrics in rows if b"rl/reward" in metrics]
    assert steps == [0, 1, 2, 2, 3]  # the step after the checkpoint was trained twice


@dataclass
class Broken:
    """A tracker whose server is gone."""

    run: Run

    def log(self, stage, step, metrics):
        raise ConnectionError("no route to host")

    def close(self):
        pytest.fail("it was left out before")


def test_a_tracker_that_fails_is_told_once_and_stops_nothing(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(trackers_module.TRACKERS, "json", Broken)  # any package that is there
    run = train(tmp_path, "json", 4)
    assert len(run.stage("rl").metrics()) == 4
    told = "json failed, and the run goes on without it: ConnectionError: no route to host"
    assert [record.getMessage() for record in caplog.records] == [told]


def test_trackers_are_named_by_the_recipe():
    assert override(RECIPE, ["--trackers", "tensorboard,wandb"]).trackers == ("tensorboard", "wandb")
    with pytest.raises(ConfigError, match="there is no tracker 'wandbb'\n  choose one of tensorboard, wandb"):
        override(RECIPE, ["--trackers", "wandbb"])
    with pytest.raises(ConfigError, match="'mlflow'"):
        replace(RECIPE, trackers=("mlflow",))


def test_a_package_that_is_missing_is_asked_for(tmp_path, monkeypatch):
    run = Run.create(tmp_path / "nano", recipe="r", overrides=[], config=RECIPE, seed=0)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    with pytest.raises(SteepError, match=r"pip install 'steep\[trackio\]'"):
        Trackers(run, ["trackio"])


def test_an_arm_is_tracked_under_the_name_of_its_study(tmp_path):
    study = Run.create(tmp_path / "claims", recipe="r", overrides=[], config=RECIPE, seed=None)
    assert trackers_module.title(study) == "claims"
    arm = Run.create(tmp_path / "claims/0/main", recipe="r", overrides=[], config=RECIPE, seed=0)
    assert trackers_module.title(arm) == "claims/0/main"
