"""`steep card`: what a model is good and bad at, how it thinks, and what that costs."""

import argparse
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from steep.cli.engine import thought_tokens
from steep.cli.eval import begin, engine_for
from steep.cli.outcome import Outcome, Output
from steep.cli.task import find_task
from steep.config import to_json
from steep.engines import load_model
from steep.evals.card import as_markdown, card, find, measured
from steep.evals.evaluate import EvalConfig
from steep.evals.suite import SuiteConfig, load_cells, measure
from steep.runs import Stage, write_atomic, write_json
from steep.tasks.mixture import distinct
from steep.types import Task

TASKS = ("countdown", "arithmetic", "letters")
"""What a model is asked of which nothing is on disk."""


def run(args: argparse.Namespace) -> Outcome:
    path, seconds = Path(args.model), None
    out = args.out or Path("runs/cards") / "-".join(path.absolute().parts[-2:])
    if args.task or find(path) is None:
        out, seconds = measured_now(args)
        path = out
    made = card(measured(path), args.model, seconds)
    out.mkdir(parents=True, exist_ok=True)
    outcome = Outcome(value=made)
    write_json(out / "card.json", outcome.json())
    write_atomic(out / "card.md", as_markdown(made).encode())
    output = Output()
    output.say(as_markdown(made))
    output.say(f"kept in {out}")
    return outcome


def measured_now(args: argparse.Namespace) -> tuple[Path, float | None]:
    """Evaluate the model: where that is kept, and the seconds that an answer took, if all are made now."""
    tasks: Mapping[str, Task] = {task.name: task for task in map(find_task, args.task or TASKS)}
    loaded = load_model(args.model)
    eval_config = EvalConfig(
        budgets=tuple(sorted({0, thought_tokens(loaded, args.budget, "high")})),
        answer=args.answer or loaded.template.config.answer,
    )
    config = SuiteConfig(problems=args.problems, modes=("sampled",), eval=eval_config)
    problems = [problem for task in tasks.values() for problem in distinct(task, "test", config.problems)]
    engine = engine_for(loaded, problems, eval_config)
    out = args.out or Path("runs/cards") / f"{loaded.name.replace('/', '-')}-{datetime.now():%Y%m%d-%H%M%S}"
    settings = {name: to_json(task) for name, task in tasks.items()}
    begin(out, args, {"model": str(loaded.path), "tasks": settings, "config": to_json(config)})
    kept, started = load_cells(out), time.monotonic()
    cells = measure(Stage(out), loaded.name, engine, loaded.template, tasks, config)
    answers = sum(cell.problems for cell in cells if cell.level is None)
    return out, None if kept else (time.monotonic() - started) / answers
