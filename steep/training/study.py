"""A study: runs that belong together (seeds, control arms), and what is claimed over all of them.

    runs/claims/run.json       the study itself, as any run has one
                claims.json    when every arm is finished
                0/main/        an arm: an ordinary run directory
                0/main.log     what it printed

Each arm is a process of its own. One that fails stops none but those that wait for it.
"""

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path, PurePosixPath
from signal import SIGINT
from types import TracebackType
from typing import Self

from rich.console import Console

from steep.config import blamed_on, to_json
from steep.engines import find_device
from steep.errors import ConfigError, SteepError
from steep.runs import (
    PARENT,
    Claim,
    Progress,
    Run,
    Stage,
    Stopping,
    TrainingLeft,
    duration,
    machine,
    number,
    read_json,
    recorded,
    show,
    steps,
    when_room,
    write_evidence,
)
from steep.training.recipe import Recipe

STUDY = "{study}"
"""Stands for the study's directory in an arm's `Recipe.start`."""
CLAIMS = "claims.json"
POLL_S = 0.3

Command = Callable[[str], Sequence[str]]
"""From the name of an arm to the command line that begins it, or goes on with it."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One run of a study."""

    recipe: Recipe
    """Its `start` may be a model of an arm that it comes after: "{study}/0/main/sft"."""
    after: tuple[str, ...] = ()
    """Arms that must be finished before this one begins."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Everything that the runs need."""

    arms: Mapping[str, Arm]
    """By name, such as "0/main": the arm's directory within that of the study. They begin in this order."""
    workers: int | None = 2
    """Arms that run at once. None: as many as the processor has cores for their threads, one where a GPU is used."""
    claims: Callable[[Mapping[str, Run]], list[Claim]] | None = None
    """Reads the finished runs, by the names of their arms, and says which figures meet their bars."""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"{self.workers} workers carry out nothing", "take 1 or more")
        for name, arm in self.arms.items():
            check(name, arm, self.arms)
        try:
            self.order().prepare()
        except CycleError as error:
            raise ConfigError(f"arms wait for each other: {', '.join(error.args[1])}", "break the circle") from None

    def order(self) -> "TopologicalSorter[str]":
        return TopologicalSorter({name: arm.after for name, arm in self.arms.items()})


def check(name: str, arm: Arm, arms: Mapping[str, Arm]) -> None:
    """Raise a ConfigError if an arm's name is no directory of its own, or if it needs what it does not wait for."""
    path = PurePosixPath(name)
    if path.is_absolute() or str(path) != name or any(part.startswith(".") for part in path.parts):
        raise ConfigError(f"{name!r} cannot be the name of an arm", 'name it like a directory: "main" or "0/main"')
    if any(str(parent) in arms for parent in path.parents):
        raise ConfigError(f"the arm {name} lies within another arm", "give one of the two another name")
    for other in arm.after:
        if other not in arms:
            raise ConfigError(f"the arm {name} waits for {other}, which is no arm", f"there are: {', '.join(arms)}")
    start = PurePosixPath(arm.recipe.start or "")
    if start.is_relative_to(STUDY) and not any(start.is_relative_to(f"{STUDY}/{other}") for other in arm.after):
        raise ConfigError(f"the arm {name} starts from {start} without waiting for it", "name that arm in `after`")


def within(study: Path, recipe: Recipe) -> Recipe:
    """The recipe of an arm, started from the model in the study's directory that it names."""
    return recipe if recipe.start is None else replace(recipe, start=recipe.start.replace(STUDY, str(study)))


def run_study(run: Run, study: Study, command: Command, console: Console) -> None:
    """Carry out the arms that are not finished, then write the claims.

    A SteepError tells which arms failed and why; a KeyboardInterrupt, that it was stopped.
    """
    carry_out_arms(run.path, study, command, console)
    runs = {name: Run.open(run.path / name) for name in study.arms}
    with blamed_on(Path(run.info.recipe)):
        claims = study.claims(runs) if study.claims else []
    spent_s = sum(map(seconds, runs.values()))
    when_room(lambda: write_evidence(run.path / CLAIMS, claims, spent_s))


def carry_out_arms(path: Path, study: Study, command: Command, console: Console) -> None:
    with Progress(len(study.arms), path.name, console=console, rated=False) as progress, Stopping() as stopping:
        with Crew(path, study, command, progress.note) as crew:
            while crew.advance() and not stopping.asked:
                progress.update(len(crew.finished), crew.told(), crew.standing())
                time.sleep(POLL_S)
        progress.update(len(crew.finished))
    if stopping.asked:
        raise KeyboardInterrupt
    left = crew.left()
    if left:
        told = "".join(f"\n  {name}: {why}" for name, why in left.items())
        raise SteepError(
            f"{len(left)} of {len(study.arms)} arms are not finished{told}",
            f"what they printed is in {path}/ARM.log; go on with `steep resume {path}`",
        )


