"""Fused operations for training and decoding on a CPU; each is one function that falls back to plain torch."""

from steep.models.kernels.build import multiplies_bf16, status
from steep.models.kernels.decoding import (
    FusedWeights,
    LayerWeights,
    Stretch,
    cache,
    can_decode,
    fused_decode,
    fused_draw,
    fused_prefill,
    fused_sample,
    lanes,
    panels,
)
from steep.models.kernels.ops import (
    compiled,
    head,
    packed_attention,
    rms_norm,
    rope_norm,
    silu_mul,
    token_logprobs,
)

__all__ = [
    "FusedWeights",
    "LayerWeights",
    "Stretch",
    "cache",
    "can_decode",
    "compiled",
    "fused_decode",
    "fused_draw",
    "fused_prefill",
    "fused_sample",
    "head",
    "lanes",
    "multiplies_bf16",
    "packed_attention",
    "panels",
    "rms_norm",
    "rope_norm",
    "silu_mul",
    "status",
    "token_logprobs",
]
