"""A run that goes on is read as it grows, and drawn so that a person sees how it stands."""

import io
import math
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from steep.cli import main
from steep.cli.watch import frame, rollout_lines, spark
from steep.config import load_recipe
from steep.errors import SteepError
from steep.runs import Log, Run
from steep.runs.watching import Rows, RunWatch
from steep.training.study import Arm, Study

RECIPE = load_recipe(Path(__file__).parents[1] / "recipes" / "tiny.py")
ROLLOUT = {
    "task": "arithmetic", "level": 1, "prompt": "3+4 =", "thought": "3+4=7", "answer": "7", "verdict": "correct",
    "reason": "", "budget": 16, "thought_tokens": 5,
}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "nano", recipe="r", overrides=[], config=RECIPE, seed=0)


def step(run, number, **metrics):
    run.rl = getattr(run, "rl", None) or run.stage("rl")
    run.rl.record(number, {"reward": number / 2, "entropy": 0.5, **metrics}, {"tokens/s": 5000.0})
    path = run.path / "rl" / "timing.jsonl"
    rows = path.read_text().splitlines(keepends=True)[:-1]
    path.write_text("".join(rows) + f'{{"step": {number}, "elapsed_s": {20.0 * (number + 1)}, "tokens/s": 5000.0}}\n')


# Reading


def test_only_what_was_appended_is_read(tmp_path):
    log, told = Log(tmp_path / "log.jsonl"), Rows(Log(tmp_path / "log.jsonl"))
    told.look()
    assert told.rows == []
    log.append({"step": 0})
    told.look()
    first = told.rows[0]
    with open(log.path, "a") as file:
        file.write('{"step": 1}\n{"st')
    told.look()
    assert told.rows == [{"step": 0}, {"step": 1}]
    assert told.rows[0] is first
    with open(log.path, "a") as file:
        file.write('ep": 2}\n')
    told.look()
    assert [row["step"] for row in told.rows] == [0, 1, 2]


@pytest.mark.parametrize(
    "lines",
    [
        [{"step": 0}],
        [{"step": 0, "loss": "a longer line than before"}, {"step": 1}],
        [{"step": 5}, {"step": 6}, {"step": 7}],
        [],
    ],
)
def test_a_log_that_a_resumed_run_cut_back_is_read_again(tmp_path, lines):
    log, told = Log(tmp_path / "log.jsonl"), Rows(Log(tmp_path / "log.jsonl"))
    log.append({"step": 0})
    log.append({"step": 1})
    told.look()
    log.truncate(0)
    for line in lines:
        log.append(line)
    told.look()
    assert told.rows == lines


def test_a_damaged_line_is_told_at_every_look(tmp_path):
    (tmp_path / "log.jsonl").write_bytes(b'{"step": 1}\n\0\0\n')
    told = Rows(Log(tmp_path / "log.jsonl"))
    for _ in range(2):
        with pytest.raises(SteepError, match="damaged line"):
            told.look()


def test_stages_are_followed_as_they_are_entered(run):
    watch = RunWatch(run.path)
    watch.look()
    assert watch.stage is None
    run.stage("sft").record(0, {"loss": 2.0})
    watch.look()
    assert (watch.stage.name, watch.stage.done, watch.stage.total) == ("sft", 1, 3)
    step(run, 0)
    watch.look()
    assert (watch.stage.name, watch.stage.metrics[-1]["reward"]) == ("rl", 0.0)
    run.rl.save_rollouts(0, [ROLLOUT])
    watch.look()
    assert [row["answer"] for row in watch.stage.rollouts] == ["7"]


def test_the_curves_of_a_run_that_is_evaluated_are_those_of_its_training(run):
    step(run, 0)
    run.stage("eval")
    watch = RunWatch(run.path)
    watch.look()
    lines = frame(watch, 0, 120, 40)
    assert lines[0].endswith("nano: running, eval")
    assert lines[1].startswith("reward")


# Drawing


