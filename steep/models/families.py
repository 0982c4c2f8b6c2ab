"""Between a Hugging Face `config.json` and `ModelConfig`, for the Llama, Qwen2 and Qwen3 families.

SmolLM2 has Llama's layout. What the decoder cannot compute is refused with a `ModelError`, never ignored: a model that
loads here gives the logits that transformers gives. Options that leave these alone (dropout, cache settings, initial
scale) are not read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from steep.errors import ModelError, UnknownFamilyError
from steep.models.transformer import Family, ModelConfig

SUPPORTED = "steep reads Llama (SmolLM2 too), Qwen2 and Qwen3 models with full attention: choose a checkpoint of those"

LONGEST_CONTEXT = 2**22
"""More is no model, but a damaged number: the table of rotary positions would fill the memory."""

ROPE_KEYS = {
    "default": (set[str](), set[str]()),
    "linear": ({"factor"}, set[str]()),
    "llama3": ({"factor", "low_freq_factor", "high_freq_factor"}, {"original_max_position_embeddings"}),
    "yarn": ({"factor"}, {"original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow"}),
}
"""Keys that a kind of RoPE scaling needs, and those that it may have."""


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What the name of a family implies, and what its `config.json` says besides the shape."""

    architecture: str
    qk_norm: bool
    qkv_bias: bool
    head_dim: int | None
    """For a config that does not name one; None: `hidden_size / num_attention_heads`."""
    switches: Mapping[str, Any]
    """Options of the family that the decoder does not have, turned off."""


FAMILIES: Mapping[Family, Traits] = {
    "llama": Traits(
        architecture="LlamaForCausalLM",
        qk_norm=False,
        qkv_bias=False,
        head_dim=None,
        switches={"attention_bias": False, "mlp_bias": False},
    ),
    "qwen2": Traits(
        architecture="Qwen2ForCausalLM",
        qk_norm=False,
        qkv_bias=True,
        head_dim=None,
        switches={"use_sliding_window": False, "sliding_window": None},
    ),
    "qwen3": Traits(
        architecture="Qwen3ForCausalLM",
        qk_norm=True,
        qkv_bias=False,
        head_dim=128,
        switches={"attention_bias": False, "use_sliding_window": False, "sliding_window": None},
    ),
}


