"""Drawing the next token: counter-based random numbers, so that a rollout never depends on what runs beside it."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steep.models import kernels

UInt64s = NDArray[np.uint64]


def streams(seeds: NDArray[np.int64], samples: NDArray[np.int64]) -> UInt64s:
    """Where the random numbers of (seed, sample) begin: splitmix64 (Steele et al. 2014) over the two in turn."""
    return _mix(_mix(seeds.astype(np.uint64)) ^ samples.astype(np.uint64))


def uniforms(streams: UInt64s, steps: NDArray[np.int64]) -> NDArray[np.float64]:
    """One number in [0, 1) for each step of a stream."""
    state = _mix(streams ^ steps.astype(np.uint64))
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(x: UInt64s) -> UInt64s:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def draw(
    logits_BV: Tensor,
    temperature_B: NDArray[np.float32],
    top_p_B: NDArray[np.float32],
    uniform_B: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Token ids and their log-probabilities under the distribution they were drawn from.

    Inverse transform sampling, one uniform number a row. Temperature 0 takes the most likely token and reports its
    log-probability at temperature 1. `top_p` keeps the smallest set of tokens that holds at least that mass.
    """
    if not kernels.compiled(logits_BV):
        return _drawn(logits_BV, temperature_B, top_p_B, uniform_B)
    ids_B, logprobs_B = kernels.fused_draw(logits_BV, temperature_B, uniform_B)
    cut_B = top_p_B < 1
    if cut_B.any():
        rows = temperature_B[cut_B], top_p_B[cut_B], uniform_B[cut_B]
        ids_B[cut_B], logprobs_B[cut_B] = _drawn(logits_BV[torch.from_numpy(cut_B)], *rows)
    return ids_B, logprobs_B


def _drawn(logits_BV: Tensor, *rows_B: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    ids_B, logprobs_B = _draw(logits_BV, *(torch.from_numpy(x).to(logits_BV.device) for x in rows_B))
    return ids_B.cpu().numpy(), logprobs_B.cpu().numpy()


def _draw(logits_BV: Tensor, temperature_B: Tensor, top_p_B: Tensor, uniform_B: Tensor) -> tuple[Tensor, Tensor]:
    greedy_B = temperature_B == 0
    scaled_BV = logits_BV / torch.where(greedy_B, 1.0, temperature_B)[:, None]
    logprobs_BV = scaled_BV.log_softmax(-1)
    cut_B = (top_p_B < 1) & ~greedy_B
    if bool(cut_B.any()):
        kept = logprobs_BV[cut_B]
        order = torch.argsort(kept, dim=-1, descending=True, stable=True)
        mass = kept.gather(-1, order).exp()
        before = mass.cumsum(-1) - mass
        drop = torch.zeros_like(kept, dtype=torch.bool).scatter(-1, order, before >= top_p_B[cut_B][:, None])
        logprobs_BV[cut_B] = kept.masked_fill(drop, -torch.inf).log_softmax(-1)
    cumulative_BV = logprobs_BV.exp().cumsum(-1)
    most_B = cumulative_BV[:, -1]
    target_B = uniform_B.to(most_B.dtype) * most_B  # rounded up to the sum, it would take a token without a chance
    target_B = torch.minimum(target_B, torch.nextafter(most_B, torch.zeros_like(most_B)))
    ids_B = torch.searchsorted(cumulative_BV, target_B[:, None], right=True)[:, 0]
    ids_B = ids_B.clamp_(
        max=logits_BV.shape[-1] - 1
    )  # where they are NaN, as with broken weights, it is beyond the end
    if bool(greedy_B.any()):
        ids_B = torch.where(greedy_B, logits_BV.argmax(-1), ids_B)
    return ids_B, logprobs_BV.gather(-1, ids_B[:, None])[:, 0]
