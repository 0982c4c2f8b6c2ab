"""A run: the directory that holds all that is known about it.

runs/nano/run.json      where it came from and how it stands
          pretrain/     one directory a stage, see stage.py
          rl/
"""

import errno
import fcntl
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import psutil

from steep.config import to_json
from steep.errors import ConfigError, FullDiskError, PausedError, SteepError
from steep.runs import environment
from steep.runs.files import fsync, full_disk_explained, plain, read_json, when_room, write_json
from steep.runs.progress import duration
from steep.runs.stage import Stage, Track

RunStatus = Literal["running", "finished", "stopped", "failed", "interrupted"]

LOCK = ".lock"
SILENT_S = 3600.0
"""A run of another host that wrote nothing for so long is taken for interrupted."""
SAME_START_S = 5.0
"""How far two readings of a process's start may differ; a later process with the same id started further apart."""


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """The content of run.json."""

    recipe: str
    overrides: tuple[str, ...]
    config: Any
    """The resolved tree, as JSON values."""
    seed: int | None
    """None for a study, whose arms have their own."""
    versions: dict[str, str]
    git: dict[str, Any] | None
    """`commit` and `dirty`; None when steep does not run from a checkout."""
    machine: dict[str, Any]
    created: str
    """UTC, ISO 8601."""
    status: RunStatus
    """As last written by the run itself, never `interrupted`."""
    stage: str | None = None
    """The one that was entered last."""
    stages: tuple[str, ...] = ()
    """All that were entered, in order."""
    pid: int
    pid_started: float
    """Seconds since the epoch; tells the process from a later one with the same id."""
    error: str | None = None
    """Why the run failed."""
    resumed: tuple[dict[str, Any], ...] = ()
    """One entry for each resume: time, versions, git, machine."""
    chosen: tuple[str, ...] | None = None
    """Keys of the config, as `flat` names them, that have another value than their field's default; None in runs that
    an older version began."""


