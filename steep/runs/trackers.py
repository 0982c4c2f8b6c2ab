"""Trackers: where else a run's metrics go. The run directory has them always, a tracker is a further place.

A tracker that fails is told of once and left out from then on: it never stops a run. One that is opened again for a
resumed run goes on where it was; steps after the checkpoint are then recorded a second time.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import TracebackType
from typing import Any, Protocol, Self
from uuid import uuid4

from steep.errors import ConfigError, SteepError, to_install
from steep.runs.files import write_atomic
from steep.runs.run import Run, flat
from steep.runs.stage import Metrics

PROJECT = "steep"
"""Where WANDB_PROJECT or TRACKIO_PROJECT name no other."""
WAIT_S = 30.0
"""For a server that does not answer: once at the beginning of a run and once at its end."""

log = logging.getLogger(__name__)


class Tracker(Protocol):
    """Made for a run that is begun or gone on with."""

    def log(self, stage: str, step: int, metrics: Metrics) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """Event files in the directories of the stages: `tensorboard --logdir runs` shows each stage as a run."""

    def __init__(self, run: Run) -> None:
        self._path = run.path
        self._writer_class = import_module("torch.utils.tensorboard").SummaryWriter
        self._writers: dict[str, Any] = {}

    def log(self, stage: str, step: int, metrics: Metrics) -> None:
        if stage not in self._writers:  # what an earlier process wrote of this step and later ones is hidden
            self._writers[stage] = self._writer_class(self._path / stage, purge_step=step)
        for name, value in metrics.items():
            if not isinstance(value, str):
                self._writers[stage].add_scalar(name, value, step)
        self._writers[stage].flush()

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


class WandB:
    """A run of Weights & Biases; WANDB_MODE=offline keeps it in the run directory for `wandb sync`."""

    def __init__(self, run: Run) -> None:
        wandb = import_module("wandb")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=identity(run),
            name=title(run),
            dir=run.path,
            config=config(run),
            resume="allow",
            settings=wandb.Settings(console="off", init_timeout=WAIT_S, finish_timeout=WAIT_S),
        )
        self._stage: str | None = None

    def log(self, stage: str, step: int, metrics: Metrics) -> None:
        if stage != self._stage:  # wandb's own step never goes back, those of the stages begin at 0
            self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
            self._stage = stage
        self._run.log({f"{stage}/{name}": value for name, value in {"step": step, **metrics}.items()})

    def close(self) -> None:
        self._run.finish()


class Trackio:
    """A run of trackio, on this machine or where TRACKIO_SPACE_ID says."""

    def __init__(self, run: Run) -> None:
        self._run = import_module("trackio").init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=f"{title(run)} {identity(run)}",  # it finds the run that it goes on with by this
            config=config(run),
            resume="allow",
            embed=False,
        )

    def log(self, stage: str, step: int, metrics: Metrics) -> None:
        self._run.log({f"{stage}/{name}": value for name, value in metrics.items()}, step=step)

    def close(self) -> None:
        self._run.finish()


TRACKERS: dict[str, Callable[[Run], Tracker]] = {"tensorboard": TensorBoard, "wandb": WandB, "trackio": Trackio}
"""By the name of the package, which is that of the extra too."""


class Trackers:
    """While entered, whatever the run's stages record goes to the trackers as well."""

    def __init__(self, run: Run, names: Sequence[str]) -> None:
        for name in names:
            if find_spec(name) is None:
                raise SteepError(
                    f"the tracker {name} is not installed",
                    f"{to_install(name)}, then `steep resume {run.path}`",
                )
        self._run, self._names = run, names
        self._open: dict[str, Tracker] = {}

    def __enter__(self) -> Self:
        for name in self._names:
            with self._forgiven(name):
                self._open[name] = TRACKERS[name](self._run)
        self._run.track = self._log
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run.track = None
        for name, tracker in list(self._open.items()):
            with self._forgiven(name):
                tracker.close()

    def _log(self, stage: str, step: int, metrics: Metrics) -> None:
        for name, tracker in list(self._open.items()):
            with self._forgiven(name):
                tracker.log(stage, step, metrics)

    @contextmanager
    def _forgiven(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever a library or its server may raise
            self._open.pop(name, None)
            log.warning("%s failed, and the run goes on without it: %s: %s", name, type(error).__name__, error)


def check_trackers(names: Sequence[str]) -> None:
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"there is no tracker {name!r}", f"choose one of {', '.join(TRACKERS)}")


def identity(run: Run) -> str:
    """A name that no other run has, kept in the run directory."""
    path = run.path / "tracked"
    if not path.exists():
        write_atomic(path, uuid4().hex[:12].encode())
    return path.read_text()


def title(run: Run) -> str:
    """The run's name, below that of its study: "nano", "claims/0/main"."""
    path = run.path.resolve()
    studies = [parent for parent in path.parents if (parent / "run.json").is_file()]
    return path.relative_to((studies or [path])[-1].parent).as_posix()


def config(run: Run) -> dict[str, Any]:
    """All fields by their path, as `steep runs compare` names them."""
    return {key: value for key, value in flat(run.info.config).items() if key}
