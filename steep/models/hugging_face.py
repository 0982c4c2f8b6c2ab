"""Models of other families: transformers computes their layers, and asks our `Attend` for what mixes tokens.

So packing, caches, budgets and updates are the same code as for a `Transformer`, in plain torch. transformers lets its
attention be replaced by a function of ours (vLLM's fallback works so too). What passes such a function by, a state that
goes from token to token, say, or scores that are capped, would go wrong in silence: so a model is taken only if it
gives two packed sequences the logits that transformers itself gives each of them.
"""

import importlib
import logging
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from steep.errors import ModelError, UnknownFamilyError, to_install
from steep.models import kernels
from steep.models.attention import PackedAttention, packed_positions
from steep.models.transformer import Attend, LanguageModel, Shape
from steep.models.weights import mismatch, stored_types

log = logging.getLogger(__name__)

NAME = "steep"
"""Of our attention, among those of transformers."""
TRIED_LENGTHS = (9, 14)
TOLERANCE = 1e-4
"""How far a logit may be off, as a share of the largest."""
RESCALED = ("dynamic", "longrope")
"""Kinds of RoPE whose angles depend on the length of the sequence."""
STORED = ("F64", "F32", "F16", "BF16", "BOOL", "U8", "I64")
"""Types of what a file may hold: numbers, masks and positions."""


class HuggingFaceModel(LanguageModel):
    """A causal language model of transformers, whose attention is ours."""

    inner: Any

    def __init__(self, inner: Any, shape: Shape) -> None:
        super().__init__()
        self.inner = inner
        self.config = shape

    @property
    def device(self) -> torch.device:
        return self.token_rows()[0].device

    def forward(self, ids_N: Tensor, positions_N: Tensor, attend: Attend) -> Tensor:
        ids, positions = ids_N[None], positions_N[None]
        output = self.inner.base_model(input_ids=ids, position_ids=positions, use_cache=False, attend=attend)
        x_ND: Tensor = output.last_hidden_state[0]
        return x_ND

    def logits(self, x_ND: Tensor) -> Tensor:
        head = self.inner.get_output_embeddings()
        logits_NV = kernels.head(x_ND, head.weight)
        return logits_NV if head.bias is None else logits_NV + head.bias.float()

    def token_rows(self) -> list[Tensor]:
        embedding, head = self.inner.get_input_embeddings().weight, self.inner.get_output_embeddings().weight
        return [embedding] if embedding is head else [embedding, head]

    def grown(self, size: int) -> Self:
        """With `size` tokens, in place; the new rows are yet to be filled."""
        self.inner.resize_token_embeddings(size, mean_resizing=False)
        self.config = replace(self.config, vocab_size=size)
        return self

    def save(self, directory: Path, *, eos_token_ids: list[int], pad_token_id: int, dtype: torch.dtype) -> None:
        """Write a directory that `load` and transformers read."""
        inner = self.inner if dtype == torch.float32 else deepcopy(self.inner).to(dtype)
        tokens = {"eos_token_id": eos_token_ids, "pad_token_id": pad_token_id}
        inner.config.update(tokens)
        inner.generation_config.update(**tokens, do_sample=True, temperature=1.0, top_p=1.0, top_k=0)
        inner.save_pretrained(directory)


def load(directory: Path, unknown: UnknownFamilyError) -> HuggingFaceModel:
    """The model in a Hugging Face directory, in fp32, where `unknown` says why steep does not compute it by itself."""
    try:
        transformers = importlib.import_module("transformers")
    except ImportError:
        fix = f"{to_install('transformers')}, which computes it more slowly; {unknown.fix}"
        raise ModelError(unknown.message, fix) from None
    transformers.AttentionInterface.register(NAME, attention)
    transformers.logging.disable_progress_bar()
    own = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = transformers.AutoConfig.from_pretrained(directory, **own)
        check_types(directory)
        inner, report = transformers.AutoModelForCausalLM.from_pretrained(
            directory,
            **own,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # so that they are in the report
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{unknown.message}, and transformers cannot load it: {reason}", unknown.fix) from error
    if lost := sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}):
        raise mismatch(directory, f"the weights lack {lost[0]}, or it has another shape")
    model = adopt(inner.eval(), unknown)
    log.warning(
        "%s: a %s model is computed by transformers: slower than the families that steep computes itself, and without "
        "LoRA and GGUF",
        *(directory, inner.config.model_type),
    )
    return model


