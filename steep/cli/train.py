"""`steep train`: begin a run; also what `steep resume` shares with it."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from steep.cli.entry import STOPPED
from steep.cli.outcome import Outcome, Output
from steep.config import load_recipe, override, to_json
from steep.errors import ConfigError, SteepError
from steep.runs import Run, show
from steep.runs.files import plain
from steep.runs.run import flat
from steep.training.recipe import Recipe, run_recipe

SHOWN_CHANGES = 5


def run(args: argparse.Namespace) -> Outcome:
    recipe = load(args.recipe, args.overrides)
    path = run_path(args.run or args.recipe.stem)
    if (path / "run.json").exists():
        return already(Run.open(path), recipe)
    new = Run.create(path, recipe=args.recipe, overrides=args.overrides, config=recipe, seed=recipe.seed)
    return carry_out(new, recipe)


def load(path: Path, overrides: Sequence[str]) -> Recipe:
    recipe = load_recipe(path)
    if not isinstance(recipe, Recipe):
        raise ConfigError(f"config() in {path} returns a {type(recipe).__name__}", "it must return a Recipe")
    return override(recipe, overrides)


def run_path(name: str) -> Path:
    """A bare name is a directory in runs/."""
    return Path("runs") / name if len(Path(name).parts) == 1 and not name.startswith(".") else Path(name)


def already(run: Run, recipe: Recipe) -> Outcome:
    """What to say where the run exists: it is only fine if it is this one, and finished."""
    before, now = flat(run.info.config), flat(plain(to_json(recipe)))
    changed = [key for key in before | now if before.get(key, ...) != now.get(key, ...)]
    if changed:
        more = f" and {len(changed) - SHOWN_CHANGES} more" if len(changed) > SHOWN_CHANGES else ""
        raise ConfigError(
            f"{run.path} exists, with another config: {', '.join(changed[:SHOWN_CHANGES])}{more}",
            "choose another name with --run NAME, or delete that run",
        )
    if run.status == "running":
        raise SteepError(f"{run.path} is being run by process {run.info.pid}", "choose another name with --run NAME")
    if run.status != "finished":
        raise SteepError(f"{run.path} was begun before: {run.status}", f"go on with `steep resume {run.path}`")
    return done(run)


def carry_out(run: Run, recipe: Recipe) -> Outcome:
    """Run what is left of the recipe."""
    try:
        with run:
            run_recipe(run, recipe, Output())
    except KeyboardInterrupt:
        print(f"steep: stopped; go on with `steep resume {run.path}`", file=sys.stderr)
        return Outcome(value=show(run), exit_code=STOPPED)
    return done(run)


def done(run: Run) -> Outcome:
    output = Output()
    output.say(f"{run.path} is finished. Go on with:")
    output.say(f"  steep report {run.path}    curves and tables")
    output.say(f"  steep chat {run.path}      talk to the model")
    return Outcome(value=show(run))
