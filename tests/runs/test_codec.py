import json
import math
import random
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import load, save

from steep.runs.codec import decode, encode


def through_disk(value):
    """What a value is after a trip through JSON text and safetensors bytes."""
    structure, tensors = encode(value)
    return decode(json.loads(json.dumps(structure, allow_nan=False)), load(save(tensors)))


def same(a, b) -> bool:
    """Equal values of equal types, bit for bit, in the same order."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float) and not isinstance(a, np.generic):
        return struct.pack(">d", a) == struct.pack(">d", b)
    if isinstance(a, dict):
        return len(a) == len(b) and all(
            same(k, m) and same(v, w) for (k, v), (m, w) in zip(a.items(), b.items(), strict=True)
        )
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor):
        return (a.dtype, a.shape) == (b.dtype, b.shape) and bits(a) == bits(b)
    if isinstance(a, (np.ndarray, np.generic)):
        return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    return a == b


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


TORCH_DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.bool, torch.uint8, torch.int8, torch.int16,
    torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64, torch.complex64, torch.float8_e4m3fn,
]  # fmt: skip
NUMPY_DTYPES = st.one_of(
    hnp.boolean_dtypes(), hnp.integer_dtypes(endianness="?"), hnp.floating_dtypes(endianness="?"),
    hnp.complex_number_dtypes(), hnp.unicode_string_dtypes(max_len=3), hnp.datetime64_dtypes(),
)  # fmt: skip


@st.composite
def tensors(draw):
    dtype = draw(st.sampled_from(TORCH_DTYPES))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    width, count = torch.empty((), dtype=dtype).element_size(), math.prod(shape)
    data = bytearray(draw(st.binary(min_size=width * count, max_size=width * count)))
    if dtype == torch.bool:
        data = bytearray(byte & 1 for byte in data)
    return torch.frombuffer(data, dtype=dtype).reshape(shape) if data else torch.empty(shape, dtype=dtype)


keys = st.recursive(
    st.one_of(st.text(max_size=4), st.integers(), st.booleans(), st.none()), lambda k: st.tuples(k, k), max_leaves=3
)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(2**52, 2**200), st.floats(), st.binary(max_size=9),
    st.text(st.characters(codec=None, exclude_categories=()), max_size=9),
)  # fmt: skip
leaves = st.one_of(scalars, tensors(), hnp.arrays(NUMPY_DTYPES, hnp.array_shapes(min_dims=0, max_dims=2, min_side=0)))
trees = st.recursive(
    leaves,
    lambda t: st.one_of(
        st.lists(t, max_size=3), st.lists(t, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=4), t, max_size=3), st.dictionaries(keys, t, max_size=3),
    ),
    max_leaves=12,
)  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(trees)
def test_round_trip(tree):
    assert same(through_disk(tree), tree)


@pytest.mark.parametrize(
    "value",
    [
        -(2**63),
        math.nan,
        -math.inf,
        -0.0,
        5e-324,
        {1: "int", "1": "str", True is None: 0},
        {"tuple": [1], "dict": {}},
        {"a.b": torch.ones(1), "a": {"b": torch.zeros(1)}},
        np.float32(0.1),
        np.datetime64("2020-01-01"),
        torch.tensor(math.nan, dtype=torch.bfloat16),
        torch.empty(0, 3, dtype=torch.float16),
        np.array(["é", ""]),
    ],
)
def test_round_trip_of_odd_values(value):
    assert same(through_disk(value), value)


def test_integers_too_long_for_decimal_text():
    assert through_disk([-(10**5000)]) == [-(10**5000)]


def test_rng_states_continue_their_streams():
    python, numpy, legacy, torch_rng = (
        random.Random(1),
        np.random.default_rng(2),
        np.random.RandomState(3),
        torch.Generator(),
    )
    random_state = through_disk(
        {
            "python": python.getstate(),
            "numpy": numpy.bit_generator.state,
            "legacy": legacy.get_state(),
            "torch": torch_rng.get_state(),
        }
    )
    expected = python.random(), numpy.random(), legacy.rand(), torch.rand(1, generator=torch_rng)
    python.setstate(random_state["python"])
    numpy.bit_generator.state = random_state["numpy"]
    legacy.set_state(random_state["legacy"])
    torch_rng.set_state(random_state["torch"])
    assert (python.random(), numpy.random(), legacy.rand(), torch.rand(1, generator=torch_rng)) == expected


def test_optimizer_state_dict():
    weight = torch.nn.Parameter(torch.ones(3, 2))
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    (weight**2).sum().backward()
    optimizer.step()
    state = through_disk(optimizer.state_dict())
    assert same(state, optimizer.state_dict())
    optimizer.load_state_dict(state)


def test_views_and_parameters_come_back_as_plain_tensors():
    base = torch.arange(12.0).reshape(3, 4)
    assert same(through_disk(torch.nn.Parameter(base)), base)
    structure, found = encode([base.T])
    assert same(decode(structure, {k: v.contiguous() for k, v in found.items()}), [base.T.contiguous()])


@pytest.mark.parametrize("value", [{1, 2}, object(), np.array([object()]), torch.Size([1])])
def test_refuses_what_it_could_not_give_back(value):
    with pytest.raises(TypeError, match=r"state\.a\.0 is a"):
        encode({"a": [value]})
