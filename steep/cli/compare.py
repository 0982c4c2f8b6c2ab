"""`steep compare`: models on the problems that all were asked."""

import argparse
from collections.abc import Sequence
from itertools import groupby

from steep.cli.outcome import Outcome, Output
from steep.errors import SteepError
from steep.evals.card import measured
from steep.evals.comparing import Difference, compare
from steep.evals.statistics import percent


def run(args: argparse.Namespace) -> Outcome:
    models = {str(path): measured(path) for path in (args.first, *args.others)}
    if len(models) <= len(args.others):
        raise SteepError("a model is named twice", "name every model once")
    found = compare(models)
    tell(str(args.first), found)
    return Outcome(value={"first": args.first, "differences": found})


def tell(first: str, found: Sequence[Difference]) -> None:
    """A table for each pair of models and each task; differences in percentage points."""
    output = Output()
    columns = ["budget", "first", "second", "second - first", "second is", "problems"]
    for (model, task, mode), group in groupby(found, key=lambda one: (one.model, one.task, one.mode)):
        output.say(f"{task}, {mode}: first {first}, second {model}", style="bold")
        rows = [
            [one.budget, percent(one.first), percent(one.accuracy), gain(one), one.verdict, one.problems]
            for one in group
        ]
        output.tell_table(columns, rows, numeric=columns)
        output.say("")


def gain(one: Difference) -> str:
    value, low, high = (100 * figure for figure in (one.difference.value, one.difference.low, one.difference.high))
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"
