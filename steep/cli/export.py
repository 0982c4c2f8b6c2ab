"""`steep export`: write a model for other programs."""

import argparse
from pathlib import Path

import torch

from steep.cli.outcome import Outcome, Output
from steep.engines import LoadedModel, load_model, save_model, save_model_gguf
from steep.errors import SteepError

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
"""What a Hugging Face directory can hold; GGUF has q8_0 too."""


def run(args: argparse.Namespace) -> Outcome:
    loaded = load_model(args.model)
    written = (to_gguf if args.to == "gguf" else to_hugging_face)(loaded, args.directory, args.precision)
    Output().say(f"{loaded.name} is written to {written}")
    return Outcome(value={"model": loaded.name, "path": written})


def to_hugging_face(loaded: LoadedModel, directory: Path, precision: str) -> Path:
    if precision not in DTYPES:
        raise SteepError(
            f"a Hugging Face directory holds no {precision} weights",
            f"choose --precision {', '.join(DTYPES)}, or --to gguf",
        )
    refuse_to_replace(directory / "config.json")
    save_model(directory, loaded.model, loaded.template, DTYPES[precision])
    return directory


def to_gguf(loaded: LoadedModel, directory: Path, precision: str) -> Path:
    stored = precision.upper()
    file = directory / f"{loaded.name.replace('/', '-')}-{stored}.gguf"
    refuse_to_replace(file)
    save_model_gguf(file, loaded.model, loaded.template, stored)
    return file


def refuse_to_replace(file: Path) -> None:
    if file.exists():
        raise SteepError(f"{file} is there already", "choose another directory")
