"""A sweep: the study of a grid of settings, each with some seeds, and what came of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from steep.config import override
from steep.errors import ConfigError
from steep.evals.statistics import Estimate, student
from steep.runs import Claim, Run, read_claims
from steep.training.recipe import Recipe
from steep.training.study import CLAIMS, Arm, Study

ONLY = "recipe"
"""The name of the one setting where there is no grid."""


@dataclass(frozen=True, kw_only=True)
class Sweep(Study):
    """Its arms are named by setting and seed: "lr=1e-4/0"."""

    settings: Mapping[str, tuple[str, ...]]
    """By arm, what its command line adds to that of the sweep."""


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A setting with its figures: means over its finished seeds with Student's 95% interval, NaN for a single one."""

    setting: str
    finished: int
    seeds: int
    figures: dict[str, Estimate]


def sweep(recipe: Recipe, grid: Sequence[str], seeds: int) -> Sweep:
    """All combinations of `grid` ("rl.policy.optimizer.lr=1e-4,3e-4"), with the seeds from the recipe's own on."""
    axes = dict(map(axis, grid))
    if len(axes) < len(grid) or "seed" in axes:
        raise ConfigError("a field is varied twice", "name each once; --seeds varies the seed")
    short = {key: key.rpartition(".")[2] for key in axes}
    names = short if len(set(short.values())) == len(short) else {key: key for key in axes}
    threads = () if recipe.threads else ("--threads=1",)  # two runs of one thread fill two cores best
    arms, settings = {}, {}
    for values in product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        setting = ",".join(f"{names[key]}={value}" for key, value in chosen.items()).replace("/", "_") or ONLY
        for seed in range(recipe.seed, recipe.seed + seeds):
            words = (*threads, *(f"--{key}={value}" for key, value in chosen.items()), f"--seed={seed}")
            arms[f"{setting}/{seed}"] = Arm(recipe=override(recipe, words))
            settings[f"{setting}/{seed}"] = words
    return Sweep(arms=arms, settings=settings, workers=None)


def axis(text: str) -> tuple[str, list[str]]:
    """A field and the values that it takes."""
    key, _, values = text.partition("=")
    found = list(dict.fromkeys(value.strip() for value in values.split(",") if value.strip()))
    if not key or not found:
        raise ConfigError(f"--grid {text} gives a field no values", "write --grid rl.policy.optimizer.lr=1e-4,3e-4")
    return key.removeprefix("--").replace("-", "_"), found


def is_sweep(run: Run) -> bool:
    return isinstance(run.info.config, Mapping) and run.info.config.get("_") == Sweep.__qualname__


def ranking(run: Run, by: str | None = None) -> list[Ranked]:
    """The settings, best first by a figure, or by the first that the runs have.

    Most is best, except of a loss, and of a claim whose bar is an upper one. Those without the figure, or with NaN,
    come last.
    """
    found: dict[str, list[dict[str, float] | None]] = {}
    upper = set()
    for name in run.info.config["arms"]:
        arm = finished(run, name)
        found.setdefault(name.rpartition("/")[0], []).append(figures(arm) if arm else None)
        upper |= {claim.id for claim in claims(arm) if claim.bar.startswith("<")} if arm else set()
    rows = [ranked(setting, runs) for setting, runs in found.items()]
    by = by or next((figure for row in rows for figure in row.figures), "")
    sign = 1 if by.endswith("loss") or by in upper else -1

    def place(row: Ranked) -> float:
        value = sign * row.figures[by].value if by in row.figures else math.inf
        return math.inf if math.isnan(value) else value

    return sorted(rows, key=place)


def finished(study: Run, arm: str) -> Run | None:
    path = study.path / arm
    run = Run.open(path) if (path / "run.json").is_file() else None
    return run if run is not None and run.status == "finished" else None


def claims(run: Run) -> list[Claim]:
    return read_claims(run.path / "eval" / CLAIMS)


def figures(run: Run) -> dict[str, float]:
    """Claims, then what the stages recorded last, the last stage first ("rl.reward")."""
    found = {claim.id: claim.value for claim in claims(run)}
    for stage in reversed(run.stages()):
        last = stage.last_metrics or {}
        found |= {f"{stage.name}.{k}": float(v) for k, v in last.items() if k != "step" and not isinstance(v, str)}
    return found


def ranked(setting: str, runs: Sequence[dict[str, float] | None]) -> Ranked:
    """Only figures that all finished seeds have."""
    done = [run for run in runs if run is not None]
    names = [name for name in done[0] if all(name in run for run in done)] if done else []
    means = {name: student([run[name] for run in done]) for name in names}
    return Ranked(setting=setting, finished=len(done), seeds=len(runs), figures=means)
