"""Every preset, from scores to gradients, against the formula of its paper on a tiny softmax policy.

The papers are written out below in loops over numpy floats, apart from `steep`: as an objective that is differentiated
by finite differences, or, where the formula stops gradients, as the gradient itself.
"""

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steep.algorithms import (
    PRESETS,
    Algorithm,
    Cispo,
    Gae,
    LossInputs,
    Ppo,
    advantages,
    cispo,
    dapo,
    distill,
    dr_grpo,
    gae,
    grpo,
    gspo,
    ppo,
    reinforce,
    rft,
    token_weights,
)
from steep.errors import ConfigError

LIMIT = 4
"""Tokens that a rollout may have."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Prompt p at position t has logits [p, t] whatever came before. Groups of three; responses are token ids."""

    responses: list[list[list[int]]]
    scores: list[list[float]]
    policy: np.ndarray
    sampler: np.ndarray
    reference: np.ndarray
    teacher: np.ndarray
    critic: np.ndarray
    """(prompts, positions)"""
    old_critic: np.ndarray

    def tokens(self):
        """(prompt, rollout, position, token) of every token."""
        for p, group in enumerate(self.responses):
            for i, response in enumerate(group):
                for t, token in enumerate(response):
                    yield p, i, t, token


def make_batch(scores):
    rng = np.random.default_rng(5)
    policy = rng.normal(size=(len(scores), LIMIT, 3))
    near = lambda scale: policy + scale * rng.normal(size=policy.shape)  # noqa: E731
    critic = rng.uniform(size=policy.shape[:2])
    lengths = [[1, 4, 2], [3, 3, 2], [2, 1, 4]]
    return Batch(
        responses=[[rng.integers(0, 3, size=n).tolist() for n in group] for group in lengths[: len(scores)]],
        scores=scores,
        policy=policy,
        sampler=near(0.4),
        reference=near(0.6),
        teacher=near(1.0),
        critic=critic,
        old_critic=critic + 0.3 * rng.normal(size=critic.shape),
    )


MIXED = make_batch([[1, 0, 0], [1, 1, 1], [1, 0, 1]])
FLAT = make_batch([[1, 1, 1], [0, 0, 0]])


def logprob(logits, p, t, token):
    return float(logits[p, t, token] - np.log(np.exp(logits[p, t]).sum()))


def lookup(logits_PTV, batch, which):
    p, t, token = torch.tensor([(p, t, token) for p, i, t, token in batch.tokens() if (p, i) in which]).T
    return torch.as_tensor(logits_PTV).log_softmax(-1)[p, t, token]


def gradients(algorithm, batch, cuts=None):
    """Gradients for the policy's logits and the critic, and metrics: the trainer in miniature.

    `cuts` is a list of micro-batches, each a list of (prompt, rollout); None for all in one.
    """
    lengths = [[len(response) for response in group] for group in batch.responses]
    scores = [np.array(s, dtype=np.float32) for s in batch.scores]
    if algorithm.overlong is not None:
        scores = [
            s + [algorithm.overlong.penalty(n, LIMIT) for n in group] for s, group in zip(scores, lengths, strict=True)
        ]
    advantage = advantages(scores, algorithm.advantage)
    weight = token_weights(lengths, algorithm.weights, max_tokens=LIMIT)

    policy = torch.tensor(batch.policy, requires_grad=True)
    critic = torch.tensor(batch.critic, requires_grad=True)
    metrics: dict[str, float] = {}
    everything = [(p, i) for p, group in enumerate(batch.responses) for i in range(len(group))]
    for number, which in enumerate(cuts or [everything]):
        which = sorted(which)
        repeat = torch.tensor([lengths[p][i] for p, i in which])
        token_advantages = torch.tensor([advantage[p][i] for p, i in which]).repeat_interleave(repeat)
        others = {}
        if "critic" in algorithm.needs:
            spread = [
                gae(
                    np.array([0.0] * (lengths[p][i] - 1) + [advantage[p][i]]),
                    batch.old_critic[p, : lengths[p][i]],
                    algorithm.gae,
                )
                for p, i in which
            ]
            token_advantages, returns = (torch.tensor(np.concatenate(arrays)) for arrays in zip(*spread, strict=True))
            values, old_values = (
                torch.cat([table[p, : lengths[p][i]] for p, i in which])
                for table in (critic, torch.tensor(batch.old_critic))
            )
            others = {"values": values, "old_values": old_values, "returns": returns}
        output = algorithm.loss(
            LossInputs(
                logprobs=lookup(policy, batch, which),
                sampler_logprobs=lookup(batch.sampler, batch, which),
                advantages=token_advantages,
                weights=torch.tensor([weight[p][i] for p, i in which]).repeat_interleave(repeat),
                sequence=torch.arange(len(which)).repeat_interleave(repeat) + 10 * number,
                reference_logprobs=lookup(batch.reference, batch, which),
                teacher_logprobs=lookup(batch.teacher, batch, which),
                **others,
            )
        )
        output.loss.backward()
        metrics = {name: metrics.get(name, 0.0) + value.item() for name, value in output.metrics.items()}
    return policy.grad.numpy(), None if critic.grad is None else critic.grad.numpy(), metrics


