"""The decoder, its attention over packed sequences, and its weights on disk."""

from steep.models.attention import PackedAttention, packed_positions
from steep.models.transformer import Attend, ModelConfig, Transformer, initialise
from steep.models.weights import digest, load, load_config, save

__all__ = [
    "Attend",
    "ModelConfig",
    "PackedAttention",
    "Transformer",
    "digest",
    "initialise",
    "load",
    "load_config",
    "packed_positions",
    "save",
]
