"""Families that transformers computes: taken with its logits and no others, or refused with the reason."""

import sys

import pytest
import torch
import transformers as hf

from steep.errors import ModelError, UnknownFamilyError
from steep.models import PackedAttention, hugging_face, load, packed_positions
from steep.models.transformer import Shape
from steep.models.vocabulary import with_new_tokens

SIZES = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,  # large enough for the logits to spread over several nats
    "bos_token_id": None,
    "eos_token_id": 3,
    "pad_token_id": 0,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}
TAKEN = {
    "gpt_neox": hf.GPTNeoXConfig(**SIZES),
    "positions that are learnt": hf.GPT2Config(
        **{**SIZES, "intermediate_size": None}, n_embd=48, n_layer=2, n_head=6, n_positions=128
    ),
    "scores of another scale": hf.GraniteConfig(**GROUPED, attention_multiplier=0.2),
    "experts": hf.Qwen3MoeConfig(
        **GROUPED, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, tie_word_embeddings=True
    ),
}
REFUSED = {
    "a sliding window": (hf.MistralConfig(**GROUPED, sliding_window=64), "has a sliding window"),
    "logits of another scale": (hf.GraniteConfig(**GROUPED, logits_scaling=3.0), "its logits are others"),
    "an interface of its own": (hf.StableLmConfig(**GROUPED), "do not hand on"),
    "attention of its own": (hf.FalconConfig(**SIZES), "do not all attend"),
    "a state": (hf.MambaConfig(vocab_size=97, hidden_size=48, num_hidden_layers=2), "its positions"),
    "angles that depend on the length": (
        hf.MistralConfig(**GROUPED, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}),
        "its positions",
    ),
}
UNKNOWN = UnknownFamilyError("config.json: gpt_neox is not known", "choose another")
LENGTHS = [60, 40]


def saved(config, directory):
    torch.manual_seed(1)
    inner = hf.AutoModelForCausalLM.from_config(config).eval()
    inner.save_pretrained(directory)
    return inner


def logits(model):
    ids = torch.randint(97, (100,), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        if isinstance(model, hf.PreTrainedModel):
            return torch.cat([model(part[None]).logits[0] for part in ids.split(LENGTHS)])
        return model.logits(model(ids, packed_positions(LENGTHS), PackedAttention(LENGTHS)))


@pytest.mark.parametrize("config", TAKEN.values(), ids=list(TAKEN))
def test_packed_sequences_get_the_logits_of_transformers(config, tmp_path):
    expected = logits(saved(config, tmp_path / "theirs"))
    with pytest.raises(UnknownFamilyError, match="is not a model that steep knows"):
        load(tmp_path / "theirs")
    model = hugging_face.load(tmp_path / "theirs", UNKNOWN)
    kv_heads = getattr(config, "num_key_value_heads", 6)
    assert model.config == Shape(
        vocab_size=97, hidden_size=48, num_layers=2, num_kv_heads=kv_heads, head_dim=8, max_positions=128
    )
    assert expected.std() > 0.3
    torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=0)

    model.save(tmp_path / "ours", eos_token_ids=[3, 5], pad_token_id=0, dtype=torch.float32)
    back = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert back.generation_config.eos_token_id == back.config.eos_token_id == [3, 5]
    torch.testing.assert_close(logits(back), expected, atol=0, rtol=0)


@pytest.mark.parametrize(("config", "reason"), REFUSED.values(), ids=list(REFUSED))
def test_what_would_be_computed_wrongly_is_refused(config, reason, tmp_path):
    saved(config, tmp_path)
    with pytest.raises(ModelError, match=rf"is not known, and transformers cannot stand in: .*{reason}.*\n.*another"):
        hugging_face.load(tmp_path, UNKNOWN)


def test_weights_that_are_missing_are_not_made_up(tmp_path):
    saved(hf.GPTNeoXConfig(**SIZES), tmp_path)
    config = hf.GPTNeoXConfig(**{**SIZES, "num_hidden_layers": 3})
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"gpt_neox\.layers\.2"):
        hugging_face.load(tmp_path, UNKNOWN)


def test_what_transformers_does_not_know_either(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "otto"}')
    with pytest.raises(ModelError, match=r"transformers cannot load it: .*otto.*\n.*another"):
        hugging_face.load(tmp_path, UNKNOWN)


def test_without_transformers_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError, match=r"gpt_neox is not known\n.*pip install 'steep\[transformers\]'"):
        hugging_face.load(tmp_path, UNKNOWN)


def test_new_tokens_leave_the_rest_as_it_was(tmp_path):
    saved(hf.GPTNeoXConfig(**SIZES), tmp_path)
    model = hugging_face.load(tmp_path, UNKNOWN)
    before = logits(model)
    grown = with_new_tokens(model, [97, 98], seed=0)
    assert grown.config.vocab_size == 99
    torch.testing.assert_close(logits(grown)[:, :97], before)
    assert logits(grown)[:, 97:].std() < before.std()