@dataclass
class Worker:
    """An arm under way."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    log_start: int
    """Bytes that earlier processes of the arm wrote to the log."""

    def last_words(self) -> str:
        """Why it failed: its error message, or else the last line that it printed."""
        lines = self.log.read_bytes()[self.log_start :].decode(errors="replace").splitlines()
        told = [line.removeprefix("steep: ") for line in lines if line.startswith("steep: ")]
        return (told or [line for line in lines if line.strip()] or [f"exit code {self.process.returncode}"])[-1]


class Crew:
    """The arms under way, never more than `workers`. Whoever is left on leaving is stopped, and saves what it has."""

    def __init__(self, path: Path, study: Study, command: Command, note: Callable[[str], None]) -> None:
        self._path, self._study, self._command, self._note = path, study, command, note
        self._order = study.order()
        self._order.prepare()
        self._ready: list[str] = []
        self._workers: list[Worker] = []
        self._places = workers(study)
        self._left = TrainingLeft((path / name, to_json(arm.recipe)) for name, arm in study.arms.items())
        self.finished: list[str] = []
        self.failed: dict[str, str] = {}
        """Each with the reason."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._workers:
            self._note(f"stopping {', '.join(worker.name for worker in self._workers)}")
        try:
            self._stop()
        except KeyboardInterrupt:  # a second Ctrl-C is for the arms too
            self._stop()
            raise

    def advance(self) -> bool:
        """See who has ended, and begin what can begin; whether anything is under way then."""
        for worker in [worker for worker in self._workers if worker.process.poll() is not None]:
            self._workers.remove(worker)
            if worker.process.returncode == 0:
                self._finish(worker.name)
            else:
                self.failed[worker.name] = worker.last_words()
                self._note(f"{worker.name}: failed: {self.failed[worker.name]}")
        self._take_ready()
        while self._ready and len(self._workers) < self._places:
            name = self._ready.pop(0)
            if is_finished(self._path / name):
                self._finish(name)
            else:
                self._begin(name)
            self._take_ready()
        return bool(self._workers)

    def _take_ready(self) -> None:
        """Take in what waits for nothing any more; of these, arms that are declared first begin first."""
        declared = list(self._study.arms)
        self._ready = sorted([*self._ready, *self._order.get_ready()], key=declared.index)

    def told(self) -> dict[str, int | str]:
        """Figures of the study as a whole."""
        figures: dict[str, int | str] = {"failed": len(self.failed)} if self.failed else {}
        left_s = self._left.seconds()
        if left_s is not None:
            figures["training left"] = f"about {duration(left_s / self._places)}"
        return figures

    def standing(self) -> list[str]:
        """A line for each arm under way."""
        return [f"{w.name}: {standing(self._path / w.name)}" for w in self._workers]

    def left(self) -> dict[str, str]:
        """The arms that are not finished, each with the reason."""
        unfinished = {name: arm for name, arm in self._study.arms.items() if name not in self.finished}
        return {
            name: self.failed.get(name) or f"waits for {', '.join(other for other in arm.after if other in unfinished)}"
            for name, arm in unfinished.items()
        }

    def _begin(self, name: str) -> None:
        log = self._path / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as file:
            start = file.tell()
            process = subprocess.Popen(
                self._command(name),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, PARENT: str(os.getpid())},
                process_group=0,  # Ctrl-C on the terminal reaches the study alone, which hands it on once
            )
        self._workers.append(Worker(name, process, log, start))
        self._note(f"{name}: begun")

    def _finish(self, name: str) -> None:
        self._order.done(name)
        self.finished.append(name)
        self._note(f"{name}: finished")

    def _stop(self) -> None:
        for worker in self._workers:
            worker.process.send_signal(SIGINT)
        for worker in self._workers:
            worker.process.wait()


def is_finished(path: Path) -> bool:
    return (path / "run.json").is_file() and Run.open(path).status == "finished"


def workers(study: Study) -> int:
    """How many arms run at once."""
    if study.workers is not None:
        return study.workers
    recipes = [arm.recipe for arm in study.arms.values()]
    if any(find_device(recipe.device).type != "cpu" for recipe in recipes):
        return 1
    cores: int = machine()["cores"]
    return max(cores // max(recipe.threads or cores for recipe in recipes), 1)


def standing(path: Path) -> str:
    """How far an arm is: "rl 12/24, reward 0.41, 3 min 20 s left in rl"."""
    run = Run.open(path) if (path / "run.json").is_file() else None
    if run is None or run.info.stage is None:
        return "starts"
    name = run.info.stage
    stage, total = Stage(path / name), steps(run.info.config, name)
    last, (done, seconds) = stage.last_metrics, recorded(stage)
    if total is None or last is None or not done:
        return name
    metric = next((f"{key} {number(value)}, " for key, value in last.items() if key != "step"), "")
    return f"{name} {done}/{total}, {metric}{duration(seconds / done * (total - done))} left in {name}"


def seconds(run: Run) -> float:
    """Time spent on training and measuring, pauses left out."""
    measured = run.path / "eval" / CLAIMS
    return show(run).summary.elapsed_s + (read_json(measured)["seconds"] if measured.is_file() else 0.0)
