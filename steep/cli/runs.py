"""`steep runs`: list, show, compare, watch, and serve as a page."""

import argparse
import contextlib
import socket
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steep.cli.arguments import did_you_mean
from steep.cli.outcome import Outcome, Output
from steep.cli.watch import watch
from steep.errors import SteepError, to_install
from steep.runs import Comparison, Run, RunDetail, RunSummary, StageSummary, compare, duration, list_runs, number, show
from steep.runs.watching import RunWatch

HOST = "127.0.0.1"


def run(args: argparse.Namespace) -> Outcome:
    match args.what, args.names:
        case "list", []:
            return listed(args.root)
        case "show", [name]:
            return shown(show(find(name, args.root)))
        case "compare", [_, _, *_]:
            return compared(compare([find(name, args.root) for name in args.names]))
        case "watch", [name]:
            run = find(name, args.root)
            watch(RunWatch(run.path), args.once)
            return Outcome(value=show(run))
        case "serve", []:
            return served(args.root, args.port, args.open)
        case "list" | "show" | "compare" | "watch" | "serve", _:
            raise SteepError(f"`steep runs {args.what}` with {len(args.names)} runs", "see `steep runs --help`")
        case _:
            fix = did_you_mean(args.what, ["list", "show", "compare", "watch", "serve"])
            raise SteepError(f"there is no `steep runs {args.what}`", fix)


def find(name: str, root: Path) -> Run:
    """A run by path, or by name within `root`."""
    path = Path(name)
    if (path / "run.json").exists() or not (root / name).exists():
        return Run.open(path)
    return Run.open(root / name)


def listed(root: Path) -> Outcome:
    output, runs = Output(), list_runs(root)
    if runs:
        rows = [[r.name, r.status, r.stage or "", _step(r), duration(r.elapsed_s), _metrics(r.metrics)] for r in runs]
        output.tell_table(["run", "status", "stage", "step", "time", "metrics"], rows, numeric=["step", "time"])
    else:
        output.say(f"there are no runs in {root}; begin one with `steep train recipes/nano.py`")
    return Outcome(value={"runs": runs})


def shown(detail: RunDetail) -> Outcome:
    output, info = Output(), detail.info
    git = info.git["commit"][:12] + (" with changes" if info.git["dirty"] else "") if info.git else "unknown"
    output.say(f"{detail.summary.path}: {detail.summary.status}" + (f": {info.error}" if info.error else ""))
    output.say(f"recipe   {' '.join([info.recipe, *info.overrides])}")
    seed = "" if info.seed is None else f"seed {info.seed}, "
    output.say(f"begun    {info.created}, {seed}commit {git}")
    output.say(f"machine  {info.machine['cpu']}, {info.machine['cores']} cores, torch {info.versions['torch']}")
    rows = [
        [s.name, "finished" if s.finished else "", _step(s), duration(s.elapsed_s), _metrics(s.metrics)]
        for s in detail.stages
    ]
    if rows:
        output.say("")
        output.tell_table(["stage", "", "step", "time", "last metrics"], rows, numeric=["step", "time"])
    for stage in detail.stages:
        if best := (stage.summary or {}).get("best"):
            where = detail.summary.path / stage.name / "best"
            output.say(f"\nbest     {where}: {stage.name} after {best['step']} steps, held out {number(best['score'])}")
    if "health" in info.config:  # a study has none, nor has a run of an older version
        wrong = [f"{stage.name}, {trouble}" for stage in detail.stages for trouble in stage.health]
        output.say("\n" + "\n".join(wrong or ["healthy"]))
    return Outcome(value=detail)


def compared(comparison: Comparison) -> Outcome:
    output = Output()
    for title, rows in (("config", comparison.config), ("metrics", comparison.metrics)):
        if rows:
            output.tell_table([title, *comparison.names], [[r.key, *map(_value, r.values)] for r in rows])
            output.say("")
    if not comparison.config:
        output.say("the configs are the same")
    return Outcome(value=comparison)


def served(root: Path, port: int, open_it: bool) -> Outcome:
    """Serve the page until Ctrl-C."""
    try:
        import uvicorn

        from steep.server.pages import pages
    except ModuleNotFoundError as error:
        raise SteepError(f"the page needs {error.name}", to_install("serve")) from None
    with listen(port) as listening:
        url = f"http://{HOST}:{listening.getsockname()[1]}/"
        Output().say(f"{root} is shown at {url}, to this machine only; Ctrl-C ends it")
        if open_it:
            webbrowser.open(url)
        server = uvicorn.Server(uvicorn.Config(pages(root), log_level="warning"))
        with contextlib.suppress(KeyboardInterrupt):  # the way to end it
            server.run(sockets=[listening])
    return Outcome(value={"url": url})


def listen(port: int) -> socket.socket:
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen()  # whoever comes before the server is ready waits
    except OSError as error:
        listening.close()
        fix = "choose another with --port N; 0 takes any free one"
        raise SteepError(f"port {port} of {HOST} cannot be had: {error.strerror}", fix) from None
    return listening


def _step(item: RunSummary | StageSummary) -> object:
    return "" if item.step is None else item.step


def _metrics(metrics: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_value(value)}" for name, value in metrics.items())


def _value(value: Any) -> str:
    return number(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)