def from_hugging_face(raw: Mapping[str, Any], where: str = "config.json") -> ModelConfig:
    """The `ModelConfig` of a parsed `config.json`. `where` names the file in errors.

    Raises `ModelError` for another architecture, a missing or impossible size, or an option that the decoder lacks.
    """
    family = _family(raw, where)
    traits = FAMILIES[family]
    hidden_size, num_layers = _count(raw, "hidden_size", where), _count(raw, "num_hidden_layers", where)
    num_heads = _count(raw, "num_attention_heads", where)
    num_kv_heads = _count(raw, "num_key_value_heads", where, default=num_heads)
    head_dim = _count(raw, "head_dim", where, default=traits.head_dim or hidden_size // num_heads)
    if num_heads % num_kv_heads:
        raise _unusable(where, f"num_attention_heads {num_heads} is no multiple of num_key_value_heads {num_kv_heads}")
    if head_dim % 2:
        raise _unusable(where, f"head_dim {head_dim} is odd, and rotary positions need pairs")
    _refuse_options(raw, family, num_layers, where)
    max_positions = _count(raw, "max_position_embeddings", where)
    if max_positions > LONGEST_CONTEXT:
        raise _unusable(where, f"max_position_embeddings {max_positions} is above {LONGEST_CONTEXT}")
    rope_theta, rope_scaling = _rope(raw, max_positions, where)
    return ModelConfig(
        family=family,
        vocab_size=_count(raw, "vocab_size", where),
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        intermediate_size=_count(raw, "intermediate_size", where),
        max_positions=max_positions,
        rope_theta=rope_theta,
        rope_scaling=rope_scaling,
        norm_eps=_number(raw.get("rms_norm_eps", 1e-6), "rms_norm_eps", where),
        qk_norm=traits.qk_norm,
        qkv_bias=traits.qkv_bias,
        tied_embeddings=bool(raw.get("tie_word_embeddings", False)),
    )


def to_hugging_face(config: ModelConfig) -> dict[str, Any]:
    """A `config.json` that transformers 4 and 5 read alike: RoPE stands in it in the layouts of both.

    Raises `ModelError` if the flags of `config` are not those of its family: no file could say so.
    """
    traits = FAMILIES[config.family]
    if (config.qk_norm, config.qkv_bias) != (traits.qk_norm, traits.qkv_bias):
        raise ModelError(
            f"a {config.family} model has qk_norm={traits.qk_norm} and qkv_bias={traits.qkv_bias}, "
            f"this one has qk_norm={config.qk_norm} and qkv_bias={config.qkv_bias}",
            "choose the family that has these flags: llama has neither, qwen2 the bias, qwen3 the norm",
        )
    given = {"rope_theta": config.rope_theta, "rope_scaling": config.rope_scaling}
    rope_theta, scaling = _rope(given, config.max_positions, "ModelConfig")
    return {
        "architectures": [traits.architecture],
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": rope_theta,
        "rope_scaling": scaling,
        "rope_parameters": {"rope_theta": rope_theta, **(scaling or {"rope_type": "default"})},
        "tie_word_embeddings": config.tied_embeddings,
        **traits.switches,
    }


def _family(raw: Mapping[str, Any], where: str) -> Family:
    """Told by `model_type`, or by `architectures` where there is none; the two must agree."""
    architectures = raw.get("architectures") or []
    model_type = raw.get("model_type")
    if model_type is None:
        known = {traits.architecture: family for family, traits in FAMILIES.items()}
        model_type = next((known[name] for name in architectures if name in known), None)
    if model_type not in FAMILIES:
        name = model_type or ", ".join(map(str, architectures)) or "no model_type"
        raise UnknownFamilyError(f"{where}: {name} is not a model that steep knows", SUPPORTED)
    family = cast(Family, model_type)
    if architectures and FAMILIES[family].architecture not in architectures:
        raise ModelError(
            f"{where}: architectures {architectures} of a {family} model, {FAMILIES[family].architecture} was expected",
            "choose a causal language model: other heads (classifiers, reward models) cannot sample text",
        )
    return family


def _refuse_options(raw: Mapping[str, Any], family: Family, num_layers: int, where: str) -> None:
    """Raise `UnknownFamilyError` for an option that changes the logits and that the decoder does not have."""
    activation = raw.get("hidden_act", "silu")
    layer_types = raw.get("layer_types")
    if layer_types is None:
        windowed = bool(raw.get("use_sliding_window")) and raw.get("sliding_window", 4096) is not None
        sliding = windowed and raw.get("max_window_layers", 28) < num_layers  # the layers above it slide
    else:
        sliding = any(kind != "full_attention" for kind in layer_types)
    if raw.get("quantization_config"):
        raise ModelError(f"{where} asks for quantized weights (quantization_config)", SUPPORTED)
    unsupported = {
        f"hidden_act {activation!r}": activation not in ("silu", "swish"),
        "attention_bias (it puts a bias on o_proj too)": family != "qwen2" and raw.get("attention_bias"),
        "mlp_bias": family == "llama" and raw.get("mlp_bias"),
        "sliding window attention": sliding,
        "partial_rotary_factor": raw.get("partial_rotary_factor") not in (None, 1, 1.0),
    }
    for option, asked in unsupported.items():
        if asked:
            raise UnknownFamilyError(f"{where} asks for {option}, which steep's decoder does not have", SUPPORTED)


def _rope(raw: Mapping[str, Any], max_positions: int, where: str) -> tuple[float, dict[str, float | str] | None]:
    """Theta, and the scaling with every value that it depends on (None: not scaled).

    Older configs have `rope_theta` and `rope_scaling`, those of transformers 5 hold both in `rope_parameters`. Where
    both stand, precedence is that of transformers.
    """
    given = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    scaling = {key: value for key, value in dict(given).items() if value is not None}
    theta = _number(scaling.pop("rope_theta", raw.get("rope_theta") or 10_000.0), "rope_theta", where)
    old_kind = scaling.pop("type", "default")
    kind = scaling.pop("rope_type", old_kind)
    if kind not in ROPE_KEYS:
        raise UnknownFamilyError(f"{where}: rope_type {kind!r} is not one of {', '.join(ROPE_KEYS)}", SUPPORTED)
    if scaling.pop("partial_rotary_factor", 1.0) != 1.0:
        raise UnknownFamilyError(
            f"{where} asks for partial_rotary_factor, which steep's decoder does not have", SUPPORTED
        )
    needed, optional = ROPE_KEYS[kind]
    original = "original_max_position_embeddings"
    if original in optional:
        scaling[original] = raw.get(original) or scaling.get(original, max_positions)
    if missing := sorted(needed - scaling.keys()):
        raise _unusable(where, f"rope_type {kind} needs {', '.join(missing)}")
    if unknown := sorted(scaling.keys() - needed - optional):
        raise ModelError(f"{where}: {', '.join(unknown)} of rope_type {kind} is not supported", SUPPORTED)
    for key, value in scaling.items():
        _number(value, key, where)
    if kind == "llama3" and scaling["high_freq_factor"] <= scaling["low_freq_factor"]:
        raise _unusable(where, "high_freq_factor of llama3 must be above low_freq_factor")
    return theta, None if kind == "default" else {"rope_type": kind, **scaling}


def _count(raw: Mapping[str, Any], key: str, where: str, default: int | None = None) -> int:
    value = raw.get(key)
    value = default if value is None else value
    if value is None:
        raise _unusable(where, f"{key} is missing")
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise _unusable(where, f"{key} is {value!r}, not a whole number above 0")
    return value


def _number(value: Any, key: str, where: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
        raise _unusable(where, f"{key} is {value!r}, not a number above 0")
    return float(value)


def _unusable(where: str, problem: str) -> ModelError:
    return ModelError(f"{where}: {problem}", "get the file again from where the model comes from, or correct it")
