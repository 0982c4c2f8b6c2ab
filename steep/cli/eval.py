"""`steep eval`: accuracy on held-out problems at several thinking budgets, with intervals."""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from steep.cli.arguments import did_you_mean
from steep.cli.engine import new_engine
from steep.cli.outcome import Outcome, Output
from steep.config import to_json
from steep.engines import LoadedModel, NativeEngine, load_model
from steep.errors import SteepError
from steep.evals.evaluate import EvalConfig
from steep.evals.suite import Cell, SuiteConfig, measure
from steep.runs import Stage, machine, read_json, versions, write_json
from steep.runs.files import plain
from steep.tasks.arithmetic import Arithmetic
from steep.tasks.chat import Chat
from steep.tasks.countdown import Countdown
from steep.tasks.letters import Letters
from steep.tasks.mixture import distinct
from steep.types import Task

TASKS = {"countdown": Countdown, "arithmetic": Arithmetic, "letters": Letters, "chat": Chat}
ROWS = 256


def run(args: argparse.Namespace) -> Outcome:
    task = find_task(args.task, args.levels)
    loaded = load_model(args.model)
    config = suite_config(args, loaded)
    engine = engine_for(loaded, task, config)
    out = args.out or Path("runs/evals") / f"{loaded.name.replace('/', '-')}-{task.name}-{datetime.now():%Y%m%d-%H%M%S}"
    begin(out, {"model": str(loaded.path), "task": to_json(task), "config": to_json(config)})
    cells = measure(Stage(out), loaded.name, engine, loaded.template, {task.name: task}, config)
    tell(cells, out)
    return Outcome(value={"out": out, "cells": cells})


def find_task(name: str, levels: Sequence[int] | None) -> Task:
    """A task by name, or a class in a Python file as FILE.py:CLASS, of all or some levels."""
    file, colon, class_name = name.rpartition(":")
    if not colon and name not in TASKS:
        raise SteepError(f"there is no task {name!r}", did_you_mean(name, [*TASKS, "FILE.py:CLASS"]))
    kind: Any = load_class(Path(file), class_name) if colon else TASKS[name]
    try:
        task: Task = kind() if levels is None else kind(levels=tuple(levels))
    except TypeError as error:
        fix = "its fields need defaults, and one is `levels`"
        raise SteepError(f"the task {name} cannot be made: {error}", fix) from error
    return task


def load_class(path: Path, name: str) -> Any:
    if not path.is_file():
        raise SteepError(f"there is no file {path}", "a task is named FILE.py:CLASS")
    spec = importlib.util.spec_from_file_location(f"steep_task_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise SteepError(f"{path} is not a Python file", "a task is named FILE.py:CLASS")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise SteepError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise SteepError(f"there is no {name} in {path}", did_you_mean(name, classes))
    return getattr(module, name)


def suite_config(args: argparse.Namespace, loaded: LoadedModel) -> SuiteConfig:
    answer = args.answer or loaded.template.config.answer
    config = EvalConfig(budgets=tuple(sorted(args.budgets)), answer=answer, samples=args.samples)
    return SuiteConfig(problems=args.problems, modes=("greedy" if args.greedy else "sampled",), eval=config)


def engine_for(loaded: LoadedModel, task: Task, config: SuiteConfig) -> NativeEngine:
    """One with room for the longest prompt and all that may follow it."""
    problems = distinct(task, "test", config.problems)
    if not problems:
        raise SteepError(f"the task {task.name} has no problems in its test split", "choose other levels")
    longest = max(len(loaded.template.render(problem.prompt)) for problem in problems)
    budget = loaded.template.budget(config.eval.budgets[-1], config.eval.answer)
    rest = longest + len(budget.closing) + budget.answer
    context, limit = rest + (budget.thought or 0), loaded.model.config.max_positions
    if context > limit:
        raise SteepError(
            f"a budget of {budget.thought} tokens does not fit the model's context of {limit}",
            f"choose budgets up to {limit - rest}" if limit >= rest else "choose a shorter --answer",
        )
    return new_engine(loaded, min(ROWS, len(problems) * config.eval.samples), context)


def begin(out: Path, settings: dict[str, Any]) -> None:
    """Write down what is measured; where that was begun before, it must have been the same."""
    file = out / "eval.json"
    settings = plain(settings)
    if not file.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_json(file, {**settings, "versions": versions(), "machine": machine()})
        return
    before = read_json(file)
    if any(before.get(key) != value for key, value in settings.items()):
        raise SteepError(f"{out} holds another evaluation", "choose another directory with --out")


def tell(cells: Sequence[Cell], out: Path) -> None:
    several = len({cell.level for cell in cells}) > 1
    invalid = any(cell.invalid for cell in cells)
    columns = ["budget", "accuracy", "95% interval", "thought", "cut short", "problems"]
    columns = [*(["level"] if several else []), *columns, *(["invalid"] if invalid else [])]
    rows = [
        [
            *(["all" if cell.level is None else cell.level] if several else []),
            cell.budget,
            f"{cell.value:.1%}",
            f"{cell.low:.1%} to {cell.high:.1%}",
            f"{cell.thought:.0f}",
            f"{cell.interrupted:.0%}" if cell.budget else "-",
            cell.problems,
            *([cell.invalid] if invalid else []),
        ]
        for cell in sorted(cells, key=lambda cell: (cell.level or 0, cell.budget))
    ]
    output = Output()
    output.tell_table(columns, rows, numeric=columns)
    output.say(f"kept in {out}")
