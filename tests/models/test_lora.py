"""Adapters against the formula of the paper, W + alpha / rank * B A, and merged against not merged."""

from dataclasses import replace

import pytest
import torch

from steep.errors import ConfigError
from steep.models import ModelConfig, PackedAttention, Transformer, initialise, packed_positions
from steep.models.lora import LoraConfig, LoraLinear, adapt, adapters, merge, merged

CONFIG = ModelConfig(
    vocab_size=50, hidden_size=48, num_layers=2, num_heads=6, num_kv_heads=2, head_dim=8, intermediate_size=80
)
CONFIGS = {
    "qwen3": CONFIG,
    "qwen2": replace(CONFIG, family="qwen2", qk_norm=False, qkv_bias=True, tied_embeddings=False),
}
LORA = LoraConfig(rank=3, alpha=12.0)
IDS = torch.arange(40) % 50


def plain(config: ModelConfig = CONFIG) -> Transformer:
    model = Transformer(config)
    initialise(model, torch.Generator().manual_seed(1))
    return model


def adapted(config: ModelConfig = CONFIG, lora: LoraConfig = LORA) -> Transformer:
    """With adapters that were trained: their B is not zero."""
    model = plain(config)
    adapt(model, lora, seed=0)
    generator = torch.Generator().manual_seed(0)
    for _, adapter in adapters(model):
        torch.nn.init.normal_(adapter.b, std=0.05, generator=generator)
    return model


def logits(model: Transformer) -> torch.Tensor:
    return model.logits(model(IDS, packed_positions([15, 25]), PackedAttention([15, 25])))


def test_an_adapter_is_the_formula():
    layer = torch.nn.Linear(7, 5)
    adapter = LoraLinear(layer, LoraConfig(rank=2, alpha=6.0), torch.Generator().manual_seed(0))
    adapter.b.data.normal_()
    x = torch.randn(4, 7)
    expected = torch.einsum("ij,nj->ni", layer.weight + 6.0 / 2 * torch.einsum("ir,rj->ij", adapter.b, adapter.a), x)
    torch.testing.assert_close(adapter(x), expected + layer.bias)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))
def test_fresh_adapters_change_no_bit(config):
    before, model = plain(config), plain(config)
    adapt(model, LORA, seed=0)
    assert torch.equal(logits(model), logits(before))
    weights = merged(model)
    assert weights.keys() == dict(before.named_parameters()).keys()
    assert all(torch.equal(weights[name], p) for name, p in before.named_parameters())


@pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))
def test_a_merged_model_computes_the_same(config):
    model, start = adapted(config), logits(plain(config))
    expected, weights = logits(model), merged(model)
    assert (expected - start).abs().max() > 0.1
    merge(model)
    torch.testing.assert_close(logits(model), expected, atol=2e-6, rtol=1e-5)
    assert not list(adapters(model))
    assert {name: p.shape for name, p in model.named_parameters()} == {
        name: p.shape for name, p in plain(config).named_parameters()
    }
    assert all(p.requires_grad and torch.equal(p, weights[name]) for name, p in model.named_parameters())


def test_only_adapters_learn_and_their_gradients_are_those_of_the_product():
    """dA = scale B^T dW and dB = scale dW A^T, with dW the gradient of the merged matrix."""
    model, whole = adapted(), adapted()
    merge(whole)
    for one in (model, whole):
        logits(one).log_softmax(-1)[:, 3].sum().backward()
    assert {name.rsplit(".", 1)[1] for name, p in model.named_parameters() if p.grad is not None} == {"a", "b"}
    for name, adapter in adapters(model):
        gradient = whole.get_submodule(name).weight.grad
        torch.testing.assert_close(adapter.a.grad, 4.0 * adapter.b.T @ gradient, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(adapter.b.grad, 4.0 * gradient @ adapter.a.T, atol=1e-4, rtol=1e-3)


def test_some_matrices_only():
    model = adapted(lora=LoraConfig(projections=("qkv", "down")))
    names = [name for name, _ in adapters(model)]
    assert names == ["layers.0.qkv", "layers.0.down", "layers.1.qkv", "layers.1.down"]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))
def test_the_embedding_may_be_trained_too(config):
    model = adapted(config, LoraConfig(embedding=True))
    names = {name for name, p in model.named_parameters() if p.requires_grad and "layers." not in name}
    assert names == ({"embedding.weight"} if config.tied_embeddings else {"embedding.weight", "head.weight"})


def test_the_start_follows_from_the_seed():
    def start(seed: int) -> torch.Tensor:
        model = plain()
        adapt(model, LORA, seed)
        return next(adapters(model))[1].a

    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))


@pytest.mark.parametrize(("field", "value"), [("rank", 0), ("projections", ("q_proj",))])
def test_what_cannot_be_is_refused(field, value):
    with pytest.raises(ConfigError, match=r"rank 0 can learn nothing|no q_proj\n.*qkv, out, gate_up, down"):
        LoraConfig(**{field: value})