# The papers, as objectives to maximise.


def clipped(ratio, advantage, low, high):
    return min(ratio * advantage, min(max(ratio, low), high) * advantage)


def group_normalised(scores):
    mean = sum(scores) / len(scores)
    std = math.sqrt(sum((score - mean) ** 2 for score in scores) / len(scores))
    return [(score - mean) / (std + 1e-6) for score in scores]


def grpo_objective(batch, policy, critic):
    """DeepSeekMath eq. 3 and 4, mean over the questions, beta 0.04."""
    total = 0.0
    for p, i, t, token in batch.tokens():
        group = batch.responses[p]
        log_pi = logprob(policy, p, t, token)
        ratio = math.exp(log_pi - logprob(batch.sampler, p, t, token))
        q = math.exp(logprob(batch.reference, p, t, token) - log_pi)
        term = clipped(ratio, group_normalised(batch.scores[p])[i], 0.8, 1.2) - 0.04 * (q - math.log(q) - 1)
        total += term / len(group[i]) / len(group) / len(batch.responses)
    return total


def dapo_objective(batch, policy, critic):
    """DAPO eq. 8 with eq. 13 on the scores: L_max 4, L_cache 1; penalty 1/2, as scores are not -1 and 1."""
    penalty = {1: 0.0, 2: 0.0, 3: 0.0, 4: -0.5}
    tokens = sum(len(response) for group in batch.responses for response in group)
    total = 0.0
    for p, i, t, token in batch.tokens():
        scores = [s + penalty[len(r)] for s, r in zip(batch.scores[p], batch.responses[p], strict=True)]
        ratio = math.exp(logprob(policy, p, t, token) - logprob(batch.sampler, p, t, token))
        total += clipped(ratio, group_normalised(scores)[i], 0.8, 1.28) / tokens
    return total


def dr_grpo_objective(batch, policy, critic):
    """Dr. GRPO: sum over tokens, mean over rollouts and questions, divided by the constant LIMIT."""
    total = 0.0
    for p, i, t, token in batch.tokens():
        advantage = batch.scores[p][i] - sum(batch.scores[p]) / len(batch.scores[p])
        ratio = math.exp(logprob(policy, p, t, token) - logprob(batch.sampler, p, t, token))
        total += clipped(ratio, advantage, 0.8, 1.2) / LIMIT / len(batch.responses[p]) / len(batch.responses)
    return total


def gspo_objective(batch, policy, critic):
    """GSPO eq. 5 to 7."""
    total = 0.0
    for p, group in enumerate(batch.responses):
        for i, response in enumerate(group):
            product = 1.0
            for t, token in enumerate(response):
                product *= math.exp(logprob(policy, p, t, token)) / math.exp(logprob(batch.sampler, p, t, token))
            s = product ** (1 / len(response))
            total += clipped(s, group_normalised(batch.scores[p])[i], 0.9997, 1.0004) / len(group)
    return total / len(batch.responses)


