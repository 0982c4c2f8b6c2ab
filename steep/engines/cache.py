"""The key-value cache of the native engine, and the two ways in which the model attends through it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from steep.models import kernels
from steep.models.attention import PackedAttention
from steep.models.transformer import ModelConfig


class Cache:
    """Keys and values of `rows` sequences of up to `length` tokens. Active rows are always the first ones."""

    def __init__(self, config: ModelConfig, rows: int, length: int, dtype: torch.dtype, device: torch.device) -> None:
        shape = kernels.cache_shape(rows, config.num_kv_heads, length, config.head_dim, device)
        self.keys = torch.zeros((config.num_layers, *shape), dtype=dtype, device=device)  # zeros: 0 * NaN is NaN
        self.values = torch.zeros_like(self.keys)

    def put(self, row: int, prefix: Tensor) -> None:
        """Start a row with the keys and values of a prompt, [layers, 2, K, P, E]."""
        kernels.put_prefix(self.keys, self.values, row, prefix[:, 0], prefix[:, 1])

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of a row onto another."""
        kernels.move_row(self.keys, source, target, length)
        kernels.move_row(self.values, source, target, length)


class Decode:
    """`Attend` for one new token in each of the first B rows, at `positions_B`."""

    def __init__(self, cache: Cache, positions_B: Tensor) -> None:
        self.cache, self.positions_B = cache, positions_B
        self.longest = int(positions_B.max()) + 1

    def __call__(self, layer: int, q_BHE: Tensor, k_BKE: Tensor, v_BKE: Tensor) -> Tensor:
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        return kernels.decode_attention(q_BHE, k_BKE, v_BKE, keys, values, self.positions_B, self.longest)


class Prefill(PackedAttention):
    """`Attend` over whole packed sequences that keeps their keys and values, split by sequence."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        super().__init__(lengths, device)
        self.kept: list[Tensor] = []

    def __call__(self, layer: int, q_NHE: Tensor, k_NKE: Tensor, v_NKE: Tensor) -> Tensor:
        self.kept.append(torch.stack([k_NKE, v_NKE]))
        return super().__call__(layer, q_NHE, k_NKE, v_NKE)

    def prefixes(self) -> list[Tensor]:
        """[layers, 2, K, length, E] of each sequence."""
        whole = torch.stack(self.kept).transpose(2, 3)
        return list(torch.split(whole, list(self.lengths), dim=3))
