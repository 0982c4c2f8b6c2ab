"""The suite behind an o1 report: does thinking time turn into better answers, and how far?

    levels     of each task the level that tells most (levels.py)
    cells      accuracy at each budget, from many answers to each problem (suite.py)
    scorings   a learned scorer's chance of each answer, and how far that is to be believed (scorer.py)
    spendings  accuracy against tokens: one longer thought, or many answers (parallel.py)

A thought can also be longer than the model would have it (mode `extended`) and than the context (mode `chunked`).

All but the cells stands in `o1.json` beside them. What is on disk is not computed again.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from steep.engines import LoadedModel
from steep.errors import ConfigError, SteepError
from steep.evals import parallel
from steep.evals.evaluate import EvalConfig, accuracy, evaluate
from steep.evals.findings import Findings, Method, Scoring, Spending, load_findings, save_findings
from steep.evals.levels import Choice, at_level, choose
from steep.evals.parallel import Answers, answers_in
from steep.evals.scorer import Response, Scorer, calibration_error, features, fit, parted
from steep.evals.statistics import Estimate, bootstrap, mean_rate
from steep.evals.suite import Cell, Mode, SuiteConfig, load_cells, measure
from steep.runs import Claim, Progress, Stage, write_atomic, write_evidence
from steep.tasks.checking import GRAM, leaks
from steep.tasks.jsonl import Line
from steep.tasks.listed import Listed
from steep.tasks.mixture import distinct
from steep.types import Engine, Group, Problem, Task

CLAIMED = 0.2, 0.6
"""Claims are made of the budget, above 0 if there is one, where pass@1 lies between these: answers can help there."""

LEAST_PROBLEMS = 4
"""To train a scorer on; one of them says when to stop."""
METHODS: Mapping[Method, parallel.Method] = {
    "one": parallel.any_right,
    "extended": parallel.any_right,
    "chunked": parallel.any_right,
    "any": parallel.any_right,
    "majority": parallel.majority,
    "best": parallel.best,
    "weighted": parallel.weighted,
}
FURTHER: tuple[Mode, ...] = ("extended", "chunked")
SCORED: tuple[Method, ...] = ("best", "weighted")


@dataclass(frozen=True, kw_only=True)
class O1Config:
    """How much is measured of each task, at one of its levels."""

    suite: SuiteConfig = field(
        default_factory=lambda: SuiteConfig(problems=200, modes=("sampled",), eval=EvalConfig(samples=64))
    )
    probe: int = 64
    """Problems of each level that is tried."""
    scorer_problems: int = 1600
    """Of the train split, for the scorer to learn from: many problems teach it more than many answers to each."""
    scorer_samples: int = 4
    """Answers to each of these, at each budget."""
    further: tuple[Mode, ...] = FURTHER
    """Ways to think longer that are measured too, where the model has a thought section."""
    further_samples: int = 4
    """Answers to each problem in each of these, if there are no fewer otherwise."""
    extensions: int = 1
    """How often a thought that the model ends is made to go on."""
    chunked: tuple[int, ...] = (2, 4)
    """Budgets of thoughts in chunks, in largest budgets: a context that holds one of these holds no more."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model that is measured."""

    loaded: LoadedModel
    new_engine: Callable[[Sequence[Problem], EvalConfig, bool], Engine]
    """Makes one with room for these problems and budgets; if so asked, it cuts longer thoughts into chunks."""

    def answers(self, task: Task, problems: Sequence[Problem], config: EvalConfig) -> dict[int, list[Group]]:
        engine = self.new_engine(problems, config, False)
        return evaluate(engine, self.loaded.template, {task.name: task}, problems, config)


