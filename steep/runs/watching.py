"""A run as it goes on, for a display: every look reads only what was written since the last.

A study is followed through its arms, each a run.
"""

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from steep.runs.files import Log, Tail
from steep.runs.remaining import TrainingLeft, steps
from steep.runs.run import Run
from steep.runs.stage import Stage

READABLE = ("task", "level", "prompt", "thought", "answer", "verdict", "reason", "budget", "thought_tokens")
"""Columns of a rollout for people."""
PACE_STEPS = 20
"""The last steps, from which the pace of a stage is told."""


class Rows:
    """The rows of a log as it grows. One that was cut back, by a resumed run, is read again."""

    def __init__(self, log: Log) -> None:
        self.rows: list[dict[str, Any]] = []
        self._log, self._tail = log, Tail(log.path)

    def look(self) -> None:
        lines, anew, tail = self._tail.read()
        rows = self._log.parsed(lines)
        if anew:
            self.rows = []
        self.rows += rows
        self._tail = tail


class StageWatch:
    """The stage that a run is in."""

    def __init__(self, stage: Stage, total: int | None) -> None:
        self.name, self.total = stage.name, total
        self._stage = stage
        self._logs = {name: Rows(stage.log(name)) for name in ("metrics", "timing", "health")}
        self._rollouts_changed = 0
        self.rollouts: list[dict[str, Any]] = []
        """Those of the newest step that has some."""

    def look(self) -> None:
        for log in self._logs.values():
            log.look()
        with suppress(FileNotFoundError):  # no rollouts yet, or a resumed run has just removed these
            changed = (self._stage.path / "rollouts").stat().st_mtime_ns
            if changed != self._rollouts_changed:
                newest = self._stage.rollout_steps()[-1:]
                self.rollouts = list(self._stage.rollouts(newest, READABLE))
                self._rollouts_changed = changed

    @property
    def metrics(self) -> list[dict[str, Any]]:
        return self._logs["metrics"].rows

    @property
    def health(self) -> list[dict[str, Any]]:
        return self._logs["health"].rows

    @property
    def done(self) -> int:
        """Steps."""
        return int(self.metrics[-1]["step"]) + 1 if self.metrics else 0

    @property
    def silent_s(self) -> float:
        """How long ago something was recorded."""
        path = self._stage.path
        return time.time() - max(file.stat().st_mtime for file in (path, *path.glob("*.jsonl")))

    @property
    def tokens_per_s(self) -> float | None:
        timing = self._logs["timing"].rows
        return timing[-1].get("tokens/s") if timing else None

    @property
    def step_s(self) -> float | None:
        """Seconds that each of the last steps took."""
        timing = self._logs["timing"].rows[-PACE_STEPS - 1 :]
        if not timing:
            return None
        first = {"step": -1, "elapsed_s": 0.0} if len(timing) <= PACE_STEPS else timing[0]
        return float((timing[-1]["elapsed_s"] - first["elapsed_s"]) / (timing[-1]["step"] - first["step"]))

    @property
    def left_s(self) -> float | None:
        """Seconds until the stage is finished."""
        return None if self.total is None or self.step_s is None else (self.total - self.done) * self.step_s


class RunWatch:
    """A run, or a study with its arms."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = Run.open(path)
        self.stage: StageWatch | None = None
        """The one that was entered last."""
        self.trained: StageWatch | None = None
        """The last that trains, whose curves there are to see: of a run that is being evaluated, the one before."""
        self.arms: dict[str, RunWatch] = {}
        """Those of a study that have begun."""
        self._stages: dict[str, StageWatch] = {}
        self._changed = 0
        self._left = TrainingLeft((path / name, recipe) for name, recipe in self.recipes.items())

    @property
    def recipes(self) -> Mapping[str, Any]:
        """The configs of a study's recipes, by arm; none for another run."""
        config = self.run.info.config
        arms = config.get("arms", {}) if isinstance(config, Mapping) else {}
        return {name: arm["recipe"] for name, arm in arms.items()}

    def look(self) -> None:
        changed = (self.path / "run.json").stat().st_mtime_ns
        if changed != self._changed:
            self.run, self._changed = Run.open(self.path), changed
        for name in self.run.info.stages:
            if name not in self._stages:
                self._stages[name] = StageWatch(Stage(self.path / name), steps(self.run.info.config, name))
                self.trained = self._stages[name] if self._stages[name].total else self.trained
        if self.run.info.stage is not None:
            self.stage = self._stages[self.run.info.stage]
            self.stage.look()
        if self.trained is not None:
            self.trained.look()
        for arm in self.recipes:
            if arm not in self.arms and (self.path / arm / "run.json").is_file():
                self.arms[arm] = RunWatch(self.path / arm)
        for watch in self.arms.values():
            watch.look()

    @property
    def left_s(self) -> float | None:
        """Seconds of training that are left in a study whose arms all go on as fast as those that have begun."""
        left_s = self._left.seconds()
        under_way = sum(arm.run.status == "running" for arm in self.arms.values())
        return None if left_s is None else left_s / max(under_way, 1)
