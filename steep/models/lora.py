"""LoRA (Hu et al. 2021, arXiv 2106.09685): a frozen matrix W learns through W + alpha / rank * B A, with thin A and B.

A starts random and B at zero, so a model with fresh adapters is the model without them, bit for bit. The decoder holds
q, k and v as one matrix, and gate and up: each of these has one adapter. Norms stay as they are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from steep.errors import ConfigError, ModelError
from steep.models.families import SUPPORTED
from steep.models.transformer import LanguageModel, Transformer

Projection = Literal["qkv", "out", "gate_up", "down"]


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    rank: int = 16
    alpha: float = 32.0
    """What an adapter adds is scaled by alpha / rank."""
    projections: tuple[Projection, ...] = get_args(Projection)
    """The matrices of each layer that have an adapter."""
    embedding: bool = False
    """Train the embedding, and the head where it is another, as a whole. Needed for tokens that the model has not met:
    as long as their rows hardly differ from the mean, no hidden state makes them likely."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"adapters of rank {self.rank} can learn nothing", "take a rank of 1 or more")
        if unknown := sorted({*self.projections} - {*get_args(Projection)}):
            raise ConfigError(f"a layer has no {', '.join(unknown)}", f"there are: {', '.join(get_args(Projection))}")


class LoraLinear(nn.Module):
    """A linear layer, frozen, with an adapter."""

    def __init__(self, base: nn.Linear, config: LoraConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.weight, self.bias = base.weight, base.bias
        rows, columns = base.weight.shape
        start = torch.empty(config.rank, columns).uniform_(-1, 1, generator=generator) / columns**0.5
        self.a = nn.Parameter(start.to(base.weight.device))
        self.b = nn.Parameter(torch.zeros(rows, config.rank, device=base.weight.device))
        self.scale = config.alpha / config.rank

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias) + self.scale * linear(linear(x, self.a), self.b)

    def merged(self) -> Tensor:
        return (self.weight + self.scale * self.b @ self.a).detach()


def adapt(model: LanguageModel, config: LoraConfig, seed: int) -> None:
    """Freeze the model, and give it adapters to be trained in the place of its matrices."""
    if not isinstance(model, Transformer):
        raise ModelError("LoRA is for the models that steep computes itself", f"leave `lora` away; {SUPPORTED}")
    generator = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    for layer in model.layers:
        for name in config.projections:
            setattr(layer, name, LoraLinear(getattr(layer, name), config, generator))
    for rows in model.token_rows():
        rows.requires_grad_(config.embedding)


def adapters(model: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoraLinear))


def merged(model: nn.Module) -> dict[str, Tensor]:
    """The weights of the model without adapters that computes the same."""
    weights: dict[str, Tensor] = dict(model.named_parameters())
    for name, adapter in adapters(model):
        del weights[f"{name}.a"], weights[f"{name}.b"]
        weights[f"{name}.weight"] = adapter.merged()
    return weights


def merge(model: nn.Module) -> None:
    """Add the adapters to the weights, and take them away; a model without any stays as it is."""
    for name, adapter in list(adapters(model)):
        rows, columns = adapter.weight.shape
        plain = nn.Linear(columns, rows, bias=False, device="meta")
        plain.weight, plain.bias = nn.Parameter(adapter.merged()), adapter.bias
        model.set_submodule(name, plain)
    model.requires_grad_(True)
