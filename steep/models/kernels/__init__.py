"""Fused operations for training and decoding on a CPU; each is one function that falls back to plain torch."""

from steep.models.kernels.build import status
from steep.models.kernels.decoding import (
    FusedWeights,
    LayerWeights,
    cache,
    can_decode,
    fused_decode,
    fused_draw,
    panels,
    prefix_panels,
)
from steep.models.kernels.ops import (
    compiled,
    packed_attention,
    rms_norm,
    rope_norm,
    silu_mul,
    token_logprobs,
)

__all__ = [
    "FusedWeights",
    "LayerWeights",
    "cache",
    "can_decode",
    "compiled",
    "fused_decode",
    "fused_draw",
    "packed_attention",
    "panels",
    "prefix_panels",
    "rms_norm",
    "rope_norm",
    "silu_mul",
    "status",
    "token_logprobs",
]
