"""transformers is the reference: what it saves loads here, what is saved here loads there, and the logits agree."""

import dataclasses
import json

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, Qwen2Config, Qwen3Config

from steep.models import (
    ModelConfig,
    PackedAttention,
    Transformer,
    initialise,
    load,
    load_config,
    packed_positions,
    save,
)

SHAPE = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,  # large enough for the logits to spread over several nats
    "bos_token_id": None,
    "eos_token_id": 3,
    "pad_token_id": 0,
}
LINEAR = {"rope_type": "linear", "factor": 2.5}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
YARN_FULL = {**YARN, "attention_factor": 1.3, "beta_fast": 8.0, "beta_slow": 2.0}

REFERENCES = {  # with copies of the scalings: transformers writes into what it is given
    "llama": LlamaConfig(**SHAPE, rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 5e5}),
    "smollm2": LlamaConfig(**{**SHAPE, "num_attention_heads": 3, "num_key_value_heads": 1}, tie_word_embeddings=True),
    "wide heads": LlamaConfig(**SHAPE, head_dim=16),
    "linear": LlamaConfig(**SHAPE, rope_parameters=dict(LINEAR)),
    "llama3": LlamaConfig(**SHAPE, rope_parameters=dict(LLAMA3), head_dim=32),
    "yarn": Qwen3Config(**SHAPE, rope_parameters=dict(YARN), head_dim=32),
    "yarn, all set": LlamaConfig(**SHAPE, rope_parameters=dict(YARN_FULL), head_dim=32),
    "qwen2": Qwen2Config(**SHAPE, rope_parameters={"rope_type": "default", "rope_theta": 1e6}),
    "qwen2 tied": Qwen2Config(**SHAPE, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SHAPE, head_dim=16),
    "qwen3 tied": Qwen3Config(**SHAPE, head_dim=16, tie_word_embeddings=True),
}

STEEP = ModelConfig(
    vocab_size=97,
    hidden_size=48,
    num_layers=2,
    num_heads=6,
    num_kv_heads=2,
    head_dim=8,
    intermediate_size=80,
    max_positions=128,
)
OURS = {
    "llama": dataclasses.replace(STEEP, family="llama", qk_norm=False, tied_embeddings=False),
    "llama3": dataclasses.replace(STEEP, family="llama", qk_norm=False, rope_theta=5e5, rope_scaling=LLAMA3),
    "linear": dataclasses.replace(STEEP, family="llama", qk_norm=False, rope_scaling=LINEAR),
    "qwen2": dataclasses.replace(STEEP, family="qwen2", qk_norm=False, qkv_bias=True, norm_eps=1e-5),
    "qwen3": dataclasses.replace(STEEP, head_dim=16),
    "yarn": dataclasses.replace(STEEP, tied_embeddings=False, rope_scaling=YARN_FULL),
}


def randomised(model, seed):
    """Norms and biases away from the ones and zeros they start with, so that a lost one shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def reference(name, seed=1):
    torch.manual_seed(seed)
    return randomised(AutoModelForCausalLM.from_config(REFERENCES[name]), seed).eval()


def ours(name, seed=1):
    model = Transformer(OURS[name])
    initialise(model, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
    return randomised(model, seed)


def assert_logits_agree(model, other):
    ids = torch.randint(97, (100,), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = other(ids[None]).logits[0]
        got = model.logits(model(ids, packed_positions([100]), PackedAttention([100])))
    assert expected.std() > 0.3
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", REFERENCES)
def test_what_transformers_saves_loads_here_and_comes_back(name, tmp_path):
    other = reference(name)
    other.save_pretrained(tmp_path / "theirs")
    model = load(tmp_path / "theirs")
    assert model.config.tied_embeddings == REFERENCES[name].tie_word_embeddings
    assert_logits_agree(model, other)

    save(model, tmp_path / "back", eos_token_ids=[3], pad_token_id=0)
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "back")
    assert type(back) is type(other)
    expected, got = other.state_dict(), back.state_dict()
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[key], got[key]) for key in expected)
    assert_logits_agree(model, back)


@pytest.mark.parametrize("name", OURS)
def test_what_is_saved_here_loads_in_transformers_and_here(name, tmp_path):
    model = ours(name)
    save(model, tmp_path, eos_token_ids=[3, 5], pad_token_id=0, bos=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
    ]
    other, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert other.dtype == torch.float32
    assert other.config.eos_token_id == [3, 5]
    assert (other.config.pad_token_id, other.config.bos_token_id) == (0, 1)
    assert_logits_agree(model, other)

    assert load_config(tmp_path) == OURS[name]
    again = load(tmp_path).state_dict()
    assert all(torch.equal(tensor, again[key]) for key, tensor in model.state_dict().items())


def test_transformers_samples_from_the_policy_itself(tmp_path):
    save(ours("qwen3"), tmp_path, eos_token_ids=[3], pad_token_id=0)
    config = GenerationConfig.from_pretrained(tmp_path)
    assert (config.do_sample, config.temperature, config.top_p, config.top_k) == (True, 1.0, 1.0, 0)
    assert (config.eos_token_id, config.pad_token_id, config.bos_token_id) == (3, 0, None)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.manual_seed(0)
    out = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=20, output_logits=True, return_dict_in_generate=True)
    assert len(out.logits) == out.sequences.shape[1] - 3
    assert out.sequences[0, -1] == 3 or out.sequences.shape[1] == 23


@pytest.mark.parametrize("scaling", [None, LINEAR, LLAMA3, YARN, YARN_FULL], ids=str)
def test_old_and_new_rope_layouts_read_alike(scaling, tmp_path):
    new = {
        **SHAPE,
        "model_type": "llama",
        "rope_parameters": {**(scaling or {"rope_type": "default"}), "rope_theta": 7e4},
    }
    old = {**SHAPE, "model_type": "llama", "rope_theta": 7e4, "rope_scaling": scaling}
    oldest = json.loads(json.dumps(old).replace("rope_type", "type"))
    configs = []
    for raw in (new, old, oldest):
        (tmp_path / "config.json").write_text(json.dumps(raw))
        configs.append(load_config(tmp_path))
    assert configs[0] == configs[1] == configs[2]
    assert configs[0].rope_theta == 7e4
    assert configs[0].rope_scaling == scaling
