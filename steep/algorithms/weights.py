"""From lengths to token weights: what share of the batch loss each trained token has.

A loss is the sum over tokens of weight times token loss. The weights are computed once, from the whole batch, so the
losses of its micro-batches add up to the loss of the batch however it is cut.
"""

from collections.abc import Sequence
from typing import Literal, assert_never

import numpy as np
from numpy.typing import NDArray

Averaging = Literal["prompt_mean", "token_mean", "sequence_mean", "constant"]
"""What counts the same. Of P prompts, S rollouts, |o| trained tokens in a rollout:

prompt_mean     each prompt: 1 / (P * trained tokens of the prompt)          ScaleRL, arXiv 2510.13786
token_mean      each token of the batch: 1 / trained tokens                  DAPO, arXiv 2503.14476
sequence_mean   each rollout: 1 / (S * |o|)                                  GRPO, arXiv 2402.03300
constant        each token, whatever the lengths: 1 / (S * max_tokens)       Dr. GRPO, arXiv 2503.20783

The first three add up to 1 over the batch; `constant` adds up to the mean length over max_tokens.
"""


def token_weights(
    lengths_by_group: Sequence[Sequence[int]], how: Averaging, max_tokens: int | None = None
) -> list[NDArray[np.float64]]:
    """The weight of every trained token of each rollout: for each group an array of shape (rollouts,).

    `lengths_by_group` counts trained tokens only. A rollout without any gets weight 0 and is not counted as a rollout,
    nor a group without any as a prompt. `max_tokens`, the most tokens that a rollout may have, is used by `constant`.
    """
    if how == "constant" and max_tokens is None:
        raise ValueError("constant weights need max_tokens, the most tokens that a rollout may have")
    prompts = sum(any(lengths) for lengths in lengths_by_group)
    sequences = sum(length > 0 for lengths in lengths_by_group for length in lengths)
    tokens = sum(map(sum, lengths_by_group))

    def divisor(length: int, prompt_tokens: int) -> int:
        match how:
            case "prompt_mean":
                return prompts * prompt_tokens
            case "token_mean":
                return tokens
            case "sequence_mean":
                return sequences * length
            case "constant":
                assert max_tokens is not None
                return sequences * max_tokens
            case _:
                assert_never(how)

    return [
        np.array([1 / divisor(length, sum(lengths)) if length else 0.0 for length in lengths], dtype=np.float64)
        for lengths in lengths_by_group
    ]
