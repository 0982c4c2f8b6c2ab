"""The compiled decoder: the next token of many sequences through all layers in one call, and drawing it.

Shapes in names: B sequences, V vocabulary, K key and value heads, E head size, P tokens of a prefix, W `lanes`: the
numbers in a vector. E is rounded up to W in what is stored.
"""

import contextlib
import ctypes
import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from steep.models.kernels.build import attempt, kernel, library_for
from steep.models.kernels.ops import call


@dataclass(frozen=True)
class LayerWeights:
    """Of one layer: norms and the bias fp32, matrices as `panels` makes them."""

    attention_norm: Tensor
    q_norm: Tensor | None
    k_norm: Tensor | None
    mlp_norm: Tensor
    qkv_bias: Tensor | None
    qkv: Tensor
    out: Tensor
    gate_up: Tensor
    down: Tensor


class LayerPointers(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in LayerWeights.__dataclass_fields__]


SIZES = ("layers", "size", "heads", "kv_heads", "head_size", "inner", "vocabulary", "positions", "rows", "blocks")
TENSORS = ("layer", "embedding", "head", "norm", "cos", "sin", "keys", "values")


class DecoderPointers(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in SIZES),
        *((name, ctypes.c_void_p) for name in TENSORS),
        ("eps", ctypes.c_double),
    ]


class BatchPointers(ctypes.Structure):
    _fields_ = [
        ("count", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("rows", "ids", "positions", "prefix_lengths", "prefixes")),
    ]


def can_decode(device: torch.device, dtype: torch.dtype, *sizes: int) -> bool:
    """Whether there is a compiled decoder for such weights; `sizes` are the depths of its products."""
    return library_for(torch.empty(0, dtype=dtype, device=device)) is not None and not any(n % 2 for n in sizes)


def lanes() -> int:
    library, reason = attempt()
    if library is None:
        raise RuntimeError(f"no compiled kernels: {reason}")
    width: int = library.lanes()
    return width


def paired() -> bool:
    """Whether two bf16 numbers that are multiplied at once lie side by side."""
    library, _ = attempt()
    assert library is not None
    found: bool = library.paired()
    return found