class Run:
    """A run directory. Reading needs `open` only; the process that runs it uses `create` or `resume`, and `with`:

    with Run.create(Path("runs/nano"), recipe="recipes/nano.py", overrides=[], config=config, seed=0) as run:
        stage = run.stage("pretrain")

    which writes down how the run ended: finished, stopped (Ctrl-C, exit) or failed. On a full disk that waits for room,
    unless the run ended early: then it stays what it looks like, interrupted.
    """

    def __init__(self, path: Path, info: RunInfo, *, ours: bool = False) -> None:
        self.path = path
        self.info = info
        self.track: Track | None = None
        """Who is told, besides the logs, what the stages record that are entered from now on."""
        self._lock: int | None = None
        if ours:
            self._claim()

    @classmethod
    def create(cls, path: Path, *, recipe: Path | str, overrides: Sequence[str], config: Any, seed: int | None) -> Self:
        """Begin a run in a directory that is new or empty."""
        if path.exists() and (not path.is_dir() or any(entry.name != LOCK for entry in path.iterdir())):
            resume = f"go on with `steep resume {path}`, or " if (path / "run.json").exists() else ""
            raise SteepError(f"{path} exists already and is not empty", f"{resume}choose another name with --run")
        with full_disk_explained(path):
            path.mkdir(parents=True, exist_ok=True)
            fsync(path.parent)
        tree = plain(to_json(config))
        by_default = set(at_default(config))
        info = RunInfo(
            recipe=str(recipe),
            overrides=tuple(overrides),
            config=tree,
            seed=seed,
            versions=environment.versions(),
            git=environment.git(),
            machine=environment.machine(),
            created=_now(),
            status="running",
            chosen=tuple(key for key in flat(tree) if key not in by_default),
            **_process(),
        )
        run = cls(path, info, ours=True)
        write_json(run._file, asdict(info))
        return run

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read a run; nothing is written."""
        if not (path / "run.json").is_file():
            raise SteepError(f"{path} is not a run: it has no run.json", "`steep runs` lists the runs here")
        content = read_json(path / "run.json")
        names = {field.name for field in fields(RunInfo)}
        if not isinstance(content, dict) or set(content) | {"chosen"} != names:
            raise SteepError(
                f"{path / 'run.json'} was not written by this version of steep", "use the one that made it"
            )
        lists = {name: tuple(content[name]) for name in ("overrides", "stages", "resumed")}
        if content.get("chosen") is not None:
            lists["chosen"] = tuple(content["chosen"])
        return cls(path, RunInfo(**(content | lists)))

    def resume(self, config: Any | None = None, overrides: Sequence[str] = ()) -> Self:
        """Take the run over in this process.

        A SteepError if another process is at it; a ConfigError if `config`, as the recipe gives it now, is not the
        one that the run began with. `overrides` are new, are in `config`, and may change what is under `health`.
        """
        if self.status == "running" and self.info.pid != os.getpid():
            raise SteepError(f"{self.path} is being run by {self.runner}", "stop that one first")
        if config is not None:
            before, now = flat(self.info.config), flat(plain(to_json(config)))
            added = now.keys() - before.keys() & set(at_default(config))  # fields that a newer version has
            changed = [
                key
                for key in before | now
                if key not in added
                and before.get(key, ...) != now.get(key, ...)
                and not (overrides and key.startswith("health."))
            ]
            if changed:
                raise ConfigError(
                    f"{self.info.recipe} is not what {self.path} began with: {', '.join(changed)}",
                    "undo the change, or begin a new run with --run NAME",
                )
        entry: dict[str, Any] = {
            "at": _now(),
            "versions": environment.versions(),
            "git": environment.git(),
            "machine": environment.machine(),
        }
        self._claim()
        if overrides:
            entry["overrides"] = list(overrides)
            self._write(overrides=(*self.info.overrides, *overrides), config=plain(to_json(config)))
        self._write(status="running", error=None, resumed=(*self.info.resumed, entry), **_process())
        return self

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def status(self) -> RunStatus:
        """As written, but `interrupted` where the process that was running it is gone.

        Processes of other hosts cannot be seen from here: theirs are gone if they have been silent for an hour.
        """
        if self.info.status != "running":
            return self.info.status
        alive = _alive(self.info.pid, self.info.pid_started) if self._here else self.silent_s < SILENT_S
        return "running" if alive else "interrupted"

    @property
    def silent_s(self) -> float:
        """How long ago something was recorded, in a study by any of its arms."""
        records = (path for name in ("run.json", "*.jsonl", "rollouts") for path in self.path.rglob(name))
        return max(time.time() - max(path.stat().st_mtime for path in records), 0.0)

    @property
    def runner(self) -> str:
        """The process that is at the run, or was."""
        process = f"process {self.info.pid}"
        return process if self._here else f"{process} on {self.host} (last record {duration(self.silent_s)} ago)"

    @property
    def host(self) -> str:
        """The machine of that process."""
        machine = self.info.resumed[-1]["machine"] if self.info.resumed else self.info.machine
        return str(machine["host"])

    @property
    def _here(self) -> bool:
        return self.host == platform.node()

    def stage(self, name: str) -> Stage:
        """A stage: entered if this process runs the run, otherwise only read."""
        path = self.path / name
        if self._ours:
            when_room(lambda: self._enter(path))
            return Stage(path, self.track)
        if name not in self.info.stages:
            raise SteepError(f"{self.path} has no stage {name}", f"it has: {', '.join(self.info.stages) or 'none yet'}")
        return Stage(path)

    def _enter(self, path: Path) -> None:
        with full_disk_explained(path):
            path.mkdir(exist_ok=True)
        if self.info.stage != path.name:
            self._write(stage=path.name, stages=tuple(dict.fromkeys((*self.info.stages, path.name))))

    def stages(self) -> list[Stage]:
        """All stages that were entered, in order, for reading."""
        return [Stage(self.path / name) for name in self.info.stages]

    def set_status(self, status: Literal["finished", "stopped", "failed"], error: str | None = None) -> None:
        """Write down how the run ended; `error` says why it failed."""
        when_room(lambda: self._write(status=status, error=error))

    def __enter__(self) -> Self:
        assert self._ours, "a run that was opened is taken over with resume()"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.set_status("finished")
        else:
            with suppress(FullDiskError):
                self._write(**_ended(error))
        assert self._lock is not None
        os.close(self._lock)
        self._lock = None

    @property
    def _ours(self) -> bool:
        return self._lock is not None

    def _claim(self) -> None:
        """Be the one process that writes here, though another may have looked at the same moment."""
        with full_disk_explained(self.path):
            lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):  # anything else: a file system without locks
                os.close(lock)
                raise SteepError(f"{self.path} is being run by another process", "stop that one first") from None
        self._lock = lock

    @property
    def _file(self) -> Path:
        return self.path / "run.json"

    def _write(self, **changes: Any) -> None:
        assert self._ours, "a run that was opened is taken over with resume()"
        changed = replace(self.info, **changes)
        write_json(self._file, asdict(changed))
        self.info = changed


def at_default(config: Any, prefix: str = "") -> Iterator[str]:
    """The keys that `flat` gives to fields which have their default, of a config and all configs within it."""
    if isinstance(config, list | tuple):
        for i, item in enumerate(config):
            yield from at_default(item, f"{prefix}.{i}")
    if not is_dataclass(config):
        return
    for field in fields(config):
        path, value = f"{prefix}.{field.name}" if prefix else field.name, getattr(config, field.name)
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if value == default:
            yield from flat(plain(to_json(value)), path)
        else:
            if is_dataclass(value) and type(value) is type(default):
                yield path
            yield from at_default(value, path)


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """A config tree as `{"rl.optimizer.lr": 3e-4, "rl.loss": "CISPO", ...}`: a class stands at the path of its object.

    Lists of scalars stay whole.
    """
    if isinstance(tree, Mapping):
        leaves: dict[str, Any] = {}
        for key, value in tree.items():
            path = prefix if key == "_" else f"{prefix}.{key}" if prefix else key
            leaves |= flat(value, path)
        return leaves
    if isinstance(tree, list) and any(isinstance(item, (Mapping, list)) for item in tree):
        return {key: leaf for i, item in enumerate(tree) for key, leaf in flat(item, f"{prefix}.{i}").items()}
    return {prefix: tree}


def _ended(error: BaseException) -> dict[str, Any]:
    if isinstance(error, PausedError):
        return {"status": "stopped", "error": error.message}
    if isinstance(error, Exception):
        return {"status": "failed", "error": f"{type(error).__name__}: {error}"}
    return {"status": "stopped", "error": None}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _process() -> dict[str, Any]:
    return {"pid": os.getpid(), "pid_started": psutil.Process().create_time()}


def _alive(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - started) < SAME_START_S
    except psutil.AccessDenied:
        return True
    except psutil.NoSuchProcess:
        return False
