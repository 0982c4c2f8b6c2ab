"""`steep resume`: go on with a run, from its newest whole checkpoint, or with the arms of a study."""

import argparse

from steep.cli.outcome import Outcome
from steep.cli.sweep import load_sweep
from steep.cli.train import carry_out, done, load, parted
from steep.errors import ConfigError
from steep.runs import Run
from steep.training.study import Study
from steep.training.sweep import is_sweep


def run(args: argparse.Namespace) -> Outcome:
    found = Run.open(args.run)
    if found.status == "finished":
        if args.overrides:
            raise ConfigError(f"{found.path} is finished: no option changes it", "begin another run with `steep train`")
        return done(found)
    path, _ = parted(found.info.recipe)
    if not path.is_file():
        raise ConfigError(
            f"the recipe of {found.path} is gone: {path}",
            "go to the directory in which the run was begun, or put the file back",
        )
    words = (*found.info.overrides, *args.overrides)
    config = (load_sweep if is_sweep(found) else load)(found.info.recipe, words)
    if isinstance(config, Study) and args.overrides:
        raise ConfigError(f"{found.path} is a study", "resume the arm that is meant")
    return carry_out(found.resume(config, args.overrides), config)
