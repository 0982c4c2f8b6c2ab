"""The fused operations equal their definitions in float64, compiled and in plain torch, whatever else is computed."""

import logging
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steep.models import kernels
from steep.models.kernels import build, ops

# The largest error allowed, over the largest magnitude of the reference (at least 1). fp32: a few rounding steps of
# sums. bf16: roundings to 8 bits in storage, 2 ** -9 each; the gradients of attention go through a rounded output.
TOLERANCE = {torch.float32: 5e-6, torch.bfloat16: 1.2e-2}
DTYPES = list(TOLERANCE)
EPS = 1e-6

compiler = pytest.mark.skipif(not build.library_for(torch.empty(0)), reason="the kernels do not compile here")


@pytest.fixture(params=[pytest.param("compiled", marks=compiler), "plain"])
def way(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setattr(ops, "library_for", lambda *tensors: None)


both_ways = pytest.mark.usefixtures("way")  # on the compiled kernels and on their fallback


def normal(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_near(got, expected, dtype):
    assert got.shape == expected.shape
    assert got.isfinite().all()
    error = (got.double() - expected).abs().max() / expected.abs().max().clamp(min=1)
    assert error <= TOLERANCE[dtype], f"relative error {error:.1e}"


def check(function, reference, inputs, dtype):
    """The outputs and the gradients of every input, against the reference on the same numbers in float64."""
    mine = [x.clone().requires_grad_() for x in inputs]
    exact = [x.double().requires_grad_() for x in inputs]
    outputs, expected = function(*mine), reference(*exact)
    for got, want in zip(outputs, expected, strict=True):
        assert_near(got.detach(), want.detach(), dtype)
    weights = [normal(*want.shape, dtype=got.dtype, seed=9) for got, want in zip(outputs, expected, strict=True)]
    grads = torch.autograd.grad(outputs, mine, weights)
    wanted = torch.autograd.grad(expected, exact, [w.double() for w in weights])
    for x, got, want in zip(inputs, grads, wanted, strict=True):
        assert got.dtype == x.dtype
        assert_near(got, want, dtype)


def norm_reference(x, weight):
    return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * weight


def attention_reference(q_NHE, k_NKE, v_NKE, lengths):
    group, outputs, start = q_NHE.shape[1] // k_NKE.shape[1], [], 0
    k_NHE, v_NHE = (x.repeat_interleave(group, dim=1) for x in (k_NKE, v_NKE))
    for length in lengths:
        q, k, v = (x[start : start + length].transpose(0, 1) for x in (q_NHE, k_NHE, v_NHE))
        scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
        scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
        outputs.append((scores.softmax(-1) @ v).transpose(0, 1))
        start += length
    return torch.cat(outputs)


def offsets_of(lengths):
    return torch.tensor([0, *lengths]).cumsum(0)


@both_ways
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 8), (3, 5, 24), (700, 128)])
def test_rms_norm(shape, dtype):
    weight = 1 + 0.1 * normal(shape[-1], seed=1)
    check(
        lambda x, w: [kernels.rms_norm(x, w, EPS)],
        lambda x, w: [norm_reference(x, w)],
        [normal(*shape, dtype=dtype), weight],
        dtype,
    )


