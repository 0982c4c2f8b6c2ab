import json
import math
import threading
from concurrent.futures import Future
from dataclasses import asdict, replace
from itertools import count

import numpy as np
import pytest

from steep.errors import SteepError
from steep.evals.evaluate import EvalConfig, accuracy
from steep.evals.statistics import bootstrap, proportion
from steep.evals.suite import SuiteConfig, cells_of, load_cells, measure
from steep.runs import Stage, write_json
from steep.types import Group, Message, Problem, Receipt, Rollout, Verdict, correct, invalid, wrong


def problem(number, levels=2):
    return Problem(
        id=f"parity/{number}", task="parity", split="test", level=number % levels + 1,
        prompt=(Message(role="user", content=f"Is {number} odd?"),), key={"odd": number % 2 == 1},
    )  # fmt: skip


class Parity:
    """Level 1 holds the even numbers, level 2 the odd ones."""

    name = "parity"
    levels = (1, 2)

    def problems(self, split, seed, level=None, start=0):
        assert split == "test"
        return (problem(n) for n in count(start))

    def verify(self, problem, answer):
        if answer == "crash":
            raise RuntimeError("checker")
        return correct() if answer == ("yes" if problem.key["odd"] else "no") else wrong("parity")


class SaysYes:
    """Thinks until the budget cuts it if it is below 8, and answers yes."""

    receipt = Receipt(version=0, digest="a1")
    context = 10**6

    def __init__(self, template, answer="yes"):
        self.template, self.answer, self.requests = template, answer, []

    def submit(self, request):
        self.requests.append(request)
        samples = range(request.first_sample, request.first_sample + request.n)
        budgets = [*(replace(request.budget, thought=cut) for cut in request.cuts if cut <= 8), request.budget]
        future = Future()
        future.set_result([self.rollout(request, sample, budget) for sample in samples for budget in budgets])
        return future

    def rollout(self, request, sample, budget):
        encode = self.template.tokenizer.encode
        thought = (encode("3 + 5 = 8, and") * 3)[: min(budget.thought, 8)]
        cut = budget.thought <= 8
        closing = list(budget.closing) if cut else [self.template.think_close_id]
        ids = np.array([*thought, *closing, *encode(self.answer), min(self.template.end_ids)], np.int32)
        sampled = np.ones(len(ids), bool)
        sampled[len(thought) : len(thought) + len(closing)] = not cut
        return Rollout(
            prompt_ids=request.prompt_ids, ids=ids, logprobs=np.zeros(len(ids), np.float32), sampled=sampled,
            versions=np.zeros(len(ids), np.int32), thought_len=len(thought) + len(closing), stop="end",
            budget=budget, seed=request.seed, sample=sample,
        )  # fmt: skip


SMALL = SuiteConfig(problems=10, eval=EvalConfig(budgets=(0, 4, 16), samples=3))


def test_answers_are_checked_while_the_next_ones_are_sampled(tmp_path, template):
    sampling = threading.Event()

    class Patient(Parity):
        def verify(self, problem, answer):
            assert sampling.wait(10)
            return super().verify(problem, answer)

    class Telling(SaysYes):
        def submit(self, request):
            if request.budget.thought == 0:
                sampling.set()
            return super().submit(request)

    config = SuiteConfig(problems=2, modes=("sampled",), eval=EvalConfig(budgets=(0, 4, 16)))
    cells = measure(Stage(tmp_path), "sft", Telling(template), template, {"parity": Patient()}, config)
    assert [(c.budget, c.invalid) for c in cells if c.level is None] == [(0, 0), (4, 0), (16, 0)]


def test_what_was_sampled_before_an_interruption_is_kept(tmp_path, template):
    class Interrupted(SaysYes):
        def submit(self, request):
            if request.budget.thought == 0:
                raise KeyboardInterrupt
            return super().submit(request)

    config = SuiteConfig(problems=2, modes=("sampled",), eval=EvalConfig(budgets=(0, 4, 16)))
    with pytest.raises(KeyboardInterrupt):
        measure(Stage(tmp_path), "sft", Interrupted(template), template, {"parity": Parity()}, config)
    assert {c.budget for c in load_cells(tmp_path)} == {4, 16}


def test_measured_cells(tmp_path, template):
    engine = SaysYes(template)
    cells = measure(Stage(tmp_path), "sft", engine, template, {"parity": Parity()}, SMALL)
    assert load_cells(tmp_path) == cells
    assert len(cells) == 2 * 3 * 3  # modes, budgets, and levels 1, 2 and both
    found = {(c.mode, c.budget, c.level): c for c in cells}
    assert [found["sampled", 16, level].value for level in (None, 1, 2)] == [0.5, 0.0, 1.0]
    whole = found["greedy", 16, None]
    assert (whole.problems, whole.low, whole.high) == (10, proportion(5, 10).low, proportion(5, 10).high)
    assert [found["greedy", b, None].thought for b in (0, 4, 16)] == [0, 4, 8]
    assert [found["greedy", b, None].interrupted for b in (0, 4, 16)] == [1, 1, 0]
    temperatures = {request.sampling.temperature for request in engine.requests}
    assert temperatures == {0.0, 1.0}
    assert {r.n for r in engine.requests if r.sampling.temperature == 0} == {1}


def test_rollouts_are_kept_beside_the_cells(tmp_path, template):
    measure(Stage(tmp_path), "sft", SaysYes(template), template, {"parity": Parity()}, SMALL)
    rows = list(Stage(tmp_path).rollouts())
    assert len(rows) == 10 * 3 * 3 + 10 * 1 * 3
    assert {(row["model"], row["mode"]) for row in rows} == {("sft", "sampled"), ("sft", "greedy")}
    assert {row["verdict"] for row in rows if row["level"] == 1} == {"wrong"}
    assert json.loads(rows[1]["key"]) == {"odd": False}


