import json
import math
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import psutil
import pytest
import torch

from steep.errors import ConfigError, SteepError
from steep.runs import Run, checkpoint, compare, list_runs, show
from steep.runs import files as files_module
from steep.runs.files import Log, write_json
from steep.runs.run import flat


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    lr: float = 3e-4


@dataclass(frozen=True, kw_only=True)
class Config:
    steps: int = 8
    cap: float = math.inf
    optimizer: Optimizer = field(default_factory=Optimizer)


@dataclass(frozen=True, kw_only=True)
class NewerOptimizer(Optimizer):
    nesterov: bool = False


@dataclass(frozen=True, kw_only=True)
class Part:
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Newer:
    optimizer: NewerOptimizer = field(default_factory=NewerOptimizer)
    parts: tuple[Part, ...] = (Part(), Part(scale=1.0))
    steps: int = 8


def create(path, config=None, **changes):
    arguments = {"recipe": "recipes/nano.py", "overrides": ["--steps", "8"], "config": config or Config(), "seed": 7}
    return Run.create(path, **(arguments | changes))


def dead_process(run):
    """Make a run look as if the process that ran it was killed."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    content = json.loads((run.path / "run.json").read_text())
    write_json(run.path / "run.json", content | {"pid": process.pid})


# Runs


def test_create_writes_what_the_run_depends_on(tmp_path):
    create(tmp_path / "runs" / "nano")
    info = Run.open(tmp_path / "runs" / "nano").info
    assert (info.recipe, info.overrides, info.seed, info.status) == ("recipes/nano.py", ("--steps", "8"), 7, "running")
    assert info.config == {"_": "Config", "steps": 8, "cap": "Infinity", "optimizer": {"_": "Optimizer", "lr": 3e-4}}
    assert set(info.versions) == {"python", "torch", "numpy", "tokenizers", "steep"}
    assert info.machine["cores"] >= 1
    assert info.machine["memory_gib"] > 0
    assert info.pid == os.getpid()


def test_what_is_not_a_default_is_written_down(tmp_path):
    newer = Newer(optimizer=NewerOptimizer(lr=0.1), parts=(Part(scale=2.0), Part()))
    create(tmp_path / "run", newer)
    assert Run.open(tmp_path / "run").info.chosen == ("", "optimizer.lr", "parts.0", "parts.0.scale", "parts.1")


def test_a_run_of_an_older_version_does_not_know_its_defaults(tmp_path):
    create(tmp_path)
    content = json.loads((tmp_path / "run.json").read_text())
    del content["chosen"]
    write_json(tmp_path / "run.json", content)
    assert Run.open(tmp_path).info.chosen is None


def test_create_refuses_a_directory_that_is_not_empty(tmp_path):
    create(tmp_path)
    with pytest.raises(SteepError, match=f"steep resume {tmp_path}") as raised:
        create(tmp_path)
    assert "--run" in raised.value.fix
    (tmp_path / "run.json").unlink()
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(SteepError, match="not empty") as raised:
        create(tmp_path)
    assert "resume" not in raised.value.fix


def test_open_refuses_what_is_not_a_run(tmp_path):
    with pytest.raises(SteepError, match="is not a run"):
        Run.open(tmp_path / "nothing")
    (tmp_path / "run.json").write_text('{"recipe": ')
    with pytest.raises(SteepError, match="damaged"):
        Run.open(tmp_path)
    (tmp_path / "run.json").write_text('{"recipe": "x"}')
    with pytest.raises(SteepError, match="not written by this version"):
        Run.open(tmp_path)


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (None, "finished", None),
        (KeyboardInterrupt(), "stopped", None),
        (SystemExit(1), "stopped", None),
        (ValueError("loss is NaN"), "failed", "ValueError: loss is NaN"),
    ],
)
def test_leaving_a_run_writes_down_how_it_ended(tmp_path, error, status, told):
    def leave():
        with create(tmp_path):
            assert Run.open(tmp_path).status == "running"
            if error is not None:
                raise error

    if error is None:
        leave()
    else:
        with pytest.raises(type(error)):
            leave()
    assert (Run.open(tmp_path).status, Run.open(tmp_path).info.error) == (status, told)


def test_run_whose_process_is_gone_is_interrupted(tmp_path):
    run = create(tmp_path)
    assert Run.open(tmp_path).status == "running"
    dead_process(run)
    assert Run.open(tmp_path).status == "interrupted"


def test_run_whose_process_number_was_given_to_another_is_interrupted(tmp_path):
    create(tmp_path)
    content = json.loads((tmp_path / "run.json").read_text())
    write_json(tmp_path / "run.json", content | {"pid_started": content["pid_started"] - 3600})
    assert Run.open(tmp_path).status == "interrupted"


def test_processes_of_another_host_are_believed_until_they_fall_silent(tmp_path):
    run = create(tmp_path)
    run.stage("rl").record(0, {"reward": 0.5})
    dead_process(run)
    content = json.loads((tmp_path / "run.json").read_text())
    content["machine"]["host"] = "elsewhere"
    write_json(tmp_path / "run.json", content)
    assert Run.open(tmp_path).status == "running"
    with pytest.raises(SteepError, match=r"being run by process \d+ on elsewhere \(last record \d s ago\)"):
        Run.open(tmp_path).resume()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    for path in files:
        os.utime(path, (0, time.time() - 3700))
    assert Run.open(tmp_path).status == "interrupted"
    os.utime(tmp_path / "rl" / "metrics.jsonl")
    assert Run.open(tmp_path).status == "running"


def test_resume_takes_over_a_dead_run_only(tmp_path):
    run = create(tmp_path)
    run.stage("pretrain")
    parent = psutil.Process(os.getppid())
    content = json.loads((tmp_path / "run.json").read_text())
    write_json(tmp_path / "run.json", content | {"pid": parent.pid, "pid_started": parent.create_time()})
    with pytest.raises(SteepError, match=f"being run by process {parent.pid}"):
        Run.open(tmp_path).resume()
    dead_process(run)
    with Run.open(tmp_path).resume(Config()) as resumed:
        assert (resumed.status, resumed.info.stage, len(resumed.info.resumed)) == ("running", "pretrain", 1)
    assert Run.open(tmp_path).status == "finished"


RESUME = "import sys; from pathlib import Path; from steep.runs import Run\n"
RESUME += "run = Run.open(Path(sys.argv[1])).resume(); print('at it', flush=True); input()"


def test_of_two_that_resume_a_run_at_once_one_is_refused(tmp_path):
    with create(tmp_path) as run:  # and let it go
        pass
    write_json(tmp_path / "run.json", asdict(replace(run.info, status="running")))
    dead_process(run)
    found = Run.open(tmp_path)
    assert found.status == "interrupted"
    words = [sys.executable, "-c", RESUME, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "at it\n"
        before = (tmp_path / "run.json").read_bytes()
        with pytest.raises(SteepError, match="is being run by another process"):
            found.resume()
        assert (tmp_path / "run.json").read_bytes() == before
        other.communicate("\n")
    found.resume()


def test_resume_takes_fields_that_are_new_for_their_defaults(tmp_path):
    """A run that an older version began, without the optimizer's `nesterov` and the parts' `scale`."""
    with Run.create(tmp_path, recipe="r.py", overrides=[], config=Newer(), seed=0):
        pass
    info = json.loads((tmp_path / "run.json").read_text())
    del info["config"]["optimizer"]["nesterov"], info["config"]["parts"][1]["scale"]
    (tmp_path / "run.json").write_text(json.dumps(info))
    with Run.open(tmp_path).resume(Newer()):
        pass
    for other, key in (
        (Newer(optimizer=NewerOptimizer(nesterov=True)), "optimizer.nesterov"),
        (Newer(parts=(Part(), Part(scale=3.0))), "parts.1.scale"),
        (Newer(parts=(Part(), Part(), Part())), "parts.2"),
        (Newer(optimizer=NewerOptimizer(lr=1.0)), "optimizer.lr"),
    ):
        with pytest.raises(ConfigError, match=rf"began with: {key}\n"):
            Run.open(tmp_path).resume(other)


def test_resume_refuses_a_recipe_that_changed(tmp_path):
    create(tmp_path)
    with pytest.raises(ConfigError, match=r"began with: optimizer\.lr"):
        Run.open(tmp_path).resume(Config(optimizer=Optimizer(lr=1.0)))


def test_opened_run_reads_and_never_writes(tmp_path):
    run = create(tmp_path)
    run.stage("pretrain").record(0, {"loss": 1.0})
    before = (tmp_path / "run.json").stat().st_mtime_ns
    opened = Run.open(tmp_path)
    assert opened.stage("pretrain").metrics() == [{"step": 0, "loss": 1.0}]
    with pytest.raises(SteepError, match="no stage rl") as raised:
        opened.stage("rl")
    assert raised.value.fix == "it has: pretrain"
    with pytest.raises(AssertionError, match="resume"):
        opened.set_status("stopped")
    assert (tmp_path / "run.json").stat().st_mtime_ns == before


def test_full_disk_while_writing_run_json_leaves_the_old_one(tmp_path, monkeypatch):
    run = create(tmp_path)

    def full(handle):
        raise OSError(28, "No space left on device")

    def leave():
        with run:
            monkeypatch.setattr(os, "fsync", full)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # and nothing else, though it cannot be written down
        leave()
    monkeypatch.undo()
    assert Run.open(tmp_path).info.status == "running"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "run.json"]


# Stages


@pytest.fixture
def run(tmp_path):
    return create(tmp_path / "nano")


def train(stage, steps, die_at=None, checkpoint_every=3):
    """A training loop whose whole state is one number; returns it, or None if it died before step `die_at`."""
    checkpoint = stage.resume()
    total = checkpoint.state["total"] if checkpoint else torch.zeros((), dtype=torch.float64)
    for step in range(checkpoint.step if checkpoint else 0, steps):
        if step and step % checkpoint_every == 0:
            stage.save_checkpoint(step, {"total": total}, {"w": total.reshape(1)})
        if step == die_at:
            stage.wait()
            return None
        total = total * 1.1 + step
        stage.record(step, {"loss": float(total), "nan": math.nan}, timing={"tokens/s": 5.0})
        stage.save_rollouts(step, [{"reward": float(total)}])
        stage.log("health").append({"step": step, "event": "spike"})
    return total


def test_metrics_come_back_as_recorded(run):
    stage = run.stage("rl")
    stage.record(0, {"reward": 0.1, "best": -math.inf, "level": 3, "why": "warm-up"}, timing={"tokens/s": 12.5})
    stage.record(2, {"reward": np.float32(0.5), "loss": torch.tensor(2.0)})
    assert stage.metrics() == [
        {"step": 0, "reward": 0.1, "best": -math.inf, "level": 3, "why": "warm-up"},
        {"step": 2, "reward": 0.5, "loss": 2.0},
    ]
    assert stage.last_metrics == stage.metrics()[-1]
    assert [(row["step"], row.get("tokens/s")) for row in stage.timing()] == [(0, 12.5), (2, None)]
    for line in (stage.path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


@pytest.mark.parametrize("die_at", [0, 1, 2, 3, 4, 7, 9])
def test_resumed_stage_equals_an_uninterrupted_one(tmp_path, die_at):
    whole, killed = create(tmp_path / "whole").stage("rl"), create(tmp_path / "killed").stage("rl")
    expected = train(whole, 10)
    assert train(killed, 10, die_at) is None
    with open(killed.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 99, "lo')  # the kill came while a line was written
    again = Run.open(tmp_path / "killed").resume().stage("rl")
    assert train(again, 10) == expected
    for name in ("metrics.jsonl", "health.jsonl"):
        assert (again.path / name).read_bytes() == (whole.path / name).read_bytes()
    assert [row["step"] for row in again.timing()] == list(range(10))
    assert list(again.rollouts()) == list(whole.rollouts())


def test_resume_without_a_checkpoint_begins_again(run):
    stage = run.stage("rl")
    train(stage, 10, die_at=2)
    assert run.stage("rl").resume() is None
    assert (stage.metrics(), stage.timing(), list(stage.rollouts())) == ([], [], [])


def test_a_log_that_lost_lines_is_told(run):
    stage = run.stage("rl")
    train(stage, 10, die_at=7)
    Log(stage.path / "metrics.jsonl").truncate(50)
    told = []
    assert run.stage("rl").resume(told.append).step == 6
    assert "metrics.jsonl was longer" in told[0]
    assert [row["step"] for row in stage.metrics()] == [0]


def test_a_checkpoint_holds_what_was_there_when_it_was_asked_for(run, monkeypatch):
    stage, weights, go = run.stage("rl"), {"w": torch.zeros(3)}, threading.Event()
    save = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda *args: go.wait(30) and save(*args))
    stage.save_checkpoint(0, {"moment": weights["w"]}, weights)
    weights["w"] += 1  # training goes on while the checkpoint is written
    go.set()
    stage.wait()
    loaded = run.stage("rl").resume()
    assert loaded.weights["w"].tolist() == loaded.state["moment"].tolist() == [0, 0, 0]


def test_a_checkpoint_that_could_not_be_written_is_told_by_whoever_waits(run, monkeypatch):
    def full(*args):
        raise SteepError("the disk is full")

    stage = run.stage("rl")
    monkeypatch.setattr(checkpoint, "save", full)
    stage.save_checkpoint(0, {}, {})
    with pytest.raises(SteepError, match="the disk is full"):
        stage.save_checkpoint(1, {}, {})
    stage.save_checkpoint(1, {}, {})
    with pytest.raises(SteepError, match="the disk is full"):
        stage.finish({})
    assert not stage.finished


def test_steps_are_recorded_once_and_in_order(run):
    stage = run.stage("rl")
    stage.record(3, {})
    with pytest.raises(AssertionError, match="recorded already"):
        stage.record(3, {})
    with pytest.raises(AssertionError, match="comes before"):
        stage.save_checkpoint(3, {}, {})
    with pytest.raises(AssertionError, match="call resume"):
        run.stage("rl").record(4, {})


def test_elapsed_time_leaves_pauses_out(run, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    stage = run.stage("rl")
    now[0] += 5
    stage.record(0, {})
    stage.save_checkpoint(1, {}, {})
    stage.wait()
    now[0] += 1000
    stage = run.stage("rl")
    stage.resume()
    now[0] += 2
    stage.record(1, {})
    assert [row["elapsed_s"] for row in stage.timing()] == [5.0, 7.0]


def test_rollouts_round_trip(run):
    stage = run.stage("rl")
    rows = [
        {
            "problem": "countdown/1",
            "key": {"numbers": [3, 5], "target": 8},
            "ids": np.array([5, 6, 7], np.int32),
            "logprobs": np.array([-0.5, -0.25, 0.0], np.float32),
            "sampled": np.array([True, False, True]),
            "thought_len": None,
            "score": 1.0,
        },
        {
            "problem": "letters/2\x00\u202e",
            "key": {"word": "straw"},
            "ids": np.array([], np.int32),
            "logprobs": np.array([], np.float32),
            "sampled": np.array([], bool),
            "thought_len": 2,
            "score": math.inf,
        },
    ]
    stage.save_rollouts(10, rows)
    stage.save_rollouts(0, [{"a": 1}, {"b": 2}])
    stage.save_rollouts(20, [])
    as_lists = [{k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in row.items()} for row in rows]
    assert list(stage.rollouts([10])) == [{"step": 10, **row} for row in as_lists]
    assert list(stage.rollouts([0])) == [{"step": 0, "a": 1, "b": None}, {"step": 0, "a": None, "b": 2}]
    assert stage.rollout_steps() == [0, 10, 20]
    assert [row["step"] for row in stage.rollouts()] == [0, 0, 10, 10]
    assert sorted(path.name for path in (stage.path / "rollouts").iterdir())[1] == "step-000010.parquet"


def test_finished_stage_has_a_summary(run):
    stage = run.stage("rl")
    assert not stage.finished
    assert stage.summary is None
    stage.finish({"reward": 0.75, "worst": math.nan})
    assert run.stage("rl").finished
    assert stage.summary["reward"] == 0.75
    with pytest.raises(AssertionError, match="is finished"):
        run.stage("rl").resume()


# Logs


def test_last_row_is_found_from_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(files_module, "TAIL_BYTES", 16)
    log = Log(tmp_path / "log.jsonl")
    assert log.last() is None
    log.append({"a": "x" * 100})
    assert log.last() == {"a": "x" * 100}
    log.append({"a": 1})
    with open(log.path, "a") as file:
        file.write('{"a": 2')
    assert log.last() == {"a": 1}
    log.path.write_text('{"a"')
    assert log.last() is None
    assert log.rows() == []


def test_damaged_line_is_named(tmp_path):
    log = Log(tmp_path / "log.jsonl")
    log.path.write_bytes(b'{"a": 1}\n\0\0\0\n')
    for read in (log.rows, log.last):
        with pytest.raises(SteepError, match=r"log\.jsonl has a damaged"):
            read()


# Listings


def test_list_show_and_compare(tmp_path):
    first = create(tmp_path / "first")
    with first:
        first.stage("pretrain").record(0, {"loss": 9.0})
        first.stage("rl").record(4, {"note": "x", "reward": 0.5, "a": 1, "b": 2, "c": 3, "d": 4})
        first.stage("rl").finish({"reward": 0.5})
    second = create(tmp_path / "second", Config(optimizer=Optimizer(lr=0.1)), seed=8)
    dead_process(second)
    (tmp_path / "third").mkdir()
    (tmp_path / "third" / "run.json").write_text("{")
    (tmp_path / "not a run").mkdir()

    lines = {line.name: line for line in list_runs(tmp_path)}
    assert {name: line.status for name, line in lines.items()} == {
        "first": "finished", "second": "interrupted", "third": "unreadable",
    }  # fmt: skip
    assert (lines["first"].stage, lines["first"].step, lines["second"].step) == ("rl", 4, None)
    assert list(lines["first"].metrics) == ["reward", "a", "b", "c"]
    assert lines["first"].elapsed_s >= 0

    detail = show(Run.open(tmp_path / "first"))
    assert [stage.name for stage in detail.stages] == ["pretrain", "rl"]
    assert detail.stages[1].finished
    assert detail.stages[1].metrics["d"] == 4

    comparison = compare([Run.open(tmp_path / "first"), Run.open(tmp_path / "second")])
    assert comparison.names == ("first", "second")
    assert {row.key: row.values for row in comparison.config} == {
        "seed": (7, 8), "config.optimizer.lr": (3e-4, 0.1),
    }  # fmt: skip
    assert {row.key: row.values for row in comparison.metrics}["rl.reward"] == (0.5, "-")


def test_no_runs(tmp_path):
    assert list_runs(tmp_path / "runs") == []


def test_flat_puts_a_class_at_the_path_of_its_object():
    tree = {"_": "A", "loss": {"_": "CISPO", "cap": 5}, "levels": [1, 2], "tasks": [{"_": "T", "n": 1}]}
    assert flat(tree) == {
        "": "A", "loss": "CISPO", "loss.cap": 5, "levels": [1, 2], "tasks.0": "T", "tasks.0.n": 1,
    }  # fmt: skip