def test_a_spark_has_a_bar_for_each_value_or_for_several():
    assert spark([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert spark([0, 0, 1, 1], 2) == "▁█"
    assert spark([0.0, math.nan, 1.0], 9) == "▁ █"
    assert spark([3.0, 3.0], 9) == "▁▁"
    assert spark([0.5], 9, 0, 1) == "▅"
    assert spark([], 9) == spark([math.nan], 9).strip() == ""


def test_a_frame_tells_how_a_run_stands(run):
    step(run, 0, **{"start/valid/arithmetic@4": 0.0, "start/valid/arithmetic@16": 0.5})
    step(run, 1, **{"valid/arithmetic@4": 0.25, "valid/arithmetic@16": 1.0, "valid/arithmetic@16_low": 0.9})
    watch = RunWatch(run.path)
    watch.look()
    lines = frame(watch, 0, 120, 40)
    assert lines[0] == f"{run.path}: running, rl 2/3, 20 s each, 20 s left, 5,000 tokens/s"[:120]
    assert [line.split() for line in lines[1:]] == [
        ["reward", "▁█", "0.5", "(0", "to", "0.5)"],
        ["entropy", "▁▁", "0.5", "(0.5", "to", "0.5)"],
        ["valid/arithmetic", "4", "▁▃", "25%", "16", "▅█", "100%"],
    ]
    assert frame(watch, 0, 120, 40, "ascii")[1].split()[1] == "_#"


def test_a_frame_tells_the_newest_events_and_a_rollout(run):
    step(run, 0)
    for number in range(5):
        event = {"step": number, "rule": "entropy", "reaction": "note", "message": "fell below 0.1"}
        run.rl.log("health").append(event)
    run.rl.save_rollouts(0, [ROLLOUT, ROLLOUT | {"answer": "8\x1b[31m", "verdict": "wrong"}])
    watch = RunWatch(run.path)
    watch.look()
    lines = frame(watch, 1, 120, 40)
    assert lines[3:6] == [f"health: step {n}: entropy (note): fell below 0.1" for n in (2, 3, 4)]
    assert lines[6:] == [
        "",
        "step 0, rollout 2 of 2 (space: next): arithmetic level 1, budget 16, thought 5: wrong",
        "  3+4 =",
        "  | 3+4=7",
        "  => 8\\x1b[31m",
    ]
    assert frame(watch, 3, 120, 40) == lines


def test_a_long_thought_is_shortened_in_its_middle():
    row = ROLLOUT | {"step": 0, "thought": "\n".join(map(str, range(50)))}
    lines = rollout_lines([row], 0, 120, 10)
    assert lines[3:] == ["  | 0", "  | 1", "  | 2", "  | ...", "  | 48", "  | 49", "  => 7"]


def test_a_study_is_followed_with_its_arms(tmp_path):
    arms = {name: Arm(recipe=RECIPE) for name in ("0/main", "1/main")}
    study = Run.create(tmp_path / "claims", recipe="r", overrides=[], config=Study(arms=arms), seed=None)
    watch = RunWatch(study.path)
    watch.look()
    assert frame(watch, 0, 120, 40)[0].endswith("claims: running, 0/2 arms")
    arm = Run.create(study.path / "0/main", recipe="r:0/main", overrides=[], config=RECIPE, seed=0)
    step(arm, 0)
    watch.look()
    lines = frame(watch, 0, 120, 40)
    assert lines[2].split() == [
        "0/main",
        "▁",
        "reward",
        "0",
        *["running,", "rl", "1/3,", "20", "s", "each,", "40", "s", "left,", "5,000", "tokens/s"],
    ]
    assert lines[3].split() == ["1/main", "waits"]
    assert lines[5] == f"{arm.path}: running, rl 1/3, 20 s each, 40 s left, 5,000 tokens/s"[:120]
    assert lines[6].startswith("reward")


# The command


def test_once_prints_one_frame(run, capsys):
    step(run, 0)
    assert main(["runs", "watch", "nano", "--root", str(run.path.parent), "--once"]) == 0
    assert f"{run.path}: running, rl 1/3" in capsys.readouterr().out
    assert main(["runs", "watch", str(run.path / "no")]) == 2
    assert main(["runs", "watch"]) == 2
    assert "`steep runs watch` with 0 runs" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="has no pseudo-terminals")
def test_q_leaves_and_the_terminal_is_as_it_was(run):
    step(run, 0)
    ours, its = pty.openpty()
    words = [sys.executable, "-m", "steep.cli", "runs", "watch", str(run.path)]
    process = subprocess.Popen(words, stdin=its, stdout=its, env=os.environ | {"TERM": "xterm", "COLUMNS": "200"})
    os.close(its)
    seen = b""
    while b"reward" not in seen:
        seen += os.read(ours, 4096)
    os.write(ours, b"q")
    with io.FileIO(ours) as terminal:
        while b"\x1b[?1049l" not in seen:  # back from the alternate screen
            seen += terminal.read(4096)
        assert process.wait() == 0
