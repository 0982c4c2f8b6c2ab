"""What `benchmarks.o1` makes of what steep's commands answer."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks import o1
from steep.evals.statistics import fit_log
from steep.evals.suite import Cell
from steep.runs import Stage, write_json


class Answered(o1.Bench):
    """A bench whose commands were carried out before."""

    def __init__(self, run: Path, **answers: dict[str, Any]) -> None:
        super().__init__(run)
        self.answers = answers

    def steep(self, name: str, *words: str) -> dict[str, Any]:
        return self.answers[name]


def figure(*right: float) -> dict[str, object]:
    """Of problems a, b, c, ..."""
    value = sum(right) / len(right)
    interval = {"value": value, "low": value - 0.05, "high": value + 0.05}
    return {"name": "right after a wrong step", **interval, "by_problem": dict(zip("abcdefgh", right, strict=False))}


def test_a_command_is_carried_out_once_and_again_in_other_words(tmp_path, monkeypatch):
    bench = o1.Bench(tmp_path)
    first = bench.steep("tasks", "tasks", "list")
    assert bench.steep("tasks", "tasks", "list") == first
    assert bench.steep("tasks", "tasks") != first
    last = bench.steep("tasks", "tasks")
    monkeypatch.setattr(o1.environment, "git", lambda: {"commit": "another", "dirty": False})
    assert bench.steep("tasks", "tasks")["seconds"] != last["seconds"]


def test_planted_mistakes_are_claimed_after_rl_and_against_before_on_shared_problems(tmp_path):
    """RL has three further problems, of which it gets one: on the five that both have it is one better."""
    bench = Answered(tmp_path, thoughts={"models": {"sft": [figure(1, 1, 1, 1, 0)], "rl": [figure(*[1] * 6, 0, 0)]}})
    enough, more = o1.planted(bench)
    assert (enough.value, enough.low, enough.holds) == (0.75, pytest.approx(0.7), True)
    assert (more.value, more.low >= 0, more.holds) == (pytest.approx(0.2), True, True)


def evaluated(directory, accuracies):
    """An evaluation of 100 problems at budgets of 16, 32, 64, ... tokens."""
    directory.mkdir()
    cells = []
    for place, accuracy in enumerate(accuracies):
        budget = 16 << place
        scores = [float(problem < 100 * accuracy) for problem in range(100)]
        rows = [
            {"model": "rl", "task": "countdown", "mode": "sampled", "level": 1, "problem": str(problem),
             "budget": budget, "verdict": "correct" if score else "wrong", "score": score, "ended": True,
             "thought_tokens": 9, "thought": ""}
            for problem, score in enumerate(scores)
        ]  # fmt: skip
        Stage(directory).save_rollouts(place, rows)
        cells.append(
            Cell(model="rl", task="countdown", level=None, mode="sampled", budget=budget, problems=100, value=accuracy,
                 low=accuracy, high=accuracy, thought=9.0, interrupted=0.0, invalid=0)
        )  # fmt: skip
    write_json(directory / "cells.json", [asdict(cell) for cell in cells])
    return directory


def test_a_line_is_drawn_through_four_budgets_at_least(tmp_path):
    (early,) = o1.follows_the_log(evaluated(tmp_path / "early", [0.2, 0.8, 0.7, 0.7, 0.7]))
    assert early.value == pytest.approx(fit_log([16, 32, 64, 128], [0.2, 0.8, 0.7, 0.7]).r2)
    assert not early.holds
    (rising,) = o1.follows_the_log(evaluated(tmp_path / "rising", [0.2, 0.3, 0.4, 0.5, 0.6, 0.5]))
    assert rising.value == pytest.approx(1.0)
    assert o1.follows_the_log(evaluated(tmp_path / "few", [0.2, 0.8, 0.7])) == []


def test_the_worst_forecast_counts():
    errors = [0.01, None, 0.07]
    (claim,) = o1.forecast({"scaling": [{"scaling": {"forecast_error": error}} for error in errors]})
    assert (claim.value, claim.low, claim.holds) == (0.07, 0.01, False)
    assert list(o1.forecast({"scaling": [{"scaling": {"forecast_error": None}}]})) == []
