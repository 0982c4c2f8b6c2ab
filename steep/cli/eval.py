"""`steep eval`: accuracy on held-out problems at several thinking budgets, with intervals."""

import argparse
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from steep.cli.engine import new_engine, tell_thoughtless
from steep.cli.outcome import Outcome, Output
from steep.cli.task import find_task
from steep.config import to_json
from steep.engines import LoadedModel, NativeEngine, load_model
from steep.errors import SteepError
from steep.evals.evaluate import EvalConfig
from steep.evals.suite import Cell, SuiteConfig, measure
from steep.runs import Stage, machine, read_json, versions, write_json
from steep.runs.files import plain
from steep.tasks.mixture import distinct
from steep.types import Problem

ROWS = 256


def run(args: argparse.Namespace) -> Outcome:
    task = find_task(args.task, args.levels, args.verifier)
    loaded = load_model(args.model)
    tell_thoughtless(loaded, Output())
    config = suite_config(args, loaded)
    problems = distinct(task, "test", config.problems)
    if not problems:
        raise SteepError(f"the task {task.name} has no problems in its test split", "choose other levels")
    engine = engine_for(loaded, problems, config.eval)
    out = args.out or Path("runs/evals") / f"{loaded.name.replace('/', '-')}-{task.name}-{datetime.now():%Y%m%d-%H%M%S}"
    begin(out, {"model": str(loaded.path), "task": to_json(task), "config": to_json(config)})
    cells = measure(Stage(out), loaded.name, engine, loaded.template, {task.name: task}, config)
    tell(cells, out)
    return Outcome(value={"out": out, "cells": cells})


def suite_config(args: argparse.Namespace, loaded: LoadedModel) -> SuiteConfig:
    answer = args.answer or loaded.template.config.answer
    config = EvalConfig(budgets=tuple(sorted(args.budgets)), answer=answer, samples=args.samples)
    return SuiteConfig(problems=args.problems, modes=("greedy" if args.greedy else "sampled",), eval=config)


def engine_for(loaded: LoadedModel, problems: Sequence[Problem], config: EvalConfig) -> NativeEngine:
    """One with room for the longest prompt and all that may follow it."""
    longest = max(len(loaded.template.render(problem.prompt)) for problem in problems)
    budget = loaded.template.budget(max(config.budgets), config.answer)
    rest = longest + len(budget.closing) + budget.answer
    context, limit = rest + (budget.thought or 0), loaded.model.config.max_positions
    if context > limit:
        raise SteepError(
            f"a budget of {budget.thought} tokens does not fit the model's context of {limit}",
            f"choose budgets up to {limit - rest}" if limit >= rest else "choose a shorter --answer",
        )
    return new_engine(loaded, min(ROWS, len(problems) * config.samples), context)


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
