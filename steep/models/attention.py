"""Causal attention over packed sequences: no pad token enters the model, and none of a length bucket's padding leaves.

On a CPU with the compiled kernels, each sequence is attended to where it lies. Elsewhere sequences of like length are
gathered into one padded block, attended to together, and scattered back: waste is bounded by the bucket width.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from steep.models import kernels

BUCKET = 32  # tokens: lengths are rounded up to this within the attention only


class PackedAttention:
    """`Attend` for sequences laid one after another in the flat token list; `lengths` says where each ends."""

    def __init__(self, lengths: Sequence[int], device: torch.device | None = None) -> None:
        self.lengths, self.device = lengths, device
        self.offsets = torch.tensor([0, *lengths]).cumsum(0)

    @cached_property
    def buckets(self) -> tuple[list[tuple[Tensor, int, int]], Tensor]:
        """For each padded length: rows to gather (flat), sequences, the length; and where each token stands after."""
        blocks: dict[int, list[tuple[int, int]]] = defaultdict(list)
        start = 0
        for length in self.lengths:
            blocks[-(-length // BUCKET) * BUCKET].append((start, length))
            start += length
        gathered: list[tuple[Tensor, int, int]] = []
        back = torch.empty(start, dtype=torch.long)
        base = 0
        for padded, members in sorted(blocks.items()):
            starts = torch.tensor([s for s, _ in members])
            sizes = torch.tensor([n for _, n in members])
            within = torch.arange(padded)
            real = within < sizes[:, None]
            rows = torch.where(real, starts[:, None] + within, starts[:, None])
            places = base + torch.arange(len(members) * padded).view(len(members), padded)
            back[rows[real]] = places[real]
            gathered.append((rows.flatten().to(self.device), len(members), padded))
            base += len(members) * padded
        return gathered, back.to(self.device)

    def __call__(self, layer: int, q_NHE: Tensor, k_NKE: Tensor, v_NKE: Tensor) -> Tensor:
        if kernels.compiled(q_NHE, k_NKE, v_NKE):
            return kernels.packed_attention(q_NHE, k_NKE, v_NKE, self.offsets)
        outputs = []
        grouped = q_NHE.shape[1] != k_NKE.shape[1]
        buckets, back = self.buckets
        for rows, count, padded in buckets:
            q, k, v = (
                x.index_select(0, rows).view(count, padded, *x.shape[1:]).transpose(1, 2) for x in (q_NHE, k_NKE, v_NKE)
            )
            mixed = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
            outputs.append(mixed.transpose(1, 2).flatten(0, 1))
        return torch.cat(outputs).index_select(0, back)


def packed_positions(lengths: Sequence[int], device: torch.device | None = None) -> Tensor:
    """Positions 0, 1, ... of each sequence, one after another."""
    return torch.cat([torch.arange(length) for length in lengths]).to(device)
