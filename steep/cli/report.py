"""`steep report`: curves and tables of runs and evaluations, as files and on the terminal."""

import argparse
import webbrowser

from steep.cli.outcome import Outcome, Output
from steep.errors import SteepError
from steep.evals.report import report, report_markdown, sorted_out, summary


def run(args: argparse.Namespace) -> Outcome:
    runs = sorted_out(args.paths).runs
    if args.markdown is None:
        files = report(args.paths, args.out or runs[0] / "report", alone=args.html)
    elif args.out or args.html:
        raise SteepError("--out and --html are of the page, which --markdown writes none of", "leave one of them away")
    else:
        files = report_markdown(args.paths, args.markdown)
    output = Output()
    try:
        output.print(summary(runs))
    except SteepError as error:  # nothing is evaluated yet: the page has the rest
        output.say(str(error))
    output.say(f"written to {files.index}")
    if files.plots and not args.html:
        output.say(f"its first plots: {' and '.join(map(str, files.plots[:2]))}")
    if args.open:
        webbrowser.open(files.index.resolve().as_uri())
    return Outcome(value=files)
