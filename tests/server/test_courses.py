import json
import math

import numpy as np
import pytest

from steep.errors import SteepError
from steep.runs import Log
from steep.server.courses import Columns, thin


@pytest.fixture
def log(tmp_path):
    return Log(tmp_path / "metrics.jsonl")


def steps(columns, metric="reward"):
    return columns.thinned(metric, 1000).steps


def test_numbers_come_back_as_recorded(log):
    log.append({"step": 0, "reward": 0.5, "note": "warm-up", "tokens": 7})
    log.append({"step": 1, "reward": math.nan, "tokens": 8.5, "late": 1})
    columns = Columns(log.path)
    assert columns.names() == ["reward", "tokens", "late"]
    assert (steps(columns), steps(columns, "tokens"), steps(columns, "late")) == ([0], [0, 1], [1])
    assert columns.thinned("tokens", 10).smooth == [7.0, 8.5]
    assert steps(columns, "nothing") == []


def test_a_log_that_is_not_there_has_no_numbers(log):
    assert Columns(log.path).names() == []


def test_what_was_appended_is_read_on(log, monkeypatch):
    columns, read = Columns(log.path), []
    append = columns._append
    monkeypatch.setattr(columns, "_append", lambda lines: (read.append(lines.count(b"\n")), append(lines)))
    for step in range(5):
        log.append({"step": step, "reward": step})
    assert steps(columns) == [0, 1, 2, 3, 4]
    log.append({"step": 5, "reward": 5})
    with open(log.path, "a") as file:
        file.write('{"step": 6, "rew')  # is being written
    assert steps(columns) == steps(columns) == [0, 1, 2, 3, 4, 5]
    assert read == [5, 1]


def test_a_log_that_a_resume_cut_back_is_read_again(log):
    columns = Columns(log.path)
    for step in range(5):
        log.append({"step": step, "reward": 0.25})
    whole = log.path.read_bytes()
    assert columns.thinned("reward", 10).smooth == [0.25] * 5
    log.path.write_bytes(whole.replace(b"0.25", b"0.75"))  # as long as before, and grown past where it was
    log.append({"step": 5, "reward": 0.75})
    assert columns.thinned("reward", 10).smooth == [0.75] * 6
    log.truncate(40)
    assert steps(columns) == [0]


def test_a_damaged_line_is_told(log):
    log.path.write_bytes(b'{"step": 1}\n\0\0\n')
    with pytest.raises(SteepError, match="damaged line"):
        Columns(log.path).names()


def test_intervals_and_what_was_measured_before_the_first_step_are_shown(log):
    log.append(
        {"step": 0, "reward": 0.1, "start/valid/x@8": 0.2, "start/valid/x@8_low": 0.1, "start/valid/x@8_high": 0.4}
    )
    log.append({"step": 1, "reward": 0.1, "valid/x@8": 0.5, "valid/x@8_low": 0.4, "valid/x@8_high": 0.6})
    thinned = Columns(log.path).thinned("valid/x@8", 10)
    assert (thinned.steps, thinned.low, thinned.smooth, thinned.high) == ([-1, 1], [0.1, 0.4], [0.2, 0.5], [0.4, 0.6])


def test_no_extreme_is_lost_in_thinning():
    values = np.sin(np.arange(100_000) / 50.0)
    values[54_321], values[67_890] = 9.0, -9.0
    steps = np.arange(100_000.0)
    thinned = thin(steps, values, values, values, 400)
    assert len(thinned.steps) == len(thinned.low) == len(thinned.smooth) == 400
    assert (max(thinned.high), min(thinned.low)) == (9.0, -9.0)
    assert thinned.steps[thinned.high.index(9.0)] <= 54_321 < thinned.steps[thinned.high.index(9.0) + 1]


def test_a_range_of_steps_is_looked_at_closer(log):
    log.path.write_text("".join(json.dumps({"step": s, "reward": s % 7}) + "\n" for s in range(3000)))
    columns = Columns(log.path)
    assert len(columns.thinned("reward", 100).steps) == 100
    closer = columns.thinned("reward", 100, first=1000, last=1049)
    assert (closer.steps[0], closer.steps[-1], len(closer.steps)) == (1000, 1049, 50)
    assert closer.low == closer.high == [float(s % 7) for s in range(1000, 1050)]
