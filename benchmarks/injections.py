"""One fault for every rule of health, put into a run in which nothing else is wrong.

inject("truncation", directory)    # the Health that watched 25 clean steps and then two with the fault
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from shutil import disk_usage
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray

from steep.errors import PausedError
from steep.runs import Checkpoint, Health, HealthConfig, RollBackError, Stage, Stopping, held_out_overlap, measures
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
"""Of the rules over steps."""


def inject(rule: str, path: Path) -> Health:
    """Watch a stage in `path` in which the rule's fault comes."""
    if rule in ELSEWHERE:
        return ELSEWHERE[rule](path)
    fault, health = FAULTS[rule], watched(path)
    for step in range(fault.before):
        assert go(health, step) == (True, None)
    assert fired(health) == []
    for step in (fault.before, fault.before + 1):
        go(health, step, fault)
    return health


def overlap(path: Path) -> Health:
    """Problems that are held out and trained on."""
    prompts = [f"Problem {n}: how many apples does Ann have, who had {n} and ate two of them?" for n in range(40)]
    return watched(path, look=lambda: {"overlap": held_out_overlap(prompts[:30], prompts[27:])})


def lost_state(path: Path) -> Health:
    """A state that was not taken up."""
    health = watched(path)
    now = {"optimizer": [{"lr": 0.2, "exp": torch.zeros(2)}], "weights": {"w": torch.zeros(2)}}
    with suppress(PausedError):
        health.begin(saved(3, optimizer=[{"lr": 0.1, "exp": torch.ones(2)}]), now)
    return health


def clock_jump(path: Path) -> Health:
    health, plain = watched(path), time.time
    go(health, 0)
    with patch.object(time, "time", lambda: plain() - 3600):
        go(health, 1)
    return health


def disk(path: Path) -> Health:
    """No room for checkpoints."""
    health = watched(path)
    checkpoint = path / "checkpoints" / "step-000010"
    checkpoint.mkdir(parents=True)
    with open(checkpoint / "weights.safetensors", "wb") as file:
        file.truncate(disk_usage(path).free)  # a hole: it takes no room
    go(health, 0)
    return health


ELSEWHERE: dict[str, Callable[[Path], Health]] = {
    "overlap": overlap,
    "lost_state": lost_state,
    "clock_jump": clock_jump,
    "disk": disk,
}
"""Faults that are no part of a step."""


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


def ids(seed: int, length: int = 40) -> NDArray[np.int32]:
    return np.random.default_rng(seed).integers(3, 90, length).astype(np.int32)


def groups(step: int, **changes: Any) -> list[Group]:
    problem = Problem(id="p", task="t", split="train", level=1, prompt=(Message(role="user", content="?"),), key={})
    made = []
    for number in range(4):
        verdicts = [correct(), wrong("no"), wrong("no"), correct() if number else wrong("no")]
        rollouts = (
            rollout(**{"seed": 4 * step + number, "sample": sample, "verdict": verdict, **changes})
            for sample, verdict in enumerate(verdicts)
        )
        made.append(Group(problem=problem, rollouts=tuple(rollouts)))
    return made


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


def watched(path: Path, config: HealthConfig | None = None, look: Callable[[], Mapping[str, float]] = dict) -> Health:
    path.mkdir(exist_ok=True)
    health = Health(Stage(path), config or HealthConfig(), lambda text: None, look)
    health.begin(None, {})
    return health


def saved(step: int, health: dict[str, Any] | None = None, **state: Any) -> Checkpoint:
    state = state if health is None else {**state, "health": health}
    return Checkpoint(step=step, path=Path("step"), state=state, weights={"w": torch.ones(2)})


def go(health: Health, step: int, fault: Fault | None = None) -> tuple[bool, BaseException | None]:
    """One step. Whether its update is accepted, and what ends the run, if anything does."""
    fault = fault or Fault()
    given = groups(step, **fault.rollout)
    seen = {**metrics(step, given), **fault.metrics}
    stopping = Stopping()
    accepted = health.accepts({k: seen[k] for k in ("loss", "grad_norm", "sampler_kl", "entropy")})
    try:
        health.check(step, seen, given, lambda text: None, stopping)
    except RollBackError as error:
        return accepted, error
    return accepted, stopping.reason if stopping.asked else None


def fired(health: Health) -> list[dict[str, Any]]:
    return health.stage.log("health").rows()
