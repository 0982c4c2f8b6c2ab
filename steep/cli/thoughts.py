"""`steep thoughts`: whether answers follow from thoughts, whether mistakes are mended, and what goes off the rails."""

import argparse
from datetime import datetime
from pathlib import Path

from steep.cli.engine import labels, thought_tokens
from steep.cli.eval import engine_for, typed, writable
from steep.cli.outcome import Outcome, Output
from steep.cli.task import find_task
from steep.config import to_json
from steep.engines import load_model
from steep.errors import SteepError
from steep.evals.evaluate import EvalConfig
from steep.evals.thoughts import FILE, Figure, Subject, as_markdown, asked, figures, share
from steep.runs import Progress, machine, versions, write_atomic, write_json
from steep.tasks.mixture import distinct

PARTS = 3


def run(args: argparse.Namespace) -> Outcome:
    task = find_task(args.task, args.levels)
    problems = distinct(task, "test", args.problems)
    models = [load_model(name) for name in args.models]
    for loaded in models:
        if loaded.template.think_close_id is None:
            raise SteepError(f"{loaded.name} has no thought section, so there are no thoughts", "name one that thinks")
    names = labels(models)
    out = (
        args.out or Path("runs/thoughts") / f"{names[-1].replace('/', '-')}-{task.name}-{datetime.now():%Y%m%d-%H%M%S}"
    )
    writable(out)
    measured: dict[str, list[Figure]] = {name: [] for name in names}
    configs: dict[str, EvalConfig] = {}
    with Progress(PARTS * len(models), f"thoughts {task.name}") as progress:
        for number, (name, loaded) in enumerate(zip(names, models, strict=True)):
            answer = args.answer or loaded.template.config.answer
            config = EvalConfig(budgets=(thought_tokens(loaded, args.budget, "high"),), answer=answer)
            configs[name] = config
            engine = engine_for(loaded, asked(task, problems), config)
            subject = Subject(engine=engine, template=loaded.template, task=task, config=config)
            for part, found in enumerate(figures(subject, problems), start=1):
                measured[name] += found
                progress.update(PARTS * number + part)
    outcome = Outcome(value={"out": out, "task": task.name, "problems": len(problems), "models": measured})
    made = {"configs": to_json(configs), "command": typed(args), "versions": versions(), "machine": machine()}
    write_json(out / FILE, {**outcome.json(), **made})
    write_atomic(out / "thoughts.md", as_markdown(measured).encode())
    tell(measured, out)
    return outcome


def tell(measured: dict[str, list[Figure]], out: Path) -> None:
    output = Output()
    part = ""
    rows: list[list[str]] = []
    for row in zip(*measured.values(), strict=True):
        if row[0].part != part:
            part = row[0].part
            rows.append([part + ":", *("" for _ in row)])
        rows.append([f"  {row[0].name}", *map(share, row)])
    output.tell_table(["", *measured], rows, numeric=list(measured))
    output.say(f"examples of each figure: {out / 'thoughts.md'}")
