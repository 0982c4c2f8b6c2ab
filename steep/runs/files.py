"""Files and logs that survive a power cut: a reader meets the old content or the new, never something between.

Everything that a run directory holds is written through this module, so it also says what JSON looks like in one:
NaN and the infinities, which JSON does not know, are the strings "NaN", "Infinity" and "-Infinity".
"""

import errno
import io
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError

from steep.errors import FullDiskError, SteepError
from steep.runs.progress import amount

log = logging.getLogger(__name__)

T = TypeVar("T")

NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
FULL = (errno.ENOSPC, errno.EDQUOT)
FINGERPRINT_BYTES = 256
TAIL_BYTES = 1 << 16
"""How much of a log's end is read at first to find its last line."""
LOOK_EVERY_S = 2.0
"""How often is looked whether a full disk has room again."""


def when_room(write: Callable[[], T], sleep: Callable[[float], None] = time.sleep) -> T:
    """What `write` gives; while it finds the disk full, wait, and say so once. To end that, `sleep` raises."""
    told = False
    while True:
        try:
            written = write()
        except FullDiskError as full:
            if not told:
                log.warning("%s; going on as soon as there is room, Ctrl-C stops", full.message)
            told = True
            sleep(LOOK_EVERY_S)
            while free(full.path) < full.needed:
                sleep(LOOK_EVERY_S)
        else:
            if told:
                log.warning("there is room again: going on")
            return written


def free(path: Path) -> int:
    """Bytes that may still be written to the disk on which `path` is or will be."""
    return shutil.disk_usage(next(place for place in (path, *path.parents) if place.exists())).free


@contextmanager
def full_disk_explained(path: Path, needed: int = 0) -> Iterator[None]:
    """Turn "no space left" and "over quota" of anything inside into an error that names `path`.

    `needed` is how many bytes are to be written there.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = error.errno if isinstance(error, OSError) else None
        said = isinstance(error, SafetensorError) and any(f"(os error {n})" in str(error) for n in FULL)
        if number not in FULL and not said:
            raise
        told = f"the disk is full: {path} needs {amount(needed)}, and {amount(free(path))} are free"
        raise FullDiskError(told, path, needed) from error


def fsync(path: Path) -> None:
    """Make what is in a file, or the names in a directory, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_durable(path: Path, data: bytes) -> None:
    """Write a file through to the disk. Not atomic: for files in a directory that is renamed as a whole later."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_atomic(path: Path, data: bytes) -> None:
    """Replace the content of `path` as one step: temporary name, fsync, rename."""
    temporary = path.with_name(f".{path.name}.tmp")
    with full_disk_explained(path, len(data)):
        try:
            write_durable(temporary, data)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        fsync(path.parent)


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, (json.dumps(plain(value), indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """The JSON value in a file; a SteepError when there is none."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise SteepError(f"{path} is damaged: {error}", "restore it from a copy, or delete it") from None


def plain(value: Any) -> Any:
    """`value` as strict JSON values: numpy and torch scalars become numbers, numbers that are not finite strings."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    number = value if isinstance(value, float) else value.item()
    if isinstance(number, float) and not math.isfinite(number):
        return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
    return number


def numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as it was before `plain` gave names to the numbers that are not finite."""
    return {k: NOT_FINITE[v] if isinstance(v, str) and v in NOT_FINITE else v for k, v in row.items()}


class Log:
    """An append-only file of JSON lines, one object each.

    A line is whole when its newline is there: readers leave out a last line that is still being written, or was cut
    by a kill.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def size(self) -> int:
        """Bytes."""
        return self.path.stat().st_size if self.path.exists() else 0

    def append(self, row: Mapping[str, Any]) -> None:
        line = (json.dumps(plain(row), allow_nan=False) + "\n").encode()
        before = self.size
        with full_disk_explained(self.path, len(line)):
            try:
                with open(self.path, "ab") as file:
                    file.write(line)
            except OSError:
                with suppress(FileNotFoundError):
                    os.truncate(self.path, before)  # of a part of the line that still had room
                raise

    def rows(self) -> list[dict[str, Any]]:
        return self.parsed(Tail(self.path).read()[0])

    def parsed(self, lines: bytes) -> list[dict[str, Any]]:
        """The rows in some of the log's lines."""
        try:
            return [numbers(json.loads(line)) for line in lines.splitlines()]
        except ValueError as error:
            raise SteepError(f"{self.path} has a damaged line: {error}", "restore it from a copy") from None

    def last(self) -> dict[str, Any] | None:
        """The last whole row, read from the end of the file."""
        size, tail = self.size, TAIL_BYTES
        while size:
            with open(self.path, "rb") as file:
                file.seek(max(size - tail, 0))
                lines = file.read().split(b"\n")[:-1]
            if len(lines) > 1 or (lines and tail >= size):
                try:
                    return numbers(json.loads(lines[-1]))
                except ValueError as error:
                    raise SteepError(
                        f"{self.path} has a damaged last line: {error}", "restore it from a copy"
                    ) from None
            if tail >= size:
                break
            tail *= 8
        return None

    def sync(self) -> None:
        """Wait until everything appended so far is on the disk."""
        if self.path.exists():
            with full_disk_explained(self.path):
                fsync(self.path)

    def truncate(self, size: int) -> None:
        """Cut the log to the whole lines in its first `size` bytes."""
        if not self.path.exists():
            return
        with open(self.path, "r+b") as file:
            file.truncate(file.read(size).rfind(b"\n") + 1)
            os.fsync(file.fileno())


@dataclass(frozen=True)
class Tail:
    """How far a log has been read, to be read on as it grows.

    A log is only ever appended to, or cut back by a resume and then appended to: whether it was cut back is seen by
    whether the last line that is known still stands where it stood.
    """

    path: Path
    end: int = 0
    last: bytes = b""
    """What stands before `end`."""

    def read(self) -> tuple[bytes, bool, "Tail"]:
        """The whole lines since then, whether these are all lines because the log was cut back, and where it goes on.

        A log that is not there has no lines.
        """
        end, last = self.end, self.last
        with open(self.path, "rb") if self.path.exists() else io.BytesIO() as file:
            file.seek(end - len(last))
            anew = file.read(len(last)) != last
            if anew:
                end, last = 0, b""
            file.seek(end)
            new = file.read()
        lines = new[: new.rfind(b"\n") + 1]
        return lines, anew, Tail(self.path, end + len(lines), lines[-FINGERPRINT_BYTES:] or last)
