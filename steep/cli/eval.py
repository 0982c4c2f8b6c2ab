"""`steep eval`: accuracy on held-out problems at several thinking budgets, with intervals; the o1 suite."""

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from math import isnan
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from steep.cli.engine import new_engine, tell_thoughtless
from steep.cli.outcome import Outcome, Output
from steep.cli.task import find_task
from steep.cli.train import load, tell_claims
from steep.config import to_json
from steep.engines import ChunkedEngine, LoadedModel, NativeEngine, load_model
from steep.errors import SteepError
from steep.evals.evaluate import EvalConfig, budgets_of, room
from steep.evals.findings import Findings, Method
from steep.evals.o1 import FURTHER, O1Config, Subject, measure_o1
from steep.evals.suite import Cell, SuiteConfig, measure
from steep.runs import Claim, Run, Stage, machine, read_claims, read_json, versions, write_json
from steep.runs.files import plain
from steep.tasks.mixture import by_name, distinct
from steep.training.recipe import Recipe
from steep.types import Problem, Task

ROWS = 1024
BUDGETS = (0, 64, 256)


def run(args: argparse.Namespace) -> Outcome:
    if args.suite and args.greedy:
        raise SteepError("the o1 suite takes many different answers, which --greedy cannot give", "leave it away")
    if args.task is None and not args.suite:
        raise SteepError("there is nothing to measure the model on", "name problems with --task, or choose --suite o1")
    task = None if args.task is None else find_task(args.task, args.levels, args.verifier)
    loaded = load_model(args.model)
    tell_thoughtless(loaded, Output())
    if args.suite:
        return o1(args, loaded, tasks_of_run(args, loaded) if task is None else [task])
    assert task is not None
    return one_task(args, loaded, task)


def one_task(args: argparse.Namespace, loaded: LoadedModel, task: Task) -> Outcome:
    config = suite_config(args, loaded)
    problems = distinct(task, "test", config.problems)
    if not problems:
        raise SteepError(f"the task {task.name} has no problems in its test split", "choose other levels")
    engine = engine_for(loaded, problems, config.eval, dtype=args.dtype)
    out = args.out or Path("runs/evals") / f"{named(loaded)}-{task.name}-{datetime.now():%Y%m%d-%H%M%S}"
    begin(out, args, measured(loaded, args) | {"task": to_json(task), "config": to_json(config)})
    with resumable(out):
        cells = measure(Stage(out), loaded.name, engine, loaded.template, {task.name: task}, config)
    tell(cells, out)
    return Outcome(value={"out": out, "cells": cells})


def o1(args: argparse.Namespace, loaded: LoadedModel, tasks: Sequence[Task]) -> Outcome:
    out = args.out or Path("runs/evals") / f"{named(loaded)}-o1"
    limit = loaded.model.config.max_positions // 2
    budgets = tuple(budget for budget in EvalConfig().budgets if budget <= limit)
    further = tuple(way for way in FURTHER if way not in args.without)
    config = O1Config(suite=suite_config(args, loaded, budgets, samples=64), further=further)
    settings = {"suite": "o1", "tasks": to_json(tasks), "levels": args.levels, "config": to_json(config)}
    begin(out, args, measured(loaded, args) | settings)

    def engine(problems: Sequence[Problem], asked: EvalConfig, chunked: bool) -> NativeEngine:
        return engine_for(loaded, problems, asked, ChunkedEngine if chunked else NativeEngine, args.dtype)

    subject = Subject(loaded=loaded, new_engine=engine)
    with resumable(out):
        findings = measure_o1(Stage(out), subject, tasks, config, beyond=args.levels is None, command=typed(args))
    claims = read_claims(out / "claims.json")
    tell_findings(findings, claims, out)
    return Outcome(value={"out": out, "findings": findings, "claims": claims})


