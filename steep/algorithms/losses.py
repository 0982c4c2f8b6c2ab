"""Losses over T trained tokens, packed flat: what the policy is told to change.

A loss is a frozen config that is called: `loss(inputs)` sums weight times token loss over the tokens of a micro-batch.
It never averages: the weights hold the share of each token in the batch, so micro-batches add up. To add a loss,
subclass `Loss` in a file of your own and put it into an `Algorithm`.

The policy that chose the tokens is the sampler, and ratios are taken against the log-probabilities that the sampler
itself reported, not against a second forward pass of the trainer. One ratio therefore corrects for stale weights and
for a sampler that computes a little differently; each loss says how it bounds it. Bounds and caps are ratios (1.28, 5),
never offsets.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from steep.errors import ConfigError

Need = Literal["critic", "reference", "teacher"]

MAX_LOG_RATIO = 20.0
"""Log ratios are clamped to this size, and pass no gradient beyond. e^20 is far outside every clip region, so only a
token that went wrong is touched; unclamped, its infinite ratio times the zero gradient of the clip would be NaN."""


@dataclass(frozen=True, kw_only=True)
class LossInputs:
    """A micro-batch of whole sequences, for the T trained tokens only: every tensor is (T,).

    `logprobs`, `values` and `entropy` carry gradients; the others are constants, and one that carries a gradient is a
    ValueError, as is one of another shape.
    """

    logprobs: Tensor
    """Log-probability of each token under the policy that is trained."""
    sampler_logprobs: Tensor
    """The same, as reported by the sampler when it chose the token."""
    advantages: Tensor
    weights: Tensor
    """Share of each token in the batch, see `token_weights`."""
    sequence: Tensor
    """int64: which sequence the token belongs to. Any numbering will do."""
    reference_logprobs: Tensor | None = None
    """Log-probability of each token under the reference policy of the KL term."""
    teacher_logprobs: Tensor | None = None
    """Log-probability of each token under the teacher."""
    values: Tensor | None = None
    """What the critic expects before the token is chosen, in units of the score."""
    old_values: Tensor | None = None
    """What it expected when the advantages were computed."""
    returns: Tensor | None = None
    """What it should have expected, see `gae`."""
    entropy: Tensor | None = None
    """Entropy in nats of the distribution that the token was drawn from. Only reported."""

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            tensor = getattr(self, name)
            if tensor is None:
                continue
            if tensor.dim() != 1 or tensor.shape != self.logprobs.shape:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, logprobs {tuple(self.logprobs.shape)}")
            if tensor.requires_grad and name not in ("logprobs", "values", "entropy"):
                raise ValueError(f"{name} is a constant of the loss and must not carry a gradient")


@dataclass(frozen=True, kw_only=True)
class LossOutput:
    """A loss and what to record about it."""

    loss: Tensor
    """Scalar with gradient: the sum over tokens of weight times token loss."""
    metrics: Mapping[str, Tensor]
    """Detached scalars, each the sum over tokens of weight times a quantity, so that they add over micro-batches.
    `weight` is the sum of the weights: divide by it to get a mean. Always there: `weight`, `ratio` (policy over
    sampler), `sampler_kl` (k3 estimate of KL(sampler || policy) in nats, near 0 on policy)."""


class Loss(ABC):
    """What every loss offers; a subclass is a frozen dataclass whose fields are its constants."""

    @property
    def needs(self) -> frozenset[Need]:
        """The models that must stand beside the policy for this loss."""
        return frozenset()

    @abstractmethod
    def __call__(self, inputs: LossInputs) -> LossOutput: ...


@dataclass(frozen=True, kw_only=True)
class Cispo(Loss):
    """Clipped importance weights: `-sg(min(rho, cap)) * A * log pi` (MiniMax-M1, arXiv 2506.13585, eq. 4, without the
    lower bound; ScaleRL, arXiv 2510.13786).

    The clip bounds the weight of a token and never silences its gradient, unlike the clip of PPO and GRPO.
    """

    cap: float = 5.0
    """Largest ratio rho = policy / sampler that a token is weighed with."""

    def __post_init__(self) -> None:
        _check_cap(self.cap)

    def __call__(self, inputs: LossInputs) -> LossOutput:
        return _policy_gradient(inputs, inputs.advantages, self.cap)


@dataclass(frozen=True, kw_only=True)
class Reinforce(Loss):
    """The plain policy gradient `-A * log pi` (Williams 1992), corrected for a sampler that is not the policy by
    truncated importance weights, as `Cispo`, but truncated tighter. On policy the ratio is 1 and nothing is changed."""

    cap: float | None = 2.0
    """Largest ratio policy / sampler that a token is weighed with; None weighs all with 1, as if on policy."""

    def __post_init__(self) -> None:
        _check_cap(self.cap)

    def __call__(self, inputs: LossInputs) -> LossOutput:
        return _policy_gradient(inputs, inputs.advantages, self.cap)


@dataclass(frozen=True, kw_only=True)
class Rft(Loss):
    """Rejection-sampling fine-tuning (arXiv 2308.01825): cross-entropy on the correct rollouts, `-A * log pi`, where
    the advantage is the score: 1 keeps a rollout, 0 rejects it.

    The kept rollouts are a data set, whoever wrote it, so there is no ratio: the sampler is only reported on.
    """

    def __call__(self, inputs: LossInputs) -> LossOutput:
        return _policy_gradient(inputs, inputs.advantages, cap=None)


@dataclass(frozen=True, kw_only=True)
class Distill(Loss):
    """On-policy distillation: the reverse KL to a teacher, token by token (GKD, arXiv 2306.13649, with samples of the
    student only).

    The gradient of KL(pi || teacher) at one position is E_pi[(log pi - log teacher) * grad log pi]: a policy gradient
    whose advantage is `sg(log teacher - log sampler)`, estimated from the one token that was sampled. It is unbiased
    on policy; the effect of a token on later positions is left out. Off policy the token is weighed with a truncated
    importance weight, as in `Reinforce`. `inputs.advantages` is not read: no verdict is needed.

    Records `teacher_kl`: log sampler - log teacher, which is KL(sampler || teacher) on average.
    """

    cap: float | None = 2.0
    """Largest ratio policy / sampler that a token is weighed with; None weighs all with 1, as if on policy."""

    def __post_init__(self) -> None:
        _check_cap(self.cap)

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"teacher"})

    def __call__(self, inputs: LossInputs) -> LossOutput:
        teacher = _given(inputs.teacher_logprobs, "teacher_logprobs", self)
        advantages = teacher - inputs.sampler_logprobs
        return _policy_gradient(inputs, advantages, self.cap, teacher_kl=-advantages)


@dataclass(frozen=True, kw_only=True)
class Grpo(Loss):
    """The clipped surrogate with an optional KL term (DeepSeekMath, arXiv 2402.03300, eq. 3 and 4):

        -min(rho A, clip(rho, clip_low, clip_high) A) + kl * (q - log q - 1)        q = reference / policy

    The ratio is against the sampler. It is bounded where the clip acts, above for A > 0 and below for A < 0; for
    A < 0 a large ratio is left as it is, as in the paper. The KL term has a gradient of its own.

    Records `clipped` (tokens silenced by the clip) and, with a KL term, `reference_kl`.
    """

    clip_low: float = 0.8
    """For A < 0, tokens whose ratio is below this are left alone."""
    clip_high: float = 1.2
    """For A > 0, tokens whose ratio is above this are left alone."""
    kl: float = 0.0
    """Coefficient of the KL to the reference policy; 0 needs no reference."""

    def __post_init__(self) -> None:
        _check_clip(self.clip_low, self.clip_high)

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"reference"}) if self.kl > 0 else frozenset()

    def __call__(self, inputs: LossInputs) -> LossOutput:
        ratio = _log_ratio(inputs.logprobs, inputs.sampler_logprobs).exp()
        losses, clipped = _clipped_surrogate(ratio, inputs.advantages, self.clip_low, self.clip_high)
        if self.kl == 0:
            return _output(inputs, losses, clipped=clipped)
        reference = _given(inputs.reference_logprobs, "reference_logprobs", self)
        kl = k3(_log_ratio(reference, inputs.logprobs))
        return _output(inputs, losses + self.kl * kl, clipped=clipped, reference_kl=kl)


@dataclass(frozen=True, kw_only=True)
class Dapo(Grpo):
    """GRPO's surrogate with a higher upper bound, so that rare tokens can grow (arXiv 2503.14476, eq. 8). Its token
    mean and its overlong penalty are in the preset."""

    clip_high: float = 1.28


@dataclass(frozen=True, kw_only=True)
class DrGrpo(Grpo):
    """GRPO's surrogate as it is (arXiv 2503.20783): what is done right is in the advantages and weights of the preset,
    which divide neither by a standard deviation nor by a length."""


@dataclass(frozen=True, kw_only=True)
class Gspo(Loss):
    """The clipped surrogate of a whole sequence (arXiv 2507.18071, eq. 5 and 7): every token of sequence i has the
    ratio `s_i = exp(mean over its tokens of (log pi - log sampler))`, and is clipped with it or not at all.

    The bounds are close to 1 because averaging over the length makes ratios small: 3e-4 below and 4e-4 above in the
    paper. Against an external sampler the mean mismatch is part of s_i; watch `clipped`.
    """

    clip_low: float = 0.9997
    """For A < 0, sequences whose ratio is below this are left alone."""
    clip_high: float = 1.0004
    """For A > 0, sequences whose ratio is above this are left alone."""

    def __post_init__(self) -> None:
        _check_clip(self.clip_low, self.clip_high)

    def __call__(self, inputs: LossInputs) -> LossOutput:
        log_ratio = inputs.logprobs - inputs.sampler_logprobs
        _, sequence, lengths = torch.unique(inputs.sequence, return_inverse=True, return_counts=True)
        mean_log_ratio = log_ratio.new_zeros(len(lengths)).index_add(0, sequence, log_ratio) / lengths
        ratio = mean_log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()[sequence]
        losses, clipped = _clipped_surrogate(ratio, inputs.advantages, self.clip_low, self.clip_high)
        return _output(inputs, losses, clipped=clipped)


@dataclass(frozen=True, kw_only=True)
class Ppo(Loss):
    """The clipped surrogate with a critic (arXiv 1707.06347, eq. 7 and 9, without the entropy bonus):

        -min(rho A, clip(rho, clip_low, clip_high) A) + value_coef * (V - R)^2

    with A and R from `gae`. The ratio is against the sampler and bounded as in `Grpo`.

    Records `clipped`, `value_loss` (before its coefficient) and `value_clipped` (tokens whose critic is held back).
    """

    clip_low: float = 0.8
    """For A < 0, tokens whose ratio is below this are left alone."""
    clip_high: float = 1.2
    """For A > 0, tokens whose ratio is above this are left alone."""
    value_coef: float = 0.5
    """Coefficient of the critic's squared error."""
    value_clip: float | None = 0.2
    """How far an update may move the critic from `old_values`, in units of the score: the larger of the squared errors
    of V and of V clipped to old +- value_clip counts. None for no bound; then `old_values` is not needed."""

    def __post_init__(self) -> None:
        _check_clip(self.clip_low, self.clip_high)

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"critic"})

    def __call__(self, inputs: LossInputs) -> LossOutput:
        ratio = _log_ratio(inputs.logprobs, inputs.sampler_logprobs).exp()
        losses, clipped = _clipped_surrogate(ratio, inputs.advantages, self.clip_low, self.clip_high)

        values = _given(inputs.values, "values", self)
        returns = _given(inputs.returns, "returns", self)
        value_losses = (values - returns).square()
        value_clipped = torch.zeros_like(values)
        if self.value_clip is not None:
            old_values = _given(inputs.old_values, "old_values", self)
            near_old = old_values + (values - old_values).clamp(-self.value_clip, self.value_clip)
            clipped_losses = (near_old - returns).square()
            value_clipped = (clipped_losses > value_losses).to(values.dtype)
            value_losses = torch.maximum(value_losses, clipped_losses)
        losses = losses + self.value_coef * value_losses
        return _output(inputs, losses, clipped=clipped, value_loss=value_losses, value_clipped=value_clipped)