def ppo_objective(batch, policy, critic):
    """PPO eq. 9 and 11, A as a sum of discounted errors; gamma 0.9, lambda 0.8, c1 0.5, values clipped to 0.2."""
    tokens = sum(len(response) for group in batch.responses for response in group)
    total = 0.0
    for p, i, t, token in batch.tokens():
        length = len(batch.responses[p][i])
        old = [*batch.old_critic[p, :length], 0.0]
        errors = [(batch.scores[p][i] if k == length - 1 else 0.0) + 0.9 * old[k + 1] - old[k] for k in range(length)]
        advantage = sum((0.9 * 0.8) ** (k - t) * errors[k] for k in range(t, length))
        target = advantage + old[t]
        near = min(max(critic[p, t], old[t] - 0.2), old[t] + 0.2)
        ratio = math.exp(logprob(policy, p, t, token) - logprob(batch.sampler, p, t, token))
        squared = max((critic[p, t] - target) ** 2, (near - target) ** 2)
        total += (clipped(ratio, advantage, 0.8, 1.2) - 0.5 * squared) / tokens
    return total


def slopes(objective, batch):
    """Central differences of an objective for the policy's logits and the critic."""
    results = []
    for table in (batch.policy.copy(), batch.critic.copy()):
        arguments = (table, batch.critic) if table.ndim == 3 else (batch.policy, table)
        slope = np.zeros_like(table)
        for index in np.ndindex(table.shape):
            kept = table[index]
            ends = []
            for step in (1e-6, -1e-6):
                table[index] = kept + step
                ends.append(objective(batch, *arguments))
            table[index] = kept
            slope[index] = (ends[0] - ends[1]) / 2e-6
        results.append(slope)
    return results


