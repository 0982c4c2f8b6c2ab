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
from typing import Any, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

from steep.errors import ConfigError, SteepError

T = TypeVar("T")
Changes: TypeAlias = dict[str, "str | Changes"]
"""New values of fields, as they were typed, and of fields below them."""


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
    changes: Changes = {}
    for name, value in zip(pairs[::2], pairs[1::2], strict=True):
        path = name.removeprefix("--").replace("-", "_")
        *above, last = path.split(".")
        below = changes
        for part in above:
            found = below.setdefault(part, {})
            if isinstance(found, str):
                raise ConfigError(f"--{path}: {part!r} is already set to {found}", "leave one of the two away")
            below = found
        below[last] = value
    replaced: T = _replaced(config, changes, "--")
    return replaced


def _replaced(node: Any, changes: Changes, where: str) -> Any:
    """`node` with all changes below it made at once, so that fields which must agree can be changed together."""
    if isinstance(node, tuple):
        parts = list(node)
        for name, change in changes.items():
            if not name.isdigit() or int(name) >= len(node):
                raise ConfigError(
                    f"{where}{name}: {name} is not one of the {len(node)} parts", "they are counted from 0"
                )
            if isinstance(change, str):
                raise ConfigError(f"{where}{name} is not a single value", "name a field of it")
            parts[int(name)] = _replaced(node[int(name)], change, f"{where}{name}.")
        return tuple(parts)
    names = [f.name for f in dataclasses.fields(node)] if dataclasses.is_dataclass(node) else []
    new = {}
    for name, change in changes.items():
        at = f"{where}{name}"
        if node is None:
            raise ConfigError(f"{at}: what {name!r} would be a field of is None in the recipe", "set it in the recipe")
        if name not in names:
            near = difflib.get_close_matches(name, names, 3)
            there = f"there are: {', '.join(names) or 'no fields below it'}"
            hint = f"did you mean {' or '.join(near)}?" if near else there
            raise ConfigError(f"{at}: there is no field {name!r} in {type(node).__name__}", hint)
        if isinstance(change, str):
            new[name] = _parsed(get_type_hints(type(node))[name], change, at)
        else:
            new[name] = _replaced(getattr(node, name), change, f"{at}.")
    try:
        return dataclasses.replace(node, **new)
    except ValueError as error:
        said = (
            f"{where}{name} {change}" if isinstance(change, str) else where + name for name, change in changes.items()
        )
        raise ConfigError(f"{' '.join(said)}: {error}") from None


def _parsed(kind: Any, text: str, whole: str) -> Any:
    """`text` as a value of the annotated type."""
    import pydantic

    if text.lower() == "none" and type(None) in get_args(kind):
        return None
    try:
        adapter = pydantic.TypeAdapter(kind)
    except pydantic.PydanticUserError:  # a part of the config that is an object
        raise ConfigError(f"{whole} is not a single value", "name a field of it") from None
    try:
        return adapter.validate_python(text)
    except pydantic.ValidationError as error:
        wrong = error.errors()[0]["msg"]
        if any(get_origin(one) is tuple for one in (kind, *get_args(kind))):
            try:
                return adapter.validate_python(tuple(part.strip() for part in text.split(",") if part.strip()))
            except pydantic.ValidationError as in_tuple:
                wrong = in_tuple.errors()[0]["msg"]
        raise ConfigError(f"{whole} {text}: {wrong}") from None


def check_types(config: Any, name: str = "") -> None:
    """A ConfigError names the first value, in the fields below `config`, that is not what its annotation says."""
    import pydantic

    if isinstance(config, tuple):
        for number, part in enumerate(config):
            check_types(part, f"{name}.{number}")
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        return
    kinds = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, at = getattr(config, field.name), f"{name}.{field.name}".removeprefix(".")
        check_types(value, at)
        with contextlib.suppress(pydantic.PydanticUserError):  # a part of the config that is an object
            try:
                pydantic.TypeAdapter(kinds[field.name]).validate_python(value, strict=True)
            except pydantic.ValidationError as error:
                wrong = error.errors()[0]
                raise ConfigError(f"{at} is {value!r}: {wrong['msg']}", "mend the recipe") from None


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
