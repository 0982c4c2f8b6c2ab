"""Demonstrations under a budget, as cells and rows beside those of models."""

from dataclasses import dataclass

import pytest

from steep.evals.claims import answers, by_problem
from steep.evals.demonstrator import cut, demonstrations
from steep.evals.evaluate import EvalConfig
from steep.evals.suite import SuiteConfig, measure_demonstrator
from steep.runs import Stage
from steep.tasks.countdown import Countdown
from steep.tasks.mixture import distinct
from steep.types import Demonstration


@dataclass(frozen=True, kw_only=True)
class Steady(Countdown):
    """Thinks four letters, and answers right where the target is even."""

    def demonstrate(self, problem, rng):
        shown = super().demonstrate(problem, rng)
        return Demonstration(thought="abcd", answer=shown.answer if problem.key["target"] % 2 == 0 else "1")


def test_a_thought_that_does_not_fit_is_cut(template):
    prompt, response = template.demonstrate((), Demonstration(thought="abcd", answer="8"))
    length = len(template.tokenizer.encode("abcd"))
    whole = cut(template, prompt, response, template.budget(length, 8), 0)
    assert whole.ids.tolist() == list(response)
    assert (whole.thought_tokens, whole.ended, whole.interrupted) == (length, True, False)
    short = cut(template, prompt, response, template.budget(length - 1, 8), 0)
    assert (short.thought_tokens, short.ended, short.interrupted) == (length - 1, False, True)
    assert template.answer(short.ids.tolist()) == ""


def test_the_demonstrator_has_cells_and_rows(template, tmp_path):
    task, stage = Steady(), Stage(tmp_path)
    length = len(template.tokenizer.encode("abcd"))
    config = SuiteConfig(problems=20, eval=EvalConfig(budgets=(0, length - 1, length, 64)))
    even = sum(problem.key["target"] % 2 == 0 for problem in distinct(task, "test", 20))
    cells = measure_demonstrator(stage, template, task, config)
    assert {(cell.model, cell.task, cell.mode, cell.problems) for cell in cells} == {
        ("demonstrator", "countdown", "sampled", 20)
    }
    assert [cell.value for cell in cells] == [0, 0, even / 20, even / 20]
    assert [cell.interrupted for cell in cells] == [1, 1, 0, 0]
    assert measure_demonstrator(stage, template, task, config) == cells
    scores = by_problem(answers(stage), "score", (0, 64), model="demonstrator")
    assert sum(values[1] for values in scores.values()) == even


def test_every_problem_and_sample_has_a_seed_of_its_own(template):
    task = Countdown()
    problems = distinct(task, "test", 3)
    config = EvalConfig(budgets=(512,), samples=2)
    groups = demonstrations(task, template, problems, config)[512]
    thoughts = {tuple(rollout.ids.tolist()) for group in groups for rollout in group.rollouts}
    assert len(thoughts) == 6
    alone = demonstrations(task, template, problems[2:], config)[512][0]
    assert [r.ids.tolist() for r in alone.rollouts] == [r.ids.tolist() for r in groups[2].rollouts]
    assert all(rollout.verdict.score == pytest.approx(1) for rollout in groups[0].rollouts if rollout.ended)
