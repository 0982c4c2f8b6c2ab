"""Models on disk, as Hugging Face directories: `config.json`, `generation_config.json` and safetensors.

The decoder holds q, k, v and gate, up as one matrix each; on disk they are apart. `disk_tensors` gives views of the
parameters in the layout of the disk, and everything here goes through it: saving writes the views, loading fills them.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from steep.errors import ModelError
from steep.models.families import from_hugging_face, to_hugging_face
from steep.models.transformer import Layer, ModelConfig, Transformer, rope_table

CONFIG, GENERATION = "config.json", "generation_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
STORED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
REFETCH = "the file is damaged or not fully copied: get it again from where the model comes from"


def save(
    model: Transformer,
    directory: Path,
    *,
    eos_token_ids: Sequence[int],
    pad_token_id: int | None,
    bos: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write `model` so that `load`, transformers and vLLM read it; `dtype` is that of the numbers on disk.

    Each file is written under a temporary name, fsynced and renamed, the weights last. The generation config says what
    RL samples from: temperature 1 and no truncation. Raises `ModelError` if a token id is outside the vocabulary, or
    if the model's flags fit no family, before anything is written.
    """
    for token in (*eos_token_ids, *(i for i in (pad_token_id, bos) if i is not None)):
        if not 0 <= token < model.config.vocab_size:
            raise ModelError(
                f"token id {token} is outside the vocabulary of {model.config.vocab_size}",
                "the tokenizer is not the one that this model was made for",
            )
    eos = eos_token_ids[0] if len(eos_token_ids) == 1 else list(eos_token_ids) or None
    tokens = {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad_token_id}
    config = {**to_hugging_face(model.config), **tokens, "dtype": _name(dtype)}
    generation = {
        "do_sample": True,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        **{key: value for key, value in tokens.items() if value is not None},
    }
    tensors = {name: tensor.to("cpu", dtype).contiguous() for name, tensor in disk_tensors(model).items()}
    directory.mkdir(parents=True, exist_ok=True)
    _write_json(directory / CONFIG, config)
    _write_json(directory / GENERATION, generation)
    write_whole(directory / WEIGHTS, lambda temporary: save_file(tensors, temporary, metadata={"format": "pt"}))


def load(directory: Path) -> Transformer:
    """The model in a Hugging Face directory, on the CPU in fp32, whatever precision it is stored in.

    Raises `ModelError` if the directory has no weights, its files cannot be read, a tensor is missing, of another shape
    or not known to the model, or a tied head differs from the embedding. The random state of torch is not touched.
    """
    config = load_config(directory)
    model = unfilled(config)
    wanted = disk_tensors(model)
    extra = {HEAD: torch.empty_like(wanted[EMBEDDING])} if config.tied_embeddings else {}  # some files hold it anyway
    found = set()
    for name, tensor, path in _stored(directory, lambda file, name: file.get_tensor(name)):
        if name.endswith(".rotary_emb.inv_freq"):
            continue  # old Llama files hold this table; it follows from the config
        target = wanted.get(name, extra.get(name))
        if target is None:
            raise mismatch(path, f"tensor {name} is not part of a {config.family} model of this config")
        if tensor.shape != target.shape:
            raise mismatch(path, f"tensor {name} is {list(tensor.shape)}, the config makes it {list(target.shape)}")
        if tensor.dtype not in STORED_DTYPES:
            raise mismatch(path, f"tensor {name} is {_name(tensor.dtype)}, not {', '.join(map(_name, STORED_DTYPES))}")
        target.copy_(tensor)
        found.add(name)
    source = directory / (WEIGHTS if (directory / WEIGHTS).is_file() else INDEX)
    if missing := sorted(wanted.keys() - found):
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise mismatch(source, f"tensor {missing[0]} is missing{more}")
    if HEAD in found & extra.keys() and not torch.equal(extra[HEAD], wanted[EMBEDDING]):
        raise mismatch(source, f"tensor {HEAD} is not {EMBEDDING}, though the config says tie_word_embeddings")
    return model


def unfilled(config: ModelConfig) -> Transformer:
    """A model on the CPU whose parameters hold whatever was in memory: every one of them is to be overwritten."""
    with torch.device("meta"):  # no random numbers for values that do not stay
        model = Transformer(config)
    for module in model.modules():  # `to_empty` would load all of torch.fx for it, half a second
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(torch.empty(parameter.shape)))
    model.cos, model.sin = rope_table(config)
    return model


