"""Models in GGUF files: shape, weights and tokenizer in one file, as llama.cpp and its kin have them.

`open_gguf` reads what the file says of itself, `load_gguf` makes the decoder, `save_gguf` writes one. Weights that were
quantized are expanded to the fp32 values that they stand for. The tokenizer is in the metadata, for `tokens.gguf`. What
the decoder cannot compute is refused with a `ModelError`, never ignored.

The `gguf` package, an extra, reads the container and expands the blocks. Names and layout are those that llama.cpp's
convert_hf_to_gguf.py writes.
"""

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steep.errors import ModelError, SteepError, to_install
from steep.models.families import FAMILIES, LONGEST_CONTEXT, SUPPORTED, from_hugging_face, to_hugging_face
from steep.models.transformer import ModelConfig, Transformer, rope_frequencies
from steep.models.weights import REFETCH, disk_tensors, unfilled, write_whole

EMBEDDING, HEAD, ROPE_FACTORS = "token_embd.weight", "output.weight", "rope_freqs.weight"
TOP_NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""Modules of a layer as Hugging Face has them, and in GGUF."""
SCALING_NAMES = {"factor": "factor", "original_max_position_embeddings": "original_context_length"}
STORED = ("F32", "F16", "BF16", "Q8_0")
"""Ways of writing numbers. Others can be read, but are made better by llama.cpp's own program."""
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192.0}
"""Of every published Llama 3: a GGUF file keeps the frequencies that follow from these, not the numbers."""


@dataclass(frozen=True)
class GgufFile:
    """An opened file. Its tensors stay on disk until they are asked for."""

    path: Path
    metadata: Mapping[str, Any]
    """`general.architecture`, `llama.block_count`, `tokenizer.ggml.tokens`, ... as Python values."""
    stored: Mapping[str, Any]
    """The `gguf` package's record of each tensor, by name."""

    def tensor(self, name: str) -> Tensor:
        """The values of a tensor in fp32, rows first."""
        record = self.stored[name]
        try:
            values = importlib.import_module("gguf.quants").dequantize(record.data, record.tensor_type)
        except NotImplementedError:
            raise ModelError(
                f"{self.path}: tensor {name} is {record.tensor_type.name}, which the gguf package cannot expand",
                "get the model as F16, BF16, Q8_0 or Q4_K_M",
            ) from None
        return torch.from_numpy(np.array(values, dtype=np.float32))  # a copy: the file's own pages cannot be written


def open_gguf(path: Path) -> GgufFile:
    """Read what a file says of itself. Raises `ModelError` if it is not GGUF, or not whole."""
    try:
        reader = _reader(path)
        metadata = {key: field.contents() for key, field in reader.fields.items()}
    except (OSError, ValueError, KeyError, IndexError, TypeError, OverflowError, RuntimeWarning) as error:
        raise ModelError(f"{path} cannot be read as GGUF: {error}", REFETCH) from error
    if metadata.get("split.count") not in (None, 0, 1):
        raise ModelError(
            f"{path} is one of {metadata['split.count']} parts",
            "put them together with llama.cpp's `llama-gguf-split --merge`",
        )
    return GgufFile(path, metadata, {record.name: record for record in reader.tensors})


def load_gguf(file: GgufFile) -> Transformer:
    """The model in a file, on the CPU in fp32.

    Raises `ModelError` if the decoder cannot compute it, or if a tensor is missing, unknown or of another shape.
    """
    config = config_of(file)
    with torch.device("meta"):  # sizes first: those of a damaged file could ask for any amount of memory
        shapes = {gguf_name(name): list(t.shape) for name, t in disk_tensors(Transformer(config)).items()}
    if missing := sorted(shapes.keys() - file.stored.keys()):
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(f"{file.path}: tensor {missing[0]} is missing{more}", REFETCH)
    if unknown := sorted(file.stored.keys() - shapes.keys() - {ROPE_FACTORS}):
        raise ModelError(f"{file.path}: tensor {unknown[0]} is not part of a {config.family} model", SUPPORTED)
    for name, shape in shapes.items():
        stored = list(reversed(file.stored[name].shape.tolist()))
        if stored != shape:
            raise ModelError(f"{file.path}: tensor {name} is {stored}, the metadata make it {shape}", REFETCH)
    model = unfilled(config)
    for name, target in disk_tensors(model).items():
        values = file.tensor(gguf_name(name))
        heads = rotated_heads(config, name)
        target.copy_(halves(values, heads) if heads else values)
    return model


