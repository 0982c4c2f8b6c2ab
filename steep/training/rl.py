"""Reinforcement learning: take groups, turn verdicts into advantages, update, hand the new weights to the engine.

rollouts.take -> groups -> examples (advantages, weights) -> policy.update -> engine.load_weights -> record
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from steep.algorithms import Algorithm, advantages, gae, token_weights
from steep.config import within
from steep.models.weights import digest
from steep.policies import Example, Policy, PolicyConfig
from steep.rollouts import LATE, RolloutConfig, Rollouts, rows
from steep.runs import Health, Progress, Stage, held_out, measures
from steep.types import Budget, Engine, Group, Rollout


@dataclass(frozen=True, kw_only=True)
class RlConfig:
    num_steps: int = 50
    groups_per_step: int = 32
    profile: int | None = None
    """Problems of each level that are tried before the first step: the curriculum begins with their pass rates, and
    those that are too hard or too easy (`rollouts.curriculum`) are not drawn. None: it begins knowing nothing."""
    max_staleness: int = 0
    """How many updates old the weights may be that sampled a token; 0 is synchronous."""
    algorithm: Algorithm = field(default_factory=Algorithm)
    teacher: str | None = None
    """The model that `distill` learns from."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    rollouts: RolloutConfig = field(default_factory=RolloutConfig)
    eval_every: int = 10
    """Steps between evaluations on the validation split. Each one takes a checkpoint too, so that the best is kept."""
    checkpoint_every: int = 10

    def __post_init__(self) -> None:
        within(self, 1, "num_steps", "groups_per_step", "profile", "eval_every", "checkpoint_every")
        within(self, 0, "max_staleness")


def rl(
    stage: Stage,
    policy: Policy,
    engine: Engine,
    rollouts: Rollouts,
    config: RlConfig,
    evaluate: Callable[[], Mapping[str, float]],
    health: Health,
    reference: Policy | None = None,
    teacher: Policy | None = None,
) -> None:
    """Run the steps that are left. `evaluate` measures the engine as it is; `reference` and `teacher` are frozen."""
    start = resume(stage, policy, engine, rollouts, health, config.groups_per_step)
    if config.profile is not None and not rollouts.curriculum.rates:
        profile(rollouts, config.profile)
        save(stage, start, policy, rollouts, health)
    baseline = before_training(rollouts, evaluate) if start == 0 else {}
    longest = tokens_at_most(rollouts.template.budget(config.rollouts.thought[1], config.rollouts.answer), 0)
    with Progress(config.num_steps, stage.name, start=start) as progress, stage.stopping as stopping:
        for step in range(start, config.num_steps):
            began = time.monotonic()
            groups = rollouts.take(config.groups_per_step)
            sampled = time.monotonic()
            examples = learn_from(groups, policy, config.algorithm, longest, reference, teacher)
            metrics = policy.update(examples, config.algorithm.loss, health.accepts)
            synced = sync(policy, engine, version=step + 1, changed=metrics.get("updated", 0) > 0)
            metrics = describe(groups, config.algorithm) | measures(groups, step - config.max_staleness) | metrics
            metrics |= synced | {"tokens_trained": sum(len(e.ids) for e in examples)} | baseline
            baseline = {}
            updated = time.monotonic()
            last = step + 1 == config.num_steps
            measured = evaluate() if (step + 1) % config.eval_every == 0 or last else {}
            metrics |= measured
            speed = {
                "sample_s": sampled - began,
                "update_s": updated - sampled,
                "tokens/s": metrics["tokens_sampled"] / (sampled - began),
            }
            stage.record(step, metrics, speed)
            stage.save_rollouts(step, list(rows(groups, rollouts.template)))
            shown = {k: metrics[k] for k in ("reward", "signal", "thought", "entropy") if k in metrics}
            progress.update(step + 1, shown | {"tokens/s": speed["tokens/s"]})
            progress.sample(sample_text(groups, rollouts))
            health.check(step, metrics | speed, groups, progress.note, stopping)
            due = ((step + 1) % config.checkpoint_every == 0 or measured) and health.good
            if due or stopping.asked or last:
                save(stage, step + 1, policy, rollouts, health, held_out(measured))
            if stopping.asked:
                stage.wait()
                raise stopping.reason


