"""The rules: what each measures of a step, what it means when that is too much, and what to do.

A rule's measure is a function of what is seen of the step and of a little memory of its own, which is saved with the
run. It gives a number, or None where it cannot tell; `limits.py` says above which number what happens.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from steep.runs.health.grams import LENGTH, WORDS, copied, repeated
from steep.runs.health.limits import REACTIONS, WAITING, HealthConfig
from steep.runs.health.measures import FEW, guessed, held_out
from steep.types import Group, Rollout

START = 5
"""Steps whose median is what a run began with."""
LATELY = 10
"""Steps that are looked at together where one tells little."""
WINDOW = 50
"""Steps that a spike stands out from."""
ENOUGH = 20
"""Steps from which on something can stand out."""
STANDS_OUT = 6.0
"""Spreads."""
CALM = 0.2
"""A spread of logarithms that is smaller is taken for this: what is 5 times as large is 8 spreads above."""
HARMLESS_KL = 1e-3
LEDGER = 4096
"""Groups that are remembered."""

Memory = dict[str, list[float]]
When = Literal["start", "update", "step", "clock"]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a rule is shown: before the first step, of an update that is not applied yet, or of a whole step."""

    metrics: Mapping[str, Any]
    """Those recorded, timing too, and what only rules look at. A stage has what it has."""
    groups: Sequence[Group] = ()


@dataclass(frozen=True, kw_only=True)
class Rule:
    measure: Callable[[Seen, Memory], float | None]
    value: str
    """What it measures, with its unit."""
    means: str
    do: str
    reads: tuple[str, ...] = ()
    """The metrics that are its evidence."""
    which: Callable[[Group, Rollout], bool] | None = None
    """The rollouts that are its evidence."""
    when: When = "step"
    """`start`: before the first step. `update`: before an update is applied. `clock`: with a step, but what it sees is
    the machine, so a resumed run begins with no memory of it."""


def metric(name: str) -> Callable[[Seen, Memory], float | None]:
    return lambda seen, memory: seen.metrics.get(name)


def bad_numbers(*names: str) -> Callable[[Seen, Memory], float | None]:
    def count(seen: Seen, memory: Memory) -> float | None:
        values = [seen.metrics[name] for name in names if name in seen.metrics]
        return sum(not math.isfinite(value) for value in values) if values else None

    return count


def spreads_above(name: str, least: float = 0.0) -> Callable[[Seen, Memory], float | None]:
    """How far the logarithm of a metric is above the median of the last steps, in their median deviations.

    What stands out is not taken into the baseline, and what is below `least` does not stand out.
    """

    def above(seen: Seen, memory: Memory) -> float | None:
        value = seen.metrics.get(name)
        if value is None or not 0 < value < math.inf:
            return None
        log, recent = math.log(value), memory.get("recent", [])
        spreads = 0.0
        if len(recent) >= ENOUGH and value >= least:
            middle = statistics.median(recent)
            spread = 1.4826 * statistics.median(abs(x - middle) for x in recent)  # that of a normal distribution
            spreads = (log - middle) / max(spread, CALM)
        if spreads < STANDS_OUT:
            memory["recent"] = [*recent, log][-WINDOW:]
        return spreads

    return above


def times_start(name: str, flat: str | None = None) -> Callable[[Seen, Memory], float | None]:
    """A metric as a multiple of what it was at the start; 1 while the metric `flat` has risen since."""

    def times(seen: Seen, memory: Memory) -> float | None:
        now, first = seen.metrics.get(name), None
        if now is not None:
            first = at_start(now, memory, name)
        risen = flat is not None and rise(seen, memory, flat) > 0
        return None if now is None or not first else 1.0 if risen else now / first

    return times


def fall(name: str, flat: str | None = None) -> Callable[[Seen, Memory], float | None]:
    """How much of a metric is gone since the start, as a share of it."""
    times = times_start(name, flat)

    def gone(seen: Seen, memory: Memory) -> float | None:
        left = times(seen, memory)
        return None if left is None else 1 - left

    return gone