@both_ways
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(4, 4, 32), (4, 2, 64), (3, 1, 8), (6, 2, 80)])
@pytest.mark.parametrize("normed", [True, False])
def test_rope_norm(heads, kv_heads, size, normed, dtype):
    tokens, limit = 37, 50
    angles = torch.outer(torch.arange(limit), 100.0 ** -torch.linspace(0, 1, size // 2)).repeat(1, 2)
    cos, sin = angles.cos() * 1.1, angles.sin() * 1.1  # YaRN scales the table
    positions = torch.randint(limit, (tokens,), generator=torch.Generator().manual_seed(3))
    qkv = normal(tokens, (heads + 2 * kv_heads) * size, dtype=dtype)
    weights = [1 + 0.1 * normal(size, seed=seed) for seed in (1, 2)] if normed else []

    def function(x, *w):
        return kernels.rope_norm(x, *(w or (None, None)), EPS, cos, sin, positions, heads, kv_heads)

    def reference(x, *w):
        q, k, v = x.unflatten(-1, (-1, size)).split([heads, kv_heads, kv_heads], dim=1)
        q, k = (norm_reference(x, w[i]) if w else x for i, x in enumerate((q, k)))
        cosine, sine = (table[positions].double()[:, None, : size // 2] for table in (cos, sin))
        low_high = [x.chunk(2, -1) for x in (q, k)]
        turned = [torch.cat([a * cosine - b * sine, b * cosine + a * sine], -1) for a, b in low_high]
        return *turned, v

    check(function, reference, [qkv, *weights], dtype)


@both_ways
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 2), (5, 3, 30), (300, 768)])
def test_silu_mul(shape, dtype):
    def reference(x):
        gate, up = x.chunk(2, -1)
        return [gate / (1 + (-gate).exp()) * up]

    check(lambda x: [kernels.silu_mul(x)], reference, [3 * normal(*shape, dtype=dtype)], dtype)


@both_ways
def test_silu_mul_of_extremes():
    gates = torch.tensor([-1e30, -200.0, -90.0, 0.0, 90.0, 1e30])
    assert kernels.silu_mul(torch.cat([gates, torch.ones(6)])).tolist() == pytest.approx([0, 0, 0, 0, 90, 1e30])
    assert kernels.silu_mul(torch.tensor([torch.nan, 1.0])).isnan().all()


@both_ways
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [8, 32, 64, 80])
@settings(max_examples=4, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=4), group=st.integers(1, 3), kv_heads=st.integers(1, 2)
)
def test_packed_attention(size, dtype, lengths, group, kv_heads):
    tokens = sum(lengths)
    inputs = [normal(tokens, heads, size, dtype=dtype, seed=i) for i, heads in enumerate([group * kv_heads, kv_heads])]
    check(
        lambda q, k, v: [kernels.packed_attention(q, k, v, offsets_of(lengths))],
        lambda q, k, v: [attention_reference(q, k, v, lengths)],
        [*inputs, normal(tokens, kv_heads, size, dtype=dtype, seed=7)],
        dtype,
    )


@both_ways
@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=6, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    trees=st.lists(st.lists(st.integers(1, 70), min_size=1, max_size=4), min_size=1, max_size=3),
    kv_heads=st.integers(1, 2),
)
def test_branches_attend_to_their_stem(dtype, trees, kv_heads):
    lengths = [length for tree in trees for length in tree]
    forks = offsets_of([len(tree) for tree in trees])
    stems, branches, start = [], [], 0
    for first, *rest in trees:
        stems.append(torch.arange(start, start := start + first))
        branches += [(stems[-1], torch.arange(start, start := start + length)) for length in rest]

    def reference(q, k, v):
        mixed = torch.zeros_like(q)
        for rows, own in [(stem, stem) for stem in stems] + [(torch.cat(both), both[1]) for both in branches]:
            whole = attention_reference(q[rows], k[rows], v[rows], [len(rows)])
            mixed = mixed.index_copy(0, own, whole[-len(own) :])
        return [mixed]

    inputs = [normal(start, heads, 16, dtype=dtype, seed=heads) for heads in (2 * kv_heads, kv_heads)]
    check(
        lambda q, k, v: [kernels.packed_attention(q, k, v, offsets_of(lengths), forks)],
        reference,
        [*inputs, normal(start, kv_heads, 16, dtype=dtype, seed=7)],
        dtype,
    )


