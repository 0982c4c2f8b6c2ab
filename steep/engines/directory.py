"""A model with its tokenizer and template: read from where a user keeps it, and written as one directory."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from steep.engines.locate import find_model
from steep.errors import ModelError, SteepError, UnknownFamilyError
from steep.models import hugging_face, weights
from steep.models.families import SUPPORTED
from steep.models.gguf import GgufFile, load_gguf, open_gguf, save_gguf
from steep.models.hugging_face import HuggingFaceModel
from steep.models.transformer import LanguageModel, Transformer
from steep.models.vocabulary import with_new_tokens
from steep.models.weights import REFETCH
from steep.runs.files import fsync, full_disk_explained
from steep.tokens import THINK, Template, TemplateConfig, derive, load_template, spare_tokens
from steep.tokens.gguf import from_gguf, to_gguf

CHAT_TEMPLATE, TEMPLATE = "tokenizer.chat_template", "steep.template"
"""Keys of a GGUF file: the model's conversations in Jinja, and as a `TemplateConfig`."""


@dataclass(frozen=True)
class LoadedModel:
    model: LanguageModel
    template: Template
    path: Path
    """A directory or a GGUF file."""
    name: str
    """What reports call it: `nano/rl` for the model of a run's stage, otherwise as its files are called."""


def save_model(directory: Path, model: LanguageModel, template: Template, dtype: torch.dtype = torch.float32) -> None:
    """A Hugging Face directory with steep's template and efforts beside the weights, all of it on the disk at the end.

    A FullDiskError says that there was no room for it.
    """
    ends, pad = sorted(template.end_ids), template.pad_id
    needed = sum(parameter.numel() for parameter in model.parameters()) * dtype.itemsize
    with full_disk_explained(directory, needed):
        template.save(directory)
        if isinstance(model, HuggingFaceModel):
            model.save(directory, eos_token_ids=ends, pad_token_id=pad, dtype=dtype)
        else:
            assert isinstance(model, Transformer)
            weights.save(model, directory, eos_token_ids=ends, pad_token_id=pad, dtype=dtype)
        for path in (*directory.iterdir(), directory):
            fsync(path)


def save_model_gguf(path: Path, model: LanguageModel, template: Template, stored: str = "F32") -> None:
    """A GGUF file with the tokenizer, a chat template for other programs, and steep's template and efforts."""
    if not isinstance(model, Transformer):
        raise ModelError("GGUF files are written of the models that steep computes itself", SUPPORTED)
    tokenizer, config = template.tokenizer, template.config
    metadata = {
        **to_gguf(tokenizer, model.config.vocab_size),
        "tokenizer.ggml.eos_token_id": tokenizer.control(config.end[0]),
        "tokenizer.ggml.padding_token_id": template.pad_id,
        CHAT_TEMPLATE: template.chat_template(),
        TEMPLATE: config.to_json().decode(),
    }
    save_gguf(model, path, metadata, stored)


MORE_ROWS, SOME_ROWS = 1.05, 1024
"""Models have more rows of embeddings than tokens, for round numbers and for tokens to come, but not many more."""


def load_model(name: str | Path) -> LoadedModel:
    """The model that `name` means; see `find_model` for what may be named."""
    found = find_model(name)
    if found.path.is_dir():
        model, template = _load(found.path), load_template(found.path)
    else:
        file = open_gguf(found.path)
        model, template = load_gguf(file), _template_in(file)
    tokens, rows = template.tokenizer.vocab_size, model.config.vocab_size
    if not tokens <= rows <= tokens * MORE_ROWS + SOME_ROWS:
        raise ModelError(
            f"the tokenizer in {found.path} has {tokens} tokens, and its model {rows}",
            "one of the two files is from another model",
        )
    if broken := next((name for name, p in model.named_parameters() if not p.detach().sum().isfinite()), None):
        raise ModelError(f"{found.path}: the weights {broken} hold numbers that are not finite", REFETCH)
    return LoadedModel(model, template, found.path, found.name)


def _load(directory: Path) -> LanguageModel:
    try:
        return weights.load(directory)
    except UnknownFamilyError as unknown:
        return hugging_face.load(directory, unknown)


def _template_in(file: GgufFile) -> Template:
    """The template in a GGUF file: steep's own, or that which the tokenizer speaks."""
    tokenizer = from_gguf(file.metadata, str(file.path))
    own = file.metadata.get(TEMPLATE)
    if own is not None:
        return Template(tokenizer, TemplateConfig.from_json(own, f"{TEMPLATE} in {file.path}"))
    return Template(tokenizer, derive(tokenizer, file.metadata.get(CHAT_TEMPLATE), str(file.path)))


def with_thought(loaded: LoadedModel, seed: int) -> LoadedModel:
    """The model with a thought section: its own, or one that it has yet to learn to use.

    The tokens that open and close a new one are two that the tokenizer keeps in reserve, else `<think>` and `</think>`,
    added to tokenizer and model.
    """
    template = loaded.template
    if template.think_close_id is not None:
        return loaded
    opening, close = spare_tokens(template.tokenizer) or THINK
    tokenizer = template.tokenizer.extended([opening, close])
    model = with_new_tokens(loaded.model, [tokenizer.control(opening), tokenizer.control(close)], seed)
    config = replace(template.config, think_open=opening, think_close=close)
    return replace(loaded, model=model, template=Template(tokenizer, config))


def find_device(name: str) -> torch.device:
    """The device that `name` means; `auto` is the GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        raise SteepError(f"there is no device {name!r} here", "choose auto, cpu or a GPU that is there") from error
