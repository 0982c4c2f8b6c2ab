"""Muon for matrices and AdamW for the rest, or AdamW for all, with one learning-rate schedule over both."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from steep.config import within


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    kind: Literal["adamw", "muon"] = "adamw"
    """`muon` orthogonalises the updates of the layers' matrices (Jordan et al. 2024) and leaves AdamW the rest."""
    lr: float = 3e-4
    """AdamW's learning rate at the top of the schedule."""
    matrix_lr: float = 2e-2
    """Muon's learning rate; not used by `adamw`."""
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    """Gradients are scaled down to this total norm."""
    warmup_steps: int = 10
    decay: Literal["constant", "linear", "cosine"] = "constant"
    decay_share: float = 1.0
    """Which share of the steps, at the end, the rate decays over."""
    final: float = 0.05
    """Share of the rate that is left at the end of a decay."""

    def __post_init__(self) -> None:
        within(self, 0, "lr", "matrix_lr", "weight_decay", "clip_norm", "warmup_steps")
        within(self, 0, "decay_share", "final", high=1)


def rate(config: OptimizerConfig, step: int, total_steps: int) -> float:
    """Factor on the learning rate at `step` (from 0) of `total_steps`."""
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.decay == "constant":
        return warm
    start = total_steps * (1 - config.decay_share)
    done = min(max((step - start) / max(total_steps - start, 1), 0.0), 1.0)
    left = 1 - done if config.decay == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return warm * (config.final + (1 - config.final) * left)


class Optimizer:
    """The optimizers of one model, stepped together."""

    def __init__(self, model: nn.Module, config: OptimizerConfig) -> None:
        self.config = config
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        matrices = [p for n, p in named if config.kind == "muon" and p.dim() == 2 and "layers." in n]
        chosen = {id(p) for p in matrices}
        rest = [p for _, p in named if id(p) not in chosen]
        decay = config.weight_decay
        self.parts: list[tuple[torch.optim.Optimizer, float]] = []
        if rest:  # nothing is left where only adapters are trained
            adamw = torch.optim.AdamW(rest, lr=config.lr, betas=config.betas, weight_decay=decay, fused=True)
            self.parts.append((adamw, config.lr))
        if matrices:
            muon = Muon(matrices, lr=config.matrix_lr, weight_decay=decay)
            self.parts.append((muon, config.matrix_lr))
        self.parameters = [p for _, p in named]

    def clip(self) -> float:
        """Clip the gradients. Returns their norm before."""
        return float(nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm))

    def step(self, factor: float) -> None:
        """Step with the learning rates times `factor`."""
        for part, top in self.parts:
            for group in part.param_groups:
                group["lr"] = top * factor
            part.step()

    def clear(self) -> None:
        for part, _ in self.parts:
            part.zero_grad(set_to_none=True)

    def state(self) -> list[dict[str, Any]]:
        return [part.state_dict() for part, _ in self.parts]

    def load_state(self, state: list[dict[str, Any]]) -> None:
        for (part, _), saved in zip(self.parts, state, strict=True):
            part.load_state_dict(saved)


class Muon(torch.optim.Optimizer):
    """Momentum whose direction is orthogonalised (Jordan et al. 2024), for matrices.

    `torch.optim.Muon` is the same, one matrix after the other and in bf16, which a processor without instructions for
    it does twenty times slower. States are interchangeable.
    """

    MOMENTUM = 0.95

    def __init__(self, matrices: Iterable[Tensor], lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            trained = [p for p in group["params"] if p.grad is not None]
            for p, direction in zip(trained, orthogonalised([self._momentum(p) for p in trained]), strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(direction, alpha=-group["lr"] * math.sqrt(max(1.0, p.shape[0] / p.shape[1])))

    def _momentum(self, p: Tensor) -> Tensor:
        """Nesterov's, with the gradient of now in it."""
        assert p.grad is not None
        state = self.state[p]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p)
        kept: Tensor = state["momentum_buffer"].lerp_(p.grad, 1 - self.MOMENTUM)
        return p.grad.lerp(kept, self.MOMENTUM)


def orthogonalised(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Matrices with the same singular vectors as these, and singular values near 1 (0.7 to 1.2).

    Five times X <- (a + b G + c G^2) X with G = X X^T and Jordan's coefficients (Newton and Schulz's iteration). The
    factors are polynomials in the first G, so they commute: they are worked out on the small G alone, those of all
    matrices of a height side by side, and X is multiplied once at the end.
    """
    flat = [x / x.norm().clamp(min=1e-7) for x in (x if x.shape[0] <= x.shape[1] else x.T for x in matrices)]
    found: dict[int, Tensor] = {}
    for height in {len(x) for x in flat}:
        members = [i for i, x in enumerate(flat) if len(x) == height]
        factors_BNN = _factors(torch.stack([flat[i] @ flat[i].T for i in members]))
        found |= {i: factor @ flat[i] for i, factor in zip(members, factors_BNN, strict=True)}
    return [found[i] if x.shape[0] <= x.shape[1] else found[i].T for i, x in enumerate(matrices)]


def _factors(gram_BNN: Tensor) -> Tensor:
    a, b, c = 3.4445, -4.7750, 2.0315
    total: Tensor | None = None
    for left in reversed(range(5)):
        factor = torch.baddbmm(gram_BNN, gram_BNN, gram_BNN, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        total = factor if total is None else factor @ total
        if left:
            gram_BNN = factor @ gram_BNN @ factor
    assert total is not None
    return total