def k3(log_ratio: Tensor) -> Tensor:
    """Schulman's estimator of KL(p || q) for samples of p, given log(q / p): `q/p - 1 - log(q/p)`; never negative,
    unbiased, of low variance, and with a gradient. Any shape."""
    return torch.expm1(log_ratio) - log_ratio


def _log_ratio(above: Tensor, below: Tensor) -> Tensor:
    return (above - below).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def _policy_gradient(inputs: LossInputs, advantages: Tensor, cap: float | None, **quantities: Tensor) -> LossOutput:
    """`-sg(min(rho, cap)) * A * log pi`, or with rho = 1 if there is no cap."""
    if cap is None:
        return _output(inputs, -advantages * inputs.logprobs, **quantities)
    ratio = _log_ratio(inputs.logprobs.detach(), inputs.sampler_logprobs).exp()
    losses = -ratio.clamp(max=cap) * advantages * inputs.logprobs
    return _output(inputs, losses, clipped=(ratio > cap).to(ratio.dtype), **quantities)


def _clipped_surrogate(ratio: Tensor, advantages: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """`-min(rho A, clip(rho) A)`, and 1 for each token whose gradient the clip stopped, else 0."""
    losses = -torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages)
    clipped = torch.where(advantages > 0, ratio > high, (ratio < low) & (advantages < 0))
    return losses, clipped.to(ratio.dtype)


