"""An evaluation as a directory: cells (an accuracy each, with its interval) and the rollouts they were counted from."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from steep.errors import SteepError
from steep.evals.demonstrator import DEMONSTRATOR, demonstrations
from steep.evals.evaluate import EvalConfig, accuracy, budgets_of, sweep
from steep.evals.voting import votes
from steep.rollouts import rows
from steep.runs import Progress, Stage, read_json, write_json
from steep.tasks.mixture import distinct
from steep.tokens import Template
from steep.types import Demonstrator, Engine, Group, Problem, Task

Mode = Literal["greedy", "sampled", "told", "extended", "chunked"]
Verifying = Callable[[], Sequence[Group]]
"""Verifies groups that were sampled."""
Found = Iterable[tuple[int, Verifying]]
Answering = Callable[[Sequence[Problem], EvalConfig, Mapping[int, "Cell"]], Found]
"""Groups for each budget of a config that has no cell yet, in the order of the problems; verified when asked to."""
FILE = "cells.json"


@dataclass(frozen=True, kw_only=True)
class SuiteConfig:
    """Which held-out problems, at which budgets."""

    problems: int = 1000
    """Different test problems of each task, over its levels."""
    modes: tuple[Mode, ...] = ("sampled", "greedy")
    """`sampled` at temperature 1, `greedy` at 0, `told` at 1 with the budget said in the prompt; of the o1 suite also
    `extended` past the model's own end of the thought, and `chunked` past the context."""
    eval: EvalConfig = field(default_factory=EvalConfig)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One figure: the accuracy of a model on a task's held-out problems at one thinking budget."""

    model: str
    """A stage of the run, or the name of a model."""
    task: str
    level: int | None
    """None: all levels of the task together."""
    mode: Mode
    budget: int
    """Thinking tokens."""
    problems: int
    value: float
    low: float
    high: float
    thought: float
    """Mean number of thinking tokens used."""
    interrupted: float
    """Share of thoughts that the budget ended."""
    invalid: int
    """Rollouts whose check failed; they are in no accuracy."""
    file: int | None = None
    """Number of the file with the rollouts that were counted; None in evaluations of older versions."""
    digest: str | None = None
    """sha256 of the weights that were measured; None for what has none, and in evaluations of older versions."""


def measure(
    stage: Stage,
    model: str,
    engine: Engine,
    template: Template,
    tasks: Mapping[str, Task],
    config: SuiteConfig,
) -> list[Cell]:
    """Evaluate every task and mode, save rollouts and cells beside those of other models in the stage's directory.

    A budget whose cells are on disk already is not computed again.
    """

    def answers(problems: Sequence[Problem], asked: EvalConfig, done: Mapping[int, Cell]) -> Found:
        return sweep(engine, template, tasks, problems, asked, done)

    return _measured(stage, model, engine.receipt.digest, template, tasks, config, answers)


def measure_demonstrator(stage: Stage, template: Template, task: Demonstrator, config: SuiteConfig) -> list[Cell]:
    """Beside the cells of models those of the task's own demonstrations, sampled; `template` counts their tokens."""

    def answers(problems: Sequence[Problem], asked: EvalConfig, done: Mapping[int, Cell]) -> Found:
        missing = tuple(budget for budget in asked.budgets if budget not in done)
        shown = demonstrations(task, template, problems, replace(asked, budgets=missing))
        return [(budget, partial(list, groups)) for budget, groups in shown.items()]

    config = replace(config, modes=("sampled",))
    return _measured(stage, DEMONSTRATOR, None, template, {task.name: task}, config, answers)