def load_config(directory: Path) -> ModelConfig:
    """The config of the model in a Hugging Face directory. Raises `ModelError` if it has none that can be used."""
    path = directory / CONFIG
    if not path.is_file():
        raise ModelError(f"{directory} has no {CONFIG}", "a model directory holds config.json and safetensors weights")
    return from_hugging_face(_read_json(path), str(path))


def disk_tensors(model: Transformer) -> dict[str, Tensor]:
    """The parameters under their names and shapes on disk: views without gradient, so writing to one writes the model.

    A tied head is left out: it is the embedding.
    """
    config = model.config
    query, key_value = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    tensors = {EMBEDDING: model.embedding.weight, "model.norm.weight": model.norm.weight}
    if model.head is not None:
        tensors[HEAD] = model.head.weight
    for layer in model.layers:
        assert isinstance(layer, Layer)
        at = f"model.layers.{layer.index}"
        tensors[f"{at}.input_layernorm.weight"] = layer.attention_norm.weight
        tensors[f"{at}.post_attention_layernorm.weight"] = layer.mlp_norm.weight
        if layer.q_norm is not None and layer.k_norm is not None:
            tensors[f"{at}.self_attn.q_norm.weight"] = layer.q_norm.weight
            tensors[f"{at}.self_attn.k_norm.weight"] = layer.k_norm.weight
        tensors |= _split(layer.qkv, f"{at}.self_attn", {"q_proj": query, "k_proj": key_value, "v_proj": key_value})
        tensors |= _split(layer.out, f"{at}.self_attn", {"o_proj": config.hidden_size})
        tensors |= _split(layer.gate_up, f"{at}.mlp", dict.fromkeys(("gate_proj", "up_proj"), config.intermediate_size))
        tensors |= _split(layer.down, f"{at}.mlp", {"down_proj": config.hidden_size})
    return {name: tensor.detach() for name, tensor in tensors.items()}


def digest(weights: Mapping[str, Tensor]) -> str:
    """sha256, in hex, over names, shapes and fp32 little-endian values, in the order of names.

    A contiguous fp32 tensor on the CPU is hashed where it lies; others are copied, one at a time.
    """
    sha = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach()
        values = tensor.to("cpu", torch.float32).reshape(-1).numpy()
        sha.update(json.dumps([name, list(tensor.shape)]).encode())
        sha.update(values.astype("<f4", copy=False).data)
    return sha.hexdigest()


def _split(linear: nn.Linear, at: str, rows: Mapping[str, int]) -> dict[str, Tensor]:
    """The projections that a fused linear layer holds one below another, by their names on disk."""
    parts = {"weight": linear.weight, **({} if linear.bias is None else {"bias": linear.bias})}
    return {
        f"{at}.{name}.{part}": piece
        for part, fused in parts.items()
        for name, piece in zip(rows, torch.split(fused, list(rows.values())), strict=True)
    }


def stored_types(directory: Path) -> Iterator[tuple[str, str, Path]]:
    """Name, type of number (`BF16`) and file of everything stored. The files are opened, their tensors not read."""
    return _stored(directory, lambda file, name: file.get_slice(name).get_dtype())


def _stored(directory: Path, read: Callable[[Any, str], Any]) -> Iterator[tuple[str, Any, Path]]:
    """Name, what is read of it, and file of everything stored, as it is asked for."""
    for path, names in _stored_files(directory).items():
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys() if names is None else names:
                    yield name, read(file, name), path
        except FileNotFoundError:
            raise ModelError(f"{path} is missing, though {INDEX} lists it", REFETCH) from None
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path} cannot be read: {error}", REFETCH) from error


def _stored_files(directory: Path) -> dict[Path, list[str] | None]:
    """The safetensors files of a model with the tensors to take from each; None: all of them."""
    if (directory / WEIGHTS).is_file():
        return {directory / WEIGHTS: None}
    index = directory / INDEX
    if not index.is_file():
        raise ModelError(
            f"{directory} has no weights: neither {WEIGHTS} nor {INDEX} is there",
            "copy them beside config.json; .bin weights become safetensors when transformers loads and saves them",
        )
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index} has no weight_map", REFETCH)
    files: dict[Path, list[str] | None] = {}
    for name, file in sorted(weight_map.items()):
        names = files.setdefault(directory / str(file), [])
        assert names is not None
        names.append(name)
    return files


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}", REFETCH) from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} is not a JSON object", REFETCH)
    return value


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` make a file under a temporary name, and rename it to `path` when it is safe on disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)  # safetensors makes its files private
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_whole(path, lambda temporary: temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8"))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def mismatch(path: Path, problem: str) -> ModelError:
    return ModelError(f"{path}: {problem}", "config.json and the weights must come from the same, unquantized model")
