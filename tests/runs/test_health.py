"""Every rule fires on its fault, and none where nothing is wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steep.errors import PausedError
from steep.runs import (
    Checkpoint,
    Health,
    HealthConfig,
    RollBackError,
    Stage,
    Stopping,
    held_out_overlap,
    measures,
)
from steep.runs.health import RULES, Limit, UpdateLimit, WarnLimit, differences, table, troubles, watching
from steep.types import Budget, Group, Message, Problem, Rollout, Verdict, correct, invalid, wrong

CLEAN = 25
"""Steps before a fault: baselines are there."""
PROMPT = tuple(range(100, 120))


@dataclass(frozen=True)
class Fault:
    """What is wrong in a step, laid over a step in which nothing is."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    rollout: Mapping[str, Any] = field(default_factory=dict)
    before: int = CLEAN


def ids(seed: int, length: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, 90, length).astype(np.int32)


def rollout(seed: int, sample: int, verdict: Verdict, **changes: Any) -> Rollout:
    length = len(changes.get("ids", ())) or 40
    whole = Rollout(
        prompt_ids=PROMPT,
        ids=ids(1000 * seed + sample),
        logprobs=np.full(length, -1.0, np.float32),
        sampled=np.ones(length, np.bool_),
        versions=np.full(length, 50, np.int32),
        thought_len=30,
        stop="end",
        budget=Budget(thought=64, answer=16, closing=(2,)),
        seed=seed,
        sample=sample,
        verdict=verdict,
    )
    return replace(whole, **changes)


def groups(step: int, **changes: Any) -> list[Group]:
    problem = Problem(id="p", task="t", split="train", level=1, prompt=(Message(role="user", content="?"),), key={})
    made = []
    for number in range(4):
        verdicts = [correct(), wrong("no"), wrong("no"), correct() if number else wrong("no")]
        seed = {"seed": 4 * step + number} | changes
        rollouts = (rollout(sample=s, **({"verdict": v} | seed)) for s, v in enumerate(verdicts))
        made.append(Group(problem=problem, rollouts=tuple(rollouts)))
    return made


FAULTS = {
    "not_finite": Fault(metrics={"grad_norm": float("nan")}),
    "gradient_spike": Fault(metrics={"grad_norm": 5.0}),
    "kl_blow_up": Fault(metrics={"sampler_kl": 5e-3}),
    "mismatch": Fault(metrics={"sampler_kl": 0.02}),
    "first_update": Fault(metrics={"sampler_kl": 2e-3}, before=0),
    "broken_weights": Fault(metrics={"weight_norm": float("inf")}),
    "weight_sync": Fault(metrics={"sync_failed": 1.0}),
    "entropy_collapse": Fault(metrics={"entropy": 0.01}),
    "entropy_explosion": Fault(metrics={"entropy": 0.5}),
    "thought_explosion": Fault(metrics={"thought": 250.0}),
    "thought_collapse": Fault(metrics={"thought": 20.0}),
    "truncation": Fault(metrics={"truncated": 0.3}, rollout={"stop": "length"}),
    "zero_variance": Fault(metrics={"signal": 0.0}),
    "equal_rewards": Fault(rollout={"verdict": wrong("no")}),
    "reward_without_accuracy": Fault(metrics={"reward": 0.9, "valid/t@64": 0.2, "valid/t@64_low": 0.1}),
    "guessing": Fault(rollout={"thought_len": 2}),
    "copying": Fault(rollout={"ids": np.array(PROMPT * 2, np.int32)}),
    "repetition": Fault(rollout={"ids": np.full(40, 7, np.int32)}),
    "stale_policy": Fault(rollout={"versions": np.full(40, 3, np.int32)}),
    "duplicates": Fault(rollout={"seed": 5}),
    "invalid_verdicts": Fault(metrics={"invalid": 0.2}, rollout={"verdict": invalid("timeout")}),
    "canary": Fault(metrics={"canary": 0.125}),
    "throughput": Fault(metrics={"tokens/s": 900.0}),
}
"""Of the rules over steps; the others are tested one by one below."""
ELSEWHERE = {"overlap", "lost_state", "clock_jump", "disk"}


def metrics(step: int, given: Sequence[Group]) -> dict[str, float]:
    """A step of a run in which nothing goes wrong, with the spread that was measured in such runs."""
    rng = np.random.default_rng(step)
    start = {"start/valid/t@64": 0.5, "start/valid/t@64_low": 0.4} if step == 0 else {}
    return start | {
        "reward": 0.5 + 0.05 * rng.random(),
        "signal": 0.6,
        "thought": 80 + 40 * rng.random(),
        "truncated": 0.01,
        "invalid": 0.0,
        "loss": 0.01 * rng.normal(),
        "grad_norm": 0.2 * float(np.exp(0.3 * rng.normal())),
        "sampler_kl": 3e-5 * float(np.exp(0.5 * rng.normal())),
        "entropy": 0.1 + 0.03 * rng.random(),
        "weight_norm": 30.0,
        "sync_failed": 0.0,
        "tokens/s": 20_000 + 5000 * rng.random(),
        **measures(given, oldest=50),
    }


def watched(path: Path, config: HealthConfig | None = None) -> Health:
    path.mkdir(exist_ok=True)
    health = Health(Stage(path), config or HealthConfig(), lambda text: None)
    health.begin(None, {})
    return health


def saved(step: int, health: dict[str, Any] | None = None, **state: Any) -> Checkpoint:
    state = state if health is None else {**state, "health": health}
    return Checkpoint(step=step, path=Path("step"), state=state, weights={"w": torch.ones(2)})


