"""An engine for a model on this machine."""

from collections.abc import Sequence

import psutil

from steep.cli.outcome import Output
from steep.engines import DTYPES, LoadedModel, NativeConfig, NativeEngine
from steep.errors import SteepError
from steep.models.transformer import Shape

CACHE_SHARE = 0.25
"""The part of the free memory that a cache may take."""
LONGEST_CONTEXT = 8192
"""Of a model that could take more: its cache would fill the memory."""


def new_engine(
    loaded: LoadedModel,
    rows: int,
    context: int,
    kind: type[NativeEngine] = NativeEngine,
    dtype: str = "float32",
    cache_dtype: str | None = None,
) -> NativeEngine:
    """An engine that decodes `rows` sequences of `context` tokens together, or fewer where memory is short."""
    shape = loaded.model.config
    number = DTYPES[dtype].itemsize if cache_dtype is None else 1 + 4 / shape.head_dim
    row = row_bytes(shape, context, number)
    fit = int(CACHE_SHARE * psutil.virtual_memory().available / row)
    if fit == 0:
        raise SteepError(
            f"one sequence of {context} tokens does not fit the free memory",
            "choose smaller budgets, or close other programs",
        )
    config = NativeConfig(rows=min(rows, fit), context=context, dtype=dtype, cache_dtype=cache_dtype)
    return kind(loaded.model, config, loaded.template.end_ids)


def labels(models: Sequence[LoadedModel]) -> list[str]:
    """What to call the models beside each other: their names, or their paths where these are the same."""
    names = [loaded.name for loaded in models]
    found = [loaded.name if names.count(loaded.name) == 1 else str(loaded.path) for loaded in models]
    twice = next((name for name in found if found.count(name) > 1), None)
    if twice is not None:
        raise SteepError(f"{twice} is named twice", "name every model once")
    return found


def thought_tokens(loaded: LoadedModel, asked: int | None, effort: str) -> int:
    """The budget that was asked for, otherwise that of an effort; 0 for a model that has none."""
    thought = loaded.template.config.efforts.get(effort) if asked is None else asked
    return loaded.template.budget(thought or 0).thought or 0


def tell_thoughtless(loaded: LoadedModel, output: Output) -> None:
    """Say it of a model for which budgets do nothing."""
    if loaded.template.think_close_id is None:
        output.say(f"{loaded.name} has no thought section: it answers at once, whatever the budget", style="yellow")


def row_bytes(config: Shape, context: int, number: float) -> float:
    """Keys and values of one sequence; `number` is the bytes of one number."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * context * number