def save_gguf(model: Transformer, path: Path, metadata: Mapping[str, Any], stored: str = "F32") -> None:
    """Write `model` so that `load_gguf` and llama.cpp read it. `metadata` are those of its tokenizer.

    `stored` is how the numbers of matrices are written, one of `STORED`; vectors are always F32. The file is written
    under a temporary name and renamed when it is whole. Raises `ModelError` for what no file could say.
    """
    to_hugging_face(model.config)  # for its check: the flags must be those of the family
    gguf = _package(path)
    kind = gguf.GGMLQuantizationType[stored]
    arrays = {gguf_name(name): t.cpu() for name, t in _with_neighbours(model).items()} | _rope_factors(model.config)
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    if narrow := next((name for name, t in arrays.items() if t.dim() > 1 and t.shape[1] % block), None):
        raise ModelError(
            f"tensor {narrow} has rows of {arrays[narrow].shape[1]} numbers, and {stored} needs multiples of {block}",
            "store the model as F32, F16 or BF16",
        )

    def write(temporary: Path) -> None:
        writer = gguf.GGUFWriter(temporary, model.config.family)
        writer.add_file_type(gguf.LlamaFileType["ALL_F32" if stored == "F32" else f"MOSTLY_{stored}"])
        for key, value in (_description(model.config) | dict(metadata)).items():
            _add(writer, key, value)
        for name, values in arrays.items():
            own = kind if values.dim() > 1 else gguf.GGMLQuantizationType.F32
            writer.add_tensor(name, gguf.quants.quantize(values.numpy(), own), raw_dtype=own)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, write)


