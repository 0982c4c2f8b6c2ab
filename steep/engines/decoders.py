"""What the native engine decodes with: one new token in every active row, against keys and values of those before it.

`FusedDecoder` runs all the layers in one compiled call, keeps a prompt once for all its samples, and moves rows without
copying. `TorchDecoder` runs anywhere.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steep.errors import SteepError
from steep.models import kernels
from steep.models.attention import PackedAttention, packed_positions
from steep.models.transformer import LanguageModel, Layer, Shape, Transformer

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Order = Ints | slice
"""Which rows, in turn."""


class Prefix:
    """A prompt's keys and values in the decoder's own layout."""

    def __init__(self, panels: Tensor, length: int) -> None:
        self.panels, self.length = panels, length


class Decoder(Protocol):
    """Active rows are always the first ones."""

    def load(self) -> None:
        """Take the model's weights as they are now."""

    def prefill(self, sequences: Sequence[tuple[int, ...]]) -> tuple[list[Prefix], Tensor]:
        """Prompts to start rows with, and their logits_SV in fp32 after the last token."""
        ...

    def start(self, row: int, prefix: Prefix) -> None:
        """Begin a row with a prompt."""

    def move(self, source: int, target: int, length: int) -> None:
        """Row `target`, whose sequence is over, goes on as row `source` did, which has `length` tokens."""

    def step(self, ids_B: Ints, positions_B: Ints) -> tuple[Order, Tensor]:
        """Add a token at its position to each of the first B rows: rows in some order, and their logits_BV in fp32."""
        ...


def decoder(model: LanguageModel, rows: int, length: int, dtype: torch.dtype, cached: torch.dtype) -> Decoder:
    """The fastest there is for the model and its device, with a cache of `rows` of `length` tokens.

    `cached` is the type of the cache: `dtype` or int8, for which a SteepError says where it is not to be had.
    """
    if isinstance(model, Transformer):
        config = model.config
        depths = (config.hidden_size, config.head_dim, config.intermediate_size)
        if kernels.can_decode(model.device, dtype, *depths):
            return FusedDecoder(model, rows, length, cached)
    if cached != dtype:
        raise SteepError(
            "keys and values in 8 bits take the compiled kernels, and a model that steep computes itself on a CPU",
            "leave cache_dtype away; `steep doctor` says whether there are kernels",
        )
    return TorchDecoder(model, rows, length, dtype)


class FusedDecoder:
    def __init__(self, model: Transformer, rows: int, length: int, cached: torch.dtype) -> None:
        config = model.config
        self.model = model
        self.cache = kernels.cache(config.num_layers, rows, config.num_kv_heads, length, config.head_dim, cached)
        self.slots = np.arange(rows)  # where in the cache a row keeps its own tokens
        self.prefixes: list[Prefix | None] = [None] * rows
        self.addresses, self.prefix_lengths = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
        self.weights: kernels.FusedWeights | None = None
        self.orders: dict[int, Order] = {}
        """By the number of rows, as long as none begins or moves."""

    def load(self) -> None:
        self.weights = fused_weights(self.model, *self.cache)

    def prefill(self, sequences: Sequence[tuple[int, ...]]) -> tuple[list[Prefix], Tensor]:
        assert self.weights is not None
        panels, logits_SV = kernels.fused_prefill(self.weights, sequences)
        return [Prefix(kept, len(ids)) for kept, ids in zip(panels, sequences, strict=True)], logits_SV

    def start(self, row: int, prefix: Prefix) -> None:
        self.prefixes[row] = prefix
        self.addresses[row], self.prefix_lengths[row] = prefix.panels.data_ptr(), prefix.length
        self.orders.clear()

    def move(self, source: int, target: int, length: int) -> None:
        for column in (self.slots, self.addresses, self.prefix_lengths):
            column[[source, target]] = column[[target, source]]
        self.prefixes[target], self.prefixes[source] = self.prefixes[source], None
        self.orders.clear()

    def step(self, ids_B: Ints, positions_B: Ints) -> tuple[Order, Tensor]:
        assert self.weights is not None
        order = self._order(len(ids_B))
        return order, kernels.fused_decode(self.weights, *self._batch(order, ids_B, positions_B))

    def sample(
        self, ids_B: Ints, positions_B: Ints, stretch: Callable[[Order], kernels.Stretch]
    ) -> tuple[Order, tuple[Ints, Ints, Floats]]:
        """As `step`, and on as far as `stretch` has it for rows in their order: what `kernels.fused_sample` returns."""
        assert self.weights is not None
        order = self._order(len(ids_B))
        return order, kernels.fused_sample(self.weights, self._batch(order, ids_B, positions_B), stretch(order))

    def _batch(self, order: Order, ids_B: Ints, positions_B: Ints) -> list[Ints]:
        state = (self.slots, ids_B, positions_B, self.prefix_lengths, self.addresses)
        return [column[order] for column in state]

    def _order(self, rows: int) -> Order:
        """Rows with one prompt side by side; if they are so already, as they are, for that needs no copies."""
        if rows not in self.orders:
            addresses = self.addresses[:rows]
            order = np.argsort(addresses, kind="stable")
            so_already = np.count_nonzero(np.diff(addresses)) == np.count_nonzero(np.diff(addresses[order]))
            self.orders[rows] = slice(0, rows) if so_already else order
        return self.orders[rows]


