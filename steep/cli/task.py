"""From what a user calls a task to the task."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from steep.cli.arguments import did_you_mean
from steep.errors import SteepError
from steep.tasks import jsonl, python_file
from steep.tasks.arithmetic import Arithmetic
from steep.tasks.chat import Chat
from steep.tasks.countdown import Countdown
from steep.tasks.gym import Gym
from steep.tasks.letters import Letters
from steep.tasks.published import Aime, Arc, Gsm8k, Math, Published, Svamp
from steep.tasks.stories import Stories
from steep.tasks.verifiers import VERIFIERS
from steep.types import Task

GENERATED: dict[str, Callable[..., Task]] = {
    "countdown": Countdown,
    "arithmetic": Arithmetic,
    "letters": Letters,
    "stories": Stories,
    "chat": Chat,
}
PUBLISHED: dict[str, type[Published]] = {"gsm8k": Gsm8k, "math": Math, "svamp": Svamp, "arc": Arc, "aime": Aime}
GYM = "gym:"
ENDINGS = (".jsonl", ".jsonl.gz", ".py")
DEFAULT_VERIFIER = "exact"


def find_task(name: str, only_levels: Sequence[int] | None = None, verifier: str | None = None) -> Task:
    """A task by its name, gym:NAME, its file, or a class in a Python file as FILE.py:CLASS; of all or some levels."""
    levels = None if only_levels is None else tuple(only_levels)
    if verifier is not None and verifier not in VERIFIERS:
        raise SteepError(f"there is no verifier {verifier!r}", did_you_mean(verifier, list(VERIFIERS)))
    if name.endswith(ENDINGS):
        return task_in(Path(name), levels, verifier or DEFAULT_VERIFIER)
    if verifier is not None:
        raise SteepError(f"the task {name} has a verifier of its own", f"--verifier is for files: {', '.join(ENDINGS)}")
    if name.startswith(GYM):
        return Gym(dataset=name.removeprefix(GYM), levels=levels or ())
    file, colon, class_name = name.rpartition(":")
    if colon:
        return made(name, class_in(Path(file), class_name), levels)
    if name in GENERATED:
        return made(name, GENERATED[name], levels)
    if name in PUBLISHED:
        return PUBLISHED[name](only_levels=levels)
    known = [*GENERATED, *PUBLISHED, f"{GYM}NAME", *(f"FILE{ending}" for ending in ENDINGS), "FILE.py:CLASS"]
    raise SteepError(f"there is no task {name!r}", did_you_mean(name, known))


def task_in(file: Path, only_levels: tuple[int, ...] | None, verifier: str) -> Task:
    """The task in a file, which is named in full, for whoever reads the settings elsewhere."""
    if not file.is_file():
        raise SteepError(f"there is no file {file}", "name a file of problems")
    task_of = python_file.task_of if file.suffix == ".py" else jsonl.task_of
    return task_of(file.absolute(), verifier, only_levels)


def class_in(file: Path, name: str) -> Any:
    module = python_file.load(file)
    if not hasattr(module, name):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise SteepError(f"there is no {name} in {file}", did_you_mean(name, classes))
    return getattr(module, name)


def made(name: str, kind: Callable[..., Task], levels: tuple[int, ...] | None) -> Task:
    try:
        return kind() if levels is None else kind(levels=levels)
    except TypeError as error:
        fix = "its fields need defaults, and one is `levels`"
        raise SteepError(f"the task {name} cannot be made: {error}", fix) from error