def go(health: Health, step: int, fault: Fault | None = None) -> tuple[bool, BaseException | None]:
    """One step. Whether its update is accepted, and what ends the run, if anything does."""
    fault = fault or Fault()
    given = groups(step, **fault.rollout)
    seen = metrics(step, given) | fault.metrics
    stopping = Stopping()
    accepted = health.accepts({k: seen[k] for k in ("loss", "grad_norm", "sampler_kl", "entropy")})
    try:
        health.check(step, seen, given, lambda text: None, stopping)
    except RollBackError as error:
        return accepted, error
    return accepted, stopping.reason if stopping.asked else None


def fired(health: Health) -> list[dict[str, Any]]:
    return health.stage.log("health").rows()


def test_every_rule_has_a_limit_a_fault_and_a_line_in_the_docs():
    assert set(RULES) == {f.name for f in fields(HealthConfig)} == FAULTS.keys() | ELSEWHERE
    for f in fields(HealthConfig):
        expected = {"update": UpdateLimit, "clock": Limit if f.name == "disk" else WarnLimit}
        assert type(f.default) is expected.get(RULES[f.name].when, Limit)
    docs = (Path(__file__).parent.parent.parent / "docs/health.md").read_text()
    fix = "write it anew: python -c 'from steep.runs.health import table; print(table())'"
    assert table() in docs, fix


@pytest.mark.parametrize("name", list(FAULTS))
def test_a_fault_fires_its_rule_within_two_steps(name: str, tmp_path: Path):
    fault, health = FAULTS[name], watched(tmp_path / "rl")
    for step in range(fault.before):
        assert go(health, step) == (True, None)
    assert fired(health) == []
    for step in (fault.before, fault.before + 1):
        go(health, step, fault)
    rows = [row for row in fired(health) if row["rule"] == name]
    assert rows, fired(health)
    limit, row = getattr(HealthConfig(), name), rows[0]
    assert row["value"] > row["limit"] == getattr(limit, row["reaction"], limit.warn)
    assert row["message"].endswith(RULES[name].do)
    if name in ("truncation", "guessing", "copying", "repetition", "invalid_verdicts"):
        assert row["rollouts"][:2] == ["0/0", "1/0" if name == "guessing" else "0/1"]


def test_problems_that_are_held_out_and_trained_on_are_told_before_the_first_step(tmp_path: Path):
    tmp_path.joinpath("rl").mkdir()
    told: list[str] = []
    prompts = [f"Problem {n}: how many apples does Ann have, who had {n} and ate two of them?" for n in range(40)]
    look = {"overlap": held_out_overlap(prompts[:30], prompts[27:])}
    health = Health(Stage(tmp_path / "rl"), HealthConfig(), told.append, lambda: look)
    assert health.begin(None, {}) == 0
    assert [row["rule"] for row in fired(health)] == ["overlap"]
    assert fired(health)[0]["value"] == pytest.approx(3 / 13)
    assert "overlap" in told[0]


def test_phrases_of_a_task_are_no_overlap():
    prompts = [f"Use the numbers {n}, {n + 1} and {n + 2} once each and put your answer in a box." for n in range(60)]
    assert held_out_overlap(prompts[:40], prompts[40:]) == 0
    long = "a train of twelve cars leaves the station at noon and comes back at six in the"
    assert held_out_overlap([f"{long} evening"], [f"Once {long} morning", "what else?"]) == 0.5


def test_a_state_that_was_not_taken_up_stops_the_run(tmp_path: Path):
    before = {"optimizer": [{"lr": 0.1, "exp": torch.ones(2)}]}
    assert differences(before, before) == []
    health = watched(tmp_path / "rl")
    assert health.begin(saved(3, **before), {**before, "weights": {"w": torch.ones(2)}}) == 0
    now = {"optimizer": [{"lr": 0.2, "exp": torch.zeros(2)}], "weights": {"w": torch.zeros(2)}}
    with pytest.raises(PausedError, match="lost_state 3"):
        health.begin(saved(3, **before), now)
    assert fired(health)[0]["evidence"] == {"lost": "optimizer.0.lr, optimizer.0.exp, weights.w"}


def test_a_clock_that_jumps_is_told(tmp_path: Path, monkeypatch):
    health = watched(tmp_path / "rl")
    go(health, 0)
    plain = watching.time.time
    monkeypatch.setattr(watching.time, "time", lambda: plain() - 3600)
    go(health, 1)
    assert [(row["rule"], round(row["value"])) for row in fired(health)] == [("clock_jump", 3600)]


def test_a_disk_without_room_for_checkpoints_pauses_the_run(tmp_path: Path):
    checkpoint = tmp_path / "rl/checkpoints/step-000010"
    checkpoint.mkdir(parents=True)
    with open(checkpoint / "weights.safetensors", "wb") as file:
        file.truncate(watching.shutil.disk_usage(tmp_path).free)  # a hole: it takes no room
    health = watched(tmp_path / "rl")
    _, end = go(health, 0)
    assert isinstance(end, PausedError)
    assert fired(health)[0]["rule"] == "disk"


def test_an_update_is_skipped_and_a_new_course_is_paused(tmp_path: Path):
    health = watched(tmp_path / "rl")
    for step in range(CLEAN):
        go(health, step)
    assert go(health, CLEAN, FAULTS["gradient_spike"]) == (False, None)
    assert go(health, CLEAN + 1) == (True, None)
    assert [row["reaction"] for row in fired(health)] == ["skip", "over"]
    assert troubles(health.stage) == []
    ends = [go(health, CLEAN + 2 + n, FAULTS["gradient_spike"])[1] for n in range(5)]
    assert ends[:4] == [None] * 4
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
