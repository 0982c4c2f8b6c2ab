"""Causal attention over packed sequences: no pad token enters the model, and none of a length bucket's padding leaves.

Sequences that begin alike, such as the answers to one prompt, can share that beginning: a tree is a stem and branches
that each go on from its end, and what the stem costs is paid once. Segments (stems and branches) lie one after another,
a tree's stem before its branches; `trees` says how many segments each tree has, and a sequence alone is a tree of one.

On a CPU with the compiled kernels, each segment is attended to where it lies. Elsewhere sequences of like length, stem
and branch together, are gathered into one padded block, attended to together, and scattered back: waste is bounded by
the bucket width.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate, pairwise

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from steep.models import kernels

BUCKET = 32  # tokens: lengths are rounded up to this within the attention only


class PackedAttention:
    """`Attend` for segments laid one after another in the flat token list; `lengths` says where each ends."""

    def __init__(
        self, lengths: Sequence[int], device: torch.device | None = None, trees: Sequence[int] | None = None
    ) -> None:
        self.lengths, self.device = lengths, device
        self.trees = [1] * len(lengths) if trees is None else trees
        self.offsets = torch.tensor([0, *lengths]).cumsum(0)
        self.forks = torch.tensor([0, *self.trees]).cumsum(0)

    @cached_property
    def buckets(self) -> tuple[list[tuple[Tensor, int, int]], Tensor]:
        """For each padded length: rows to gather (flat), sequences, the length; and where each token stands after."""
        blocks: dict[int, list[tuple[range, range]]] = defaultdict(list)
        for stem, own in segments(self.lengths, self.trees):
            blocks[-(-(len(stem) + len(own)) // BUCKET) * BUCKET].append((stem, own))
        gathered: list[tuple[Tensor, int, int]] = []
        back = torch.empty(sum(self.lengths), dtype=torch.long)
        base = 0
        for padded, members in sorted(blocks.items()):
            rows = [[*stem, *own] + [own[0]] * (padded - len(stem) - len(own)) for stem, own in members]
            for stem, own in members:
                back[own.start : own.stop] = torch.arange(len(own)) + base + len(stem)
                base += padded
            gathered.append((torch.tensor(rows).flatten().to(self.device), len(members), padded))
        return gathered, back.to(self.device)

    def __call__(self, layer: int, q_NHE: Tensor, k_NKE: Tensor, v_NKE: Tensor) -> Tensor:
        if kernels.compiled(q_NHE, k_NKE, v_NKE):
            return kernels.packed_attention(q_NHE, k_NKE, v_NKE, self.offsets, self.forks)
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


def segments(lengths: Sequence[int], trees: Sequence[int]) -> Iterator[tuple[range, range]]:
    """Each segment's tokens, after those of the stem that it goes on from."""
    bounds = list(accumulate(lengths, initial=0))
    for first, last in pairwise(accumulate(trees, initial=0)):
        stem = range(bounds[first], bounds[first + 1])
        yield range(0), stem
        yield from ((stem, range(*ends)) for ends in pairwise(bounds[first + 1 : last + 1]))


def packed_positions(
    lengths: Sequence[int], device: torch.device | None = None, trees: Sequence[int] | None = None
) -> Tensor:
    """Positions 0, 1, ... of each sequence, one after another; a branch goes on from its stem's."""
    parts = segments(lengths, [1] * len(lengths) if trees is None else trees)
    return torch.cat([torch.arange(len(stem), len(stem) + len(own)) for stem, own in parts]).to(device)
