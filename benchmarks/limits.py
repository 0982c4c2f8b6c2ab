"""What the processor can do at most, measured in the run that is compared with it, and what work needs at least.

Peak: the product of two square matrices through torch, in bf16 or in fp32, whichever is faster: a processor without
instructions for bf16 is a hundred times slower in it. Bandwidth: reading an array far larger than the caches. Both are
the best of some trials. The limits are those of the work, not of a program: bf16 weights read once a decode step, each
row's keys and values in 8 bits once, two operations a weight and token.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from benchmarks.models import parameters
from benchmarks.worker import Channel, serve
from steep.models import ModelConfig

BF16_BYTES = 2
TRIALS = 15


def measure(size: int, megabytes: int) -> dict[str, float]:
    """GFLOP/s of products of `size` squared, GB/s of a read of so many megabytes."""
    torch.set_float32_matmul_precision("medium")  # oneDNN's fp32, faster than the default here and as exact
    whole = torch.ones(megabytes << 17, dtype=torch.int64)
    limits = {"bandwidth_gb": whole.nbytes / 1e9 / _best_s(lambda: whole.sum())}
    kinds = {"bf16": torch.bfloat16, "fp32": torch.float32}
    small = {name: _gflops(kind, size // 4) for name, kind in kinds.items()}
    for name, kind in kinds.items():  # one that is far slower would take minutes
        limits[f"{name}_gflops"] = _gflops(kind, size) if 10 * small[name] > max(small.values()) else small[name]
    return limits


def _gflops(kind: torch.dtype, size: int) -> float:
    left, right = torch.randn(2, size, size).to(kind).unbind()
    return 2 * size**3 / 1e9 / _best_s(partial(torch.matmul, left, right))


def dtype(limits: Mapping[str, float]) -> str:
    """In which matrix products are faster here: `bfloat16` or `float32`."""
    return "bfloat16" if limits["bf16_gflops"] > limits["fp32_gflops"] else "float32"


def peak(limits: Mapping[str, float]) -> float:
    """Operations a second of matrix products."""
    return max(limits["bf16_gflops"], limits["fp32_gflops"]) * 1e9


def decode_s(
    config: ModelConfig, batch: int, prompts: int, prompt: int, new: int, limits: Mapping[str, float]
) -> float:
    """Prefill of `prompts` prompts, then the sum over steps of max(bytes / bandwidth, operations / peak).

    bytes of a step = 2 P + batch * context * 2 L K (E + 4)   P weights, L layers, K key-value heads, E head size
    operations of a step = batch * (2 P + 4 L H E * context)  H query heads
    """
    bandwidth = limits["bandwidth_gb"] * 1e9
    weights, attention = parameters(config), 4 * config.num_layers * config.num_heads * config.head_dim
    seconds = prompts * (2 * weights * prompt + attention * prompt**2 / 2) / peak(limits)
    for context in range(prompt, prompt + new - 1):  # the first token comes with the prefill
        read = BF16_BYTES * weights + batch * context * kv_bytes(config)
        seconds += max(read / bandwidth, batch * (2 * weights + attention * context) / peak(limits))
    return seconds


def train_flops(config: ModelConfig, lengths: Sequence[int]) -> float:
    """Forward and backward: 6 P a token, and 6 L H E n^2 for the causal attention of a sequence of n tokens."""
    attention = 6 * config.num_layers * config.num_heads * config.head_dim
    return sum(6 * parameters(config) * n + attention * n**2 for n in lengths)


def kv_bytes(config: ModelConfig) -> int:
    """Keys and values of one token, in 8 bits with a factor for each head."""
    return 2 * config.num_layers * config.num_kv_heads * (config.head_dim + 4)


def _best_s(work: Callable[[], Any]) -> float:
    """The least of TRIALS, not their median: in the first half second of a process both threads may be on one core."""
    seconds = []
    for _ in range(TRIALS):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


if __name__ == "__main__":
    serve(Channel(), {"measure": measure})
