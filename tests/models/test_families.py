"""What the decoder cannot do is refused by name; what a config.json leaves out gets its family's default."""

import dataclasses

import pytest

from steep.errors import ModelError
from steep.models import ModelConfig
from steep.models.families import from_hugging_face, to_hugging_face

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "hidden_act": "silu",
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100000,
    "rope_scaling": None,
    "rope_interleaved": False,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
}
"""SmolLM2-135M as published, without the keys that no one reads."""

QWEN2 = {**LLAMA, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
QWEN3 = {**LLAMA, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
YARN = {"rope_type": "yarn", "factor": 4.0}


def test_smollm2():
    assert from_hugging_face(LLAMA) == ModelConfig(
        family="llama",
        vocab_size=49152,
        hidden_size=576,
        num_layers=30,
        num_heads=9,
        num_kv_heads=3,
        head_dim=64,
        intermediate_size=1536,
        max_positions=8192,
        rope_theta=100_000.0,
        rope_scaling=None,
        norm_eps=1e-5,
        qk_norm=False,
        qkv_bias=False,
        tied_embeddings=True,
    )


def test_family_defaults():
    bare = {key: LLAMA[key] for key in LLAMA if key not in ("num_key_value_heads", "rope_theta", "tie_word_embeddings")}
    config = from_hugging_face(bare)
    assert (config.num_kv_heads, config.rope_theta, config.tied_embeddings) == (9, 10_000.0, False)
    qwen2, qwen3 = from_hugging_face(QWEN2), from_hugging_face(QWEN3)
    assert (qwen2.head_dim, qwen2.qkv_bias, qwen2.qk_norm) == (64, True, False)
    assert (qwen3.head_dim, qwen3.qkv_bias, qwen3.qk_norm) == (128, False, True)
    assert from_hugging_face({**QWEN3, "head_dim": 64}).head_dim == 64


def test_family_from_architectures_alone():
    assert from_hugging_face({**QWEN3, "model_type": None}).family == "qwen3"


@pytest.mark.parametrize(
    "harmless",
    [
        {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 21},
        {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 30},  # no layer is above the 30th
        {"layer_types": ["full_attention"] * 30},
        {"hidden_act": "swish"},
        {"partial_rotary_factor": 1.0},
        {"attention_dropout": 0.1},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 100000, "partial_rotary_factor": 1.0}},
    ],
    ids=str,
)
def test_options_that_change_nothing(harmless):
    assert from_hugging_face({**QWEN2, **harmless}) == from_hugging_face(QWEN2)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({**LLAMA, "architectures": ["MixtralForCausalLM"], "model_type": "mixtral"}, "mixtral is not a model"),
        ({**LLAMA, "architectures": ["MambaLMHeadModel"], "model_type": None}, "MambaLMHeadModel is not a model"),
        ({"hidden_size": 64}, "no model_type is not a model"),
        ({**QWEN3, "architectures": ["Qwen3ForSequenceClassification"]}, "Qwen3ForCausalLM was expected"),
        ({**LLAMA, "attention_bias": True}, "attention_bias"),
        ({**QWEN3, "attention_bias": True}, "attention_bias"),
        ({**LLAMA, "mlp_bias": True}, "mlp_bias"),
        ({**LLAMA, "hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({**LLAMA, "partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({**LLAMA, "quantization_config": {"quant_method": "fp8"}}, "quantization_config"),
        ({**QWEN2, "use_sliding_window": True, "max_window_layers": 21}, "sliding window"),
        ({**QWEN2, "use_sliding_window": True}, "sliding window"),  # from the 28th layer on
        ({**QWEN3, "layer_types": ["full_attention", "sliding_attention"]}, "sliding window"),
        ({**LLAMA, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type 'dynamic'"),
        ({**LLAMA, "rope_scaling": {"type": "longrope", "factor": 2.0}}, "rope_type 'longrope'"),
        ({**LLAMA, "rope_scaling": {**YARN, "truncate": False}}, "truncate of rope_type yarn"),
        ({**LLAMA, "rope_scaling": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.5}}, "mscale, mscale_all_dim"),
        ({**LLAMA, "rope_parameters": {**YARN, "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({**LLAMA, "rope_parameters": {"full_attention": {"rope_type": "default"}}}, "full_attention of rope_type"),
        ({**LLAMA, "rope_scaling": {"rope_type": "linear"}}, "rope_type linear needs factor"),
        ({**LLAMA, "max_position_embeddings": 10**9}, "max_position_embeddings 1000000000 is above 4194304"),
        ({**LLAMA, "rope_scaling": {"rope_type": "linear", "factor": "2"}}, "factor is '2'"),
        ({**LLAMA, "rope_scaling": {"rope_type": "llama3", "factor": 8}}, "needs high_freq_factor, low_freq_factor"),
        (
            {
                **LLAMA,
                "rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1},
            },
            "high_freq_factor of llama3",
        ),
        ({key: value for key, value in LLAMA.items() if key != "hidden_size"}, "hidden_size is missing"),
        ({**LLAMA, "vocab_size": "many"}, "vocab_size is 'many'"),
        ({**LLAMA, "num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({**LLAMA, "num_key_value_heads": 2}, "no multiple of num_key_value_heads 2"),
        ({**LLAMA, "head_dim": 65}, "head_dim 65 is odd"),
        ({**LLAMA, "rms_norm_eps": None}, "rms_norm_eps is None"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refused(raw, said):
    with pytest.raises(ModelError) as caught:
        from_hugging_face(raw, "some/config.json")
    assert said in caught.value.message
    assert caught.value.message.startswith("some/config.json")
    assert caught.value.fix


def test_original_context_is_written_down():
    config = from_hugging_face({**LLAMA, "rope_scaling": YARN})
    assert config.rope_scaling == {**YARN, "original_max_position_embeddings": 8192}
    implied = dataclasses.replace(config, rope_scaling=YARN)
    assert to_hugging_face(implied) == to_hugging_face(config)
    above = {**LLAMA, "rope_scaling": {**YARN, "original_max_position_embeddings": 64}}
    above["original_max_position_embeddings"] = 2048  # transformers lets this one win
    assert from_hugging_face(above).rope_scaling["original_max_position_embeddings"] == 2048


@pytest.mark.parametrize("raw", [LLAMA, QWEN2, QWEN3, {**QWEN3, "rope_scaling": YARN}], ids=str)
def test_there_and_back(raw):
    config = from_hugging_face(raw)
    assert from_hugging_face(to_hugging_face(config)) == config
    assert to_hugging_face(config)["architectures"] == raw["architectures"]


def test_both_rope_layouts_are_written():
    raw = to_hugging_face(from_hugging_face({**QWEN3, "rope_scaling": YARN}))
    scaling = {**YARN, "original_max_position_embeddings": 8192}
    assert (raw["rope_theta"], raw["rope_scaling"]) == (100_000.0, scaling)
    assert raw["rope_parameters"] == {**scaling, "rope_theta": 100_000.0}
    raw = to_hugging_face(from_hugging_face(QWEN3))
    assert (raw["rope_theta"], raw["rope_scaling"]) == (100_000.0, None)
    assert raw["rope_parameters"] == {"rope_type": "default", "rope_theta": 100_000.0}


def test_flags_of_no_family():
    with pytest.raises(
        ModelError, match="a llama model has qk_norm=False and qkv_bias=False, this one has qk_norm=True"
    ):
        to_hugging_face(ModelConfig(family="llama"))