@pytest.mark.parametrize(
    ("algorithm", "objective"),
    [
        (grpo(), grpo_objective),
        (dapo(), dapo_objective),
        (dr_grpo(), dr_grpo_objective),
        (gspo(), gspo_objective),
        (replace(ppo(), gae=Gae(gamma=0.9, lam=0.8)), ppo_objective),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_gradient_of_the_papers_objective(algorithm, objective):
    for_policy, for_critic, metrics = gradients(algorithm, MIXED)
    expected_policy, expected_critic = slopes(objective, MIXED)
    np.testing.assert_allclose(for_policy, -expected_policy, atol=1e-8, rtol=1e-6)
    assert 0 < metrics["clipped"] < metrics["weight"], "the batch must reach into the clip"
    if for_critic is not None:
        np.testing.assert_allclose(for_critic, -expected_critic, atol=1e-8, rtol=1e-6)
        assert 0 < metrics["value_clipped"] < metrics["weight"]


# The papers whose formula stops a gradient: the coefficient c of each token in `sum of c * grad log pi`.


def cispo_coefficient(batch, p, i, t, token):
    """ScaleRL: (1/P) (1 / tokens of the prompt) min(rho, 5) (r - mean) / batch std; groups 0 and 2 have variance."""
    deviations = [score - sum(batch.scores[g]) / 3 for g in (0, 2) for score in batch.scores[g]]
    std = math.sqrt(sum(d * d for d in deviations) / len(deviations))
    ratio = math.exp(logprob(batch.policy, p, t, token) - logprob(batch.sampler, p, t, token))
    advantage = (batch.scores[p][i] - sum(batch.scores[p]) / 3) / (std + 1e-6)
    return min(ratio, 5.0) * advantage / sum(map(len, batch.responses[p])) / 3


def tight_cispo_coefficient(batch, p, i, t, token):
    ratio = math.exp(logprob(batch.policy, p, t, token) - logprob(batch.sampler, p, t, token))
    return cispo_coefficient(batch, p, i, t, token) / min(ratio, 5.0) * min(ratio, 1.1)


def reinforce_coefficient(batch, p, i, t, token):
    """RLOO: the score less the mean of the other two."""
    others = [score for k, score in enumerate(batch.scores[p]) if k != i]
    ratio = math.exp(logprob(batch.policy, p, t, token) - logprob(batch.sampler, p, t, token))
    return min(ratio, 2.0) * (batch.scores[p][i] - sum(others) / 2) / (9 * LIMIT)


def rft_coefficient(batch, p, i, t, token):
    """Cross-entropy on the correct ones."""
    return (1.0 if batch.scores[p][i] == 1 else 0.0) / sum(len(r) for group in batch.responses for r in group)


def distill_coefficient(batch, p, i, t, token):
    tokens = sum(len(r) for group in batch.responses for r in group)
    sampler = logprob(batch.sampler, p, t, token)
    ratio = math.exp(logprob(batch.policy, p, t, token) - sampler)
    return min(ratio, 2.0) * (logprob(batch.teacher, p, t, token) - sampler) / tokens


@pytest.mark.parametrize(
    ("algorithm", "coefficient"),
    [
        (cispo(), cispo_coefficient),
        (replace(cispo(), loss=Cispo(cap=1.1)), tight_cispo_coefficient),
        (reinforce(), reinforce_coefficient),
        (rft(), rft_coefficient),
        (distill(), distill_coefficient),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_gradient_of_the_papers_estimator(algorithm, coefficient):
    expected = np.zeros_like(MIXED.policy)
    for p, i, t, token in MIXED.tokens():
        softmax = np.exp(MIXED.policy[p, t]) / np.exp(MIXED.policy[p, t]).sum()
        expected[p, t] += coefficient(MIXED, p, i, t, token) * (np.eye(3)[token] - softmax)
    np.testing.assert_allclose(gradients(algorithm, MIXED)[0], -expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
@settings(max_examples=15)
@given(order=st.permutations([(p, i) for p in range(3) for i in range(3)]), ends=st.sets(st.integers(1, 8)))
def test_normalise_once(preset, order, ends):
    """However whole sequences are cut into micro-batches, the gradients and the metrics add up to the same."""
    edges = [0, *sorted(ends), len(order)]
    cuts = [order[start:end] for start, end in pairwise(edges)]
    whole, parts = gradients(preset(), MIXED), gradients(preset(), MIXED, cuts)
    np.testing.assert_allclose(parts[0], whole[0], rtol=0, atol=1e-12)
    if whole[1] is not None:
        np.testing.assert_allclose(parts[1], whole[1], rtol=0, atol=1e-12)
    assert parts[2] == pytest.approx(whole[2], abs=1e-12)


@pytest.mark.parametrize("preset", [cispo, dr_grpo, gspo, reinforce])
def test_groups_without_variance_have_no_gradient(preset):
    assert preset().needs_variance
    assert not gradients(preset(), FLAT)[0].any()
    mixed = gradients(preset(), MIXED)[0]
    assert not mixed[1].any()
    assert mixed[0].any()
    assert mixed[2].any()


@pytest.mark.parametrize("algorithm", [replace(grpo(), loss=dr_grpo().loss), replace(dapo(), overlong=None)])
def test_groups_without_variance_have_no_gradient_without_kl_and_length_penalty(algorithm):
    assert not gradients(algorithm, FLAT)[0].any()


@pytest.mark.parametrize("preset", [ppo, rft, distill])
def test_without_a_baseline_groups_without_variance_teach(preset):
    assert not preset().needs_variance
    assert gradients(preset(), FLAT)[0].any()


def test_the_default_is_cispo():
    assert Algorithm() == cispo()
    assert (cispo().loss, cispo().weights) == (Cispo(cap=5.0), "prompt_mean")
    assert (cispo().advantage.baseline, cispo().advantage.scale) == ("group_mean", "batch_std")


def test_the_bounds_are_those_of_the_papers():
    bounds = {
        name: (loss.clip_low, loss.clip_high) for name in PRESETS if hasattr(loss := PRESETS[name]().loss, "clip_low")
    }
    assert bounds == {
        "grpo": (0.8, 1.2),
        "dapo": (0.8, 1.28),
        "dr_grpo": (0.8, 1.2),
        "gspo": (0.9997, 1.0004),
        "ppo": (0.8, 1.2),
    }


def test_what_the_presets_need():
    assert {name: set(preset().needs) for name, preset in PRESETS.items() if preset().needs} == {
        "grpo": {"reference"},
        "ppo": {"critic"},
        "distill": {"teacher"},
    }


def test_a_critic_and_gae_go_together():
    with pytest.raises(ConfigError, match="do not go together"):
        Algorithm(loss=Ppo())
    with pytest.raises(ConfigError, match="do not go together"):
        replace(cispo(), gae=Gae())
