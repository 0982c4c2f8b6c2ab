"""Configs are frozen keyword-only dataclasses; a recipe is a Python file whose `config()` returns one.

This module loads a recipe, lays `--field.name value` overrides over it, and writes the resolved tree as JSON.
"""

import contextlib
import dataclasses
import difflib
import importlib.util
import json
import math
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from steep.errors import ConfigError, SteepError

T = TypeVar("T")


def load_recipe(path: Path) -> Any:
    """The config that the recipe file at `path` returns."""
    if not path.is_file():
        near = sorted(str(p) for p in Path("recipes").glob("*.py"))
        raise ConfigError(f"there is no recipe at {path}", f"recipes here: {', '.join(near) or 'none'}")
    spec = importlib.util.spec_from_file_location(f"steep_recipe_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    with blamed_on(path):
        spec.loader.exec_module(module)
    if not hasattr(module, "config"):
        raise ConfigError(f"{path} has no config()", "a recipe is a file with `def config() -> Recipe`")
    with blamed_on(path):
        return module.config()


@contextlib.contextmanager
def blamed_on(path: Path) -> Iterator[None]:
    """Whatever a recipe raises is the user's to mend: say what it was and in which line of the recipe."""
    try:
        yield
    except SteepError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename) == path.absolute()]
        where = f"{path}, line {lines[-1]}" if lines else str(path)
        raise ConfigError(f"{where}: {type(error).__name__}: {error}", "mend the recipe") from error


def within(config: Any, low: float, *names: str, high: float = math.inf) -> None:
    """A ConfigError says which of these fields is not between the two, both included; a field that is None may be."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not low <= value <= high:
            wanted = f"{low:g} or more" if high == math.inf else f"a number from {low:g} to {high:g}"
            raise ConfigError(f"{type(config).__name__}: {name} is {value}", f"choose {wanted}")


def override(config: T, arguments: Sequence[str]) -> T:
    """`config` with overrides such as `--rl.policy.optimizer.lr 3e-4` laid over it.

    A part of a tuple is named by its number (`--tasks.0.weight 2`), a tuple of plain values is written with commas
    (`--eval.budgets 0,64,256`), and `none` is None. An unknown field or a value of another type is a ConfigError.
    """
    pairs = [word for argument in arguments for word in argument.split("=", 1 if argument.startswith("--") else 0)]
    if len(pairs) % 2 or not all(name.startswith("--") for name in pairs[::2]):
        raise ConfigError(f"overrides come in pairs, not {' '.join(arguments)!r}", "write --field.name value")
    for name, value in zip(pairs[::2], pairs[1::2], strict=True):
        path = name.removeprefix("--").replace("-", "_")
        config = _replaced(config, path.split("."), value, path)
    return config


def _replaced(node: Any, path: Sequence[str], value: str, whole: str) -> Any:
    """`node` with the field at `path` below it set to what `value` says."""
    name, *below = path
    if isinstance(node, tuple):
        if not name.isdigit() or int(name) >= len(node):
            raise ConfigError(f"--{whole}: {name} is not one of the {len(node)} parts", "they are counted from 0")
        at = int(name)
        if not below:
            raise ConfigError(f"--{whole} is not a single value", "name a field of it")
        return (*node[:at], _replaced(node[at], below, value, whole), *node[at + 1 :])
    if node is None:
        raise ConfigError(f"--{whole}: what {name!r} would be a field of is None in the recipe", "set it in the recipe")
    names = [f.name for f in dataclasses.fields(node)] if dataclasses.is_dataclass(node) else []
    if name not in names:
        near = difflib.get_close_matches(name, names, 3)
        hint = (
            f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(names) or 'no fields below it'}"
        )
        raise ConfigError(f"--{whole}: there is no field {name!r} in {type(node).__name__}", hint)
    if below:
        new = _replaced(getattr(node, name), below, value, whole)
    else:
        new = _parsed(get_type_hints(type(node))[name], value, whole)
    try:
        return dataclasses.replace(node, **{name: new})
    except ValueError as error:
        raise ConfigError(f"--{whole} {value}: {error}") from None


def _parsed(kind: Any, text: str, whole: str) -> Any:
    """`text` as a value of the annotated type."""
    import pydantic

    if text.lower() == "none" and type(None) in get_args(kind):
        return None
    try:
        adapter = pydantic.TypeAdapter(kind)
    except pydantic.PydanticUserError:  # a part of the config that is an object
        raise ConfigError(f"--{whole} is not a single value", "name a field of it") from None
    try:
        return adapter.validate_python(text)
    except pydantic.ValidationError as error:
        wrong = error.errors()[0]["msg"]
        if any(get_origin(one) is tuple for one in (kind, *get_args(kind))):
            try:
                return adapter.validate_python(tuple(part.strip() for part in text.split(",") if part.strip()))
            except pydantic.ValidationError as in_tuple:
                wrong = in_tuple.errors()[0]["msg"]
        raise ConfigError(f"--{whole} {text}: {wrong}") from None


def to_json(config: Any) -> Any:
    """A config as JSON values; a dataclass carries the name of its class under `_`."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        fields = {f.name: to_json(getattr(config, f.name)) for f in dataclasses.fields(config)}
        return {"_": type(config).__qualname__, **fields}
    if isinstance(config, dict):
        return {str(k): to_json(v) for k, v in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_json(v) for v in config]
    if config is None or isinstance(config, (str, int, float, bool)):
        return config
    if hasattr(config, "__qualname__"):
        return f"{config.__module__}.{config.__qualname__}"
    text = str(config)
    if hex(id(config)) in text or callable(config):  # an address, which is another one in every process
        return f"{type(config).__module__}.{type(config).__qualname__}"
    return text


def dump(config: Any) -> str:
    return json.dumps(to_json(config), indent=2) + "\n"
