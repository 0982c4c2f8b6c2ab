"""The nano recipe: what it trains and measures, and its claims, read from a few rows as an evaluation saves them."""

from dataclasses import asdict
from pathlib import Path

import pytest

from steep.config import load_recipe
from steep.evals.suite import FILE, Cell
from steep.memory import peak_gib
from steep.runs import Run, write_json

PATH = Path(__file__).parents[2] / "recipes" / "nano.py"
BUDGETS = (0, 16, 32, 64, 128, 256, 512)
PROBLEMS = 8


def rollouts(model, right):
    """Of PROBLEMS problems, at the i-th budget the first i + `right` are solved."""
    return [
        {
            "model": model,
            "task": "countdown",
            "mode": "sampled",
            "level": 1,
            "problem": str(problem),
            "budget": budget,
            "verdict": "correct" if problem < place + right else "wrong",
            "score": float(problem < place + right),
            "ended": True,
            "thought_tokens": budget,
            "thought": "",
        }
        for place, budget in enumerate(BUDGETS)
        for problem in range(PROBLEMS)
    ]


def cell(task, mode, budget, value):
    return Cell(
        model="rl",
        task=task,
        level=None,
        mode=mode,
        budget=budget,
        problems=PROBLEMS,
        value=value,
        low=value - 0.1,
        high=value + 0.1,
        thought=8.0,
        interrupted=0.0,
        invalid=0,
    )


def recorded(path, rows, cells, course=()):
    """A finished run in which these were measured; `course` is what RL recorded."""
    with Run.create(path, recipe=PATH, overrides=[], config=load_recipe(PATH), seed=0) as run:
        for name in ("sft", "rl") if course else ("sft",):
            stage = run.stage(name)
            for step, metrics in enumerate(course if name == "rl" else ()):
                stage.record(step, metrics)
        stage = run.stage("eval")
        stage.save_rollouts(0, rows)
        write_json(stage.path / FILE, [asdict(one) for one in cells])
    return Run.open(path)


def test_what_is_claimed_is_watched_and_measured():
    recipe = load_recipe(PATH)
    assert [share.task.name for share in recipe.tasks] == ["countdown", "letters", "arithmetic", "chat"]
    suites = {suite.task.name: suite for suite in recipe.evals}
    assert suites["countdown"].config.eval.budgets == BUDGETS
    assert suites["countdown"].models == ("sft", "rl")
    assert {64} <= set(suites["letters"].config.eval.budgets) & set(suites["strawberry"].config.eval.budgets)
    assert 64 in recipe.watch.budgets


def test_claims_are_read_from_what_was_measured(tmp_path):
    cells = [
        cell("countdown", "sampled", 0, 0.125),
        cell("countdown", "sampled", 512, 0.875),
        cell("letters", "greedy", 64, 0.5),
    ]
    at = "valid/countdown@64"
    course = [
        {f"start/{at}": 0.2, f"start/{at}_low": 0.1, f"start/{at}_high": 0.3},
        {at: 0.5, f"{at}_low": 0.4, f"{at}_high": 0.6},
    ]
    run = recorded(tmp_path / "run", [*rollouts("sft", 0), *rollouts("rl", 1)], cells, course)
    *claims, minutes, memory = load_recipe(PATH).claims(run)
    assert {claim.id.removeprefix("nano."): claim.value for claim in claims} == pytest.approx(
        {
            "countdown_rises_to_256": 1 / 8,
            "countdown_gain_256_to_512": 1 / 8,
            "countdown_loglinear_r2": 1.0,
            "countdown_at_512": 0.875,
            "countdown_without_thought": 0.125,
            "countdown_rl_over_sft": 1 / 8,
            "countdown_rl_gain_at_64": 0.3,
            "letters_with_thought": 0.5,
        }
    )
    assert [claim.id for claim in claims if not claim.holds] == ["nano.letters_with_thought"]
    assert 0 <= minutes.value < 1
    assert memory.value == pytest.approx(peak_gib(), rel=0.5)


def test_of_a_run_that_was_stopped_in_between_no_time_is_claimed(tmp_path):
    run = recorded(tmp_path / "run", [], [cell("countdown", "sampled", 512, 0.875)])
    recipe = load_recipe(PATH)
    assert [claim.id for claim in recipe.claims(run)][1:] == ["nano.minutes", "nano.peak_memory_gib"]
    with run.resume(recipe) as again:
        assert [claim.id for claim in recipe.claims(again)] == ["nano.countdown_at_512"]


def test_without_rl_nothing_is_claimed(tmp_path):
    run = recorded(tmp_path / "run", rollouts("sft", 1), [])
    assert load_recipe(PATH).claims(run) == []
    with run.resume(load_recipe(PATH)) as again:
        assert load_recipe(PATH).claims(again) == []
    assert [stage.name for stage in Run.open(tmp_path / "run").stages()] == ["sft", "eval"]
