"""Checkpoints that are whole or not there, whatever kills the process, fills the disk or flips a bit.

    checkpoints/step-000200/     state.json  state.safetensors  weights.safetensors  manifest.json
    checkpoints/step-000210.tmp  being written, or left by a kill: nobody reads it, the next save removes it

A checkpoint of step k is what is needed to run step k: it is taken when steps 0 .. k - 1 are done. The manifest lists
size and sha256 of every file, has the score where one was measured, and ends with the sum of itself. A directory gets
its name last, after everything in it has been synced, and only then are older ones deleted: all but the newest few and
the best. Loading recomputes every sum.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from steep.errors import CheckpointError
from steep.runs.codec import decode, encode
from steep.runs.files import fsync, full_disk_explained, write_durable

log = logging.getLogger(__name__)

FORMAT = 1
MANIFEST = "manifest.json"
TEMPORARY = ".tmp"
NAME = re.compile(r"step-(\d{6,})(?:-(\d+))?")
"""Step, and a number that tells a second checkpoint of the same step from the first."""


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """A checkpoint that was not loaded, and why."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path} is damaged and was passed over: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What was given to `save`, with all tensors on the CPU."""

    step: int
    """The first step that is not done yet."""
    path: Path
    state: dict[str, Any]
    weights: dict[str, Tensor]
    score: float | None = None
    """On held-out problems; None where none was measured."""
    rejected: tuple[Rejection, ...] = ()
    """Newer checkpoints that were found damaged."""


