"""One decoder for the Llama, Qwen2, Qwen3 and SmolLM2 layouts, over a flat list of tokens.

The model knows nothing of batches, padding or caches. It maps N tokens with their positions to N hidden states, and
asks an `Attend` for the one thing that mixes tokens. The trainer hands it packed sequences (`models.attention`), the
engine its cache: so both run the same code, and a prompt's prefill and a decode step are the same call.

Shapes in names: N tokens, D hidden size, H query heads, K key and value heads, E head size, V vocabulary.

Sources: Llama (arXiv 2302.13971), RoPE (2104.09864), GQA (2305.13245), QK norm as in Qwen3 (2505.09388); scaled RoPE
after "llama3" (2407.21783), position interpolation (2306.15595) and YaRN (2309.00071).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from steep.config import within
from steep.errors import ConfigError
from steep.models import kernels

Family = Literal["llama", "qwen2", "qwen3"]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a trainer and a cache must know of a language model."""

    vocab_size: int = 512
    hidden_size: int = 128
    num_layers: int = 4
    num_kv_heads: int = 4
    head_dim: int = 32
    max_positions: int = 2048
    """Context length in tokens, prompt and response together."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Shape):
    """The shape of a decoder. `family` decides the layout on disk; the flags below it decide the mathematics."""

    family: Family = "qwen3"
    num_heads: int = 4
    intermediate_size: int = 384
    rope_theta: float = 10_000.0
    rope_scaling: Mapping[str, float | str] | None = None
    """As in a Hugging Face config: `rope_type` of `linear`, `llama3` or `yarn`, with its factors. None: not scaled."""
    norm_eps: float = 1e-6
    qk_norm: bool = True
    """RMSNorm on each query and key head (Qwen3)."""
    qkv_bias: bool = False
    """Biases on the q, k and v projections (Qwen2)."""
    tied_embeddings: bool = True

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim")
        within(self, 1, *sizes, "intermediate_size", "max_positions")
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                f"ModelConfig: {self.num_heads} heads do not share {self.num_kv_heads} of keys and values evenly",
                "choose num_kv_heads that divide num_heads",
            )
        if self.head_dim % 2:
            raise ConfigError(f"ModelConfig: head_dim is {self.head_dim}", "rotary positions need an even one")


class Attend(Protocol):
    """Mixes tokens: what layer `layer` reads for queries q_NHE, given the new keys k_NKE and values v_NKE."""

    def __call__(self, layer: int, q_NHE: Tensor, k_NKE: Tensor, v_NKE: Tensor) -> Tensor: ...


def rope_frequencies(config: ModelConfig) -> tuple[Tensor, float]:
    """Inverse frequencies (E/2 of them, radians a position) and the factor on cos and sin (YaRN's attention scale)."""
    half = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    inverse = 1.0 / config.rope_theta**half
    scaling = config.rope_scaling
    if scaling is None:
        return inverse, 1.0
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind == "default":
        return inverse, 1.0
    factor = float(scaling["factor"])
    if kind == "linear":
        return inverse / factor, 1.0
    original = float(scaling.get("original_max_position_embeddings", config.max_positions))
    if kind == "llama3":
        low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
        turns = original * inverse / (2 * math.pi)  # full turns within the original context
        keep = ((turns - low) / (high - low)).clamp(0, 1)
        return keep * inverse + (1 - keep) * inverse / factor, 1.0
    if kind == "yarn":
        fast, slow = float(scaling.get("beta_fast", 32.0)), float(scaling.get("beta_slow", 1.0))

        def dimension(turns: float) -> float:
            return config.head_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(config.rope_theta))

        first, last = max(math.floor(dimension(fast)), 0), min(math.ceil(dimension(slow)), config.head_dim - 1)
        width = last - first or 0.001
        ramp = (torch.arange(config.head_dim // 2, dtype=torch.float32) - first) / width
        interpolate = ramp.clamp(0, 1)
        scale = float(scaling.get("attention_factor") or (0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0))
        return interpolate * inverse / factor + (1 - interpolate) * inverse, scale
    raise ValueError(f"rope_type {kind!r} is not one of default, linear, llama3, yarn")


def rope_table(config: ModelConfig) -> tuple[Tensor, Tensor]:
    """cos and sin for every position, [max_positions, E], fp32; the two halves of E carry the same angles."""
    if torch.get_default_device().type == "meta":  # to compute there, torch loads torch._dynamo: a second
        return torch.empty(config.max_positions, config.head_dim), torch.empty(config.max_positions, config.head_dim)
    inverse, scale = rope_frequencies(config)
    angles = torch.outer(torch.arange(config.max_positions, dtype=torch.float32), inverse)
    angles = torch.cat([angles, angles], -1)
    return angles.cos() * scale, angles.sin() * scale


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return kernels.rms_norm(x, self.weight, self.eps)


class Layer(nn.Module):
    """One block: attention and a gated MLP, each on a normed residual stream."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.heads, self.kv_heads, self.head_dim = config.num_heads, config.num_kv_heads, config.head_dim
        self.eps = config.norm_eps
        size, eps = config.hidden_size, config.norm_eps
        rows = (self.heads + 2 * self.kv_heads) * self.head_dim
        self.attention_norm = RMSNorm(size, eps)
        self.qkv = nn.Linear(size, rows, bias=config.qkv_bias)
        self.q_norm = RMSNorm(self.head_dim, eps) if config.qk_norm else None
        self.k_norm = RMSNorm(self.head_dim, eps) if config.qk_norm else None
        self.out = nn.Linear(self.heads * self.head_dim, size, bias=False)
        self.mlp_norm = RMSNorm(size, eps)
        self.gate_up = nn.Linear(size, 2 * config.intermediate_size, bias=False)
        self.down = nn.Linear(config.intermediate_size, size, bias=False)

    def forward(self, x_ND: Tensor, cos_PE: Tensor, sin_PE: Tensor, positions_N: Tensor, attend: Attend) -> Tensor:
        q_NHE, k_NKE, v_NKE = kernels.rope_norm(
            self.qkv(self.attention_norm(x_ND)),
            None if self.q_norm is None else self.q_norm.weight,
            None if self.k_norm is None else self.k_norm.weight,
            self.eps,
            cos_PE,
            sin_PE,
            positions_N,
            self.heads,
            self.kv_heads,
        )
        x_ND = x_ND + self.out(attend(self.index, q_NHE, k_NKE, v_NKE).flatten(1))
        mlp_ND: Tensor = self.down(kernels.silu_mul(self.gate_up(self.mlp_norm(x_ND))))
        return x_ND + mlp_ND


class LanguageModel(nn.Module, ABC):
    """What is trained and sampled from: `forward` gives hidden states, `logits` makes those that are needed logits."""

    config: Shape

    @property
    @abstractmethod
    def device(self) -> torch.device: ...

    @abstractmethod
    def forward(self, ids_N: Tensor, positions_N: Tensor, attend: Attend) -> Tensor:
        """Hidden states x_ND after the last norm, of N tokens at their positions."""

    @abstractmethod
    def logits(self, x_ND: Tensor) -> Tensor:
        """fp32 logits_NV, by `kernels.head`."""

    @abstractmethod
    def token_rows(self) -> list[Tensor]:
        """The matrices with one row a token: the embedding, and the head where it is another."""


class Transformer(LanguageModel):
    """The decoder of the families that steep computes itself."""

    config: ModelConfig
    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        drawn = torch.empty(config.vocab_size, config.hidden_size)
        if not drawn.is_meta:  # there it takes half a second: numbers are drawn by torch._dynamo or by torch._refs
            drawn.normal_()
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size, _weight=drawn)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.head = None if config.tied_embeddings else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        cos, sin = rope_table(config)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    @property
    def device(self) -> torch.device:
        return self.embedding.weight.device

    def forward(self, ids_N: Tensor, positions_N: Tensor, attend: Attend) -> Tensor:
        x_ND: Tensor = self.embedding(ids_N)
        device = x_ND.device.type
        if torch.is_autocast_enabled(device):
            x_ND = x_ND.to(torch.get_autocast_dtype(device))
        for layer in self.layers:
            x_ND = layer(x_ND, self.cos, self.sin, positions_N, attend)
        normed_ND: Tensor = self.norm(x_ND)
        return normed_ND

    def logits(self, x_ND: Tensor) -> Tensor:
        return kernels.head(x_ND, self.token_rows()[-1])

    def token_rows(self) -> list[Tensor]:
        return [self.embedding.weight, *([] if self.head is None else [self.head.weight])]


def initialise(model: Transformer, generator: torch.Generator) -> None:
    """Random weights for training from scratch: fan-in scaled normals, small outputs of each block."""
    depth = math.sqrt(2 * model.config.num_layers)
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            nn.init.constant_(parameter, 1.0 if "norm" in name else 0.0)
        elif "embedding" in name or "head" in name:
            nn.init.normal_(parameter, std=0.02, generator=generator)
        else:
            std = 1 / math.sqrt(parameter.shape[1])
            if name.endswith(("out.weight", "down.weight")):
                std /= depth
            nn.init.normal_(parameter, std=std, generator=generator)