def measure_o1(
    stage: Stage, subject: Subject, tasks: Sequence[Task], config: O1Config, beyond: bool, command: str
) -> Findings:
    """Measure a model on each of its tasks. `beyond`: levels harder than the tasks' own may be chosen."""
    began = time.monotonic()
    chosen = {choice.task: choice for choice in load_findings(stage.path).choices}
    for task in tasks:
        if task.name not in chosen:
            chosen[task.name] = choose_level(subject, task, config, beyond)
            save_findings(stage.path, Findings(choices=tuple(chosen.values())))
    findings = Findings(choices=tuple(chosen.values()))
    claims: list[Claim] = []
    for task, choice in zip(tasks, findings.choices, strict=True):
        at = task if choice.level is None else at_level(task, choice.level)
        assert at is not None
        findings = findings.plus(Findings(overlaps=overlaps(at, tasks, config.suite.problems)))
        carry_out(stage, subject, at, config.suite, config.suite.eval)
        for each in further(subject, config):
            carry_out(stage, subject, at, each, config.suite.eval)
        measured = [cell for cell in load_cells(stage.path) if (cell.task, cell.level) == (at.name, None)]
        cells = [cell for cell in measured if cell.mode not in FURTHER]
        try:
            score(stage, subject, at, cells, config)
        except ConfigError as error:  # a list without a train split, say
            told = f"{at.name}: no scorer could be trained, so none chooses among answers: {error.message}"
            findings = findings.plus(Findings(left_out=(told,)))
        by_cell = {cell: answers_of(stage, cell) for cell in measured}
        problems, sizes = parallel.comparable([by_cell[cell] for cell in cells])
        counted = {cell: [found[p] for p in problems if len(found.get(p, ()))] for cell, found in by_cell.items()}
        for cell, answers in counted.items():
            scorings, spendings = scorings_of(cell, answers), spendings_of(cell, choice.level, answers, sizes)
            findings = findings.plus(Findings(scorings=scorings, spendings=spendings))
        claims += claims_of({cell: counted[cell] for cell in cells}, max(sizes, default=1), command)
        save_findings(stage.path, findings)
    write_evidence(stage.path / "claims.json", claims, time.monotonic() - began)
    return findings


def further(subject: Subject, config: O1Config) -> list[SuiteConfig]:
    """The ways to think longer, as far as the model and its budgets have them."""
    asked = config.suite.eval
    largest = max(asked.budgets)
    if subject.loaded.template.think_close_id is None or largest < 2:  # a chunk has two tokens
        return []
    few = replace(asked, samples=min(config.further_samples, asked.samples))
    ways: dict[Mode, EvalConfig] = {
        "extended": replace(few, budgets=tuple(b for b in few.budgets if b), extensions=config.extensions),
        "chunked": replace(few, budgets=tuple(times * largest for times in config.chunked), apart=True),
    }
    return [replace(config.suite, modes=(mode,), eval=ways[mode]) for mode in config.further]


def carry_out(stage: Stage, subject: Subject, task: Task, suite: SuiteConfig, room: EvalConfig) -> None:
    """Measure the cells of a task that are not there yet, in a context with `room` for these budgets."""
    engine = subject.new_engine(distinct(task, "test", suite.problems), room, suite.modes == ("chunked",))
    measure(stage, subject.loaded.name, engine, subject.loaded.template, {task.name: task}, suite)


def overlaps(measured: Task, tasks: Sequence[Task], count: int) -> tuple[str, ...]:
    """How many of the problems that are measured are like one to train on, where any of the tasks lists these."""
    training: dict[str, Sequence[Problem]] = {}
    for task in tasks:
        with suppress(SteepError):  # a set for evaluation only
            training |= {task.name: task.listed("train")} if isinstance(task, Listed) else {}
    if not training:
        return ()
    asked = distinct(measured, "test", count)
    shared = leaks([Line(number=number, problem=problem) for number, problem in enumerate(asked)], training)
    told = f"{len(shared)} of {len(asked)} test problems share {GRAM} words in a row with a training problem"
    return (f"{measured.name}: {told} of {' or '.join(training)}, or are shorter and the same",)


def choose_level(subject: Subject, task: Task, config: O1Config, beyond: bool) -> Choice:
    probe = replace(config.suite.eval, samples=1, budgets=(max(config.suite.eval.budgets),))
    with Progress(None, f"levels of {task.name}") as progress:

        def tried(narrowed: Task) -> Estimate:
            (groups,) = subject.answers(narrowed, distinct(narrowed, "test", config.probe), probe).values()
            found = accuracy(groups)
            progress.note(f"{task.name}, level {narrowed.levels[0]}: {found.value:.0%}")
            return found

        return choose(task, tried, beyond)


def score(stage: Stage, subject: Subject, task: Task, cells: Sequence[Cell], config: O1Config) -> None:
    """Write the scorer's chance of each saved rollout beside it, as the column `chance`."""
    files = [cell.file for cell in cells if cell.file is not None]
    left = [file for file in files if "chance" not in stage.rollout_table(file, ["chance"]).column_names]
    if not left:
        return
    saved = stage.path / "scorers" / f"{task.name}.safetensors"
    with Progress(1 + len(left), f"scorer for {task.name}", rated=False) as progress:
        if not saved.exists():
            saved.parent.mkdir(exist_ok=True)
            write_atomic(saved, train_scorer(subject, task, config).to_bytes())
        scorer = Scorer.from_bytes(saved.read_bytes())
        known: dict[Response, float] = {}  # a thought that no budget cut is in several files
        close = subject.loaded.template.think_close_id
        for done, file in enumerate(left, start=1):
            progress.update(done)
            saved_rows = stage.rollouts([file], ["prompt_ids", "ids"])
            rows = [parted(row["prompt_ids"], row["ids"], close) for row in saved_rows]
            new = [response for response in dict.fromkeys(rows) if response not in known]
            chances = scorer.chances(features(subject.loaded.model, new)).tolist()
            known |= zip(new, chances, strict=True)
            stage.add_column(file, "chance", [known[response] for response in rows])
        progress.update(1 + len(left))