def _output(inputs: LossInputs, losses: Tensor, **quantities: Tensor) -> LossOutput:
    """The weighted sum of the token losses, and those of everything to record."""
    log_ratio = _log_ratio(inputs.logprobs.detach(), inputs.sampler_logprobs)
    quantities |= {"ratio": log_ratio.exp(), "sampler_kl": k3(log_ratio)}
    if inputs.entropy is not None:
        quantities["entropy"] = inputs.entropy
    metrics = {name: (inputs.weights * quantity.detach()).sum() for name, quantity in quantities.items()}
    return LossOutput(loss=(inputs.weights * losses).sum(), metrics={"weight": inputs.weights.sum(), **metrics})


def _given(tensor: Tensor | None, name: str, loss: Loss) -> Tensor:
    if tensor is None:
        raise ValueError(f"{loss} needs {name}")
    return tensor


def _check_cap(cap: float | None) -> None:
    if cap is not None and cap < 1:
        raise ConfigError(f"cap {cap} is below 1", "a cap is a ratio, such as 5, and 1 is the ratio on policy")


def _check_clip(low: float, high: float) -> None:
    if not 0 <= low <= 1 <= high:
        raise ConfigError(
            f"clip_low {low} and clip_high {high} do not lie around 1",
            "clip bounds are ratios, not offsets: write 0.8 and 1.28 for what other tools call 0.2 and 0.28",
        )