def panels(weight: Tensor) -> Tensor:
    """A matrix [outputs, depth] as the decoder reads it: [outputs / W, depth / pair, W, pair]."""
    width, pair = lanes(), 2 if weight.dtype == torch.bfloat16 and paired() else 1
    outputs, depth = weight.shape
    padded = functional.pad(weight.detach(), (0, 0, 0, -outputs % width))
    return padded.view(-1, width, depth // pair, pair).transpose(1, 2).contiguous()


class FusedWeights:
    """A decoder's weights, and the cache that it works on, as pointers."""

    def __init__(self, layers: Sequence[LayerWeights], sizes: dict[str, int], tensors: dict[str, Tensor], eps: float):
        """`sizes` and `tensors` by the names in SIZES and TENSORS; keys and values from `cache`."""
        self.dtype, self.cached = tensors["embedding"].dtype, tensors["keys"].dtype
        self.kept = layers, tensors  # the pointers point to them
        self.layer = (LayerPointers * len(layers))(*(LayerPointers(*map(_pointer, vars(w).values())) for w in layers))
        pointers = {name: _pointer(tensor) for name, tensor in tensors.items()}
        blocks = tensors["keys"].shape[3]
        self.pointers = DecoderPointers(**sizes, blocks=blocks, layer=ctypes.addressof(self.layer), **pointers, eps=eps)
        self.vocabulary, self.logit_row = sizes["vocabulary"], -(-sizes["vocabulary"] // lanes()) * lanes()


def cache(layers: int, rows: int, kv_heads: int, length: int, head_size: int, dtype: torch.dtype) -> Tensor:
    """An empty cache of `rows` of `length` tokens: all the keys, and all the values. `dtype` may be int8."""
    shape = (layers, rows, kv_heads, *_blocks(length, head_size, dtype))
    return zeros((2, *shape), dtype)  # zeros: unused memory is read, and 0 * NaN is NaN


def _blocks(length: int, head_size: int, dtype: torch.dtype) -> tuple[int, int]:
    """Blocks of W tokens, and the numbers in each: in 8 bits, what they are multiplied by takes 4 bytes a token."""
    width = lanes()
    return -(-length // width), width * (-(-head_size // width) * width + (4 if dtype == torch.int8 else 0))


def zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros in large pages where the system has them: reading a cache of 250 MB went from 20 to 30 GB/s."""
    count = math.prod(shape)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # shared memory, the default, gets small pages only
    memory = mmap.mmap(-1, max(1, count * dtype.itemsize), flags)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel may be built without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype, count=count).view(shape)


STRETCH = ("temperature", "stream", "counter", "limit", "close", "forced", "ends", "halt", "made", "ids", "logprobs")
STRETCH_TYPES = (np.float32, np.uint64, np.int64, np.int64, np.int64, np.int64, np.bool_, np.int32)  # what goes in


class StretchPointers(ctypes.Structure):
    _fields_ = [("steps", ctypes.c_int64), *((name, ctypes.c_void_p) for name in STRETCH)]


Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Stretch:
    """How rows go on in one call, and when each of them stops."""

    temperature_B: Floats
    stream_B: NDArray[np.uint64]
    """Of random numbers, as `engines.sampling.streams` begins them."""
    counter_B: Ints
    """Which number of the stream is next."""
    limit_B: Ints
    """Tokens at most; one at least is sampled."""
    close_B: Ints
    """A token that the row stops after, -1 for none."""
    forced_BT: Ints
    """Tokens that it takes first, -1 where it draws them; T is at least each limit."""
    ends_V: NDArray[np.bool_]
    """The tokens that every row stops after. Those that are forced stop nobody."""
    halt: NDArray[np.int32]
    """One number; when it is not 0, all rows stop after their next token. Any thread may set it at any time."""


def fused_decode(
    weights: FusedWeights, rows_B: Ints, ids_B: Ints, positions_B: Ints, prefix_lengths_B: Ints, prefixes_B: Ints
) -> Tensor:
    """fp32 logits_BV after tokens ids_B, which are added to the cache.

    Positions count from the start of the prefix, a row's own tokens are kept in row rows_B of the cache, and prefixes_B
    are addresses of what `fused_prefill` made; rows that follow one another and share one read it once.
    """
    logits_BV = torch.empty(len(rows_B), weights.logit_row)
    _decode("decode", weights, (rows_B, ids_B, positions_B, prefix_lengths_B, prefixes_B), logits_BV.data_ptr())
    return logits_BV[:, : weights.vocabulary]


def fused_sample(weights: FusedWeights, batch: Sequence[Ints], stretch: Stretch) -> tuple[Ints, Ints, Floats]:
    """Go on with rows, the arrays of which are those that `fused_decode` takes, until each of them stops.

    How many tokens each took, these ids_BT, and logprobs_BT under what they were drawn from, as `fused_draw` has them.
    """
    rows, steps = stretch.forced_BT.shape
    given: list[NDArray[Any]] = [
        np.ascontiguousarray(x, dtype) for x, dtype in zip(vars(stretch).values(), STRETCH_TYPES, strict=True)
    ]
    if any(len(x) != rows for x in given[:6]) or stretch.limit_B.max(initial=0) > steps:
        raise ValueError("each row needs all of its columns, and room for its tokens")
    if len(stretch.ends_V) != weights.vocabulary or stretch.forced_BT.max(initial=0) >= weights.vocabulary:
        raise ValueError("the tokens that are forced and those that end a row are of the vocabulary")
    made_B, ids_BT = np.empty(rows, np.int64), np.zeros((rows, steps), np.int64)
    logprobs_BT = np.zeros((rows, steps), np.float32)
    pointers = StretchPointers(steps, *(x.ctypes.data for x in (*given, made_B, ids_BT, logprobs_BT)))
    _decode("sample", weights, batch, ctypes.addressof(pointers))
    return made_B, ids_BT, logprobs_BT


def _decode(name: str, weights: FusedWeights, batch: Sequence[Ints], last: int) -> None:
    arrays = [np.ascontiguousarray(x, np.int64) for x in batch]
    rows = len(arrays[0])
    if any(x.shape != (rows,) for x in arrays):
        raise ValueError("each row needs its place in the cache, token, position, prefix length and prefix")
    pointers = BatchPointers(rows, *(x.ctypes.data for x in arrays))
    addresses = ctypes.addressof(weights.pointers), ctypes.addressof(pointers)
    if not kernel(name, weights.dtype, weights.cached)(*addresses, torch.get_num_threads(), last):
        raise IndexError("a row, token or position is beyond the cache, the vocabulary or the context")


def fused_prefill(weights: FusedWeights, sequences: Sequence[Sequence[int]]) -> tuple[list[Tensor], Tensor]:
    """What `fused_decode` takes as the prefix of each sequence, and fp32 logits_SV after its last token."""
    layers, kv_heads, head_size = (getattr(weights.pointers, name) for name in ("layers", "kv_heads", "head_size"))
    offsets = np.cumsum([0, *map(len, sequences)])
    ids = np.concatenate([np.asarray(s, np.int64) for s in sequences])
    prefixes = [
        torch.zeros(2, layers, kv_heads, *_blocks(len(s), head_size, weights.cached), dtype=weights.cached)
        for s in sequences
    ]
    addresses = np.array([prefix.data_ptr() for prefix in prefixes])
    logits_SV = torch.empty(len(sequences), weights.logit_row)
    done = call(
        kernel("prefill", weights.dtype, weights.cached),
        *(ctypes.addressof(weights.pointers), len(sequences), offsets.ctypes.data),
        *(ids.ctypes.data, addresses.ctypes.data, torch.get_num_threads(), logits_SV),
    )
    if not done:
        raise IndexError("a token or a prompt's length is beyond the vocabulary or the context")
    return prefixes, logits_SV[:, : weights.vocabulary]


def fused_draw(logits_BV: Tensor, temperature_B: Floats, uniform_B: NDArray[np.float64]) -> tuple[Ints, Floats]:
    """As `engines.sampling.draw` without top_p; logits_BV fp32 whose rows may be longer than they look."""
    rows, size = logits_BV.shape
    given = np.ascontiguousarray(temperature_B, np.float32), np.ascontiguousarray(uniform_B, np.float64)
    ids_B, logprobs_B = np.empty(rows, np.int64), np.empty(rows, np.float32)
    pointers = (x.ctypes.data for x in (*given, ids_B, logprobs_B))
    kernel("draw", torch.float32)(rows, size, logits_BV.stride(0), logits_BV.data_ptr(), *pointers)
    return ids_B, logprobs_B


def _pointer(tensor: Tensor | None) -> int | None:
    if tensor is None:
        return None
    assert tensor.is_contiguous()
    return tensor.data_ptr()
