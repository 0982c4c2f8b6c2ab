"""One stage of a run on disk: its logs, rollouts, checkpoints and result.

runs/nano/rl/metrics.jsonl     a line a step, equal bit for bit between a resumed run and an uninterrupted one
             timing.jsonl      a line a step, of what depends on the clock
             rollouts/step-000010.parquet
             checkpoints/step-000010/
             model/            the final model, written by whoever made it
             best/             that of the checkpoint with the best score, where the stage measures one
             done.json         the summary; there when the stage is finished
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from steep.errors import FullDiskError
from steep.runs import checkpoint
from steep.runs.checkpoint import Checkpoint
from steep.runs.files import Log, T, full_disk_explained, read_json, when_room, write_atomic, write_json
from steep.runs.stopping import Stopping

Metrics = Mapping[str, float | int | str]
Track = Callable[[str, int, Metrics], None]
"""Is told the name of a stage, a step, and what was recorded of it."""

AS_JSON = {b"steep": b"json"}
"""Marks a parquet column whose values are JSON text."""


class Stage:
    """Reads a stage, and writes it for the one process that runs it.

    A training loop owns the step numbers: step k is recorded as k, and a checkpoint of step k is taken before it.

        checkpoint = stage.resume()
        for step in range(checkpoint.step if checkpoint else 0, num_steps):
            if due(step, checkpoint_every):
                stage.save_checkpoint(step, state, weights)
            stage.record(step, {"reward": 0.5}, timing={"tokens/s": 5100.0})
        stage.finish({"reward": 0.5})
    """

    def __init__(self, path: Path, track: Track | None = None) -> None:
        self.path = path
        self.stopping = Stopping()
        """For the loop to enter. Asked to stop, nothing waits for room on a full disk any more."""
        self._track = track
        self._metrics = Log(path / "metrics.jsonl")
        self._timing = Log(path / "timing.jsonl")
        self._next_step = 0 if self._metrics.size == 0 else None
        self._elapsed_s = 0.0
        """Time that earlier processes spent on the steps that are recorded."""
        self._started = time.monotonic()
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._writing: tuple[Callable[[], Path], Future[Path]] | None = None
        """What writes a checkpoint, and its first attempt."""

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def best(self) -> Path:
        return self.path / "best"

    def record(self, step: int, metrics: Metrics, timing: Mapping[str, float] | None = None) -> None:
        """Append one line about a step, the most telling metrics first: listings show those.

        What depends on the clock (seconds, tokens/s) belongs into `timing`.
        """
        assert self._next_step is not None, f"{self.path} has steps already: call resume() first"
        assert step >= self._next_step, f"step {step} is recorded already"
        if self._writing is not None and self._writing[1].done():
            self.wait()
        elapsed_s = self._elapsed_s + time.monotonic() - self._started
        timing = {"elapsed_s": round(elapsed_s, 3), **(timing or {})}
        self.append("metrics", {"step": step, **metrics})
        self.append("timing", {"step": step, **timing})
        self._next_step = step + 1
        if self._track is not None:
            self._track(self.name, step, {**metrics, **timing})

    def metrics(self) -> list[dict[str, Any]]:
        """The recorded lines, each with its `step`."""
        return self._metrics.rows()

    def timing(self) -> list[dict[str, Any]]:
        """Lines with `step`, `elapsed_s` (time spent on the stage so far, pauses left out) and what was given."""
        return self._timing.rows()

    @property
    def last_metrics(self) -> dict[str, Any] | None:
        return self._metrics.last()

    @property
    def last_timing(self) -> dict[str, Any] | None:
        return self._timing.last()

    def log(self, name: str) -> Log:
        """A log of the stage, such as `metrics` or `health`; all are cut back on resume."""
        return Log(self.path / f"{name}.jsonl")

    def append(self, name: str, row: Mapping[str, Any]) -> None:
        """Append a line to a log."""
        self.when_room(lambda: self.log(name).append(row))

    def when_room(self, write: Callable[[], T]) -> T:
        """What `write` gives. While the disk is full it waits; Ctrl-C ends that."""
        return when_room(write, self.stopping.sleep)

    def save_rollouts(self, step: int, rows: Sequence[Mapping[str, Any]]) -> Path:
        """Write what was sampled in a step. Values are scalars, strings, arrays or lists of one type, or mappings.

        Mappings are stored as JSON text, because the keys of problems differ from task to task.
        """
        columns, fields = [], []
        for name in dict.fromkeys(name for row in rows for name in row):
            values = [row.get(name) for row in rows]
            as_json = any(issubclass(kind, Mapping) for kind in set(map(type, values)))
            column = pa.array([json.dumps(value) for value in values] if as_json else values)
            columns.append(column)
            fields.append(pa.field(name, column.type, metadata=AS_JSON if as_json else None))
        return self._write_table(step, pa.Table.from_arrays(columns, schema=pa.schema(fields)))

    def add_column(self, step: int, name: str, values: Sequence[float]) -> Path:
        """Write a further figure of each row that was sampled in a step, in the order of the rows."""
        return self._write_table(step, self.rollout_table(step).append_column(name, pa.array(values)))

    def _write_table(self, step: int, table: pa.Table) -> Path:
        path, buffer = self.rollout_path(step), pa.BufferOutputStream()
        pq.write_table(table, buffer, compression="zstd")
        data = buffer.getvalue().to_pybytes()

        def write() -> Path:
            with full_disk_explained(path, len(data)):
                path.parent.mkdir(exist_ok=True)
            write_atomic(path, data)
            return path

        return self.when_room(write)

    def rollout_steps(self) -> list[int]:
        return sorted(int(path.stem.removeprefix("step-")) for path in (self.path / "rollouts").glob("step-*.parquet"))

    def rollouts(
        self, steps: Iterable[int] | None = None, columns: Sequence[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Saved rows with their `step`, of some steps or all; arrays come back as lists.

        `columns` are the ones to read (None: all): a row is mostly its token ids.
        """
        for step in self.rollout_steps() if steps is None else steps:
            table = self.rollout_table(step, columns)
            decoded = [field.name for field in table.schema if field.metadata == AS_JSON]
            for row in table.to_pylist():
                yield {"step": step, **row, **{name: json.loads(row[name]) for name in decoded}}

    def rollout_table(self, step: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of one step as they are on disk; columns that it does not have are left out."""
        # The handle is ours, so that reading a step does not start pyarrow's own file system threads.
        with open(self.rollout_path(step), "rb") as file:
            return pq.ParquetFile(file).read(None if columns is None else list(columns), use_threads=False)

    def rollout_path(self, step: int) -> Path:
        return self.path / "rollouts" / f"step-{step:06d}.parquet"

    def save_checkpoint(
        self, step: int, state: Mapping[str, Any], weights: Mapping[str, Tensor], score: float | None = None
    ) -> None:
        """Save what is needed to run `step` and all after it, and how long the logs are now.

        A thread writes a copy. `wait`, `finish` and the next save wait for it, and raise what went wrong; the next
        record does so too, once the thread has ended.
        """
        assert self._next_step is not None, f"{self.path} has steps already: call resume() first"
        assert self._next_step <= step, f"a checkpoint of step {step} comes before that step is recorded"
        self.wait()
        logs = self._logs()
        saved = {"logs": {log.path.name: log.size for log in logs}, "state": _copied(dict(state))}
        copied = _copied(dict(weights))

        def write() -> Path:
            for log in logs:
                log.sync()  # their names are synced by save()
            return checkpoint.save(self.checkpoints, step, saved, copied, score)

        self._writing = write, self._writer.submit(write)

    def wait(self) -> None:
        """Until the checkpoint that is being written is on the disk."""
        if self._writing is not None:
            (write, first), self._writing = self._writing, None
            try:
                first.result()
            except FullDiskError:
                self.when_room(write)

    def resume(self, report: Callable[[str], None] = checkpoint.log.warning) -> Checkpoint | None:
        """The newest whole checkpoint, or None; everything recorded after it was taken is dropped.

        The checkpoints that were passed over are told to `report`. Raises a CheckpointError if none is whole.
        """
        assert not self.finished, f"{self.path} is finished"
        self.wait()
        loaded = checkpoint.load_latest(self.checkpoints, report)
        first_step = loaded.step if loaded else 0
        sizes = loaded.state["logs"] if loaded else {}
        for log in self._logs():
            log.truncate(sizes.get(log.path.name, 0))
        for name, size in sizes.items():
            if Log(self.path / name).size < size:
                report(
                    f"{self.path / name} was longer when step {first_step} was saved: earlier steps are missing in it"
                )
        for step in self.rollout_steps():
            if step >= first_step:
                self.rollout_path(step).unlink()
        self._next_step = first_step
        self._elapsed_s = (self._timing.last() or {}).get("elapsed_s", 0.0)
        self._started = time.monotonic()
        return replace(loaded, state=loaded.state["state"]) if loaded else None

    def _logs(self) -> list[Log]:
        return [Log(path) for path in sorted(self.path.glob("*.jsonl"))]

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Mark the stage as done; the figures in `summary` are what reports quote."""
        self.wait()
        for log in self._logs():
            self.when_room(log.sync)
        done = {"finished": datetime.now(UTC).isoformat(timespec="seconds"), **summary}
        self.when_room(lambda: write_json(self.path / "done.json", done))

    @property
    def finished(self) -> bool:
        return (self.path / "done.json").exists()

    @property
    def summary(self) -> dict[str, Any] | None:
        """What `finish` was given, with the time under `finished`; None before."""
        return dict(read_json(self.path / "done.json")) if self.finished else None


def _copied(value: Any) -> Any:
    """A copy that later steps do not change. `deepcopy` alone would build each tensor's storage anew, which takes four
    times as long as all else.
    """
    if isinstance(value, Tensor):
        return value.detach().clone()
    if type(value) is dict:
        return {key: _copied(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_copied, value))
    return deepcopy(value)
