"""Fused operations for training and decoding on a CPU; each is one function that falls back to plain torch."""

from steep.models.kernels.build import status
from steep.models.kernels.ops import (
    cache_shape,
    compiled,
    decode_attention,
    move_row,
    packed_attention,
    put_prefix,
    rms_norm,
    rope_norm,
    silu_mul,
    token_logprobs,
)

__all__ = [
    "cache_shape",
    "compiled",
    "decode_attention",
    "move_row",
    "packed_attention",
    "put_prefix",
    "rms_norm",
    "rope_norm",
    "silu_mul",
    "status",
    "token_logprobs",
]
