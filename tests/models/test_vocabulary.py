"""New tokens change nothing that a model says of the old ones, and begin no likelier than the average token."""

import pytest
import torch

from steep.models import ModelConfig, PackedAttention, Transformer, initialise, packed_positions
from steep.models.vocabulary import NOISE, with_new_tokens

TIED = ModelConfig(
    vocab_size=96,
    hidden_size=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    intermediate_size=48,
    max_positions=64,
)
UNTIED = ModelConfig(**{**TIED.__dict__, "tied_embeddings": False})


def made(config):
    model = Transformer(config)
    initialise(model, torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.embedding.weight.mul_(20).add_(0.5)  # logits that spread, and rows with a mean of their own
        if model.head is not None:
            model.head.weight.mul_(20).sub_(0.5)
    return model


def logits(model, size=96):
    ids = torch.randint(90, (40,), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.logits(model(ids, packed_positions([40]), PackedAttention([40])))[:, :size]


@pytest.mark.parametrize("config", [TIED, UNTIED], ids=["tied", "untied"])
def test_growing_leaves_the_old_tokens_alone(config):
    model = made(config)
    before = logits(model)
    grown = with_new_tokens(model, [96, 97], seed=0)
    assert grown.config.vocab_size == 98
    assert model.config.vocab_size == 96
    torch.testing.assert_close(logits(grown), before, atol=1e-5, rtol=0)
    for name, parameter in model.named_parameters():
        assert torch.equal(dict(grown.named_parameters())[name][: len(parameter)], parameter)


@pytest.mark.parametrize("config", [TIED, UNTIED], ids=["tied", "untied"])
def test_new_tokens_are_no_likelier_than_the_average(config):
    shares = logits(with_new_tokens(made(config), [96, 97], seed=0), 98).softmax(-1)
    assert shares[:, :96].amax(-1).mean() > 0.1
    assert shares[:, 96:].mean() < 1 / 98
    assert shares[:, 96:].max() < 2 / 98


def test_rows_that_are_there_are_used():
    model = made(UNTIED)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    same = with_new_tokens(model, [94, 95], seed=0)
    assert same is model
    for name, parameter in model.named_parameters():
        changed = "embedding" in name or "head" in name
        assert torch.equal(parameter[:94], before[name][:94])
        assert (changed and not torch.equal(parameter[94:], before[name][94:])) or torch.equal(parameter, before[name])


def test_new_rows_are_the_mean_and_a_little_noise():
    model = made(TIED)
    old = model.embedding.weight.detach().clone()
    new = with_new_tokens(model, [96, 97], seed=0).embedding.weight[96:].detach()
    away = (new - old.mean(0)) / old.std(0)
    assert 0.5 * NOISE < away.std() < 2 * NOISE
    assert not torch.equal(new[0], new[1])
    assert torch.equal(new, with_new_tokens(model, [96, 97], seed=0).embedding.weight[96:])
    assert not torch.equal(new, with_new_tokens(model, [96, 97], seed=1).embedding.weight[96:])


def test_a_grown_model_can_be_trained():
    grown = with_new_tokens(made(TIED), [96, 97], seed=0)
    ids = torch.tensor([1, 96, 2, 97])
    grown.logits(grown(ids, packed_positions([4]), PackedAttention([4]))).logsumexp(-1).sum().backward()
    assert grown.embedding.weight.grad[96].abs().max() > 0
