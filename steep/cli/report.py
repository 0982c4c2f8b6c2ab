"""`steep report`: curves and tables of runs and evaluations, as files and on the terminal."""

import argparse
import webbrowser

from steep.cli.outcome import Outcome, Output
from steep.errors import SteepError
from steep.evals.report import report, summary


def run(args: argparse.Namespace) -> Outcome:
    files = report(args.paths, args.out or args.paths[0] / "report", alone=args.html)
    output = Output()
    try:
        output.print(summary(args.paths))
    except SteepError as error:  # nothing is evaluated yet: the page has the rest
        output.say(str(error))
    output.say(f"written to {files.index}")
    if args.open:
        webbrowser.open(files.index.resolve().as_uri())
    return Outcome(value=files)
