"""`steep train`: begin a run, or a study of several; also what `steep resume` shares with it."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from steep.cli.arguments import did_you_mean
from steep.cli.entry import STOPPED
from steep.cli.outcome import Outcome, Output
from steep.config import load_recipe, override, to_json
from steep.errors import ConfigError, SteepError
from steep.runs import Claim, Run, number, read_claims, read_json, show
from steep.runs.files import plain
from steep.runs.run import flat
from steep.training.recipe import Recipe, run_recipe
from steep.training.study import CLAIMS, Study, run_study, within

SHOWN_CHANGES = 5


def run(args: argparse.Namespace) -> Outcome:
    file, arm = parted(args.recipe)
    config = load(args.recipe, args.overrides)
    path = run_path(args.run or file.stem) / (arm or "")
    if (path / "run.json").exists():
        found = Run.open(path)
        return carry_out(found.resume(config), config) if isinstance(config, Study) else already(found, config)
    seed = None if isinstance(config, Study) else config.seed
    return carry_out(Run.create(path, recipe=args.recipe, overrides=args.overrides, config=config, seed=seed), config)


def parted(recipe: str) -> tuple[Path, str | None]:
    """The file and the arm of FILE.py:ARM; None for a whole file."""
    stem, colon, arm = recipe.partition(".py:")
    return (Path(f"{stem}.py"), arm) if colon else (Path(recipe), None)


def load(name: str, overrides: Sequence[str]) -> Recipe | Study:
    path, arm = parted(name)
    config = load_recipe(path)
    if not isinstance(config, (Recipe, Study)):
        raise ConfigError(f"config() in {path} returns a {type(config).__name__}", "it must return a Recipe or a Study")
    return override(config if arm is None else recipe_of(config, path, arm), overrides)


def recipe_of(config: Recipe | Study, path: Path, arm: str) -> Recipe:
    if isinstance(config, Recipe):
        raise ConfigError(f"{path} is no study, so it has no arm {arm}", f"`steep train {path}` carries it out")
    if arm not in config.arms:
        raise ConfigError(f"{path} has no arm {arm!r}", did_you_mean(arm, list(config.arms)))
    return config.arms[arm].recipe


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


def carry_out(run: Run, config: Recipe | Study) -> Outcome:
    """Run what is left."""
    try:
        with run:
            if isinstance(config, Study):
                run_study(run, config, lambda arm: command(run, arm), Output())
            else:
                run_recipe(run, within(study_of(run), config), Output())
    except KeyboardInterrupt:
        print(f"steep: stopped; go on with `steep resume {run.path}`", file=sys.stderr)
        return Outcome(value=show(run), exit_code=STOPPED)
    return done(run)


def command(study: Run, arm: str) -> list[str]:
    """What begins an arm, or goes on with it, in a process of its own."""
    steep, path = [sys.executable, "-m", "steep.cli"], study.path / arm
    if (path / "run.json").is_file():
        return [*steep, "resume", str(path)]
    return [*steep, "train", f"{study.info.recipe}:{arm}", "--run", str(study.path)]


def study_of(run: Run) -> Path:
    """The directory of the study that a run is an arm of; its own, if it is none."""
    _, arm = parted(run.info.recipe)
    return run.path if arm is None else run.path.parents[len(Path(arm).parts) - 1]


def done(run: Run) -> Outcome:
    output = Output()
    if (run.path / CLAIMS).is_file():
        claims = read_claims(run.path / CLAIMS)
        if claims:
            tell_claims(claims, output)
        output.say(f"{run.path} is finished; the claims are in {run.path / CLAIMS}")
        return Outcome(value={"study": show(run), "claims": read_json(run.path / CLAIMS)})
    output.say(f"{run.path} is finished. Go on with:")
    output.say(f"  steep report {run.path}    curves and tables")
    output.say(f"  steep chat {run.path}      talk to the model")
    return Outcome(value=show(run))


def tell_claims(claims: Sequence[Claim], output: Output) -> None:
    rows = [
        [c.id, number(c.value), f"{number(c.low)} to {number(c.high)}", c.bar, "holds" if c.holds else "fails"]
        for c in claims
    ]
    output.tell_table(["claim", "measured", "interval", "bar", ""], rows, numeric=["measured"])
