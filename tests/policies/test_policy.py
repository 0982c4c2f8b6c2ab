"""Normalise once, packing, the optimizer, and an update against a plain reference."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from steep.algorithms import Cispo, LossInputs, LossOutput, Rft, token_weights
from steep.engines import NativeConfig, NativeEngine
from steep.errors import CheckpointError
from steep.models import digest
from steep.models.lora import LoraConfig
from steep.models.transformer import ModelConfig, Transformer, initialise
from steep.policies import Example, OptimizerConfig, Policy, PolicyConfig, pack
from steep.policies.optimizer import Muon, orthogonalised, rate
from steep.types import Budget, Request

CONFIG = ModelConfig(
    vocab_size=20, hidden_size=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8, intermediate_size=24
)


def model(seed: int = 0) -> Transformer:
    made = Transformer(CONFIG)
    initialise(made, torch.Generator().manual_seed(seed))
    return made


def policy(micro_batch_tokens: int = 4096, lora: LoraConfig | None = None, **optimizer: object) -> Policy:
    config = PolicyConfig(
        optimizer=OptimizerConfig(**({"warmup_steps": 0} | optimizer)),  # type: ignore[arg-type]
        micro_batch_tokens=micro_batch_tokens,
        lora=lora,
    )
    return Policy(model(), config, total_steps=10)


def examples(lengths: list[int], seed: int = 0) -> list[Example]:
    rng = np.random.default_rng(seed)
    made = []
    weights = token_weights([[length - 2] for length in lengths], "prompt_mean")
    for length, weight in zip(lengths, weights, strict=True):
        trained = np.arange(2, length)
        made.append(
            Example(
                ids=rng.integers(0, 20, length).astype(np.int32),
                trained=trained,
                weights=np.full(len(trained), weight[0], np.float32),
                advantages=np.full(len(trained), rng.normal(), np.float32),
                sampler_logprobs=rng.normal(-3, 0.3, len(trained)).astype(np.float32),
            )
        )
    return made


def gradients(made: list[Example], micro_batch_tokens: int, order: list[int] | None = None) -> dict[str, torch.Tensor]:
    """The gradient that an update would step along."""
    trained = policy(micro_batch_tokens)
    kept: dict[str, torch.Tensor] = {}

    def keep(factor: float) -> float:
        kept.update({n: p.grad.clone() for n, p in trained.model.named_parameters() if p.grad is not None})
        return 0.0

    trained.optimizer.step = keep  # type: ignore[method-assign]
    trained.update([made[i] for i in order] if order else made, Cispo())
    return kept


@settings(max_examples=8)
@given(
    lengths=st.lists(st.integers(3, 70), min_size=1, max_size=9),
    tokens=st.integers(40, 300),
    random=st.randoms(use_true_random=False),
)
def test_normalise_once(lengths: list[int], tokens: int, random):
    """Invariant 2: the same gradient whatever the micro-batch, the packing or the order."""
    made = examples(lengths)
    whole = gradients(made, 100_000)
    order = list(range(len(made)))
    random.shuffle(order)
    cut = gradients(made, tokens, order)
    assert whole.keys() == cut.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(cut[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")],
)
def test_out_of_memory_halves_the_micro_batch_and_repeats_the_step(error: RuntimeError, caplog):
    made, seen = examples([5, 60, 9, 70, 12, 66]), []

    def small(inputs: LossInputs) -> LossOutput:
        seen.append(len(inputs.logprobs))
        if len(seen) == 2:  # the first micro-batch still fits, and leaves its gradient
            raise error
        return Rft()(inputs)

    short, enough = policy(160), policy(80)
    metrics = short.update(made, small)
    assert metrics == pytest.approx(enough.update(made, Rft()))
    assert short.step == 1
    assert all(torch.equal(a, b) for a, b in zip(short.weights().values(), enough.weights().values(), strict=True))
    assert short.micro_batch_tokens == 80
    assert "out of memory: going on with micro-batches of 80 tokens" in caplog.text
    seen.clear()
    with pytest.raises(RuntimeError, match=str(error)):  # smaller ones would not help
        policy(40).update(made, small)


def test_micro_batches_that_were_halved_are_saved_with_the_state():
    """They change no gradient but its rounding, and a resumed run is to be the same to the last bit."""
    made = examples([5, 60, 9, 70, 12, 66])
    halved, resumed, forgetful = policy(160), policy(160), policy(160)
    halved.micro_batch_tokens //= 2
    halved.update(made, Cispo())
    state = copy.deepcopy(halved.state())
    resumed.load_state(state, halved.trained())
    forgetful.load_state({k: v for k, v in state.items() if k != "micro_batch_tokens"}, halved.trained())
    for each in (halved, resumed, forgetful):
        each.update(made, Cispo())
    expected, same, other = (digest(each.weights()) for each in (halved, resumed, forgetful))
    assert same == expected != other


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    def broken(inputs: LossInputs) -> LossOutput:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        policy(100).update(examples([5, 60]), broken)


@pytest.mark.parametrize("clip_norm", [1e9, 0.3])
def test_updates_follow_the_gradients_of_a_padded_reference(clip_norm: float):
    """Two AdamW steps are what plain torch does on the same sequences, padded: how they add up shows the clipping."""
    trained = policy(kind="adamw", lr=1e-2, clip_norm=clip_norm)
    reference = model()
    optimizer = torch.optim.AdamW(reference.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0)
    for seed, scale in enumerate((1, 30)):
        made = examples([5, 9, 12], seed)
        loss = torch.zeros(())
        for e in made:
            e.weights[:] *= scale
            ids = torch.from_numpy(e.ids).long()
            logits = reference.logits(reference(ids, torch.arange(len(ids)), _attend(len(ids))))
            nll = cross_entropy(logits[:-1], ids[1:], reduction="none")[e.trained - 1]
            assert e.advantages is not None
            loss = loss + (nll * torch.from_numpy(e.weights * e.advantages)).sum()
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(reference.parameters(), clip_norm)
        assert norm > 0.3  # or nothing would be clipped
        optimizer.step()
        metrics = trained.update(made, Rft())
        assert metrics["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
        assert metrics["grad_norm"] == pytest.approx(float(norm), rel=1e-5)
    for (name, ours), theirs in zip(trained.model.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name, rtol=1e-4, atol=1e-6)


def _attend(length: int):
    def attend(layer, q, k, v):
        k, v = (x.repeat_interleave(2, 1) for x in (k, v))
        scores = torch.einsum("qhe,khe->hqk", q, k) / math.sqrt(q.shape[-1])
        scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
        return torch.einsum("hqk,khe->qhe", scores.softmax(-1), v)

    return attend


def test_packing_keeps_every_token_once_and_bounds_the_tokens():
    made = examples([4, 50, 7, 31, 12, 3])
    batches = pack(made, 40, multiple=256)
    real = [b.lengths[:-1] for b in batches]  # the last sequence fills up
    assert sorted(length for lengths in real for length in lengths) == [3, 4, 7, 12, 31, 50]
    assert all(sum(lengths) <= 40 or len(lengths) == 1 for lengths in real)
    for batch, lengths in zip(batches, real, strict=True):
        assert len(batch.ids_N) == sum(batch.lengths) == 256
        torch.testing.assert_close(batch.ids_N[batch.before_T + 1], batch.targets_T)
        assert batch.sequence_T.max() == len(lengths) - 1


def sharing(prompts: int, copies: int, prompt: int) -> list[Example]:
    """Examples in groups that begin with the same tokens."""
    made = examples([prompt + 2 + 3 * i for i in range(prompts * copies)])
    shared = []
    for i, e in enumerate(made):
        first = made[i // copies].ids[:prompt]
        keep = e.trained >= prompt
        cut = {name: vars(e)[name][keep] for name in ("trained", "weights", "advantages", "sampler_logprobs")}
        shared.append(Example(**{**vars(e), **cut, "ids": np.concatenate([first, e.ids[prompt:]]), "prompt": prompt}))
    return shared


@settings(max_examples=10, deadline=None, derandomize=True)
@given(copies=st.integers(1, 5), prompt=st.integers(1, 30), tokens=st.sampled_from([60, 150, 4096]))
def test_a_prompt_that_examples_share_is_computed_once_and_changes_nothing(copies, prompt, tokens):
    made = sharing(3, copies, prompt)
    apart = [Example(**{**vars(e), "prompt": 0}) for e in made]
    once, each = policy(tokens, clip_norm=1e9), policy(clip_norm=1e9)
    assert once.update(made, Cispo()) == pytest.approx(each.update(apart, Cispo()), rel=1e-3, abs=1e-5)
    for ours, theirs in zip(once.optimizer.parameters, each.optimizer.parameters, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    batches = pack(made, tokens)
    assert sum(len(b.targets_T) for b in batches) == sum(len(e.trained) for e in made)
    for batch in batches:
        assert sum(batch.lengths) <= max(tokens, prompt + 2 + 9 * copies)
    if tokens == 4096:
        (batch,) = batches
        assert sum(batch.lengths) == 3 * prompt + sum(len(e.ids) - prompt for e in made)


def test_metrics_are_means_under_the_weights():
    metrics = policy().update(examples([6, 20, 9]), Cispo())
    assert 0 < metrics["entropy"] <= math.log(20) + 1e-4
    assert metrics["lr"] == pytest.approx(3e-4)
    assert metrics["grad_norm"] > 0
    assert 0.05 < metrics["ratio"] < 20


def test_a_gradient_that_is_not_finite_changes_nothing():
    def broken(inputs: LossInputs) -> LossOutput:
        output = Rft()(inputs)
        return LossOutput(loss=output.loss * math.nan, metrics=output.metrics)

    trained = policy()
    before = {n: p.clone() for n, p in trained.model.named_parameters()}
    metrics = trained.update(examples([6, 8]), broken)
    assert math.isnan(metrics["grad_norm"])
    for name, parameter in trained.model.named_parameters():
        assert torch.equal(parameter, before[name])


def test_an_update_that_is_not_accepted_changes_nothing():
    trained, seen = policy(), {}
    before = {n: p.detach().clone() for n, p in trained.model.named_parameters()}
    refused = trained.update(examples([6, 8]), Cispo(), lambda metrics: bool(seen.update(metrics)))
    assert refused["updated"] == 0
    assert seen["grad_norm"] == refused["grad_norm"] > 0
    assert all(torch.equal(p, before[n]) for n, p in trained.model.named_parameters())
    norm = math.sqrt(sum(float(p.square().sum()) for p in before.values()))
    assert refused["weight_norm"] == pytest.approx(norm)
    assert trained.update(examples([6, 8]), Cispo())["updated"] == 1
    assert not all(torch.equal(p, before[n]) for n, p in trained.model.named_parameters())


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2)], ids=["whole", "lora"])
@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_state_restores_the_optimizer_exactly(kind: str, lora: LoraConfig | None):
    first, second = policy(kind=kind, lora=lora), policy(kind=kind, lora=lora)
    for step in range(3):
        first.update(examples([6, 20, 9], seed=step), Cispo())
    second.load_state(*copy.deepcopy((first.state(), first.trained())))  # they are views of the live ones
    for step in range(3, 5):
        a = first.update(examples([6, 20, 9], seed=step), Cispo())
        b = second.update(examples([6, 20, 9], seed=step), Cispo())
        assert a == b
    for ours, theirs in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_policy_with_adapters_trains_these_only():
    trained, before = policy(lora=LoraConfig(rank=2), lr=1e-2), model()
    names = set(trained.trained())
    assert names == {f"layers.{i}.{m}.{p}" for i in (0, 1) for m in ("qkv", "out", "gate_up", "down") for p in "ab"}
    assert {id(p) for p in trained.optimizer.parameters} == {
        id(p) for name, p in trained.model.named_parameters() if name in names
    }
    assert digest(trained.weights()) == digest(dict(before.named_parameters()))
    expected = policy(lr=1e-2).logprobs(examples([6, 20]))
    for ours, theirs in zip(trained.logprobs(examples([6, 20])), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    losses = [trained.update(examples([6, 20, 9]), Rft())["loss"] for _ in range(10)]
    assert losses[-1] < losses[0]
    frozen = {name: p for name, p in trained.model.named_parameters() if name not in names}
    assert all(torch.equal(p, before.get_parameter(name)) for name, p in frozen.items())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_engine_samples_from_merged_adapters(dtype: str):
    """Invariants 1 and 6 with adapters: the sampler's log-probabilities are the trainer's, and so are the hashes."""
    engine = NativeEngine(model(), NativeConfig(rows=8, context=64, dtype=dtype), frozenset({1}))
    trained = policy(lora=LoraConfig(rank=2), lr=1e-2)
    for step in range(5):
        trained.update(examples([6, 20, 9], seed=step), Rft())
    before, weights = engine.receipt, trained.weights(engine.dtype)
    receipt = engine.load_weights(weights, version=1)
    assert receipt.digest == digest(weights) != before.digest
    budget = Budget(thought=0, answer=40, closing=())
    (rollout,) = engine.submit(Request(prompt_ids=(2, 3, 4), budget=budget, seed=1)).result()
    ids = np.array([*rollout.prompt_ids, *rollout.ids], np.int32)
    places = np.arange(3, len(ids))
    (ours,) = trained.logprobs([Example(ids=ids, trained=places, weights=np.ones(len(places), np.float32))])
    np.testing.assert_allclose(ours, rollout.logprobs, atol=1e-5 if dtype == "float32" else 0.1)


def test_adapters_are_not_put_on_another_model():
    first, second = policy(lora=LoraConfig()), Policy(model(seed=1), PolicyConfig(lora=LoraConfig()), total_steps=10)
    with pytest.raises(CheckpointError, match=r"beside another model.*\n.*put the model back"):
        second.load_state(first.state(), first.trained())


def test_muon_takes_the_matrices_of_the_layers_only():
    parts = policy(kind="muon").optimizer.parts
    muon = [p for part, _ in parts if isinstance(part, Muon) for g in part.param_groups for p in g["params"]]
    assert len(muon) == 4 * CONFIG.num_layers
    assert all(p.dim() == 2 for p in muon)


def matrices() -> list[torch.nn.Parameter]:
    shapes = ((8, 8), (24, 8), (8, 40))
    return [
        torch.nn.Parameter(torch.randn(s, generator=torch.Generator().manual_seed(i))) for i, s in enumerate(shapes)
    ]


def test_muon_steps_as_torch_has_it_and_takes_its_state():
    own, other = matrices(), matrices()
    reference = torch.optim.Muon(other, lr=0.02, momentum=0.95, weight_decay=0.1)
    muon = Muon(own, lr=0.02, weight_decay=0.1)
    for step in range(6):
        for i, (p, q) in enumerate(zip(own, other, strict=True)):
            p.grad = q.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(100 * step + i))
        if step == 3:
            muon.load_state_dict(copy.deepcopy(reference.state_dict()))
        muon.step()
        reference.step()
    for p, q in zip(own, other, strict=True):  # six updates of at most 0.02 times 1.2 times 1.7, rounded to bf16
        torch.testing.assert_close(p, q, rtol=0, atol=6 * 0.02 * 1.2 * 1.7 * 2**-6)


def test_what_muon_orthogonalises_keeps_its_singular_vectors():
    rng = torch.Generator().manual_seed(0)
    sizes = (((12, 30), 1), ((40, 12), 1e-6), ((9, 9), 1e3))
    made = [torch.randn(shape, generator=rng) * scale for shape, scale in sizes]
    for x, direction in zip(made, orthogonalised(made), strict=True):
        u, _, v = torch.linalg.svd(x.double(), full_matrices=False)
        inner = u.T @ direction.double() @ v.T
        assert 0.6 < inner.diagonal().min() < inner.diagonal().max() < 1.3
        torch.testing.assert_close(inner - inner.diagonal().diag(), torch.zeros_like(inner), rtol=0, atol=1e-4)


def test_a_processor_without_bf16_products_computes_in_fp32(monkeypatch):
    monkeypatch.setattr("steep.models.kernels.multiplies_bf16", lambda device: False)
    asked = Policy(model(), PolicyConfig(autocast=True), total_steps=10)
    made = examples([9, 6])
    for plain, same in zip(policy().logprobs(made), asked.logprobs(made), strict=True):
        np.testing.assert_array_equal(plain, same)


def test_the_rate_warms_up_and_decays():
    config = OptimizerConfig(warmup_steps=4, decay="linear", decay_share=0.5, final=0.1)
    assert [round(rate(config, s, 20), 3) for s in (0, 3, 9, 10, 15, 20)] == [0.25, 1, 1, 1, 0.55, 0.1]
    cosine = OptimizerConfig(warmup_steps=0, decay="cosine", final=0.0)
    assert rate(cosine, 10, 20) == pytest.approx(0.5)
    assert rate(OptimizerConfig(warmup_steps=0), 999, 1000) == 1


def test_a_critic_learns_and_is_saved():
    trained = Policy(model(), PolicyConfig(), total_steps=5, critic=True)
    values = trained.values(examples([5, 9]))
    assert [len(v) for v in values] == [3, 7]
    assert trained.state()["critic"]["weight"].shape == (1, 16)


def test_bf16_autocast_stays_near_fp32(monkeypatch):
    monkeypatch.setattr("steep.models.kernels.multiplies_bf16", lambda device: True)
    plain, rounded = policy(), Policy(model(), PolicyConfig(autocast=True), 10)
    for a, b in zip(plain.logprobs(examples([9, 30])), rounded.logprobs(examples([9, 30])), strict=True):
        np.testing.assert_allclose(a, b, atol=0.05)
