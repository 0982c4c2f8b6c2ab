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
"""For bf16 products on a processor, micro-batches are filled up to a multiple of so many tokens, by a sequence of which
nothing is trained. These products are compiled for each shape they meet, which costs more than the filling: 13 MB of
memory a step, measured."""


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
    prompt: int = 0
    """How many tokens at the beginning, none of them trained, other examples may begin with too: they are computed once
    for all examples of a micro-batch that share them."""
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
    """Whole sequences, as segments one after another (`models.attention`): N tokens, T of them trained."""

    ids_N: Tensor
    lengths: tuple[int, ...]
    trees: tuple[int, ...]
    before_T: Tensor
    """Index into the N tokens of the one before each trained token: its hidden state predicts it."""
    targets_T: Tensor
    weights_T: Tensor
    sequence_T: Tensor
    """Number of its example within the micro-batch."""
    extras: dict[str, Tensor]
    """Those of OPTIONAL that all the examples have, (T,) each."""


@dataclass
class Tree:
    """Examples of one prompt, which is laid out once before what follows it in each; or one example as it is."""

    prompt: int
    members: list[Example]

    @property
    def tokens(self) -> int:
        return self.prompt + sum(len(e.ids) - self.prompt for e in self.members)

    @property
    def longest(self) -> int:
        return max(len(e.ids) for e in self.members)


def pack(
    examples: Sequence[Example], max_tokens: int, device: torch.device | None = None, multiple: int = 1
) -> list[MicroBatch]:
    """Micro-batches of at most `max_tokens` tokens (or one longer sequence), sequences of like length together.

    They are filled up to a multiple of `multiple` tokens.
    """
    batches: list[MicroBatch] = []
    members: list[Tree] = []
    held = 0
    for tree in sorted(_trees(examples, max_tokens), key=lambda tree: tree.longest):
        if members and held + tree.tokens > max_tokens:
            batches.append(_join(members, device, multiple))
            members, held = [], 0
        members.append(tree)
        held += tree.tokens
    return [*batches, _join(members, device, multiple)] if members else batches


def _trees(examples: Sequence[Example], max_tokens: int) -> list[Tree]:
    """Examples that share a prompt together, as many as fit a micro-batch."""
    trees: list[Tree] = []
    open_trees: dict[bytes, Tree] = {}
    for example in sorted(examples, key=lambda e: len(e.ids)):
        prompt = example.ids[: example.prompt].tobytes()
        tree = open_trees.get(prompt)
        if not prompt or tree is None or tree.tokens + len(example.ids) - example.prompt > max_tokens:
            tree = open_trees[prompt] = Tree(example.prompt, [])
            trees.append(tree)
        tree.members.append(example)
    return [tree if len(tree.members) > 1 else Tree(0, tree.members) for tree in trees]


def _join(trees: Sequence[Tree], device: torch.device | None, multiple: int) -> MicroBatch:
    ids: list[NDArray[np.integer]] = []
    lengths, before, segments = [], [], []
    held = 0
    for tree in trees:
        prompt = tree.prompt
        if prompt:
            ids.append(tree.members[0].ids[:prompt])
            lengths.append(prompt)
        start, held = held, held + prompt
        for example in tree.members:
            own = example.ids[prompt:]
            last = example.trained - 1
            before.append(last + np.where(last < prompt, start, held - prompt))
            ids.append(own)
            lengths.append(len(own))
            held += len(own)
        segments.append(len(tree.members) + bool(prompt))
    if filler := -held % multiple:
        ids.append(np.zeros(filler, np.int64))
        lengths.append(filler)
        segments.append(1)
    examples = [example for tree in trees for example in tree.members]

    def tensor(arrays: Sequence[NDArray[np.generic]]) -> Tensor:
        return torch.from_numpy(np.concatenate(arrays)).to(device)

    extras = {}
    for name in OPTIONAL:
        arrays = [getattr(e, name) for e in examples]
        if all(a is not None for a in arrays):
            extras[name] = tensor(arrays)
    return MicroBatch(
        ids_N=tensor([part.astype(np.int64) for part in ids]),
        lengths=tuple(lengths),
        trees=tuple(segments),
        before_T=tensor(before),
        targets_T=tensor([e.ids[e.trained].astype(np.int64) for e in examples]),
        weights_T=tensor([e.weights for e in examples]),
        sequence_T=tensor([np.full(len(e.trained), i, np.int64) for i, e in enumerate(examples)]),
        extras=extras,
    )