@contextmanager
def resumable(out: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        print(f"steep: the same command goes on from here, with --out {shlex.quote(str(out))}", file=sys.stderr)
        raise


def typed(args: argparse.Namespace) -> str:
    return shlex.join(["steep", *args.words])


def tasks_of_run(args: argparse.Namespace, loaded: LoadedModel) -> Sequence[Task]:
    """Those that the model's run was trained on."""
    path = loaded.path.resolve().parent.parent
    if not (path / "run.json").is_file():
        raise SteepError(f"{loaded.name} belongs to no run that could say what it was trained on", "name a --task")
    if args.levels is not None or args.verifier is not None:
        raise SteepError("--levels and --verifier are of one task", "name it with --task")
    run = Run.open(path)
    recipe = load(run.info.recipe, run.info.overrides)
    assert isinstance(recipe, Recipe)
    return list(by_name(recipe.tasks).values())


def named(loaded: LoadedModel) -> str:
    return loaded.name.replace("/", "-")


def suite_config(
    args: argparse.Namespace, loaded: LoadedModel, budgets: Sequence[int] = BUDGETS, samples: int = 1
) -> SuiteConfig:
    answer = args.answer or loaded.template.config.answer
    config = EvalConfig(budgets=tuple(sorted(args.budgets or budgets)), answer=answer, samples=args.samples or samples)
    return SuiteConfig(problems=args.problems, modes=("greedy" if args.greedy else "sampled",), eval=config)


def engine_for(
    loaded: LoadedModel,
    problems: Sequence[Problem],
    config: EvalConfig,
    kind: type[NativeEngine] = NativeEngine,
    dtype: str = "float32",
) -> NativeEngine:
    """One with room for the longest prompt and all that may follow it."""
    if not problems:
        raise SteepError("there are no problems to measure on", "choose other levels, or a task with a test split")
    context, limit = room(loaded.template, problems, config), loaded.model.config.max_positions
    largest = max(budgets_of(loaded.template, config))
    rest = context - largest
    if context > limit:
        raise SteepError(
            f"a budget of {largest} tokens does not fit the model's context of {limit}",
            f"choose budgets up to {limit - rest}" if limit >= rest else "choose a shorter --answer",
        )
    return new_engine(loaded, min(ROWS, len(problems) * config.samples), context, kind, dtype)


def measured(loaded: LoadedModel, args: argparse.Namespace) -> dict[str, Any]:
    return {"model": str(loaded.path), "dtype": args.dtype}


def begin(out: Path, args: argparse.Namespace, settings: dict[str, Any]) -> None:
    """Write down what is measured; where that was begun before, it must have been the same."""
    file = out / "eval.json"
    settings = plain(settings)
    if not file.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_json(file, {**settings, "command": typed(args), "versions": versions(), "machine": machine()})
        return
    before = read_json(file)
    if any(before.get(key) != value for key, value in settings.items()):
        raise SteepError(f"{out} holds another evaluation", "choose another directory with --out")


def writable(directory: Path) -> None:
    """Make a directory. Where no file can be made in it, that is told before anything is measured."""
    directory.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=directory):
        pass


def tell(cells: Sequence[Cell], out: Path) -> None:
    several = len({cell.level for cell in cells}) > 1
    invalid = any(cell.invalid for cell in cells)
    columns = ["budget", "accuracy", "95% interval", "thought", "cut short", "problems"]
    columns = [*(["level"] if several else []), *columns, *(["invalid"] if invalid else [])]
    rows = [
        [
            *(["all" if cell.level is None else cell.level] if several else []),
            cell.budget,
            *(("-", "-") if isnan(cell.value) else (f"{cell.value:.1%}", f"{cell.low:.1%} to {cell.high:.1%}")),
            f"{cell.thought:.0f}",
            f"{cell.interrupted:.0%}" if cell.budget else "-",
            cell.problems,
            *([cell.invalid] if invalid else []),
        ]
        for cell in sorted(cells, key=lambda cell: (cell.level or 0, cell.budget))
    ]
    output = Output()
    output.tell_table(columns, rows, numeric=columns)
    if invalid:
        output.say("invalid answers could not be checked, and count for nothing: `steep tasks check` shows why")
    output.say(f"kept in {out}")


def tell_findings(findings: Findings, claims: Sequence[Claim], out: Path) -> None:
    """A line for each budget of each task: one answer, and the most by each method."""
    output = Output()
    for choice in findings.choices:
        output.say(choice.words)
        of_task = [s for s in findings.spendings if s.task == choice.task]
        most = max((s.samples for s in of_task), default=1)
        figures = {(s.budget, s.method): f"{s.value:.1%}" for s in of_task if s.samples in (1, most)}
        shown: dict[Method, str] = {
            "one": "one answer",
            "extended": "extended",
            "chunked": "in chunks",
            "majority": f"majority of {most}",
            "best": f"best of {most}",
            "weighted": f"weighted {most}",
            "any": f"any of {most}",
        }
        columns = {method: head for method, head in shown.items() if any(m == method for _, m in figures)}
        rows = [[b, *(figures.get((b, m), "") for m in columns)] for b in sorted({b for b, _ in figures})]
        heads = ["budget", *columns.values()]
        output.tell_table(heads, rows, numeric=heads)
    for line in findings.left_out:
        output.say(line)
    if claims:
        tell_claims(claims, output)
    output.say(f"kept in {out}; see it with `steep report {shlex.quote(str(out))}`")
