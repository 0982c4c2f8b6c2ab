"""`steep train`: begin a run, or a study of several; also what `steep resume` shares with it."""

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from steep.cli.arguments import did_you_mean, split_grid, split_tasks
from steep.cli.entry import STOPPED
from steep.cli.outcome import Outcome, Output
from steep.cli.task import find_task
from steep.config import check_types, load_recipe, override, to_json
from steep.engines import find_model
from steep.errors import ConfigError, SteepError
from steep.evals.statistics import Estimate
from steep.runs import Claim, Run, number, read_claims, read_json, show, stop_with_parent
from steep.runs.files import plain
from steep.runs.listing import MAIN_METRICS
from steep.runs.run import flat
from steep.training import own
from steep.training.recipe import Recipe, on_tasks, run_recipe
from steep.training.study import CLAIMS, Study, run_study, within
from steep.training.sweep import Ranked, Sweep, is_sweep, ranking
from steep.types import Task

SHOWN_CHANGES = 5
OWN = "own"
"""The recipe in this package."""


def run(args: argparse.Namespace) -> Outcome:
    if args.recipe is None and not args.task:
        raise SteepError("there is nothing to train on", "name a recipe, or problems with --model MODEL --task FILE")
    recipe, words = args.recipe or OWN, [*told(args), *args.overrides]
    file, arm = parted(recipe)
    config = load(recipe, words)
    name = config.tasks[0].task.name if isinstance(config, Recipe) and args.task else file.stem
    path = run_path(args.run or name) / (arm or "")
    return begin(path, recipe, words, config)


def begin(path: Path, recipe: str, words: Sequence[str], config: Recipe | Study, by: str | None = None) -> Outcome:
    """Begin a run, or go on with a study. `words` is all that the command line says besides the recipe."""
    if (path / "run.json").exists():
        found = Run.open(path)
        return carry_out(found.resume(config), config, by) if isinstance(config, Study) else already(found, config)
    seed = None if isinstance(config, Study) else config.seed
    return carry_out(Run.create(path, recipe=recipe, overrides=words, config=config, seed=seed), config, by)


def told(args: argparse.Namespace) -> Iterator[str]:
    """Model and problems as a run keeps them, before its overrides."""
    for task in args.task:
        yield from ("--task", task)
    if args.verifier is not None:
        yield from ("--verifier", args.verifier)
    if args.model is not None:
        yield from ("--start", args.model)


def parted(recipe: str) -> tuple[Path, str | None]:
    """The file and the arm of FILE.py:ARM; None for a whole file."""
    if recipe == OWN:
        return Path(own.__file__), None
    stem, colon, arm = recipe.partition(".py:")
    return (Path(f"{stem}.py"), arm) if colon else (Path(recipe), None)


def load(name: str, words: Sequence[str]) -> Recipe | Study:
    """The config of a recipe and of the words of its run: tasks, then overrides."""
    given, overrides = split_tasks(words)
    path, arm = parted(name)
    found = load_recipe(path)
    if not isinstance(found, (Recipe, Study)):
        raise ConfigError(f"config() in {path} returns a {type(found).__name__}", "it must return a Recipe or a Study")
    config = found if arm is None else recipe_of(found, path, arm)
    if given.task:
        config = with_tasks(config, [find_task(task, verifier=given.verifier) for task in given.task])
    config = override(config, overrides)
    check_types(config)
    if isinstance(config, Recipe):
        check(config, given)
    return config


def with_tasks(config: Recipe | Study, tasks: Sequence[Task]) -> Recipe:
    if isinstance(config, Study):
        raise ConfigError("the arms of a study have tasks of their own", "leave --task away, or name one arm")
    recipe, left_out = on_tasks(config, tasks)
    for line in left_out:
        Output().say(line)
    return recipe