def config_of(file: GgufFile) -> ModelConfig:
    """The shape of the model in a file. Raises `ModelError` for what the decoder does not have."""
    family: Any = file.metadata.get("general.architecture")
    if family not in FAMILIES:
        raise ModelError(f"{file.path}: {family or 'no architecture'} is not a model that steep knows", SUPPORTED)
    if EMBEDDING not in file.stored:
        raise ModelError(f"{file.path}: tensor {EMBEDDING} is missing", REFETCH)
    size, heads = _number(file, f"{family}.embedding_length"), _number(file, f"{family}.attention.head_count")
    layers, context = _number(file, f"{family}.block_count"), _number(file, f"{family}.context_length")
    head_dim = _number(file, f"{family}.attention.key_length", size // heads)
    theta = _number(file, f"{family}.rope.freq_base", 10_000.0)
    if f"blk.{layers - 1}.attn_norm.weight" not in file.stored or context > LONGEST_CONTEXT:
        raise ModelError(
            f"{file.path}: {layers} layers ({family}.block_count) and {context} positions ({family}.context_length) "
            "cannot be right",
            REFETCH,
        )
    _refuse_options(file, family, head_dim, context)
    raw = {
        "model_type": family,
        "vocab_size": _vocabulary(file, family),
        "hidden_size": size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": _number(file, f"{family}.attention.head_count_kv", heads),
        "head_dim": head_dim,
        "intermediate_size": _number(file, f"{family}.feed_forward_length"),
        "max_position_embeddings": context,
        "rms_norm_eps": _shortest(_number(file, f"{family}.attention.layer_norm_rms_epsilon")),
        "rope_theta": _shortest(theta),
        "rope_scaling": _rope_scaling(file, family, head_dim, theta),
        "tie_word_embeddings": HEAD not in file.stored,
    }
    return from_hugging_face(raw, str(file.path))


def gguf_name(name: str) -> str:
    """`model.layers.3.self_attn.q_proj.weight` is `blk.3.attn_q.weight` in GGUF."""
    module, _, part = name.rpartition(".")
    if match := re.fullmatch(r"model\.layers\.(\d+)\.(.+)", module):
        return f"blk.{match[1]}.{LAYER_NAMES[match[2]]}.{part}"
    return f"{TOP_NAMES[module]}.{part}"


def rotated_heads(config: ModelConfig, name: str) -> int:
    """How many heads the rows of a tensor are, if GGUF has them in another order (see `halves`), else 0."""
    if config.family != "llama":
        return 0
    return {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}.get(name.split(".")[-2], 0)


def halves(rows: Tensor, heads: int) -> Tensor:
    """The rows of a projection in the order that rotates the two halves of a head against each other.

    For llama (and only there) GGUF has them in the order that rotates neighbours: 0, 8, 1, 9, ... for 16.
    """
    return rows.view(heads, -1, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def _with_neighbours(model: Transformer) -> dict[str, Tensor]:
    """The tensors of a model under their Hugging Face names, with rows in GGUF's order (see `halves`)."""
    tensors = disk_tensors(model)
    for name, rows in tensors.items():
        if heads := rotated_heads(model.config, name):
            pairs = rows.view(heads, 2, -1, *rows.shape[1:]).transpose(1, 2)
            tensors[name] = pairs.reshape(rows.shape)
    return tensors


def _description(config: ModelConfig) -> dict[str, Any]:
    """The metadata from which `config_of` reads the config."""
    at = config.family
    scaling = dict(config.rope_scaling or {})
    values: dict[str, Any] = {
        f"{at}.vocab_size": config.vocab_size,
        f"{at}.block_count": config.num_layers,
        f"{at}.context_length": config.max_positions,
        f"{at}.embedding_length": config.hidden_size,
        f"{at}.feed_forward_length": config.intermediate_size,
        f"{at}.attention.head_count": config.num_heads,
        f"{at}.attention.head_count_kv": config.num_kv_heads,
        f"{at}.attention.key_length": config.head_dim,
        f"{at}.attention.value_length": config.head_dim,
        f"{at}.attention.layer_norm_rms_epsilon": config.norm_eps,
        f"{at}.rope.dimension_count": config.head_dim,
        f"{at}.rope.freq_base": config.rope_theta,
    }
    kind = scaling.pop("rope_type", scaling.pop("type", "default"))
    if kind in ("default", "llama3"):  # the latter is a table of factors
        return values
    if unknown := sorted(scaling.keys() - SCALING_NAMES.keys()):
        raise ModelError(f"GGUF has no place for {', '.join(unknown)} of rope_type {kind}", "export the model as hf")
    values[f"{at}.rope.scaling.type"] = kind
    for key, value in scaling.items():
        number = int(value) if key == "original_max_position_embeddings" else float(value)
        values[f"{at}.rope.scaling.{SCALING_NAMES[key]}"] = number
    return values


def _rope_factors(config: ModelConfig) -> dict[str, Tensor]:
    """Llama 3's scaling, as the table of factors that GGUF has for it."""
    scaling = config.rope_scaling
    if scaling is None or scaling.get("rope_type") != "llama3":
        return {}
    if any(scaling.get(key) != value for key, value in LLAMA3.items()):
        raise ModelError("GGUF has no place for settings of rope_type llama3 that are not Llama 3's", "export it as hf")
    plain, _ = rope_frequencies(replace(config, rope_scaling=None))
    scaled, _ = rope_frequencies(config)
    return {ROPE_FACTORS: plain / scaled}


def _add(writer: Any, key: str, value: Any) -> None:
    """Add an entry of metadata in the type that llama.cpp expects of a Python value."""
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)


def _vocabulary(file: GgufFile, family: str) -> int:
    """Rows of the embedding, where everything that the file says of its vocabulary agrees on them."""
    rows = int(file.stored[EMBEDDING].shape[-1])
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    said = {
        f"{family}.vocab_size": file.metadata.get(f"{family}.vocab_size", rows),
        "tokenizer.ggml.tokens": rows if tokens is None else len(tokens),
    }
    for key, count in said.items():
        if count != rows:
            raise ModelError(f"{file.path}: {key} says {count} tokens, {EMBEDDING} has {rows} rows", REFETCH)
    return rows


def _refuse_options(file: GgufFile, family: str, head_dim: int, context: int) -> None:
    """Raise `ModelError` for what changes the logits and is not in `from_hugging_face`'s keys."""
    value_dim = _number(file, f"{family}.attention.value_length", head_dim)
    rotated = _number(file, f"{family}.rope.dimension_count", head_dim)
    window = _number(file, f"{family}.attention.sliding_window", context)
    unsupported = {
        f"values of {value_dim} numbers beside keys of {head_dim}": value_dim != head_dim,
        f"a rotation of {rotated} of {head_dim} numbers": rotated != head_dim,
        f"a sliding window of {window} tokens": window < context,
        "experts": file.metadata.get(f"{family}.expert_count"),
    }
    for option, asked in unsupported.items():
        if asked:
            raise ModelError(f"{file.path} asks for {option}, which steep's decoder does not have", SUPPORTED)


def _rope_scaling(file: GgufFile, family: str, head_dim: int, theta: float) -> dict[str, Any] | None:
    """As a Hugging Face config has it, for `from_hugging_face` to check."""
    if ROPE_FACTORS in file.stored:
        return _llama3_scaling(file, head_dim, theta)
    at = f"{family}.rope.scaling."
    given = {key.removeprefix(at): value for key, value in file.metadata.items() if key.startswith(at)}
    given.pop("finetuned", None)
    kind = given.pop("type", "none")
    if kind == "none":
        return None
    names = {gguf: ours for ours, gguf in SCALING_NAMES.items()}
    return {"rope_type": kind, **{names.get(key, key): value for key, value in given.items()}}


def _llama3_scaling(file: GgufFile, head_dim: int, theta: float) -> dict[str, Any]:
    """Llama 3's settings, if the file's table of factors is the one that follows from them."""
    table = file.tensor(ROPE_FACTORS)
    scaling: dict[str, Any] = {"rope_type": "llama3", "factor": float(table.max()), **LLAMA3}
    if table.shape != (head_dim // 2,):
        raise ModelError(f"{file.path}: {ROPE_FACTORS} has {table.numel()} numbers for heads of {head_dim}", REFETCH)
    plain, _ = rope_frequencies(ModelConfig(head_dim=head_dim, rope_theta=theta))
    scaled, _ = rope_frequencies(ModelConfig(head_dim=head_dim, rope_theta=theta, rope_scaling=scaling))
    if not torch.allclose(plain / scaled, table, rtol=1e-4):
        raise ModelError(f"{file.path}: {ROPE_FACTORS} does not scale rotations as Llama 3 does", SUPPORTED)
    return scaling


def _number(file: GgufFile, key: str, default: Any = None) -> Any:
    """A number of the file. llama.cpp allows some of them to differ from layer to layer; steep does not."""
    value = file.metadata.get(key) or default
    if not isinstance(value, int | float) or value <= 0:
        raise ModelError(f"{file.path}: {key} is {value!r}, not one number above 0", REFETCH)
    return value


def _shortest(value: float) -> float:
    """The shortest decimal that is the same number in fp32, which is how the file has it: 1e-05, not 9.99999975e-06."""
    return float(str(np.float32(value)))


def _reader(path: Path) -> Any:
    """The package's reader of a file, made to stop at the file's end."""
    GGUFReader: Any = _package(path).GGUFReader

    class Reader(GGUFReader):  # type: ignore[misc]
        """Past the end the package goes on with empty arrays: for ever, if a length is damaged."""

        def _get(self, offset: int, dtype: Any, count: int = 1, override_order: str | None = None) -> Any:
            if int(offset) + int(count) * np.dtype(dtype).itemsize > self.data.size:
                raise ValueError("it ends too early")
            return super()._get(offset, dtype, count, override_order)

    return Reader(path)


def _package(path: Path) -> Any:
    try:
        return importlib.import_module("gguf")
    except ImportError:
        raise SteepError(f"{path} needs the gguf package, which is missing", to_install("gguf")) from None