def save(
    directory: Path,
    step: int,
    state: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    score: float | None = None,
    keep: int = 2,
) -> Path:
    """Write a checkpoint of `step`, and delete all but the `keep` newest and the one whose `score` is highest.

    Checkpoints of later steps belong to a course that was given up (a rollback), and are deleted too. When the disk is
    full a FullDiskError says so, what was there stays, and nothing half-written is left. Returns its directory.
    """
    assert keep >= 1, keep
    structure, tensors = encode(dict(state))
    needed = sum(tensor.nbytes for tensor in (*tensors.values(), *weights.values()))
    with full_disk_explained(directory, needed):
        directory.mkdir(parents=True, exist_ok=True)
        fsync(directory.parent)
        for leftover in directory.glob(f"*{TEMPORARY}"):
            shutil.rmtree(leftover)
        path = directory / _free_name(directory, step)
        temporary = path.with_name(path.name + TEMPORARY)
        try:
            temporary.mkdir()
            _write(temporary, {"step": step, "score": score}, structure, tensors, weights)
            os.rename(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        fsync(directory)
        _prune(directory, path, keep)
    return path


def load_latest(directory: Path, report: Callable[[str], None] = log.warning) -> Checkpoint | None:
    """The newest whole checkpoint; None where none was ever made.

    Each damaged one that is newer is told to `report` (by default a logged warning). A CheckpointError when there are
    checkpoints and none is whole.
    """
    rejected: list[Rejection] = []
    checkpoint = _first_whole(reversed(_checkpoints(directory)), rejected, report)
    if checkpoint is None and rejected:
        reasons = "; ".join(f"{r.path.name}: {r.reason}" for r in rejected)
        raise CheckpointError(
            f"no checkpoint in {directory} is whole ({reasons})",
            f"restore one from a copy, or delete {directory} to begin the stage again",
        )
    return checkpoint


def load_best(directory: Path, report: Callable[[str], None] = log.warning) -> Checkpoint | None:
    """The whole checkpoint with the highest score, of equals the newest; None where there is none with a score."""
    return _first_whole(_by_score(_whole(_checkpoints(directory), report)), [], report)


def steps(directory: Path) -> list[int]:
    """Steps of the checkpoints in a directory, in order, not verified."""
    return sorted({_order(path)[0] for path in _checkpoints(directory)})


class _DamagedError(Exception):
    """Why a checkpoint is not whole."""


def _first_whole(paths: Iterable[Path], rejected: list[Rejection], report: Callable[[str], None]) -> Checkpoint | None:
    """The first that can be loaded; those before it are told to `report` and put into `rejected`."""
    for path in paths:
        try:
            checkpoint = _load(path, tuple(rejected))
        except (_DamagedError, OSError) as error:
            rejected.append(Rejection(path=path, reason=str(error)))
            report(str(rejected[-1]))
            continue
        if rejected:
            report(f"using {path} instead")
        return checkpoint
    return None


def _whole(paths: Iterable[Path], report: Callable[[str], None]) -> dict[Path, dict[str, Any]]:
    """The manifests of those that look whole: sizes are compared, sums are not. Others are told to `report`."""
    manifests = {}
    for path in paths:
        try:
            manifests[path] = _read_manifest(path)
        except _DamagedError as error:
            report(str(Rejection(path=path, reason=str(error))))
    return manifests


def _by_score(manifests: Mapping[Path, Mapping[str, Any]]) -> list[Path]:
    """Those that have a score, best first, of equals the newest."""
    scored = [path for path, manifest in manifests.items() if manifest.get("score") is not None]
    return sorted(scored, key=lambda path: (manifests[path]["score"], _order(path)), reverse=True)


def _order(path: Path) -> tuple[int, int]:
    match = NAME.fullmatch(path.name)
    assert match is not None, path
    return int(match[1]), int(match[2] or 1)


def _checkpoints(directory: Path) -> list[Path]:
    """Oldest first."""
    if not directory.is_dir():
        return []
    return sorted((path for path in directory.iterdir() if NAME.fullmatch(path.name)), key=_order)


def _free_name(directory: Path, step: int) -> str:
    """A name that sorts after all checkpoints of the same step, so that no rename ever replaces a whole one."""
    taken = [_order(path)[1] for path in _checkpoints(directory) if _order(path)[0] == step]
    return f"step-{step:06d}" + (f"-{max(taken) + 1}" if taken else "")


def _write(
    directory: Path,
    about: Mapping[str, Any],
    structure: Any,
    tensors: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
) -> None:
    """Write all files, `about` the checkpoint into the manifest."""
    document = {"state": structure, "weights": list(weights)}
    write_durable(directory / "state.json", json.dumps(document, allow_nan=False).encode())
    mode = (directory / "state.json").stat().st_mode
    for name, content in (("state.safetensors", tensors), ("weights.safetensors", weights)):
        save_file(_storable(content), directory / name)
        os.chmod(directory / name, mode)  # safetensors leaves files that only their owner can read
    files = {}
    for path in sorted(directory.iterdir()):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            files[path.name] = {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    write_durable(directory / MANIFEST, _render({"format": FORMAT, **about, "files": files}))
    fsync(directory)


def _storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, contiguous, each with memory of its own, as safetensors wants them."""
    storable, seen = {}, set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        if tensor.untyped_storage().data_ptr() in seen:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        storable[name] = tensor
    return storable


def _render(manifest: Mapping[str, Any]) -> bytes:
    """The one way to write a manifest, so that any change of its bytes shows."""
    digest = hashlib.sha256(json.dumps(manifest).encode()).hexdigest()
    return (json.dumps({**manifest, "sha256": digest}, indent=2) + "\n").encode()


def _read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint whose files are all there with the right sizes."""
    try:
        raw = (path / MANIFEST).read_bytes()
        manifest = json.loads(raw)
        del manifest["sha256"]
        whole = _render(manifest) == raw
    except OSError as error:
        raise _DamagedError(f"{MANIFEST}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError):
        whole = False
    if not whole:
        raise _DamagedError(f"{MANIFEST} does not match its own sum")
    if manifest["format"] != FORMAT:
        raise _DamagedError(f"it has format {manifest['format']}, and this version of steep reads {FORMAT}")
    if manifest["step"] != _order(path)[0]:
        raise _DamagedError(f"{MANIFEST} is that of step {manifest['step']}")
    for name, expected in manifest["files"].items():
        if not (path / name).is_file():
            raise _DamagedError(f"{name} is missing")
        size = (path / name).stat().st_size
        if size != expected["size"]:
            raise _DamagedError(f"{name} has {size} bytes instead of {expected['size']}")
    return dict(manifest)


def _load(path: Path, rejected: tuple[Rejection, ...]) -> Checkpoint:
    manifest = _read_manifest(path)
    for name, expected in manifest["files"].items():
        with open(path / name, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected["sha256"]:
                raise _DamagedError(f"{name} does not match its sum")
    document = json.loads((path / "state.json").read_bytes())
    weights = load_file(path / "weights.safetensors")
    return Checkpoint(
        step=manifest["step"],
        path=path,
        state=decode(document["state"], load_file(path / "state.safetensors")),
        weights={name: weights[name] for name in document["weights"]},
        score=manifest.get("score"),
        rejected=rejected,
    )


def _prune(directory: Path, newest: Path, keep: int) -> None:
    """Delete what comes after `newest`, and all before it but the best and the `keep` newest that look whole.

    One that was cut short does not count as kept, and stays as long as an older one does.
    """
    found = [path for path in reversed(_checkpoints(directory)) if _order(path) <= _order(newest)]
    manifests = _whole(found, log.warning)
    whole = list(manifests)[:keep]
    recent = found if len(whole) < keep else found[: found.index(whole[-1]) + 1]
    kept = {*recent, *_by_score(manifests)[:1]}
    for path in _checkpoints(directory):
        if path not in kept:
            discarded = path.with_name(path.name + TEMPORARY)
            os.rename(path, discarded)  # so that a kill while deleting does not leave a damaged checkpoint
            shutil.rmtree(discarded)