def fused_weights(model: Transformer, keys: Tensor, values: Tensor) -> kernels.FusedWeights:
    """The model's weights in the compiled decoder's layout."""
    config = model.config
    layers = []
    for layer in model.layers:
        assert isinstance(layer, Layer)
        layers.append(
            kernels.LayerWeights(
                attention_norm=layer.attention_norm.weight.float(),
                q_norm=None if layer.q_norm is None else layer.q_norm.weight.float(),
                k_norm=None if layer.k_norm is None else layer.k_norm.weight.float(),
                mlp_norm=layer.mlp_norm.weight.float(),
                qkv_bias=None if not config.qkv_bias else layer.qkv.bias.float(),
                qkv=kernels.panels(layer.qkv.weight),
                out=kernels.panels(layer.out.weight),
                gate_up=kernels.panels(layer.gate_up.weight),
                down=kernels.panels(layer.down.weight),
            )
        )
    sizes = {
        "layers": config.num_layers,
        "size": config.hidden_size,
        "heads": config.num_heads,
        "kv_heads": config.num_kv_heads,
        "head_size": config.head_dim,
        "inner": config.intermediate_size,
        "vocabulary": config.vocab_size,
        "positions": config.max_positions,
        "rows": keys.shape[1],
    }
    embedding = model.embedding.weight.detach()
    tensors = {
        "embedding": embedding,
        "head": kernels.panels(embedding if model.head is None else model.head.weight),
        "norm": model.norm.weight.float(),
        "cos": model.cos,
        "sin": model.sin,
        "keys": keys,
        "values": values,
    }
    return kernels.FusedWeights(layers, sizes, tensors, config.norm_eps)


class TorchDecoder:
    def __init__(self, model: LanguageModel, rows: int, length: int, dtype: torch.dtype) -> None:
        self.model = model
        self.cache = Cache(model.config, rows, length, dtype, model.device)

    def load(self) -> None:
        pass

    def prefill(self, sequences: Sequence[tuple[int, ...]]) -> tuple[list[Prefix], Tensor]:
        device = self.cache.keys.device
        lengths = [len(ids) for ids in sequences]
        attend = Prefill(lengths, device)
        ids_N = torch.tensor([i for ids in sequences for i in ids], device=device)
        x_ND = self.model(ids_N, packed_positions(lengths, device), attend)
        ends = torch.tensor(lengths).cumsum(0).to(device) - 1
        prefixes = [Prefix(kept, kept.shape[-2]) for kept in attend.prefixes()]
        return prefixes, self.model.logits(x_ND[ends])

    def start(self, row: int, prefix: Prefix) -> None:
        self.cache.keys[:, row, :, : prefix.length] = prefix.panels[:, 0]
        self.cache.values[:, row, :, : prefix.length] = prefix.panels[:, 1]

    def move(self, source: int, target: int, length: int) -> None:
        for store in (self.cache.keys, self.cache.values):
            store[:, target, :, :length] = store[:, source, :, :length]

    def step(self, ids_B: Ints, positions_B: Ints) -> tuple[Order, Tensor]:
        device = self.cache.keys.device
        ids, positions = (torch.from_numpy(x).to(device) for x in (ids_B, positions_B))
        x_BD = self.model(ids, positions, AttendCache(self.cache, positions))
        return slice(0, len(ids_B)), self.model.logits(x_BD)


class Cache:
    """Keys and values [layers, rows, K, length, E]."""

    def __init__(self, config: Shape, rows: int, length: int, dtype: torch.dtype, device: torch.device) -> None:
        shape = (config.num_layers, rows, config.num_kv_heads, length, config.head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)  # zeros: 0 * NaN is NaN
        self.values = torch.zeros_like(self.keys)


class AttendCache:
    """`Attend` for one new token in each of the first B rows, at `positions_B`."""

    def __init__(self, cache: Cache, positions_B: Tensor) -> None:
        self.cache, self.positions_B = cache, positions_B
        self.longest = int(positions_B.max()) + 1
        self.ahead_BT = torch.arange(self.longest, device=positions_B.device) > positions_B[:, None]
        self.rows_B = torch.arange(len(positions_B), device=positions_B.device)

    def __call__(self, layer: int, q_BHE: Tensor, k_BKE: Tensor, v_BKE: Tensor) -> Tensor:
        rows, heads, size = q_BHE.shape
        kv_heads = k_BKE.shape[1]
        self.cache.keys[layer, self.rows_B, :, self.positions_B] = k_BKE
        self.cache.values[layer, self.rows_B, :, self.positions_B] = v_BKE
        keys, values = (x[layer, :rows, :, : self.longest].flatten(0, 1) for x in (self.cache.keys, self.cache.values))
        # Batched matrix products, never SDPA: with one query a row it is several times slower on a CPU.
        q = (q_BHE * size**-0.5).reshape(rows * kv_heads, heads // kv_heads, size)
        scores = torch.bmm(q, keys.transpose(1, 2)).float().view(rows, heads, self.longest)
        weights = scores.masked_fill_(self.ahead_BT[:, None], -torch.inf).softmax(-1).to(values.dtype)
        mixed = torch.bmm(weights.view(rows * kv_heads, heads // kv_heads, self.longest), values)
        return mixed.view(rows, heads, size)


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