@both_ways
def test_packed_attention_survives_large_scores():
    q, k, v = (200 * normal(30, 1, 32, seed=seed) for seed in range(3))
    expected = attention_reference(q.double(), k.double(), v.double(), [30])
    assert_near(kernels.packed_attention(q, k, v, offsets_of([30])), expected, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_head(dtype):
    x_ND, weight_VD = normal(90, 64, dtype=dtype), normal(512, 64, seed=3)
    check(lambda x, w: [kernels.head(x, w)], lambda x, w: [x @ w.T], [x_ND, weight_VD], dtype)
    exact = x_ND.double() @ weight_VD.double().T
    with torch.autocast("cpu", torch.bfloat16):
        assert_near(kernels.head(x_ND, weight_VD), exact, torch.float32)  # whatever comes in, logits are not rounded


def test_the_gradient_of_the_heads_weight_is_not_rounded():
    x_ND, weight_VD = normal(90, 64, dtype=torch.bfloat16), normal(512, 64, seed=3).requires_grad_()
    grad_NV = normal(90, 512, seed=4)
    with torch.autocast("cpu", torch.bfloat16):
        kernels.head(x_ND, weight_VD).backward(grad_NV)
    assert_near(weight_VD.grad, grad_NV.double().T @ x_ND.double(), torch.float32)


def test_a_frozen_head_passes_gradients_on():
    x_ND, weight_VD = normal(9, 16).requires_grad_(), normal(30, 16, seed=3)
    kernels.head(x_ND, weight_VD).sum().backward()
    assert_near(x_ND.grad, weight_VD.double().sum(0).expand(9, 16), torch.float32)


@both_ways
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocabulary", [5, 512, 1001])
def test_token_logprobs(vocabulary, dtype):
    logits = 3 * normal(90, vocabulary, dtype=dtype)
    targets = torch.randint(vocabulary, (90,), generator=torch.Generator().manual_seed(2))

    def reference(x):
        return [x.log_softmax(-1).gather(1, targets[:, None])[:, 0]]

    check(lambda x: [kernels.token_logprobs(x, targets)[0]], reference, [logits], dtype)
    _, entropy = kernels.token_logprobs(logits.requires_grad_(), targets)
    assert not entropy.requires_grad
    expected = torch.distributions.Categorical(logits=logits.detach().double()).entropy()
    assert_near(entropy, expected, torch.float32)


@both_ways
def test_token_logprobs_with_forbidden_tokens():
    logits = torch.tensor([[0.0, -torch.inf, 0.0], [-torch.inf, -torch.inf, 2.0]])
    logprobs, entropy = kernels.token_logprobs(logits, torch.tensor([0, 2]))
    torch.testing.assert_close(logprobs, -torch.tensor([2.0, 1.0]).log())
    torch.testing.assert_close(entropy, torch.tensor([2.0, 1.0]).log())


# --- what only the compiled kernels promise ---------------------------------------------------------------------------


def everything(q, k, v, qkv, logits):
    """Outputs and gradients of every operation on the same tokens, 4 heads of 32."""
    tokens = len(q)
    leaves = [x.clone().requires_grad_() for x in (q, k, v, qkv, logits, torch.ones(128), torch.ones(32))]
    q, k, v, qkv, logits, weight, head_weight = leaves
    table = normal(tokens, 32, seed=5)
    outputs = [
        kernels.packed_attention(q, k, v, offsets_of([tokens - 50, 50])),
        kernels.rms_norm(qkv[:, :128], weight, EPS),
        *kernels.rope_norm(qkv, head_weight, head_weight, EPS, table, table, torch.arange(tokens), 4, 4),
        kernels.silu_mul(qkv),
        *kernels.token_logprobs(logits, torch.zeros(tokens, dtype=torch.long)),
    ]
    trained = [x for x in outputs if x.requires_grad]
    return [*outputs, *torch.autograd.grad(trained, leaves, [torch.ones_like(x) * 0.3 for x in trained])]


@compiler
def test_bitwise_equal_at_every_call_and_number_of_threads():
    inputs = [normal(900, 4, 32, seed=i) for i in range(3)] + [normal(900, 384, seed=3), normal(900, 512, seed=4)]
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 2, 5):
            torch.set_num_threads(count)
            results.append(everything(*inputs))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@compiler
def test_a_sequence_is_bitwise_the_same_in_any_company():
    lengths = [70, 1, 200, 33]
    whole = [normal(sum(lengths), heads, 32, seed=heads).requires_grad_() for heads in (4, 2, 2)]
    out = kernels.packed_attention(*whole, offsets_of(lengths))
    grads = torch.autograd.grad(out.square().sum(), whole)
    parts = zip(*(x.detach().split(lengths) for x in (*whole, out, *grads)), strict=True)
    for length, (q, k, v, *expected) in zip(lengths, parts, strict=True):
        alone = [x.clone().requires_grad_() for x in (q, k, v)]
        got = kernels.packed_attention(*alone, offsets_of([length]))
        results = [got, *torch.autograd.grad(got.square().sum(), alone)]
        assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