def resume(
    stage: Stage, policy: Policy, engine: Engine, rollouts: Rollouts, health: Health, groups_per_step: int
) -> int:
    """Load the newest whole checkpoint, if there is one; the step to begin with."""
    checkpoint = stage.resume()
    if checkpoint is not None:
        policy.load_state(checkpoint.state["policy"], checkpoint.weights)
        rollouts.load_state(checkpoint.state["rollouts"])
    step = checkpoint.step if checkpoint else 0
    taken_up = {"policy": policy.state(), "rollouts": rollouts.state(), "weights": policy.trained()}
    rollouts.pass_over(health.begin(checkpoint, taken_up), groups_per_step)
    engine.load_weights(policy.weights(engine.dtype), version=step)
    return step


def save(
    stage: Stage, step: int, policy: Policy, rollouts: Rollouts, health: Health, score: float | None = None
) -> None:
    state = {"policy": policy.state(), "rollouts": rollouts.state(), "health": health.state()}
    stage.save_checkpoint(step, state, policy.trained(), score)


def profile(rollouts: Rollouts, per_level: int) -> None:
    """Find out which problems have signal."""
    curriculum = rollouts.curriculum
    with Progress(1, "profile") as progress:
        rollouts.profile(per_level)
        progress.update(1, {"retired": len(curriculum.retired), **curriculum.rates})


def before_training(rollouts: Rollouts, evaluate: Callable[[], Mapping[str, float]]) -> dict[str, float]:
    """What is recorded with the first step."""
    profiled = {f"profile/{level}": rate for level, rate in rollouts.curriculum.rates.items()}
    return {f"start/{k}": v for k, v in evaluate().items()} | profiled


def sync(policy: Policy, engine: Engine, version: int, changed: bool) -> dict[str, float]:
    """Hand the weights over. It failed if the engine's receipt is not for what was sent, or is the one from before."""
    weights = policy.weights(engine.dtype)
    before = engine.receipt
    receipt = engine.load_weights(weights, version)
    failed = receipt.digest != digest(weights) or (changed and receipt.digest == before.digest)
    return {"sync_failed": float(failed)}


def learn_from(
    groups: Sequence[Group],
    policy: Policy,
    algorithm: Algorithm,
    longest: int,
    reference: Policy | None = None,
    teacher: Policy | None = None,
) -> list[Example]:
    """Examples with advantages and weights. Rollouts with an invalid verdict are dropped, groups without signal too.

    `longest` is how many tokens a rollout may have at most: by so many some algorithms divide.
    """
    kept = [[r for r in g.rollouts if r.verdict is not None and r.verdict.kind != "invalid"] for g in groups]
    scored = [(rollouts, [score(r, algorithm) for r in rollouts]) for rollouts in kept if rollouts]
    if algorithm.needs_variance:
        scored = [(rollouts, scores) for rollouts, scores in scored if min(scores) < max(scores)]
    if not scored:
        return []
    by_group = advantages([np.array(scores) for _, scores in scored], algorithm.advantage)
    lengths = [[int(r.sampled.sum()) for r in rollouts] for rollouts, _ in scored]
    weights = token_weights(lengths, algorithm.weights, max_tokens=longest)
    examples = [
        example(rollout, advantage, weight)
        for (rollouts, _), group_advantages, group_weights in zip(scored, by_group, weights, strict=True)
        for rollout, advantage, weight in zip(rollouts, group_advantages, group_weights, strict=True)
        if advantage != 0 or algorithm.needs  # without other models, no advantage means no gradient
    ]
    return with_other_models(examples, policy, algorithm, reference, teacher)


