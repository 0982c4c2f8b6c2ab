"""Compiles the C++ sources at first use, keeps the library in a cache, and hands it out; None where that cannot be.

The library knows neither torch's headers nor its ABI: it gets raw pointers, and torch's threads through the C function
`torch_parallel_for` of torch's stable interface. So one compiler call is the whole build. It is named after a hash of
the source and of the compiler's predefined macros (which tell its version and every feature of the processor), tried
in a process of its own, and renamed into place last: a cache may be shared by different hosts and by runs that start
at once.

STEEP_KERNELS=0 turns the kernels off; CXX names a compiler; STEEP_CACHE moves the cache.
"""

import ctypes
import functools
import hashlib
import logging
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steep.cache import cache_directory

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("kernels.cpp")
SOURCES = [SOURCE, *sorted(SOURCE.parent.glob("*.hpp"))]
FLAGS = ["-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd", "-shared", "-fPIC"]
PROCESSOR_FLAGS = ["-march=native", "-mcpu=native"]  # some compilers know only one of them
TIMEOUT_S = 120

# One letter an argument: i int64, f float, p pointer. Those that return a bool say whether indices were in range.
SIGNATURES: dict[str, tuple[str, type[ctypes.c_bool] | None]] = {
    "rms_norm": ("iifppp", None),
    "rms_norm_backward": ("iifppppp", None),
    "rope_norm": ("iiiifppppppippp", ctypes.c_bool),
    "rope_norm_backward": ("iiiifppppppppppp", None),
    "silu_mul": ("iipp", None),
    "silu_mul_backward": ("iippp", None),
    "packed_attention": ("ippiiippppp", None),
    "packed_attention_backward": ("ippiiippppppppp", None),
    "decode": ("ppip", ctypes.c_bool),
    "prefill": ("pipppip", ctypes.c_bool),
    "draw": ("iiippppp", None),
    "sample": ("ppip", ctypes.c_bool),
    "token_logprobs": ("iippppp", ctypes.c_bool),
    "token_logprobs_backward": ("iippppp", None),
}
LETTERS: dict[str, Any] = {"i": ctypes.c_int64, "f": ctypes.c_float, "p": ctypes.c_void_p}
SUFFIXES = {torch.float32: "f32", torch.bfloat16: "bf16"}  # of a kernel for this storage type
EIGHT = {torch.int8: "i8"}  # of keys and values alone

# Run on a new library before anyone else sees it: a wrong one may crash. Attention to equal values gives that value.
TRIAL = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
tokens, heads, size = 37, 2, 24
trees, offsets = (ctypes.c_int64 * 2)(0, 1), (ctypes.c_int64 * 2)(0, tokens)
ones = (ctypes.c_float * (tokens * heads * size))(*[1.0] * (tokens * heads * size))
out, lse = (ctypes.c_float * len(ones))(), (ctypes.c_float * (tokens * heads))()
i, p = ctypes.c_int64, ctypes.c_void_p
attention = ctypes.CFUNCTYPE(None, i, p, p, i, i, i, p, p, p, p, p)(p.in_dll(library, "packed_attention_f32").value)
attention(1, trees, offsets, heads, heads, size, ones, ones, ones, out, lse)
sys.exit(max(abs(x - 1) for x in out) > 1e-5)
"""


class BuildError(Exception):
    """Why there are no compiled kernels; the message ends up in one warning."""


def run(command: list[str]) -> str:
    """The standard output of a command; a BuildError with its last words if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} did not run ({error})") from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BuildError(f"{command[0]} failed with status {done.returncode} ({last})")
    return done.stdout


def find_compiler() -> list[str]:
    if os.environ.get("CXX"):
        return shlex.split(os.environ["CXX"])
    found = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if found is None:
        raise BuildError("no C++ compiler found (install g++ or clang++, or set CXX)")
    return [found]


def describe_target(compiler: list[str]) -> tuple[str, str]:
    """The flag that compiles for this processor, and the macros that it predefines."""
    failure = BuildError()
    for flag in PROCESSOR_FLAGS:
        try:
            return flag, run([*compiler, flag, "-dM", "-E", "-x", "c++", os.devnull])
        except BuildError as error:
            failure = error
    raise failure


