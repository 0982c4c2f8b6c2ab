"""An evaluation as a directory: cells (an accuracy each, with its interval) and the rollouts they were counted from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from steep.evals.demonstrator import DEMONSTRATOR, demonstrations
from steep.evals.evaluate import EvalConfig, accuracy, evaluate
from steep.rollouts import rows
from steep.runs import Progress, Stage, read_json, write_json
from steep.tasks.mixture import distinct
from steep.tokens import Template
from steep.types import Demonstrator, Engine, Group, Problem, Task

Mode = Literal["greedy", "sampled", "told"]
Answering = Callable[[Sequence[Problem], EvalConfig], Mapping[int, list[Group]]]
"""Verified groups for each budget of a config, in the order of the problems."""
FILE = "cells.json"


@dataclass(frozen=True, kw_only=True)
class SuiteConfig:
    """Which held-out problems, at which budgets."""

    problems: int = 1000
    """Different test problems of each task, over its levels."""
    modes: tuple[Mode, ...] = ("sampled", "greedy")
    """`sampled` at temperature 1, `greedy` at 0, `told` at 1 with the budget said in the prompt."""
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


def measure(
    stage: Stage,
    model: str,
    engine: Engine,
    template: Template,
    tasks: Mapping[str, Task],
    config: SuiteConfig,
) -> list[Cell]:
    """Evaluate every task and mode, save rollouts and cells beside those of other models in the stage's directory.

    A task and mode that is on disk already is not computed again.
    """
    return _measured(stage, model, template, tasks, config, lambda *asked: evaluate(engine, template, tasks, *asked))


def measure_demonstrator(stage: Stage, template: Template, task: Demonstrator, config: SuiteConfig) -> list[Cell]:
    """Beside the cells of models those of the task's own demonstrations, sampled; `template` counts their tokens."""
    config = replace(config, modes=("sampled",))
    return _measured(
        stage,
        DEMONSTRATOR,
        template,
        {task.name: task},
        config,
        lambda *asked: demonstrations(task, template, *asked),
    )


def _measured(
    stage: Stage, model: str, template: Template, tasks: Mapping[str, Task], config: SuiteConfig, answers: Answering
) -> list[Cell]:
    cells = load_cells(stage.path)
    done = {(c.model, c.task, c.mode) for c in cells}
    wanted = [(name, mode) for name in tasks for mode in config.modes]
    with Progress(len(wanted), f"eval {model}") as progress:
        for number, (name, mode) in enumerate(wanted):
            if (model, name, mode) not in done:
                problems = distinct(tasks[name], "test", config.problems)
                by_budget = answers(problems, in_mode(config.eval, mode))
                saved = [
                    {"model": model, "mode": mode, **row}
                    for groups in by_budget.values()
                    for row in rows(groups, template)
                ]
                stage.save_rollouts(len(done), saved)  # the same file, if this was cut short before
                cells += cells_of(model, name, mode, by_budget)
                stage.when_room(partial(write_json, stage.path / FILE, [asdict(c) for c in cells]))
                done.add((model, name, mode))
            shown = [c for c in cells if (c.model, c.task, c.mode, c.level) == (model, name, mode, None)]
            progress.update(number + 1, {f"{name} {mode}": " ".join(f"{c.value:.0%}@{c.budget}" for c in shown)})
    return cells


def in_mode(config: EvalConfig, mode: Mode) -> EvalConfig:
    if mode == "greedy":
        return replace(config, sampling=replace(config.sampling, temperature=0.0), samples=1)
    return replace(config, tell_budget=config.tell_budget or mode == "told")


def cells_of(model: str, task: str, mode: Mode, by_budget: Mapping[int, Sequence[Group]]) -> list[Cell]:
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
                )
            )
    return cells


def load_cells(directory: Path) -> list[Cell]:
    """The cells saved in an evaluation's directory; none if there are none yet."""
    path = directory / FILE
    return [Cell(**row) for row in read_json(path)] if path.is_file() else []