def check(recipe: Recipe, given: argparse.Namespace) -> None:
    if not recipe.tasks:
        raise ConfigError("the recipe has no tasks", "name what to train on with --task")
    if given.verifier is not None and not given.task:
        raise ConfigError("--verifier is for the files of --task, and there is none", "name one, or leave it away")
    if given.task and recipe.start is None:
        raise ConfigError(
            "random weights learn nothing from problems alone",
            "start from a model: --model smollm2, or another that `steep train --help` names",
        )
    if given.task:
        find_model(str(recipe.start))


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
        raise SteepError(f"{run.path} is being run by {run.runner}", "choose another name with --run NAME")
    if run.status != "finished":
        raise SteepError(f"{run.path} was begun before: {run.status}", f"go on with `steep resume {run.path}`")
    return done(run)


def carry_out(run: Run, config: Recipe | Study, by: str | None = None) -> Outcome:
    """Run what is left. A sweep is ranked `by` a figure."""
    try:
        stop_with_parent()
        with run:
            if isinstance(config, Study):
                run_study(run, config, lambda arm: command(run, config, arm), Output())
            else:
                run_recipe(run, within(study_of(run), config), Output())
    except KeyboardInterrupt:
        print(f"steep: stopped; go on with `steep resume {run.path}`", file=sys.stderr)
        return Outcome(value=show(run), exit_code=STOPPED)
    except SteepError:
        if isinstance(config, Sweep):  # one setting that cannot be trained hides none of the others
            tell_ranking(run, by)
        raise
    return done(run, by)


def command(study: Run, config: Study, arm: str) -> list[str]:
    """What begins an arm, or goes on with it, in a process of its own."""
    steep, path = [sys.executable, "-m", "steep.cli"], study.path / arm
    if (path / "run.json").is_file():
        return [*steep, "resume", str(path)]
    if isinstance(config, Sweep):
        _, words = split_grid(study.info.overrides)
        return [*steep, "train", study.info.recipe, "--run", str(path), *words, *config.settings[arm]]
    return [*steep, "train", f"{study.info.recipe}:{arm}", "--run", str(study.path)]


def study_of(run: Run) -> Path:
    """The directory of the study that a run is an arm of; its own, if it is none."""
    _, arm = parted(run.info.recipe)
    return run.path if arm is None else run.path.parents[len(Path(arm).parts) - 1]


def done(run: Run, by: str | None = None) -> Outcome:
    output = Output()
    if is_sweep(run):
        rows = tell_ranking(run, by)
        output.say(f"{run.path} is finished. Compare runs with `steep runs compare`, or `steep report RUN RUN ...`")
        return Outcome(value={"sweep": show(run), "settings": rows})
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


def tell_ranking(run: Run, by: str | None) -> list[Ranked]:
    """Print the settings of a sweep, best first: the figure that they are ranked by, and the first few others."""
    rows = ranking(run, by)
    known = list(dict.fromkeys(figure for row in rows for figure in row.figures))
    if by is not None and known and by not in known:
        raise SteepError(f"the runs have no figure {by!r}", did_you_mean(by, known))
    columns = list(dict.fromkeys([*([by] if by else []), *known]))[:MAIN_METRICS]
    cells = [
        [row.setting, *(_interval(row.figures.get(c)) for c in columns), f"{row.finished}/{row.seeds}"] for row in rows
    ]
    Output().tell_table(["setting, best first", *columns, "seeds"], cells, numeric=[*columns, "seeds"])
    return rows


def _interval(figure: Estimate | None) -> str:
    if figure is None:
        return ""
    spread = "" if math.isnan(figure.low) else f" ±{number(figure.high - figure.value)}"
    return f"{number(figure.value)}{spread}"


def tell_claims(claims: Sequence[Claim], output: Output) -> None:
    rows = [
        [c.id, number(c.value), f"{number(c.low)} to {number(c.high)}", c.bar, "holds" if c.holds else "fails"]
        for c in claims
    ]
    output.tell_table(["claim", "measured", "interval", "bar", ""], rows, numeric=["measured"])