@compiler
def test_a_branch_is_bitwise_what_it_is_in_a_whole_sequence():
    lengths = [37, 50, 9, 24]
    q, k, v = (normal(sum(lengths), heads, 32, dtype=torch.bfloat16, seed=heads) for heads in (4, 2, 2))
    stem, *branches = kernels.packed_attention(q, k, v, offsets_of(lengths), offsets_of([4])).split(lengths)
    first, *others = zip(*(x.split(lengths) for x in (q, k, v)), strict=True)
    for got, other in zip(branches, others, strict=True):
        whole = [torch.cat(both) for both in zip(first, other, strict=True)]
        expected = kernels.packed_attention(*whole, offsets_of([len(whole[0])]))
        assert torch.equal(torch.cat([stem, got]), expected)


@compiler
def test_indices_out_of_range_are_refused():
    with pytest.raises(IndexError, match=r"target is not in \[0, 4\)"):
        kernels.token_logprobs(torch.zeros(2, 4), torch.tensor([0, -100]))
    table = torch.zeros(10, 8)
    with pytest.raises(IndexError, match=r"position is not in \[0, 10\)"):
        kernels.rope_norm(torch.zeros(1, 24), None, None, EPS, table, table, torch.tensor([10]), 1, 1)
    with pytest.raises(ValueError, match="do not rise from 0 to the 5 tokens"):
        kernels.packed_attention(*torch.zeros(3, 5, 1, 8), offsets_of([3, 3]))
    with pytest.raises(ValueError, match="do not rise from 0 to the 2 segments"):
        kernels.packed_attention(*torch.zeros(3, 5, 1, 8), offsets_of([3, 2]), offsets_of([1]))


# --- the build --------------------------------------------------------------------------------------------------------


@pytest.fixture
def fresh(monkeypatch, tmp_path, caplog):
    """A first attempt to load, with an empty cache of its own; gives (library, reason) and the warnings."""
    monkeypatch.setenv("STEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("STEEP_KERNELS", raising=False)
    monkeypatch.setattr(build, "FLAGS", ["-O0" if flag == "-O3" else flag for flag in build.FLAGS])  # a second, not six

    def load():
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            library, reason = build.attempt.__wrapped__()
        return library, reason, [record.getMessage() for record in caplog.records]

    return load


@pytest.mark.parametrize("name", ["/nonexistent/c++", "false"])
def test_without_a_compiler_there_is_one_warning(fresh, monkeypatch, name):
    monkeypatch.setenv("CXX", name)
    library, reason, warnings = fresh()
    assert library is None
    assert reason.startswith(f"torch fallback: {name}")
    (warning,) = warnings
    assert name in warning


def test_a_cache_that_cannot_be_written_is_one_warning(fresh, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("STEEP_CACHE", str(tmp_path / "file" / "cache"))
    library, _, warnings = fresh()
    assert library is None
    assert len(warnings) == 1


def test_a_library_that_crashes_is_never_loaded(fresh, monkeypatch, tmp_path):
    source = tmp_path / "crash.cpp"
    source.write_text('#include <cstdlib>\nextern "C" { void (*packed_attention_f32)() = [] { std::abort(); }; }')
    monkeypatch.setattr(build, "SOURCE", source)
    library, reason, warnings = fresh()
    assert library is None
    assert "failed" in reason
    assert len(warnings) == 1
    assert not list((tmp_path / "cache").iterdir())


def test_switched_off_is_no_warning(fresh, monkeypatch):
    monkeypatch.setenv("STEEP_KERNELS", "0")
    assert fresh() == (None, "off (STEEP_KERNELS=0)", [])


@compiler
def test_two_first_users_at_once(tmp_path):
    code = "from steep.models.kernels import build; build.FLAGS.remove('-O3'); print(build.build())"
    environment = {**os.environ, "STEEP_CACHE": str(tmp_path)}
    start = [sys.executable, "-c", code]
    both = [subprocess.Popen(start, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = {process.communicate()[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert paths == {str(path) for path in tmp_path.iterdir()}
    assert len(paths) == 1


@compiler
def test_status_names_what_runs():
    assert kernels.status().startswith("compiled, ")
