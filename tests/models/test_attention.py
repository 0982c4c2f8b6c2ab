"""Packing changes nothing: each sequence gets the hidden states and gradients that it gets alone."""

import pytest
import torch

from steep.models import ModelConfig, PackedAttention, Transformer, initialise, packed_positions

LENGTHS = [1, 31, 32, 33, 100]
CONFIG = ModelConfig(
    vocab_size=64,
    hidden_size=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    intermediate_size=64,
    max_positions=128,
)


@pytest.fixture
def model():
    model = Transformer(CONFIG)
    initialise(model, torch.Generator().manual_seed(0))
    return model


@pytest.fixture
def ids():
    return torch.randint(64, (sum(LENGTHS),), generator=torch.Generator().manual_seed(1))


def hidden(model, ids, lengths):
    return model(ids, packed_positions(lengths), PackedAttention(lengths))


def test_positions_start_again_with_each_sequence():
    assert packed_positions([1, 3, 2]).tolist() == [0, 0, 1, 2, 0, 1]


def test_positions_of_branches_go_on_from_their_stem():
    assert packed_positions([2, 3, 1, 2], trees=[3, 1]).tolist() == [0, 1, 2, 3, 4, 2, 0, 1]


def test_attention_equals_its_definition():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(sum(LENGTHS), heads, 8, generator=generator) for heads in (4, 2, 2))
    got = PackedAttention(LENGTHS)(0, q, k, v)
    start = 0
    for length in LENGTHS:
        for head in range(4):
            here, group = slice(start, start + length), head // 2  # consecutive query heads share a key head
            scores = q[here, head] @ k[here, group].T / 8**0.5
            scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
            expected = scores.softmax(-1) @ v[here, group]
            torch.testing.assert_close(got[here, head], expected, atol=1e-5, rtol=0)
        start += length


@pytest.mark.parametrize("lengths", [LENGTHS, LENGTHS[::-1], [33, 1, 100, 32, 31]], ids=str)
def test_packed_equals_alone(model, ids, lengths):
    packed = hidden(model, ids, lengths)
    alone = torch.cat([hidden(model, part, [len(part)]) for part in ids.split(lengths)])
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["kernels", "buckets"])
def test_branches_equal_whole_sequences(model, ids, dtype):
    model = model.to(dtype)
    lengths, trees = [40, 3, 50, 1, 103], [4, 1]
    stem, *branches, other = ids.split(lengths)
    packed = model(ids, packed_positions(lengths, trees=trees), PackedAttention(lengths, trees=trees)).split(lengths)
    for got, own in zip(packed[1:4], branches, strict=True):
        whole = hidden(model, torch.cat([stem, own]), [len(stem) + len(own)])
        torch.testing.assert_close(torch.cat([packed[0], got]), whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(packed[4], hidden(model, other, [103]), atol=1e-5, rtol=0)


def test_packed_gradients_equal_those_alone(model, ids):
    targets = ids.roll(-1)

    def gradients(batches):
        model.zero_grad()
        for part, goals, lengths in batches:
            logits = model.logits(hidden(model, part, lengths))
            torch.nn.functional.cross_entropy(logits, goals, reduction="sum").div(len(ids)).backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    packed = gradients([(ids, targets, LENGTHS)])
    alone = gradients([(a, b, [len(a)]) for a, b in zip(ids.split(LENGTHS), targets.split(LENGTHS), strict=True)])
    assert packed.keys() == alone.keys()
    for name, expected in alone.items():
        assert expected.abs().max() > 1e-4, name
        torch.testing.assert_close(packed[name], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("changed", range(len(LENGTHS)))
def test_a_sequence_never_reaches_another(model, ids, changed):
    starts = [sum(LENGTHS[:i]) for i in range(len(LENGTHS))]
    other = ids.clone()
    here = slice(starts[changed], starts[changed] + LENGTHS[changed])
    other[here] = (other[here] + 1) % 64
    with torch.no_grad():
        difference = (hidden(model, ids, LENGTHS) - hidden(model, other, LENGTHS)).abs().amax(-1)
    assert difference[here].min() > 0
    difference[here] = 0
    assert difference.max() == 0


def test_a_token_never_reaches_the_past(model, ids):
    other = ids.clone()
    other[-1] = (other[-1] + 1) % 64
    with torch.no_grad():
        difference = (hidden(model, ids, LENGTHS) - hidden(model, other, LENGTHS)).abs().amax(-1)
    assert difference[-1] > 0
    assert difference[:-1].max() == 0


def test_bf16_autocast_stays_near_fp32(model, ids):
    with torch.no_grad():
        exact = model.logits(hidden(model, ids, LENGTHS))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = hidden(model, ids, LENGTHS)
            logits = model.logits(rounded)
    assert rounded.dtype == torch.bfloat16
    assert logits.dtype == torch.float32
    divergence = (exact.softmax(-1) * (exact.log_softmax(-1) - logits.log_softmax(-1))).sum(-1)
    assert 0 < divergence.max() < 1e-3
    assert (exact - logits).abs().max() < 0.02