def build() -> Path:
    """The compiled library of this source, compiler and processor, made now unless it is in the cache."""
    compiler = find_compiler()
    processor_flag, macros = describe_target(compiler)
    sources = [path.read_text() for path in SOURCES]
    key = hashlib.sha256("\0".join([*sources, macros, *compiler, *FLAGS, processor_flag]).encode()).hexdigest()[:16]
    library = cache_directory() / f"kernels-{key}.so"
    if library.exists():
        return library
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix="kernels-", suffix=".tmp", dir=library.parent)
    except OSError as error:
        raise BuildError(f"the cache cannot be written ({error}; STEEP_CACHE moves it)") from error
    os.close(handle)
    try:
        run([*compiler, *FLAGS, processor_flag, "-o", name, str(SOURCE)])
        run([sys.executable, "-c", TRIAL, name])
        os.replace(name, library)
    finally:
        Path(name).unlink(missing_ok=True)
    return library


def torch_threads() -> ctypes.c_void_p | None:
    """Torch's own parallel loop, or None (then the kernels run on one thread) where its library has no such symbol."""
    suffix = "dylib" if sys.platform == "darwin" else "so"
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / f"libtorch_cpu.{suffix}"))
        return ctypes.cast(library.torch_parallel_for, ctypes.c_void_p)
    except (OSError, AttributeError):
        return None


@functools.cache
def attempt() -> tuple[ctypes.CDLL | None, str]:
    """The loaded library or None, and a line on it for people; builds at most once a process."""
    if os.environ.get("STEEP_KERNELS") == "0":
        return None, "off (STEEP_KERNELS=0)"
    try:
        path = build()
        library = ctypes.CDLL(str(path))
    except (BuildError, OSError) as error:
        log.warning("steep runs without its compiled kernels, several times slower on a CPU: %s", error)
        return None, f"torch fallback: {error}"
    library.lanes.restype, library.use_threads.argtypes = ctypes.c_int64, [ctypes.c_void_p]
    library.multiplies_bf16.restype = library.paired.restype = ctypes.c_bool
    threads = torch_threads()
    library.use_threads(threads)
    bits, shared = 32 * library.lanes(), "torch's threads" if threads else "one thread"
    products = "bf16 products" if library.multiplies_bf16() else "no bf16 products"
    return library, f"compiled, {bits}-bit vectors, {products}, {shared} ({path})"


@functools.cache
def kernel(name: str, *dtypes: torch.dtype) -> Callable[..., Any]:
    """A function of the library, for tensors stored in these types. The library exports pointers to its functions."""
    library, reason = attempt()
    if library is None:
        raise RuntimeError(f"no compiled kernels: {reason}")
    letters, result = SIGNATURES[name]
    symbol = "_".join([name, *((SUFFIXES | EIGHT)[dtype] for dtype in dtypes)])
    address = ctypes.c_void_p.in_dll(library, symbol).value
    assert address is not None
    arguments = [LETTERS[letter] for letter in letters]
    return ctypes.CFUNCTYPE(result, *arguments)(address)


def library_for(*tensors: Tensor) -> ctypes.CDLL | None:
    """The compiled kernels if they can take tensors of this kind: on the CPU, in fp32 or bf16."""
    for tensor in tensors:
        if tensor.device.type != "cpu" or tensor.dtype not in SUFFIXES:
            return None
    return attempt()[0]


def multiplies_bf16(device: torch.device) -> bool:
    """Whether torch is faster with bf16 matrices than with fp32 ones on a device.

    A processor without instructions for them is up to 20 times slower: most of those in laptops.
    """
    if device.type != "cpu":
        return True
    library, _ = attempt()
    if library is None or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return bool(library.multiplies_bf16())


def status() -> str:
    """One line on the kernels: compiled and how, or why not. Builds them if that is still to be done."""
    return attempt()[1]
