"""Every rule fires on its fault, and none where nothing is wrong."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.injections import (
    CLEAN,
    ELSEWHERE,
    FAULTS,
    PROMPT,
    Fault,
    fired,
    go,
    groups,
    inject,
    rollout,
    saved,
    watched,
)
from steep.errors import PausedError
from steep.runs import Health, HealthConfig, RollBackError, Stage, held_out_overlap, measures
from steep.runs.health import RULES, Limit, UpdateLimit, WarnLimit, differences, table, troubles
from steep.types import Group, wrong


def test_every_rule_has_a_limit_a_fault_and_a_line_in_the_docs():
    assert set(RULES) == {f.name for f in fields(HealthConfig)} == FAULTS.keys() | ELSEWHERE.keys()
    for f in fields(HealthConfig):
        expected = {"update": UpdateLimit, "clock": WarnLimit}
        assert type(f.default) is expected.get(RULES[f.name].when, Limit)
    docs = (Path(__file__).parent.parent.parent / "docs/health.md").read_text()
    fix = "write it anew: python -c 'from steep.runs.health import table; print(table())'"
    assert table() in docs, fix


@pytest.mark.parametrize("name", list(FAULTS))
def test_a_fault_fires_its_rule_within_two_steps(name: str, tmp_path: Path):
    health = inject(name, tmp_path / "rl")
    rows = [row for row in fired(health) if row["rule"] == name]
    assert rows, fired(health)
    limit, row = getattr(HealthConfig(), name), rows[0]
    assert row["value"] > row["limit"] == getattr(limit, row["reaction"], limit.warn)
    assert row["message"].endswith(RULES[name].do)
    if name in ("truncation", "guessing", "copying", "repetition", "invalid_verdicts"):
        assert row["rollouts"][:2] == ["0/0", "1/0" if name == "guessing" else "0/1"]


def test_problems_that_are_held_out_and_trained_on_are_told_before_the_first_step(tmp_path: Path):
    (row,) = fired(inject("overlap", tmp_path / "rl"))
    assert (row["rule"], row["step"]) == ("overlap", 0)
    assert row["value"] == pytest.approx(3 / 13)


def test_phrases_of_a_task_are_no_overlap():
    prompts = [f"Use the numbers {n}, {n + 1} and {n + 2} once each and put your answer in a box." for n in range(60)]
    assert held_out_overlap(prompts[:40], prompts[40:]) == 0
    long = "a train of twelve cars leaves the station at noon and comes back at six in the"
    assert held_out_overlap([f"{long} evening"], [f"Once {long} morning", "what else?"]) == 0.5


def test_a_state_that_was_not_taken_up_stops_the_run(tmp_path: Path):
    before = {"optimizer": [{"lr": 0.1, "exp": torch.ones(2)}]}
    assert differences(before, before) == []
    now = {**before, "weights": {"w": torch.ones(2)}, "of a newer version": 1}
    assert watched(tmp_path / "sft").begin(saved(3, **before), now) == 0
    health = inject("lost_state", tmp_path / "rl")
    assert fired(health)[0]["evidence"] == {"lost": "optimizer.0.lr, optimizer.0.exp, weights.w"}
    with pytest.raises(PausedError, match="lost_state 1"):
        health.begin(saved(3, **before), {"weights": {"w": torch.zeros(2)}})


def test_a_clock_that_jumps_is_told(tmp_path: Path):
    rows = fired(inject("clock_jump", tmp_path / "rl"))
    assert [(row["rule"], round(row["value"])) for row in rows] == [("clock_jump", 3600)]


def test_a_disk_without_room_for_checkpoints_is_told(tmp_path: Path):
    (row,) = fired(inject("disk", tmp_path / "rl"))
    assert (row["rule"], row["reaction"]) == ("disk", "warn")


def test_an_update_is_skipped_and_a_new_course_is_paused(tmp_path: Path):
    health = watched(tmp_path / "rl")
    for step in range(CLEAN):
        go(health, step)
    assert go(health, CLEAN, FAULTS["gradient_spike"]) == (False, None)
    assert go(health, CLEAN + 1) == (True, None)
    assert [row["reaction"] for row in fired(health)] == ["skip", "over"]
    assert troubles(health.stage) == []
    applied, ends = zip(*(go(health, CLEAN + 2 + n, FAULTS["gradient_spike"]) for n in range(5)), strict=True)
    assert applied == (False,) * 5
    assert ends[:4] == (None,) * 4
    assert isinstance(ends[4], PausedError)
    assert f"`steep resume {tmp_path} --health.gradient_spike none`" in ends[4].fix


def test_a_warning_is_told_once_and_grows(tmp_path: Path):
    health = watched(tmp_path / "rl", HealthConfig(truncation=Limit(warn=0.1, pause=0.25, steps=3)))
    levels = [0.0, 0.2, 0.2, 0.3, 0.3, 0.0, 0.3, 0.3, 0.3]
    ends = [go(health, step, Fault(metrics={"truncated": level}))[1] for step, level in enumerate(levels)]
    assert [(row["step"], row["reaction"]) for row in fired(health)] == [
        (1, "warn"), (5, "over"), (6, "warn"), (8, "pause"),
    ]  # fmt: skip
    assert [end is None for end in ends] == [True] * 8 + [False]
    (now,) = troubles(health.stage)
    assert (now.rule, now.step, now.value) == ("truncation", 8, 0.3)


def test_a_run_goes_back_twice_and_then_no_more(tmp_path: Path):
    health = watched(tmp_path / "rl")
    for step, left_out in ((12, 3), (11, 5)):
        assert isinstance(go(health, step, FAULTS["broken_weights"])[1], RollBackError)
        assert health.begin(saved(10, health.state() | {"passed_over": 0}), {}) == left_out
        assert health.passed_over == left_out
    go(health, 10, FAULTS["broken_weights"])
    with pytest.raises(PausedError, match="went back to step 10 2 times"):
        health.begin(saved(10), {})


def test_no_state_on_the_way_to_a_roll_back_is_good(tmp_path: Path):
    health = watched(tmp_path / "rl")
    for step in range(5):
        go(health, step)
    assert health.good
    go(health, 5, FAULTS["entropy_explosion"])
    assert not health.good


def test_a_rule_can_be_left_out(tmp_path: Path):
    health = watched(tmp_path / "rl", HealthConfig(broken_weights=None))
    assert go(health, 0, FAULTS["broken_weights"]) == (True, None)
    assert fired(health) == []


@pytest.mark.parametrize("cut", [3, CLEAN])
def test_a_resumed_run_finds_the_same(cut: int, tmp_path: Path):
    faults = {CLEAN + 2: "gradient_spike", CLEAN + 4: "truncation", CLEAN + 5: "entropy_collapse"}
    config = HealthConfig(throughput=None)
    whole = watched(tmp_path / "whole", config)
    health = watched(tmp_path / "cut", config)
    for step in range(CLEAN + 8):
        if step == cut:
            state = health.state()
            health = Health(Stage(tmp_path / "cut"), config, lambda text: None)
            health.begin(saved(step, state), {})
        fault = FAULTS[faults[step]] if step in faults else None
        assert go(health, step, fault) == go(whole, step, fault)
    assert fired(health) == fired(whole) != []
    assert health.state() == whole.state()


def test_what_is_measured_of_responses():
    def measured(*responses: list[int], **changes: Any) -> dict[str, float]:
        made = [rollout(0, n, wrong("no"), ids=np.array(r, np.int32), **changes) for n, r in enumerate(responses)]
        return measures([Group(problem=groups(0)[0].problem, rollouts=tuple(made))], oldest=50)

    once = list(range(8))
    assert measured(once * 3)["repeated"] == pytest.approx(1 - 8 / 17)
    assert measured(once, once)["repeated"] == 0  # the same in two rollouts is no repetition
    assert measured([*PROMPT[:14], *range(14)])["copied"] == pytest.approx(7 / 21)
    assert measured(once, versions=np.full(8, 48))["stale"] == 2
    assert measured(once, thought_len=3)["guessed"] == 0  # it was wrong
    assert measured([1, 2], thought_len=1)["repeated"] == 0
