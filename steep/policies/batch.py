"""What an update learns from, and how it is cut into micro-batches without a pad token.

Everything that is averaged over a batch is in the weights of the examples before they are packed, so a gradient does
not depend on how they are cut (`algorithms.weights`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ROUND = 256
"""Micro-batches are filled up to a multiple of so many tokens, by a sequence of which nothing is trained. bf16 matrix
products are compiled for each shape they meet, which costs more than the filling: 13 MB of memory a step, measured."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One sequence and what is trained in it.

    Example(ids=[1, 40, 5, 60, 61, 2], trained=[3, 4, 5], weights=[1/3, 1/3, 1/3]) trains the last three tokens, each
    predicted from the tokens before it.
    """

    ids: NDArray[np.int32]
    trained: NDArray[np.int64]
    """Which of `ids` are trained, ascending; never 0, for nothing stands before it. The arrays below are as long."""
    weights: NDArray[np.float32]
    advantages: NDArray[np.float32] | None = None
    """None: 1 everywhere, as in supervised learning."""
    sampler_logprobs: NDArray[np.float32] | None = None
    """None: the tokens were not sampled, and the policy's own log-probabilities stand in."""
    teacher_logprobs: NDArray[np.float32] | None = None
    reference_logprobs: NDArray[np.float32] | None = None
    old_values: NDArray[np.float32] | None = None
    returns: NDArray[np.float32] | None = None


OPTIONAL = ("advantages", "sampler_logprobs", "teacher_logprobs", "reference_logprobs", "old_values", "returns")


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Whole sequences, one after another: N tokens, T of them trained."""

    ids_N: Tensor
    lengths: tuple[int, ...]
    before_T: Tensor
    """Index into the N tokens of the one before each trained token: its hidden state predicts it."""
    targets_T: Tensor
    weights_T: Tensor
    sequence_T: Tensor
    extras: dict[str, Tensor]
    """Those of OPTIONAL that all the examples have, (T,) each."""


def pack(examples: Sequence[Example], max_tokens: int, device: torch.device | None = None) -> list[MicroBatch]:
    """Micro-batches of at most `max_tokens` tokens (or one longer sequence), sequences of like length together."""
    batches: list[MicroBatch] = []
    members: list[Example] = []
    held = 0
    for example in sorted(examples, key=lambda e: len(e.ids)):
        if members and held + len(example.ids) > max_tokens:
            batches.append(_join(members, device))
            members, held = [], 0
        members.append(example)
        held += len(example.ids)
    return [*batches, _join(members, device)] if members else batches


def _join(examples: Sequence[Example], device: torch.device | None) -> MicroBatch:
    lengths = [len(e.ids) for e in examples]
    starts = np.cumsum([0, *lengths[:-1]])
    filler = np.zeros(-sum(lengths) % ROUND, np.int64)

    def tensor(arrays: Sequence[NDArray[np.generic]]) -> Tensor:
        return torch.from_numpy(np.concatenate(arrays)).to(device)

    extras = {}
    for name in OPTIONAL:
        arrays = [getattr(e, name) for e in examples]
        if all(a is not None for a in arrays):
            extras[name] = tensor(arrays)
    return MicroBatch(
        ids_N=tensor([*(e.ids.astype(np.int64) for e in examples), filler]),
        lengths=(*lengths, len(filler)) if len(filler) else tuple(lengths),
        before_T=tensor([start + e.trained - 1 for start, e in zip(starts, examples, strict=True)]),
        targets_T=tensor([e.ids[e.trained].astype(np.int64) for e in examples]),
        weights_T=tensor([e.weights for e in examples]),
        sequence_T=tensor([np.full(len(e.trained), i, np.int64) for i, e in enumerate(examples)]),
        extras=extras,
    )