def test_what_is_on_disk_is_not_measured_again(tmp_path, template):
    stage, tasks = Stage(tmp_path), {"parity": Parity()}
    first = measure(stage, "sft", SaysYes(template), template, tasks, SMALL)
    idle = SaysYes(template)
    assert measure(stage, "sft", idle, template, tasks, SMALL) == first
    assert idle.requests == []
    both = measure(stage, "rl", SaysYes(template), template, tasks, SMALL)
    assert both[: len(first)] == first
    assert {cell.model for cell in both} == {"sft", "rl"}
    assert stage.rollout_steps() == list(range(12))  # models, modes and budgets
    assert sorted({cell.file for cell in both}) == stage.rollout_steps()


class Stops(SaysYes):
    """Is killed after some answers."""

    def __init__(self, template, left):
        super().__init__(template)
        self.left = left

    def submit(self, request):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().submit(request)


@pytest.mark.parametrize(("left", "done"), [(3, set()), (13, {4, 16}), (13, {16})])
def test_an_evaluation_that_was_cut_short_goes_on_with_the_budgets_that_are_left(left, done, tmp_path, template):
    """It takes 10 requests to sample the budgets above 0, and 10 for that of 0."""
    tasks, config = {"parity": Parity()}, replace(SMALL, modes=("sampled",))
    whole, stage = Stage(tmp_path / "whole"), Stage(tmp_path / "cut")
    for each in (whole, stage):
        each.path.mkdir()
    expected = measure(whole, "m", SaysYes(template), template, tasks, config)
    with pytest.raises(KeyboardInterrupt):
        measure(stage, "m", Stops(template, left), template, tasks, config)
    kept = [asdict(cell) for cell in load_cells(stage.path)]
    assert {cell["budget"] for cell in kept} >= done
    write_json(stage.path / "cells.json", [cell for cell in kept if cell["budget"] in done])  # the rest was not reached
    rest = SaysYes(template)
    assert measure(stage, "m", rest, template, tasks, config) == expected
    assert len(rest.requests) == (10 if done == {4, 16} else 20)
    assert list(stage.rollouts()) == list(whole.rollouts())


def test_figures_of_another_model_of_that_name_are_not_mixed(tmp_path, template):
    stage, tasks = Stage(tmp_path), {"parity": Parity()}
    measure(stage, "m", SaysYes(template), template, tasks, SMALL)
    other = SaysYes(template)
    other.receipt = Receipt(version=0, digest="b2")
    with pytest.raises(SteepError, match="figures of another model that was called m"):
        measure(stage, "m", other, template, tasks, SMALL)
    assert other.requests == []


def test_checks_that_fail_are_counted_and_in_no_accuracy(tmp_path, template):
    cells = measure(Stage(tmp_path), "sft", SaysYes(template, "crash"), template, {"parity": Parity()}, SMALL)
    assert all(math.isnan(cell.value) and (cell.low, cell.high) == (0, 1) for cell in cells)
    assert {cell.invalid for cell in cells if cell.mode == "sampled" and cell.level is None} == {30}
    again = load_cells(tmp_path)
    assert len(again) == len(cells)


def test_accuracy_of_groups(making, template):
    def group(number, *verdicts):
        drawn = [making.rollout(template, "3 + 5", "8", 4, verdict) for verdict in verdicts]
        return Group(problem=problem(number), rollouts=tuple(drawn))

    yes, no, broken = correct(), wrong("no"), invalid("crash")
    single = [group(0, yes), group(1, no), group(2, yes), group(3, broken)]
    assert accuracy(single) == proportion(2, 3)
    several = [group(0, yes, no), group(1, no, no), group(2, yes, broken), group(3, broken, broken)]
    assert accuracy(several) == bootstrap(np.array([0.5, 0.0, 1.0]))


def test_one_level_makes_one_cell(making, template):
    cells = cells_of("rl", "countdown", "greedy", {16: making.groups(template, "countdown", 16, 0.5, levels=1)})
    (cell,) = cells
    assert (cell.level, cell.problems, cell.budget) == (None, 40, 16)


def test_no_cells_where_nothing_was_measured(tmp_path):
    assert load_cells(tmp_path) == []


def test_partial_scores_of_single_rollouts_are_not_cut_to_whole_ones(making, template):
    half = Verdict(kind="correct", score=0.5)
    drawn = [Group(problem=problem(n), rollouts=(making.rollout(template, "", "8", 4, half),)) for n in range(5)]
    assert accuracy(drawn).value == pytest.approx(0.5)


def test_a_told_budget_is_in_the_prompt_of_each_budget(tmp_path, template):
    engine = SaysYes(template)
    config = SuiteConfig(problems=4, modes=("told",), eval=EvalConfig(budgets=(4, 16)))
    cells = measure(Stage(tmp_path), "rl", engine, template, {"parity": Parity()}, config)
    assert {cell.mode for cell in cells} == {"told"}
    prompts = [template.tokenizer.decode(request.prompt_ids) for request in engine.requests]
    assert sum("at most 16 tokens" in prompt for prompt in prompts) == 4
    assert sum("at most 4 tokens" in prompt for prompt in prompts) == 4
    assert all(request.response_ids == () for request in engine.requests)  # nothing is cut from a longer thought
    ended = [np.mean([row["ended"] for row in Stage(tmp_path).rollouts() if row["budget"] == b]) for b in (4, 16)]
    assert ended == [0, 1]