def at_start(value: float, memory: Memory, name: str) -> float | None:
    first = memory.setdefault(name, [])
    if len(first) < START:
        first.append(value)
        return None
    return statistics.median(first)


def rise(seen: Seen, memory: Memory, name: str) -> float:
    """How much a metric is above its start by more than noise; 0 if it cannot be told."""
    value = seen.metrics.get(name)
    start = None if value is None else at_start(value, memory, name)
    return 0.0 if value is None or start is None else max(0.0, value - start - 0.02)


def flat_groups(seen: Seen, memory: Memory) -> float | None:
    if "signal" not in seen.metrics:
        return None
    last = memory["last"] = [*memory.get("last", []), 1 - seen.metrics["signal"]][-LATELY:]
    return statistics.fmean(last) if len(last) >= START else None


def all_equal(seen: Seen, memory: Memory) -> float | None:
    verdicts = [r.verdict for g in seen.groups for r in g.rollouts]
    scores = [v.score for v in verdicts if v is not None and v.kind != "invalid"]
    return float(len(set(scores)) == 1) if len(scores) > 1 else None


def accuracy_lost(seen: Seen, memory: Memory) -> float | None:
    """How far held-out accuracy is below its start, if the reward is above its own."""
    before, now = (held_out(seen.metrics, prefix) for prefix in ("start/valid/", "valid/"))
    if before is not None:
        memory["accuracy"] = [before]
    better = rise(seen, memory, "reward") > 0
    if now is None or "accuracy" not in memory:
        return None
    return memory["accuracy"][0] - now if better else 0.0


def first(name: str) -> Callable[[Seen, Memory], float | None]:
    """A metric, the first time that there is one."""

    def once(seen: Seen, memory: Memory) -> float | None:
        if name not in seen.metrics or "seen" in memory:
            return None
        memory["seen"] = [1.0]
        return float(seen.metrics[name])

    return once


def taken_twice(seen: Seen, memory: Memory) -> float | None:
    """Share of the groups whose random numbers were drawn before."""
    seeds = [g.rollouts[0].seed for g in seen.groups if g.rollouts]
    known = memory.get("seeds", [])
    memory["seeds"] = [*known, *seeds][-LEDGER:]
    return 1 - len(set(seeds) - set(known)) / len(seeds) if seeds else None


def slowed(seen: Seen, memory: Memory) -> float | None:
    """How many times longer a token took in the last LATELY steps than in those before."""
    if "tokens/s" not in seen.metrics:
        return None
    past = memory["times"] = [*memory.get("times", []), 1 / seen.metrics["tokens/s"]][-WINDOW:]
    before, lately = past[:-LATELY], past[-LATELY:]
    return statistics.fmean(lately) / statistics.median(before) if len(before) >= START else None


GRAMS = f"{LENGTH} tokens in a row"