def train_scorer(subject: Subject, task: Task, config: O1Config) -> Scorer:
    """From answers at all budgets to problems of the train split."""
    problems = distinct(task, "train", config.scorer_problems)
    by_budget = subject.answers(task, problems, replace(config.suite.eval, samples=config.scorer_samples))
    close = subject.loaded.template.think_close_id
    checked = [
        (parted(rollout.prompt_ids, rollout.ids.tolist(), close), rollout.verdict.score, number)
        for groups in by_budget.values()
        for number, group in enumerate(groups)
        for rollout in group.rollouts
        if rollout.verdict is not None and rollout.verdict.kind != "invalid"
    ]
    score_N, problem_N = np.array([score for _, score, _ in checked]), np.array([number for *_, number in checked])
    if len(set(score_N)) < 2 or len(set(problem_N)) < LEAST_PROBLEMS:
        raise ConfigError(f"that takes right and wrong answers to {LEAST_PROBLEMS} problems of the train split or more")
    places = {response: place for place, response in enumerate(dict.fromkeys(response for response, *_ in checked))}
    found_ND = features(subject.loaded.model, list(places))
    return fit(found_ND[[places[response] for response, *_ in checked]], score_N, problem_N)


def answers_of(stage: Stage, cell: Cell) -> dict[str, Answers]:
    """The answers that a cell was counted from, by problem."""
    assert cell.file is not None
    return answers_in(stage.rollouts([cell.file], parallel.COLUMNS))


def scorings_of(cell: Cell, answers: Sequence[Answers]) -> tuple[Scoring, ...]:
    scored = [(a.chances_K, a.scores_K) for a in answers if a.chances_K is not None]
    if not scored:
        return ()
    chances_N, score_N = (np.concatenate(parts) for parts in zip(*scored, strict=True))
    error = calibration_error(chances_N, score_N)
    return (Scoring(task=cell.task, budget=cell.budget, answers=len(score_N), error=error),)


def spendings_of(
    cell: Cell, level: int | None, answers: Sequence[Answers], sizes: Sequence[int]
) -> tuple[Spending, ...]:
    """One answer, and by each method as many as `sizes` says."""
    if not answers:
        return ()
    assert cell.file is not None
    tokens = float(np.mean([a.tokens_K.mean() for a in answers]))
    scored = all(a.chances_K is not None for a in answers)
    alone: Method = cell.mode if cell.mode == "extended" or cell.mode == "chunked" else "one"
    several: tuple[Method, ...] = ("any", "majority", "best", "weighted") if scored else ("any", "majority")
    found = []
    for k in sizes if alone == "one" else (1,):
        for method in several if k > 1 else (alone,):
            values = parallel.each(METHODS[method], answers, k)
            found.append(
                Spending(
                    task=cell.task,
                    level=level,
                    budget=cell.budget,
                    method=method,
                    samples=k,
                    tokens=k * tokens,
                    problems=len(values),
                    **asdict(mean_rate(values)),
                    file=cell.file,
                )
            )
    return tuple(found)


def claims_of(counted: Mapping[Cell, Sequence[Answers]], k: int, command: str) -> list[Claim]:
    """What k answers add to one, paired by problem, at the budget where pass@1 is nearest to the middle."""
    low, high = CLAIMED
    fitting = [cell for cell in counted if low <= cell.value <= high]
    if not fitting or k == 1:
        return []
    cell = min(fitting, key=lambda cell: (cell.budget == 0, abs(cell.value - (low + high) / 2)))
    answers = counted[cell]
    one, most = parallel.each(parallel.any_right, answers, 1), parallel.each(parallel.majority, answers, k)
    pairs = {"majority_over_one": (most - one, "> 0")}
    if all(a.chances_K is not None for a in answers):
        for name in SCORED:
            gained = parallel.each(METHODS[name], answers, k)
            pairs |= {f"{name}_over_one": (gained - one, "> 0"), f"{name}_over_majority": (gained - most, ">= 0")}
    return [
        Claim(id=f"o1.{cell.task}.{name}_{k}_at_{cell.budget}", bar=bar, command=command, **asdict(bootstrap(gain)))
        for name, (gain, bar) in pairs.items()
    ]
