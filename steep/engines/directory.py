"""A model with its tokenizer and template as one directory, and the ways in which a user may name it."""

from dataclasses import dataclass
from pathlib import Path

import torch

from steep.errors import ModelError, SteepError
from steep.models import weights
from steep.models.transformer import Transformer
from steep.tokens import Template

STAGES = ("rl", "sft", "pretrain")  # of a run, the last that is finished is meant


@dataclass(frozen=True)
class LoadedModel:
    model: Transformer
    template: Template
    path: Path


def save_model(directory: Path, model: Transformer, template: Template) -> None:
    """A Hugging Face directory with steep's template and efforts beside the weights."""
    template.save(directory)
    weights.save(model, directory, eos_token_ids=sorted(template.end_ids), pad_token_id=template.pad_id)


def load_model(name: str | Path) -> LoadedModel:
    """The model that `name` means: a run directory, a stage of one, or a Hugging Face directory."""
    directory = find_model(Path(name))
    model = weights.load(directory)
    template = Template.load(directory)
    if template.tokenizer.vocab_size > model.config.vocab_size:
        raise ModelError(
            f"the tokenizer in {directory} has {template.tokenizer.vocab_size} tokens, its model only "
            f"{model.config.vocab_size}",
            "one of the two files is from another model",
        )
    return LoadedModel(model, template, directory)


def find_device(name: str) -> torch.device:
    """The device that `name` means; `auto` is the GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        raise SteepError(f"there is no device {name!r} here", "choose auto, cpu or a GPU that is there") from error


def find_model(path: Path) -> Path:
    candidates = [path, path / "model", *(path / stage / "model" for stage in STAGES)]
    for candidate in candidates:
        if (candidate / "config.json").is_file():
            return candidate
    if not path.exists():
        raise ModelError(f"there is no model at {path}", "name a run (runs/nano), a stage of one, or a model directory")
    raise ModelError(
        f"{path} holds no model yet: no config.json in it or in {', '.join(f'{s}/model' for s in STAGES)}",
        "a run has a model when its first stage is finished; see `steep runs show`",
    )
