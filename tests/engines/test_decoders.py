"""Decoding token by token equals the whole forward pass, compiled and in plain torch, whatever else is decoded."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from steep.engines import decoders
from steep.engines.decoders import FusedDecoder, TorchDecoder
from steep.engines.sampling import draw, streams, uniforms
from steep.errors import SteepError
from steep.models import kernels
from steep.models.attention import PackedAttention, packed_positions
from steep.models.transformer import ModelConfig, Transformer, initialise

SHAPES = {
    "qwen3": ModelConfig(vocab_size=50, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16),
    "qwen2": ModelConfig(
        family="qwen2",
        vocab_size=33,
        hidden_size=48,
        num_layers=3,
        num_heads=3,
        num_kv_heads=3,
        head_dim=24,
        intermediate_size=20,
        qk_norm=False,
        qkv_bias=True,
    ),
    "llama": ModelConfig(
        family="llama",
        vocab_size=64,
        hidden_size=64,
        num_layers=1,
        num_heads=6,
        num_kv_heads=1,
        head_dim=80,
        qk_norm=False,
        tied_embeddings=False,
    ),
}


def eight_bits(network: Transformer, rows: int, length: int, dtype: torch.dtype) -> FusedDecoder:
    return FusedDecoder(network, rows, length, torch.int8)


# The largest difference of log-probabilities. bf16: the reference rounds the residual stream too, the decoder does not.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.08}
DTYPES = list(TOLERANCE)
compiled = pytest.mark.skipif(not kernels.status().startswith("compiled"), reason="the kernels do not compile here")
COMPILED = [pytest.param(kind, marks=compiled) for kind in (FusedDecoder, eight_bits)]
KINDS = [*COMPILED, TorchDecoder]


def model(shape: str, dtype: torch.dtype = torch.float32) -> Transformer:
    made = Transformer(SHAPES[shape])
    generator = torch.Generator().manual_seed(1)
    initialise(made, generator)
    with torch.no_grad():
        for parameter in made.parameters():  # no norm of ones, no bias of zeros
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    cos, sin = made.cos, made.sin
    made.to(dtype).requires_grad_(False)
    made.cos, made.sin = cos, sin
    return made


def reference(network: Transformer, ids: list[int]) -> torch.Tensor:
    return network.logits(network(torch.tensor(ids), packed_positions([len(ids)]), PackedAttention([len(ids)])))


class Sequences:
    """Sequences in the rows of a decoder, with all their ids."""

    def __init__(self, kind, network: Transformer, rows: int, length: int = 80) -> None:
        dtype = network.embedding.weight.dtype
        self.network, self.decoder, self.ids = network, kind(network, rows, length, dtype), []
        self.decoder.load()

    def start(self, prompt: list[int], samples: int = 1) -> None:
        (prefix,), self.after_prompt = self.decoder.prefill([tuple(prompt)])
        for _ in range(samples):
            self.decoder.start(len(self.ids), prefix)
            self.ids.append(list(prompt))

    def end(self, row: int) -> None:
        last = len(self.ids) - 1
        if row != last:
            self.decoder.move(last, row, len(self.ids[last]))
            self.ids[row] = self.ids[last]
        self.ids.pop()

    def step(self, ids: np.ndarray) -> torch.Tensor:
        """Logits by row, after one more token in each."""
        positions = np.array([len(row) for row in self.ids])
        order, logits = self.decoder.step(ids, positions)
        for row, token in zip(self.ids, ids.tolist(), strict=True):
            row.append(token)
        back = torch.empty_like(logits)
        back.numpy()[order] = logits
        return back


def prompts(rng: np.random.Generator, vocabulary: int, *lengths: int) -> list[list[int]]:
    return [rng.integers(0, vocabulary, n).tolist() for n in lengths]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_decoding_is_the_whole_forward_pass(kind, shape, dtype):
    network, rng = model(shape, dtype), np.random.default_rng(0)
    vocabulary = network.config.vocab_size
    rows = Sequences(kind, network, rows=40)
    for prompt, samples in zip(prompts(rng, vocabulary, 1, 16, 17, 30), (1, 3, 18, 2), strict=True):
        rows.start(prompt, samples)
    for step in range(20):
        logits = rows.step(rng.integers(0, vocabulary, len(rows.ids)))
        for row in range(0, len(rows.ids), 5):
            expected = reference(network, rows.ids[row])[-1].log_softmax(-1)
            got = logits[row].log_softmax(-1)
            assert (got - expected).abs().max() < TOLERANCE[dtype] + (0.06 if kind is eight_bits else 0)
        if step % 3 == 0:  # a row ends, its place is taken, and another sequence begins
            rows.end(step)
            rows.start(prompts(rng, vocabulary, 5 + step)[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_prompts_are_the_whole_forward_pass(kind, shape, dtype):
    network, rng = model(shape, dtype), np.random.default_rng(0)
    several = prompts(rng, network.config.vocab_size, 1, 2, 40, 16, 300, 5, 120, 200)
    _, logits = Sequences(kind, network, rows=1).decoder.prefill([tuple(ids) for ids in several])
    for ids, got in zip(several, logits, strict=True):
        expected = reference(network, ids)[-1].log_softmax(-1)
        assert (got.log_softmax(-1) - expected).abs().max() < TOLERANCE[dtype]


@compiled
def test_a_prompt_is_bitwise_the_same_in_any_company_and_on_any_number_of_threads():
    network, rng = model("qwen3", torch.bfloat16), np.random.default_rng(0)
    decoder = Sequences(FusedDecoder, network, rows=1).decoder
    several = [tuple(ids) for ids in prompts(rng, 50, 30, 200, 90, 90, 7)]
    (alone,), logits = decoder.prefill(several[2:3])
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        prefixes, others = decoder.prefill(several)
        assert torch.equal(prefixes[2].panels, alone.panels)
        assert torch.equal(others[2], logits[0])


@pytest.mark.parametrize("kind", COMPILED)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_is_bitwise_the_same_in_any_company_and_on_any_number_of_threads(kind, dtype):
    network, rng = model("qwen3", dtype), np.random.default_rng(0)
    first, second, *others = prompts(rng, 50, 20, 20, *range(1, 60))
    alone, company = (Sequences(kind, network, rows=100) for _ in range(2))
    alone.start(first)
    company.start(second)
    company.start(first, 30)
    for other in others:
        company.start(other)
    for step in range(10):
        tokens = rng.integers(0, 50, len(company.ids))
        torch.set_num_threads(1 + step % 3)
        assert torch.equal(alone.step(tokens[7:8])[0], company.step(tokens)[7])


@pytest.mark.parametrize("kind", COMPILED)
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_others_left_in_the_cache_is_never_seen(kind, dtype):
    network, rng = model("qwen3", dtype), np.random.default_rng(0)
    clean, littered = (Sequences(kind, network, rows=3) for _ in range(2))
    littered.decoder.cache.view(torch.int8).fill_(-1)  # NaN
    assert littered.decoder.cache.view(dtype).isnan().all()
    for ids in prompts(rng, 50, 7, 16, 30):
        clean.start(ids)
        littered.start(ids)
    for _ in range(20):
        tokens = rng.integers(0, 50, 3)
        assert torch.equal(clean.step(tokens), littered.step(tokens))


@compiled
def test_new_weights_keep_the_cache():
    network, rng = model("qwen3"), np.random.default_rng(0)
    rows = Sequences(FusedDecoder, network, rows=2)
    rows.start(prompts(rng, 50, 9)[0])
    before = rows.step(np.array([3]))
    network.embedding.weight.mul_(1.5)  # the head's too: they are tied
    rows.decoder.load()
    rows.ids[0].pop()
    after = rows.step(np.array([3]))
    assert not torch.equal(before, after)
    network.embedding.weight.div_(1.5)
    rows.decoder.load()
    rows.ids[0].pop()
    torch.testing.assert_close(rows.step(np.array([3])), before)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("kind", COMPILED)
@pytest.mark.parametrize("dtype", DTYPES)
def test_sampling_is_decoding_and_drawing_until_a_row_stops(kind, dtype, threads):
    network, rng = model("qwen3", dtype), np.random.default_rng(0)
    several = prompts(rng, 50, *range(1, 60), 20, 20)
    rows, steps, vocabulary = len(several), 6, 50
    singly, together = (Sequences(kind, network, rows=rows) for _ in range(2))
    for ids in several:
        singly.start(ids)
        together.start(ids)
    last, length = rng.integers(0, vocabulary, rows), np.array([len(ids) for ids in several])
    forced = np.full((rows, steps), -1)
    forced[::3, :2], forced[::3, 1] = 7, 9
    ends = np.arange(vocabulary) == 9  # a forced 9 ends nothing
    stretch = kernels.Stretch(
        temperature_B=np.tile([0.0, 1.0, 2.0], rows)[:rows].astype(np.float32),
        stream_B=streams(np.arange(rows), np.arange(rows)),
        counter_B=np.arange(rows) % 5,
        limit_B=1 + np.arange(rows) % steps,
        close_B=np.where(np.arange(rows) % 2, 5, -1),
        forced_BT=forced,
        ends_V=ends,
        halt=np.zeros(1, np.int32),
    )
    torch.set_num_threads(threads)
    order, drawn = together.decoder.sample(last, length, lambda at: taken(stretch, at))
    made, ids, logprobs = map(np.empty_like, drawn)
    made[order], ids[order], logprobs[order] = drawn
    going, reasons = np.ones(rows, np.bool_), set()
    for step in range(steps):
        logits = singly.step(last)
        uniform = uniforms(stretch.stream_B, stretch.counter_B + step)
        last, expected = draw(logits, stretch.temperature_B, np.ones(rows, np.float32), uniform)
        told = forced[:, step] >= 0
        last, expected = np.where(told, forced[:, step], last), np.where(told, 0, expected)
        assert np.array_equal(ids[going, step], last[going])
        assert np.array_equal(logprobs[going, step], expected[going])
        for row in np.flatnonzero(going):
            over = not told[row] and {9: "ends", 5: "closes" if row % 2 else ""}.get(int(last[row]))
            reason = over or (step + 1 == stretch.limit_B[row] and "limit")
            assert (made[row] == step + 1) == bool(reason)
            going[row] = not reason
            reasons.add(reason)
    assert reasons == {False, "ends", "closes", "limit"}


def taken(stretch: kernels.Stretch, at: decoders.Order) -> kernels.Stretch:
    return replace(stretch, **{name: x[at] for name, x in vars(stretch).items() if name.endswith(("_B", "_BT"))})


@compiled
def test_what_is_out_of_range_is_refused():
    rows = Sequences(FusedDecoder, model("qwen3"), rows=2, length=16)
    rows.start([1, 2, 3])
    with pytest.raises(IndexError, match="beyond the cache"):
        rows.decoder.step(np.array([50]), np.array([3]))  # a token beyond the vocabulary
    with pytest.raises(IndexError, match="beyond the cache"):
        rows.decoder.step(np.array([0]), np.array([2]))  # a position within the prompt
    with pytest.raises(IndexError, match="beyond the cache"):
        rows.decoder.step(np.array([0]), np.array([19]))  # the row is full


def test_sizes_without_a_compiled_decoder_run_in_torch():
    odd = Transformer(ModelConfig(vocab_size=20, hidden_size=16, intermediate_size=31, num_layers=1))
    assert isinstance(decoders.decoder(odd, 2, 16, torch.float32, torch.float32), TorchDecoder)
    with pytest.raises(SteepError, match="8 bits take the compiled kernels"):
        decoders.decoder(odd, 2, 16, torch.float32, torch.int8)


@compiled
def test_a_cache_in_eight_bits_takes_half_the_memory_and_keeps_the_largest_number_of_each_token():
    network = model("qwen3", torch.bfloat16)
    whole, eight = (Sequences(kind, network, rows=4).decoder.cache for kind in (FusedDecoder, eight_bits))
    assert eight.nbytes / whole.nbytes == (16 + 4) / 32  # a head has 16 numbers, and a token one factor in 4 bytes
    rows = Sequences(eight_bits, network, rows=1)
    rows.start(prompts(np.random.default_rng(0), 50, 9)[0])
    rows.step(np.array([3]))
    width = kernels.lanes()
    block = rows.decoder.cache[0, 0, 0, 0, 0]  # the first own token is lane 0 of its block
    numbers, factors = block[: 16 * width].view(16, width), block[16 * width :].view(torch.float32)
    assert numbers[:, 0].abs().max() == 127
    assert factors[0] > 0
    assert not factors[1:].any()


@compiled
def test_compiled_drawing_is_the_plain_one(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    rows, size = 400, 50
    logits = 3 * torch.randn(rows, size + 14, generator=generator)[:, :size]
    logits[:, 7] = -torch.inf
    temperature = np.tile(np.array([0.0, 0.5, 1.0, 2.0], np.float32), rows // 4)
    counters, full = np.arange(rows), np.ones(rows, np.float32)
    uniform = uniforms(streams(counters, counters), counters)
    got = draw(logits, temperature, full, uniform)
    monkeypatch.setattr(kernels, "compiled", lambda *tensors: False)
    expected = draw(logits, temperature, full, uniform)
    assert np.array_equal(got[0], expected[0])
    np.testing.assert_allclose(got[1], expected[1], rtol=1.3e-6, atol=1e-5)
    assert 7 not in got[0]


@compiled
def test_drawn_frequencies_are_the_probabilities():
    rows, size = 40_000, 37
    logits = torch.linspace(-2, 2, size).expand(rows, size).contiguous()
    counters, full = np.arange(rows), np.ones(rows, np.float32)
    ids, logprobs = draw(logits, full, full, uniforms(streams(counters, counters), counters))
    expected = logits[0].softmax(-1).numpy()
    assert abs(np.bincount(ids, minlength=size) / rows - expected).max() < 0.005
    np.testing.assert_allclose(logprobs, np.log(expected)[ids], atol=1e-5, rtol=0)