RULES: dict[str, Rule] = {
    "not_finite": Rule(
        measure=bad_numbers("loss", "grad_norm"),
        value="of loss and gradient, how many are not finite",
        means="An overflow, or a broken batch. Such an update is never applied.",
        do="look at the step's rollouts; lower the rate, or leave autocast and bf16",
        reads=("loss", "grad_norm"),
        when="update",
    ),
    "gradient_spike": Rule(
        measure=spreads_above("grad_norm"),
        value=f"spreads that the gradient's norm is above the last {WINDOW} steps, on a log scale",
        means="One batch pulls much harder than all before it.",
        do="look at the step's rollouts; if spikes go on, lower the rate or clip_norm",
        reads=("grad_norm",),
        when="update",
    ),
    "kl_blow_up": Rule(
        measure=spreads_above("sampler_kl", HARMLESS_KL),
        value=f"spreads that the KL of sampler and policy is above the last {WINDOW} steps; 0 below {HARMLESS_KL}",
        means="The policy runs away from what samples for it.",
        do="lower the rate, or max_staleness",
        reads=("sampler_kl", "ratio"),
        when="update",
    ),
    "mismatch": Rule(
        measure=metric("sampler_kl"),
        value="KL of sampler and policy on the tokens of a batch, nats",
        means="The engine does not compute what the policy does, or samples from weights that are too old.",
        do="use an engine of another dtype (engine.dtype float32); lower max_staleness",
        reads=("sampler_kl", "ratio"),
        when="update",
    ),
    "first_update": Rule(
        measure=first("sampler_kl"),
        value="the same at a stage's first update, where both have the same weights",
        means="Sampler and policy differ by more than rounding from the start: template, weights or kernels disagree.",
        do="compare engine and policy on one sequence before training; STEEP_KERNELS=0 leaves the fused kernels",
        reads=("sampler_kl",),
        when="update",
    ),
    "broken_weights": Rule(
        measure=bad_numbers("weight_norm"),
        value="1 if the norm of the weights is not finite",
        means="The weights are lost: what is trained or sampled from now on is noise.",
        do="lower the rate; on a GPU look for hardware errors",
        reads=("weight_norm",),
    ),
    "weight_sync": Rule(
        measure=metric("sync_failed"),
        value="1 if the engine holds other weights than were sent, or the same as before an update",
        means="Rollouts come from another model than the one that is trained.",
        do="see that the rate is not 0 and the engine takes weights",
        reads=("lr",),
    ),
    "entropy_collapse": Rule(
        measure=fall("entropy"),
        value="share of the entropy at the start that is gone",
        means="The policy hardly explores any more, so nothing new is found.",
        do="raise the upper clip or the cap, lower the rate, take harder problems",
        reads=("entropy",),
    ),
    "entropy_explosion": Rule(
        measure=times_start("entropy"),
        value="entropy as a multiple of that at the start",
        means="The policy dissolves into noise.",
        do="lower the rate; see whether rewards are what they should be",
        reads=("entropy", "grad_norm"),
    ),
    "thought_explosion": Rule(
        measure=times_start("thought", flat="reward"),
        value="thought tokens as a multiple of those at the start, while the reward is flat",
        means="Thoughts grow and nothing is gained by it.",
        do="see that the end of a thought is trained; look at repetition; draw smaller budgets",
        reads=("thought", "reward", "interrupted"),
    ),
    "thought_collapse": Rule(
        measure=fall("thought", flat="reward"),
        value="share of the thought tokens at the start that is gone, while the reward is flat",
        means="The model stops thinking and nothing is gained by it.",
        do="look at guessing; take harder problems; check what short thoughts are rewarded for",
        reads=("thought", "reward"),
    ),
    "truncation": Rule(
        measure=metric("truncated"),
        value="share of rollouts whose answer, or context, ran out; an interrupted thought is none",
        means="Answers that the model did not finish count as wrong, so length is learned in place of being right.",
        do="raise rl.rollouts.answer or engine.context; fine-tune until answers end",
        reads=("truncated", "interrupted"),
        which=lambda g, r: r.stop == "length",
    ),
    "zero_variance": Rule(
        measure=flat_groups,
        value=f"share of groups whose rollouts all score alike, over {LATELY} steps",
        means="They teach nothing: the problems are too easy or too hard, and sampling them is lost time.",
        do="other levels or tasks, larger groups (rl.rollouts.group_size)",
        reads=("signal", "reward"),
    ),
    "equal_rewards": Rule(
        measure=all_equal,
        value="1 if all rollouts of a step score the same",
        means="Nothing can be learned, or the verifier is broken.",
        do="check the verifier (`steep tasks check`); fine-tune first, or begin with easier problems",
        reads=("reward",),
    ),
    "reward_without_accuracy": Rule(
        measure=accuracy_lost,
        value="how far held-out accuracy is below its start while the reward is above",
        means="The reward pays for something else than being right, such as the format.",
        do="read some rewarded rollouts; pay only for what is correct",
        reads=("reward",),
    ),
    "guessing": Rule(
        measure=metric("guessed"),
        value=f"of the right answers, the share with under {FEW} thought tokens by the model's choice",
        means="The answers can be guessed, so thinking is not what is rewarded.",
        do="harder problems, or answers that are not one of a few",
        reads=("guessed", "thought"),
        which=lambda g, r: guessed(r),
    ),
    "copying": Rule(
        measure=metric("copied"),
        value=f"of all {GRAMS}, the share that stands in the prompt too",
        means="The model repeats its problem in place of thinking.",
        do="see that copying is not rewarded; look at the demonstrations",
        reads=("copied",),
        which=lambda g, r: copied([r.ids], [np.array(r.prompt_ids)], [0]) > 0.5,
    ),
    "repetition": Rule(
        measure=metric("repeated"),
        value=f"of all {GRAMS}, the share that the same response had before",
        means="Responses run in circles.",
        do="lower the rate; draw smaller budgets; look at the demonstrations",
        reads=("repeated", "thought"),
        which=lambda g, r: repeated([r.ids]) > 0.5,
    ),
    "stale_policy": Rule(
        measure=metric("stale"),
        value="updates by which the oldest token is older than max_staleness allows",
        means="The engine goes on with old weights.",
        do="see why weights reach it late",
        reads=("stale",),
    ),
    "duplicates": Rule(
        measure=taken_twice,
        value=f"share of groups whose random numbers are those of one of the last {LEDGER}",
        means="The same rollouts are trained on twice.",
        do="see how problems and seeds are numbered",
    ),
    "invalid_verdicts": Rule(
        measure=metric("invalid"),
        value="share of verdicts that are invalid: the check itself failed",
        means="The verifier crashes or runs out of time; what is left may be the easy part.",
        do="read the reasons in the step's rollouts; `steep tasks check` tries the verifier",
        reads=("invalid",),
        which=lambda g, r: r.verdict is not None and r.verdict.kind == "invalid",
    ),
    "canary": Rule(
        measure=metric("canary"),
        value="share of unsolvable problems whose answer was rewarded, at evaluations",
        means="The verifier can be deceived, and the model has found out how.",
        do="mend the verifier; what was trained since the last clean evaluation is spoilt",
        reads=("canary",),
    ),
    "overlap": Rule(
        measure=metric("overlap"),
        value=f"share of held-out prompts that share {WORDS} words in a row with a training prompt, or are one",
        means="Held-out accuracy measures memory.",
        do="take them out of the training problems",
        when="start",
    ),
    "lost_state": Rule(
        measure=metric("lost_state"),
        value="parts of the checkpoint (weights, optimizer, step, random numbers, curriculum) that were not taken up",
        means="The resumed run would be another one.",
        do="use the version of steep that made the checkpoint",
        reads=("lost",),
        when="start",
    ),
    "throughput": Rule(
        measure=slowed,
        value=f"times that a token took longer in the last {LATELY} steps than before",
        means="Something else uses the machine, or it is too hot, or memory runs short.",
        do="see what else runs (`top`)",
        reads=("tokens/s",),
        when="clock",
    ),
    "clock_jump": Rule(
        measure=metric("clock_jump_s"),
        value="seconds that the wall clock jumped within a step",
        means="The machine slept, or its clock was set; times of this step mean little.",
        do="keep it from sleeping while it trains",
        when="clock",
    ),
    "disk": Rule(
        measure=metric("checkpoint_of_disk"),
        value="a checkpoint's size as a share of the free disk",
        means="The run will soon have to wait until there is room.",
        do="free some space",
        when="clock",
    ),
}


def table() -> str:
    """All rules with their own limits, as Markdown."""
    lines = ["| rule | value | limits | means | what to do |", "| --- | --- | --- | --- | --- |"]
    defaults = {f.name: f.default for f in fields(HealthConfig)}
    for name, rule in RULES.items():
        lines.append(f"| `{name}` | {rule.value} | {drawn(defaults[name])} | {rule.means} | {rule.do} |")
    return "\n".join(lines) + "\n"


def drawn(limit: Any) -> str:
    """The lines of a rule, such as "warn 0.1, pause 0.25 (10 steps)"."""
    told = []
    for reaction in REACTIONS:
        at = getattr(limit, reaction, None)
        if at is not None:
            waits = reaction in WAITING and limit.steps > 1
            told.append(f"{reaction} {at:.3g}" + (f" ({limit.steps} steps)" if waits else ""))
    return ", ".join(told)