def check_types(directory: Path) -> None:
    """Raise for quantized numbers, which transformers would read as if they were not."""
    for name, kind, path in stored_types(directory):
        if kind not in STORED:
            raise mismatch(path, f"tensor {name} is {kind}, not one of {', '.join(STORED)}")


def adopt(inner: Any, unknown: UnknownFamilyError) -> HuggingFaceModel:
    """The model with our attention in it. A ModelError if that changes what it computes."""
    config = inner.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if positions is None or rope.get("rope_type") in RESCALED:
        raise _refused(unknown, "its positions are not those of the tokens alone")
    ids_N = torch.arange(sum(TRIED_LENGTHS)) * 7 % inner.get_input_embeddings().num_embeddings
    probe = Probe()
    with torch.no_grad():
        alone = [inner(input_ids=ids[None], use_cache=False).logits[0] for ids in ids_N.split(TRIED_LENGTHS)]
        inner.set_attn_implementation(NAME)
        model = HuggingFaceModel(inner, Shape())
        try:
            logits_NV = model.logits(model(ids_N, packed_positions(TRIED_LENGTHS), probe))
        except (TypeError, ValueError) as error:  # ours, or that it cannot be called so
            raise _refused(unknown, str(error)) from error
    if not probe.is_uniform:
        raise _refused(unknown, "its layers do not all attend, or not all alike")
    expected_NV = torch.cat(alone)
    if (logits_NV - expected_NV).abs().max() > TOLERANCE * expected_NV.abs().max():
        raise _refused(unknown, "its logits are others with attention alone between the tokens")
    _, kv_heads, head_dim = probe.keys[0]
    model.config = Shape(
        vocab_size=len(model.token_rows()[0]),
        hidden_size=model.token_rows()[0].shape[1],
        num_layers=len(probe.keys),
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        max_positions=positions,
    )
    return model


class Probe(PackedAttention):
    """`Attend` over the sequences to try, which notes the keys and values that it is given."""

    def __init__(self) -> None:
        super().__init__(TRIED_LENGTHS)
        self.keys: list[tuple[int, ...]] = []
        self.values: list[tuple[int, ...]] = []
        self.layers: list[int] = []

    def __call__(self, layer: int, q_NHE: Tensor, k_NKE: Tensor, v_NKE: Tensor) -> Tensor:
        self.layers.append(layer)
        self.keys.append(tuple(k_NKE.shape))
        self.values.append(tuple(v_NKE.shape))
        return super().__call__(layer, q_NHE, k_NKE, v_NKE)

    @property
    def is_uniform(self) -> bool:
        """Whether layers 0, 1, ... were asked for once each, with keys and values of one shape."""
        return self.layers == list(range(len(self.layers))) and len({*self.keys, *self.values}) == 1


def attention(
    module: Any,
    q_1HNE: Tensor,
    k_1KNE: Tensor,
    v_1KNE: Tensor,
    attention_mask: None,
    *,
    attend: Attend | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in each layer of a model; `attend` is what the model was called with."""
    if attend is None:
        raise ValueError("its layers do not hand on what the model is called with")
    if sliding_window is not None:
        raise ValueError("its attention has a sliding window")
    q_NHE, k_NKE, v_NKE = (x[0].transpose(0, 1) for x in (q_1HNE, k_1KNE, v_1KNE))
    usual = q_NHE.shape[-1] ** -0.5
    if scaling not in (None, usual):
        q_NHE = q_NHE * (scaling / usual)
    return attend(module.layer_idx, q_NHE, k_NKE, v_NKE)[None], None


def _refused(unknown: UnknownFamilyError, reason: str) -> ModelError:
    return ModelError(f"{unknown.message}, and transformers cannot stand in: {reason}", unknown.fix)
