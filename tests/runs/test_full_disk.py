"""On a full disk a run waits, and goes on by itself when there is room; Ctrl-C ends it as ever."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from benchmarks.survival import PAGE, RECIPE, Janitor, small_disk
from steep.cli import main
from steep.errors import FullDiskError
from steep.runs import Run, Stage, files, load_latest
from steep.runs.files import Log

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="mounting a small disk needs Linux and root"
)


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path) as path:
        yield path


def fill(disk: Path) -> Path:
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(disk).free))
    return ballast


def test_a_line_that_has_no_room_leaves_no_part_of_itself(disk):
    log = Log(disk / "log.jsonl")
    log.append({"x": "a" * (PAGE - 20)})
    before = log.size
    assert before < PAGE
    ballast = fill(disk)
    with pytest.raises(FullDiskError, match=r"log\.jsonl needs 59 B, and 0 B are free") as raised:
        log.append({"x": "b" * 49})
    assert (log.size, raised.value.needed) == (before, 59)
    ballast.unlink()
    log.append({"x": "c"})
    assert [row["x"][0] for row in log.rows()] == ["a", "c"]


WRITES = {
    "metrics": lambda stage: stage.record(0, {"reward": 0.5}),
    "health": lambda stage: stage.append("health", {"step": 0}),
    "rollouts": lambda stage: stage.save_rollouts(0, [{"ids": list(range(5000))}]),
    "checkpoint": lambda stage: (stage.save_checkpoint(0, {}, {"w": torch.zeros(PAGE)}), stage.wait()),
    "checkpoint, at the next record": lambda stage: (
        stage.save_checkpoint(0, {}, {"w": torch.zeros(PAGE)}),
        stage._writing[1].exception(),
        stage.record(0, {}),
    ),
    "summary": lambda stage: stage.finish({"reward": 0.5}),
}


@pytest.mark.parametrize("what", WRITES)
def test_what_has_no_room_is_written_when_there_is_some(what, disk, caplog):
    stage = Stage(disk / "rl")
    stage.path.mkdir()
    with Janitor(disk, 0, stage) as janitor:
        WRITES[what](stage)
    assert janitor.found == [0]
    told, again = [record.getMessage() for record in caplog.records]
    assert told.startswith(f"the disk is full: {stage.path}")
    assert told.endswith("0 B are free; going on as soon as there is room, Ctrl-C stops")
    assert again == "there is room again: going on"
    written = {
        "metrics": lambda: stage.metrics() == [{"step": 0, "reward": 0.5}] and len(stage.timing()) == 1,
        "health": lambda: stage.log("health").rows() == [{"step": 0}],
        "rollouts": lambda: next(stage.rollouts())["ids"] == list(range(5000)),
        "checkpoint": lambda: load_latest(stage.checkpoints).weights["w"].shape == (PAGE,),
        "checkpoint, at the next record": lambda: load_latest(stage.checkpoints).step == 0,
        "summary": lambda: stage.finished,
    }
    assert written[what]()


@pytest.mark.parametrize("before", [True, False], ids=["before", "while waiting"])
def test_ctrl_c_ends_the_wait_and_leaves_the_checkpoint_before(before, disk, monkeypatch):
    monkeypatch.setattr(files, "LOOK_EVERY_S", 0.05)
    stage = Stage(disk / "rl")
    stage.save_checkpoint(10, {}, {"w": torch.zeros(PAGE)})
    stage.wait()
    fill(disk)

    def interrupt():
        os.kill(os.getpid(), signal.SIGINT)

    def save():
        with stage.stopping as stopping:
            if before:
                interrupt()
            stage.save_checkpoint(20, {}, {"w": torch.zeros(PAGE)})
            assert stopping.asked == before
            if not before:
                threading.Timer(0.3, interrupt).start()
            stage.wait()

    with pytest.raises(KeyboardInterrupt):
        save()
    assert load_latest(stage.checkpoints).step == 10
    assert [path.name for path in stage.checkpoints.iterdir()] == ["step-000010"]


def test_a_whole_run_is_stopped_and_later_goes_on(disk):
    path, ballast = disk / "tiny", disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(disk).free - 400_000))  # enough for two checkpoints
    words = ["train", str(RECIPE), "--run", str(path), "--pretrain", "none", "--rl", "none", "--sft.steps", "12"]
    with subprocess.Popen([sys.executable, "-m", "steep.cli", *words], stderr=subprocess.PIPE, text=True) as steep:
        assert steep.stderr.readline().startswith(f"the disk is full: {path}/sft/checkpoints needs")
        steep.send_signal(signal.SIGINT)
        assert steep.wait() == 130
        assert steep.stderr.read() == f"steep: stopped; go on with `steep resume {path}`\n"
    before = load_latest(path / "sft" / "checkpoints").step
    assert 0 < before < 12
    ballast.unlink()
    assert main(["resume", str(path)]) == 0
    assert [row["step"] for row in Stage(path / "sft").metrics()] == list(range(12))


def test_a_run_is_finished_when_there_is_room_to_say_so(disk):
    run = Run.create(disk / "run", recipe="r", overrides=[], config={}, seed=0)
    with Janitor(disk, 0, Stage(disk / "none")) as janitor, run:
        pass
    assert janitor.found == [0]
    assert Run.open(disk / "run").status == "finished"