def score(rollout: Rollout, algorithm: Algorithm) -> float:
    assert rollout.verdict is not None
    limit = tokens_at_most(rollout.budget, len(rollout.ids))
    overlong = algorithm.overlong.penalty(len(rollout.ids), limit) if algorithm.overlong else 0.0
    late = algorithm.late if rollout.verdict == LATE else 0.0
    return rollout.verdict.score + overlong - late


def tokens_at_most(budget: Budget, thought: int) -> int:
    """Tokens of a response under the budget; `thought` is for one that sets no limit to the thought."""
    return (thought if budget.thought is None else budget.thought) + budget.answer + len(budget.closing)


def example(rollout: Rollout, advantage: float, weight: float) -> Example:
    trained = np.flatnonzero(rollout.sampled)
    return Example(
        ids=np.concatenate([np.array(rollout.prompt_ids, np.int32), rollout.ids]),
        trained=trained + len(rollout.prompt_ids),
        weights=np.full(len(trained), weight, np.float32),
        prompt=len(rollout.prompt_ids),
        advantages=np.full(len(trained), advantage, np.float32),
        sampler_logprobs=rollout.logprobs[trained],
    )


def with_other_models(
    examples: list[Example], policy: Policy, algorithm: Algorithm, reference: Policy | None, teacher: Policy | None
) -> list[Example]:
    """Add what the loss needs from a critic, a reference or a teacher."""
    fields: list[dict[str, Any]] = [{} for _ in examples]
    for name, scorer in (("reference", reference), ("teacher", teacher)):
        if name in algorithm.needs:
            assert scorer is not None, f"the loss needs a {name}"
            for extra, logprobs in zip(fields, scorer.logprobs(examples), strict=True):
                extra[f"{name}_logprobs"] = logprobs
    if algorithm.gae is not None:
        for extra, e, values in zip(fields, examples, policy.values(examples), strict=True):
            assert e.advantages is not None
            rewards = np.zeros(len(values))
            rewards[-1] = e.advantages[-1]
            spread, returns = gae(rewards, values, algorithm.gae)
            extra |= {"advantages": spread.astype(np.float32), "returns": returns.astype(np.float32)}
            extra["old_values"] = values
    return [Example(**{**vars(e), **extra}) for e, extra in zip(examples, fields, strict=True)]


def describe(groups: Sequence[Group], algorithm: Algorithm) -> dict[str, float]:
    """What to record of the groups of a step: reward first, then whether there is anything to learn from."""
    rollouts = [r for g in groups for r in g.rollouts]
    verdicts = [r.verdict for r in rollouts if r.verdict is not None]
    valid = [v.score for v in verdicts if v.kind != "invalid"]
    varied = [
        len({score(r, algorithm) for r in g.rollouts if r.verdict and r.verdict.kind != "invalid"}) > 1 for g in groups
    ]
    return {
        "reward": float(np.mean(valid)) if valid else 0.0,
        "signal": float(np.mean(varied)),
        "thought": float(np.mean([r.thought_tokens for r in rollouts])),
        "interrupted": float(np.mean([r.interrupted for r in rollouts])),
        "truncated": float(np.mean([r.stop == "length" for r in rollouts])),
        "invalid": 1 - len(valid) / len(verdicts),
        "budget": float(np.mean([g.rollouts[0].budget.thought or 0 for g in groups])),
        "tokens_sampled": sum(len(r.ids) for r in rollouts),
    }


def sample_text(groups: Sequence[Group], rollouts: Rollouts) -> str:
    """One rollout as a person would read it."""
    group = groups[0]
    rollout = group.rollouts[0]
    ids, template = rollout.ids.tolist(), rollouts.template
    verdict = rollout.verdict.kind if rollout.verdict else "?"
    return f"{group.problem.prompt[-1].content}\n{template.thought(ids)}\n=> {template.answer(ids)}  [{verdict}]"
