"""Runs of tokens or words that stand somewhere else too."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

LENGTH = 8
PRIME = np.uint64(0x9E3779B97F4A7C15)
WORDS = 13
"""A held-out prompt that shares so many words in a row with a training prompt overlaps with it (GPT-3, arXiv
2005.14165, appendix C)."""
COMMON = 10
"""Runs of words in more prompts than this are the task's own phrases, as there."""


def grams(sequences: Sequence[NDArray[np.int32]], owners: Iterable[int]) -> NDArray[np.uint64]:
    """A hash of every LENGTH tokens in a row within a sequence and of the sequence's owner."""
    lengths = [len(s) for s in sequences]
    if sum(lengths) < LENGTH:
        return np.empty(0, np.uint64)
    ids = np.concatenate(sequences).astype(np.uint64)
    starts = len(ids) - LENGTH + 1
    hashes = np.repeat(np.fromiter(owners, np.uint64), lengths)[:starts]
    for place in range(LENGTH):
        hashes = hashes * PRIME + ids[place : place + starts]
    sequence = np.repeat(np.arange(len(sequences)), lengths)
    within: NDArray[np.uint64] = hashes[sequence[:starts] == sequence[LENGTH - 1 :]]
    return within


def repeated(sequences: Sequence[NDArray[np.int32]]) -> float:
    """Share of the grams that stand in the same sequence already."""
    hashes = grams(sequences, range(len(sequences)))
    return 1 - len(np.unique(hashes)) / len(hashes) if len(hashes) else 0.0


def copied(
    sequences: Sequence[NDArray[np.int32]], sources: Sequence[NDArray[np.int32]], owners: Sequence[int]
) -> float:
    """Share of the grams that stand in the sequence's source, which is that of its owner."""
    hashes = grams(sequences, owners)
    return float(np.isin(hashes, grams(sources, range(len(sources)))).mean()) if len(hashes) else 0.0


def held_out_overlap(train: Sequence[str], held_out: Sequence[str]) -> float:
    """Share of the held-out prompts that are a training prompt, or have WORDS words in a row in common with one."""
    if not held_out:
        return 0.0
    known = Counter(piece for prompt in train for piece in pieces(prompt))
    own = Counter(piece for prompt in held_out for piece in pieces(prompt))
    whole = {" ".join(words(prompt)) for prompt in train}
    return float(
        np.mean(
            [
                " ".join(words(prompt)) in whole
                or any(0 < known[p] <= COMMON and own[p] <= COMMON for p in pieces(prompt))
                for prompt in held_out
            ]
        )
    )


def words(prompt: str) -> list[str]:
    return prompt.lower().split()


def pieces(prompt: str) -> set[tuple[str, ...]]:
    all_words = words(prompt)
    return {tuple(all_words[i : i + WORDS]) for i in range(len(all_words) - WORDS + 1)}