def _measured(
    stage: Stage,
    model: str,
    digest: str | None,
    template: Template,
    tasks: Mapping[str, Task],
    config: SuiteConfig,
    answers: Answering,
) -> list[Cell]:
    cells = load_cells(stage.path)
    if any(cell.digest not in (None, digest) for cell in cells if cell.model == model):
        raise SteepError(
            f"{stage.path} holds figures of another model that was called {model}", "evaluate in another directory"
        )
    asked = [(name, mode, in_mode(config.eval, mode)) for name in tasks for mode in config.modes]

    def done(name: str, mode: Mode) -> dict[int, Cell]:
        return {c.budget: c for c in cells if (c.model, c.task, c.mode, c.level) == (model, name, mode, None)}

    def measured() -> int:
        return sum(len(done(name, mode)) for name, mode, _ in asked)

    def keep(name: str, mode: Mode, budget: int, verify: Verifying) -> None:
        nonlocal cells
        groups = verify()
        file = len({(c.model, c.task, c.mode, c.budget) for c in cells})
        chosen = [vote for group in groups for vote in votes(group, tasks[name], template)]
        saved = zip(rows(groups, template), chosen, strict=True)
        # the same file, if this was cut short before
        stage.save_rollouts(file, [{"model": model, "mode": mode, **row, "vote": v} for row, v in saved])
        cells = _in_order([*cells, *cells_of(model, name, mode, {budget: groups}, file, digest)])
        stage.when_room(partial(write_json, stage.path / FILE, [asdict(cell) for cell in cells]))
        progress.update(measured())

    with Progress(sum(len(budgets_of(template, each)) for _, _, each in asked), f"eval {model}") as progress:
        for name, mode, each in asked:
            before = done(name, mode)
            if not budgets_of(template, each) <= before.keys():
                problems = distinct(tasks[name], "test", config.problems)
                _behind(partial(keep, name, mode), answers(problems, each, before), stage)
            accuracies = " ".join(f"{cell.value:.0%}@{budget}" for budget, cell in sorted(done(name, mode).items()))
            progress.update(measured(), {f"{name} {mode}": accuracies})
    return cells


def _behind(keep: Callable[[int, Verifying], None], found: Found, stage: Stage) -> None:
    """Keep what is found, in a thread, while the next is sampled."""
    with ThreadPoolExecutor(1) as pool:
        kept: list[Future[None]] = []
        try:
            for budget, verify in found:
                for before in kept:
                    if before.done():
                        before.result()  # raises what it raised
                kept.append(pool.submit(keep, budget, verify))
            for before in kept:
                before.result()
        except KeyboardInterrupt:
            stage.stopping.asked = True  # to wait for room on a full disk ends too
            raise


def _in_order(cells: Sequence[Cell]) -> list[Cell]:
    """Model, task and mode as they were measured, and within them from the smallest budget up."""
    places = {key: place for place, key in enumerate(dict.fromkeys((c.model, c.task, c.mode) for c in cells))}
    return sorted(cells, key=lambda c: (places[c.model, c.task, c.mode], c.budget))


def in_mode(config: EvalConfig, mode: Mode) -> EvalConfig:
    if mode == "greedy":
        return replace(config, sampling=replace(config.sampling, temperature=0.0), samples=1)
    return replace(config, tell_budget=config.tell_budget or mode == "told")


def cells_of(
    model: str,
    task: str,
    mode: Mode,
    by_budget: Mapping[int, Sequence[Group]],
    file: int | None = None,
    digest: str | None = None,
) -> list[Cell]:
    """Cells over all levels and, where there are several, for each."""
    cells = []
    for budget, groups in by_budget.items():
        levels = sorted({g.problem.level for g in groups})
        for level in [None, *levels] if len(levels) > 1 else [None]:
            part = [g for g in groups if level is None or g.problem.level == level]
            rollouts = [r for g in part for r in g.rollouts]
            estimate = accuracy(part)
            cells.append(
                Cell(
                    model=model,
                    task=task,
                    level=level,
                    mode=mode,
                    budget=budget,
                    problems=len(part),
                    value=estimate.value,
                    low=estimate.low,
                    high=estimate.high,
                    thought=float(np.mean([r.thought_tokens for r in rollouts])),
                    interrupted=float(np.mean([r.interrupted for r in rollouts])),
                    invalid=sum(r.verdict is not None and r.verdict.kind == "invalid" for r in rollouts),
                    file=file,
                    digest=digest,
                )
            )
    return cells


def load_cells(directory: Path) -> list[Cell]:
    """The cells saved in an evaluation's directory; none if there are none yet."""
    path = directory / FILE
    return [Cell(**row) for row in read_json(path)] if path.is_file() else []
