"""`steep sweep`: runs of one recipe over a grid of settings and some seeds, as a study."""

import argparse
from collections.abc import Sequence

from steep.cli.arguments import split_grid
from steep.cli.outcome import Outcome
from steep.cli.train import begin, load, parted, run_path
from steep.errors import ConfigError
from steep.training.recipe import Recipe
from steep.training.sweep import Sweep, sweep


def run(args: argparse.Namespace) -> Outcome:
    words = [*(f"--grid={axis}" for axis in args.grid), f"--seeds={args.seeds}", *args.overrides]
    file, _ = parted(args.recipe)
    path = run_path(args.run or f"{file.stem}_sweep")
    return begin(path, args.recipe, words, load_sweep(args.recipe, words), args.by)


def load_sweep(recipe: str, words: Sequence[str]) -> Sweep:
    """The sweep that the words of its command line make of a recipe."""
    args, overrides = split_grid(words)
    config, (_, arm) = load(recipe, overrides), parted(recipe)
    if not isinstance(config, Recipe) or arm is not None:
        raise ConfigError(f"{recipe} is no recipe of a single run", "a sweep makes a study of one")
    return sweep(config, args.grid, args.seeds)
