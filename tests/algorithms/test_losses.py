"""The losses one token at a time: clip regions, what is detached, what stays finite."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steep.algorithms import Cispo, Dapo, Distill, DrGrpo, Grpo, Gspo, LossInputs, Ppo, Reinforce, Rft, k3
from steep.errors import ConfigError

F64 = torch.float64


def inputs(log_ratio, advantages, dtype=F64, **others):
    """Tokens of weight 1 whose policy is exp(log_ratio) times as likely as the sampler, each its own sequence."""
    log_ratio = torch.tensor(log_ratio, dtype=dtype)
    sampler = torch.full_like(log_ratio, -1.5)
    n = len(log_ratio)
    return LossInputs(
        logprobs=(sampler + log_ratio).requires_grad_(),
        sampler_logprobs=sampler,
        advantages=torch.tensor(advantages, dtype=dtype),
        weights=torch.ones(n, dtype=dtype),
        sequence=torch.arange(n),
        **{
            name: value if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=dtype)
            for name, value in others.items()
        },
    )


def gradient(loss, given_inputs):
    """d loss / d logprobs, (T,)."""
    return torch.autograd.grad(loss(given_inputs).loss, given_inputs.logprobs)[0]


LOG_RATIOS = [math.log(ratio) for ratio in (0.5, 0.9, 1.1, 1.25, 1.5, 7.0)]


@pytest.mark.parametrize(
    ("loss", "sign", "expected"),
    [
        # Silenced above for A > 0, below for A < 0; elsewhere d/dlogp (-rho A) = -rho A.
        (Grpo(), 2.0, [-1.0, -1.8, -2.2, 0, 0, 0]),
        (Grpo(), -2.0, [0, 1.8, 2.2, 2.5, 3.0, 14.0]),
        (DrGrpo(), 2.0, [-1.0, -1.8, -2.2, 0, 0, 0]),
        (Dapo(), 2.0, [-1.0, -1.8, -2.2, -2.5, 0, 0]),
        (Dapo(), -2.0, [0, 1.8, 2.2, 2.5, 3.0, 14.0]),
        (Gspo(clip_low=0.8, clip_high=1.2), 2.0, [-1.0, -1.8, -2.2, 0, 0, 0]),
        (Gspo(clip_low=0.8, clip_high=1.2), -2.0, [0, 1.8, 2.2, 2.5, 3.0, 14.0]),
        # Bounded, never silenced; -sg(rho) A for both signs.
        (Cispo(cap=5.0), 2.0, [-1.0, -1.8, -2.2, -2.5, -3.0, -10.0]),
        (Cispo(cap=5.0), -2.0, [1.0, 1.8, 2.2, 2.5, 3.0, 10.0]),
        (Reinforce(cap=1.2), 2.0, [-1.0, -1.8, -2.2, -2.4, -2.4, -2.4]),
        (Reinforce(cap=None), 2.0, [-2.0] * 6),
        (Rft(), 2.0, [-2.0] * 6),
    ],
)
def test_gradient_by_region(loss, sign, expected):
    result = gradient(loss, inputs(LOG_RATIOS, [sign] * 6))
    torch.testing.assert_close(result, torch.tensor(expected, dtype=F64))


@pytest.mark.parametrize(("sign", "clipped"), [(2.0, 3), (-2.0, 1), (0.0, 0)])
def test_ppo_clips_as_grpo_and_counts_it(sign, clipped):
    critic = {"values": [0.0] * 6, "old_values": [0.0] * 6, "returns": [0.0] * 6}
    torch.testing.assert_close(
        gradient(Ppo(), inputs(LOG_RATIOS, [sign] * 6, **critic)), gradient(Grpo(), inputs(LOG_RATIOS, [sign] * 6))
    )
    assert Ppo()(inputs(LOG_RATIOS, [sign] * 6, **critic)).metrics["clipped"] == clipped


def test_metrics_by_hand():
    half, seven = math.log(0.5), math.log(7.0)
    weighted = inputs([half, seven], [1.0, 1.0], entropy=[0.5, 1.5])
    object.__setattr__(weighted, "weights", torch.tensor([0.25, 0.5], dtype=F64))
    metrics = Cispo()(weighted).metrics
    assert metrics["weight"] == 0.75
    assert metrics["ratio"].item() == pytest.approx(0.25 * 0.5 + 0.5 * 7)
    assert metrics["clipped"] == 0.5
    assert metrics["sampler_kl"].item() == pytest.approx(0.25 * (0.5 - 1 - half) + 0.5 * (7 - 1 - seven))
    assert metrics["entropy"].item() == pytest.approx(0.25 * 0.5 + 0.5 * 1.5)
    assert all(not metric.requires_grad and metric.dim() == 0 for metric in metrics.values())


@pytest.mark.parametrize("sign", [1.0, -1.0, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize(
    "loss", [Cispo(), Grpo(kl=0.1), Dapo(), DrGrpo(), Gspo(), Ppo(), Reinforce(), Rft(), Distill()]
)
def test_nothing_is_nan_when_the_log_probabilities_are_200_apart(loss, dtype, sign):
    far = inputs(
        [200.0, -200.0, 0.0],
        [sign] * 3,
        dtype,
        reference_logprobs=[-300.0, 100.0, -1.5],
        teacher_logprobs=[-1.5, -300.0, 0.0],
        values=[0.0] * 3,
        old_values=[0.0] * 3,
        returns=[1.0] * 3,
    )
    output = loss(far)
    assert output.loss.isfinite()
    assert torch.autograd.grad(output.loss, far.logprobs)[0].isfinite().all()
    assert all(metric.isfinite() for metric in output.metrics.values())


def test_cispo_is_reinforce_on_policy():
    on_policy = inputs([0.0] * 4, [1.3, -0.2, 0.0, 2.0])
    assert torch.equal(gradient(Cispo(), on_policy), -on_policy.advantages)
    assert torch.equal(gradient(Reinforce(), on_policy), -on_policy.advantages)
    assert torch.equal(gradient(Reinforce(cap=None), on_policy), -on_policy.advantages)
    assert torch.equal(Cispo()(on_policy).loss, Reinforce()(on_policy).loss)


@given(st.floats(-20, 20))
def test_k3_is_never_negative(log_ratio):
    assert k3(torch.tensor(log_ratio, dtype=F64)).item() >= 0


def test_k3_averages_to_the_kl():
    p, q = (torch.tensor(logits, dtype=F64).log_softmax(0) for logits in ([0.3, -1.0, 0.5], [-0.2, 0.9, 0.0]))
    torch.testing.assert_close((p.exp() * k3(q - p)).sum(), (p.exp() * (p - q)).sum())


def test_the_kl_of_grpo_reaches_the_gradient():
    """d k3 / d logp = 1 - q with q = reference / policy; the surrogate is silent at A = 0."""
    quarter = inputs([0.0, 0.0], [0.0, 0.0], reference_logprobs=[-1.5 + math.log(0.25), -1.5 + math.log(3)])
    torch.testing.assert_close(gradient(Grpo(kl=0.1), quarter), torch.tensor([0.1 * 0.75, 0.1 * -2], dtype=F64))
    assert Grpo(kl=0.1)(quarter).metrics["reference_kl"].item() == pytest.approx(
        0.25 - 1 - math.log(0.25) + 3 - 1 - math.log(3)
    )


def test_gspo_shares_one_ratio_among_the_tokens_of_a_sequence():
    """Two interleaved sequences numbered 7 and 3, with mean log ratios 0.15 and -0.1."""
    tokens = inputs([0.1, -0.3, 0.2, 0.1], [1.0, -2.0, 1.0, -2.0])
    object.__setattr__(tokens, "sequence", torch.tensor([7, 3, 7, 3]))
    up, down = math.exp(0.15), math.exp(-0.1)
    wide = Gspo(clip_low=0.5, clip_high=1.5)
    assert wide(tokens).loss.item() == pytest.approx(-2 * up + 4 * down)
    # Each token has half of the sequence's gradient: d/dlogp (-2 s A) = -s A.
    expected = torch.tensor([-up, 2 * down, -up, 2 * down], dtype=F64)
    torch.testing.assert_close(gradient(wide, tokens), expected)
    # A token is clipped with its sequence: exp(-0.3) is below 0.8, but exp(-0.1) is not; exp(0.15) is above 1.1.
    narrow = Gspo(clip_low=0.8, clip_high=1.1)
    torch.testing.assert_close(gradient(narrow, tokens), expected * torch.tensor([0, 1, 0, 1]))


@pytest.mark.parametrize(
    ("value", "clip", "loss", "slope"),
    [
        (0.3, 0.2, (0.3 - 1) ** 2, 2 * (0.3 - 1)),  # within the clip of old 0.2
        (0.7, 0.2, (0.4 - 1) ** 2, 0.0),  # beyond it and nearer to the return: held at 0.4
        (-0.5, 0.2, (-0.5 - 1) ** 2, 2 * (-0.5 - 1)),  # beyond it on the wrong side: pulled back
        (0.7, None, (0.7 - 1) ** 2, 2 * (0.7 - 1)),
    ],
)
def test_ppo_value_loss(value, clip, loss, slope):
    values = torch.tensor([value], dtype=F64, requires_grad=True)
    token = inputs([0.0], [0.0], values=values, returns=[1.0], old_values=[0.2])
    output = Ppo(value_coef=0.5, value_clip=clip)(token)
    assert output.loss.item() == pytest.approx(0.5 * loss)
    assert output.metrics["value_loss"].item() == pytest.approx(loss)
    assert output.metrics["value_clipped"] == (slope == 0.0)
    assert torch.autograd.grad(output.loss, values)[0].item() == pytest.approx(0.5 * slope)


def test_distill_on_policy_is_the_gradient_of_the_reverse_kl():
    """All tokens of the vocabulary, weighed with their probability: the expectation, without sampling."""
    logits = torch.tensor([0.3, -1.0, 0.5], dtype=F64, requires_grad=True)
    teacher = torch.tensor([-0.2, 0.9, 0.0], dtype=F64).log_softmax(0)
    logprobs = logits.log_softmax(0)
    reverse_kl = (logprobs.exp() * (logprobs - teacher)).sum()
    output = Distill()(
        LossInputs(
            logprobs=logprobs,
            sampler_logprobs=logprobs.detach(),
            advantages=torch.full((3,), torch.nan, dtype=F64),  # not read
            weights=logprobs.detach().exp(),
            sequence=torch.arange(3),
            teacher_logprobs=teacher,
        )
    )
    ours = torch.autograd.grad(output.loss, logits, retain_graph=True)[0]
    torch.testing.assert_close(ours, torch.autograd.grad(reverse_kl, logits)[0])
    torch.testing.assert_close(output.metrics["teacher_kl"], reverse_kl.detach())


def test_what_a_loss_needs():
    assert {type(loss).__name__: set(loss.needs) for loss in (Cispo(), Grpo(), Ppo(), Distill())} == {
        "Cispo": set(),
        "Grpo": set(),
        "Ppo": {"critic"},
        "Distill": {"teacher"},
    }
    assert Grpo(kl=0.04).needs == {"reference"}


@pytest.mark.parametrize(
    ("loss", "missing"), [(Grpo(kl=0.1), "reference_logprobs"), (Ppo(), "values"), (Distill(), "teacher_logprobs")]
)
def test_a_missing_tensor_is_named(loss, missing):
    with pytest.raises(ValueError, match=f"needs {missing}"):
        loss(inputs([0.0], [1.0]))


def test_inputs_of_another_shape_or_constants_with_a_gradient_are_refused():
    with pytest.raises(ValueError, match="advantages has shape"):
        inputs([0.0, 0.0], [1.0])
    with pytest.raises(ValueError, match="returns is a constant"):
        inputs([0.0], [1.0], returns=torch.zeros(1, requires_grad=True))


@pytest.mark.parametrize("build", [lambda: Cispo(cap=0.5), lambda: Grpo(clip_low=0.2, clip_high=0.28)])
def test_offsets_are_refused(build):
    with pytest.raises(ConfigError, match="ratio"):
        build()
