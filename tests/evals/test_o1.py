"""The suite with a model whose skill is known: it is right with a chance that level and budget decide."""

import json
from concurrent.futures import Future
from dataclasses import astuple, dataclass, replace
from itertools import count

import numpy as np
import pytest
import torch

from steep.engines import LoadedModel
from steep.errors import ConfigError
from steep.evals import parallel
from steep.evals.evaluate import EvalConfig
from steep.evals.findings import Spending, best_ways, load_findings
from steep.evals.o1 import O1Config, Subject, answers_of, measure_o1, overlaps, spendings_of
from steep.evals.parallel import Answers
from steep.evals.scorer import calibration_error
from steep.evals.statistics import proportion
from steep.evals.suite import Cell, SuiteConfig, load_cells
from steep.models.transformer import ModelConfig, Transformer, initialise
from steep.runs import Stage, read_claims
from steep.tasks.jsonl import Jsonl
from steep.types import Message, Problem, Receipt, Rollout, correct, wrong

SKILL = {1: 0.99, 2: 0.95, 3: 0.6}
"""Chance of a right answer after a whole thought, by level; half of it after one that was cut."""
WHOLE = 8  # tokens
CONFIG = O1Config(
    suite=SuiteConfig(problems=40, modes=("sampled",), eval=EvalConfig(budgets=(4, 16), samples=8)),
    probe=40,
    scorer_problems=60,
    scorer_samples=4,
)


@dataclass(frozen=True, kw_only=True)
class Riddle:
    levels: tuple[int, ...] = (1, 2)

    name = "riddle"

    def __post_init__(self):
        if not set(self.levels) <= set(SKILL):
            raise ConfigError("riddle has no such level")

    def problems(self, split, seed, level=None, start=0):
        for number in count(start):
            at = level or self.levels[number % len(self.levels)]
            text = f"{2 * number + (split == 'test')}, level {at}"
            yield Problem(
                id=f"riddle/{text}", task="riddle", split=split, level=at, key={},
                prompt=(Message(role="user", content=text),),
            )  # fmt: skip

    def verify(self, problem, answer):
        return correct() if answer == "yes" else wrong("not yes")


class Skilled:
    """An engine that says yes as often as `SKILL` has it, and otherwise one of some other words."""

    receipt = Receipt(version=0, digest="a1")
    context = 10**6
    left = 10**9

    def __init__(self, template, asked):
        self.template, self.asked = template, asked

    def submit(self, request):
        self.asked.append(request)
        if len(self.asked) > Skilled.left:
            raise KeyboardInterrupt
        future = Future()
        budgets = [*(replace(request.budget, thought=cut) for cut in request.cuts if cut <= WHOLE), request.budget]
        samples = range(request.first_sample, request.first_sample + request.n)
        future.set_result([self.rollout(request, sample, budget) for sample in samples for budget in budgets])
        return future

    def rollout(self, request, sample, budget):
        encode = self.template.tokenizer.encode
        level = int(self.template.tokenizer.decode(list(request.prompt_ids)).rpartition(" ")[2])
        rng = np.random.default_rng([request.seed % 2**32, sample, len(request.prompt_ids), request.prompt_ids[-3]])
        cut = budget.thought <= WHOLE
        right = rng.random() < SKILL[level] * (0.5 if cut else 1)
        thought = (encode("3 + 5 = 8, and") * 3)[: min(budget.thought, WHOLE)]
        closing = list(budget.closing) if cut else [self.template.think_close_id]
        answer = "yes" if right else str(rng.choice(["no", "perhaps", "never", "24"]))
        ids = np.array([*thought, *closing, *encode(answer), min(self.template.end_ids)], np.int32)
        sampled = np.ones(len(ids), bool)
        sampled[len(thought) : len(thought) + len(closing)] = not cut
        return Rollout(
            prompt_ids=request.prompt_ids, ids=ids, logprobs=np.zeros(len(ids), np.float32), sampled=sampled,
            versions=np.zeros(len(ids), np.int32), thought_len=len(thought) + len(closing), stop="end",
            budget=budget, seed=request.seed, sample=sample,
        )  # fmt: skip


@pytest.fixture(scope="module")
def loaded(template, tmp_path_factory):
    config = ModelConfig(
        vocab_size=template.tokenizer.vocab_size, hidden_size=32, num_layers=1, num_heads=2, num_kv_heads=2,
        head_dim=16, intermediate_size=32, max_positions=128,
    )  # fmt: skip
    model = Transformer(config)
    initialise(model, torch.Generator().manual_seed(0))
    return LoadedModel(model, template, tmp_path_factory.mktemp("model"), "riddler")


def carry_out(stage, loaded, tasks=(Riddle(),), beyond=True, config=CONFIG):
    """The findings, and the requests that they took."""
    stage.path.mkdir(exist_ok=True)
    asked = []
    subject = Subject(loaded=loaded, new_engine=lambda problems, config, chunked: Skilled(loaded.template, asked))
    return measure_o1(stage, subject, tasks, config, beyond, "steep eval"), asked


@pytest.fixture(scope="module")
def measured(loaded, tmp_path_factory):
    stage = Stage(tmp_path_factory.mktemp("o1") / "whole")
    return stage, *carry_out(stage, loaded)


def sampled(stage):
    return [cell for cell in load_cells(stage.path) if cell.mode == "sampled"]


def spending(findings, method, samples, budget=16):
    (found,) = [s for s in findings.spendings if (s.method, s.samples, s.budget) == (method, samples, budget)]
    return found


def test_the_level_that_tells_most_is_measured(measured):
    stage, findings, _ = measured
    (choice,) = findings.choices
    assert (choice.task, choice.level, [t.level for t in choice.tried]) == ("riddle", 3, [1, 2, 3])
    assert choice.words == "riddle, level 3; saturated (above 95%, or not to be told from 100%): level 1"
    assert {row["level"] for row in stage.rollouts()} == {3}
    assert [cell.value for cell in sampled(stage)] == pytest.approx([0.3, 0.6], abs=0.08)


def test_many_answers_are_worth_what_can_be_worked_out(measured):
    _, findings, _ = measured
    one = spending(findings, "one", 1)
    assert one.value == pytest.approx(0.6, abs=0.08)
    assert spending(findings, "any", 8).value > 0.97
    assert one.value + 0.2 < spending(findings, "majority", 8).value  # the wrong ones differ
    assert spending(findings, "best", 8).value > 0.9
    for method in ("any", "majority", "weighted", "best"):
        values = [spending(findings, method, k).value for k in (2, 4, 8)]
        assert values == sorted(values)
    assert spending(findings, "best", 8).tokens == pytest.approx(8 * one.tokens)


def test_every_figure_is_that_of_the_rollouts_in_its_file(measured):
    stage, findings, _ = measured
    for found in findings.spendings:
        rows = [row for row in stage.rollouts([found.file]) if row["problem"]]
        assert {row["budget"] for row in rows} == {found.budget}
        assert found.tokens == pytest.approx(found.samples * np.mean([len(row["ids"]) for row in rows]))
    ones = [s for s in findings.spendings if s.method == "one"]
    assert [s.value for s in ones] == pytest.approx([cell.value for cell in sampled(stage)])


def test_longer_thoughts_than_the_model_would_have_are_curves_of_their_own(measured):
    stage, findings, asked = measured
    cells = [cell for cell in load_cells(stage.path) if cell.mode != "sampled"]
    assert [(c.mode, c.budget) for c in cells] == [("extended", 4), ("extended", 16), ("chunked", 32), ("chunked", 64)]
    further = [s for s in findings.spendings if s.method in ("extended", "chunked")]
    assert [(s.method, s.budget, s.file) for s in further] == [(c.mode, c.budget, c.file) for c in cells]
    assert [s.value for s in further] == pytest.approx([cell.value for cell in cells])
    assert {s.samples for s in further} == {1}
    assert all(len(list(stage.rollouts([cell.file]))) == 40 * 4 for cell in cells)
    assert {request.budget.extensions for request in asked} == {0, CONFIG.extensions}


def test_ways_that_are_not_asked_for_or_not_there_are_left_out(loaded, tmp_path):
    few = replace(CONFIG, further=("extended",))
    carry_out(Stage(tmp_path / "o1"), loaded, config=few)
    assert {cell.mode for cell in load_cells(tmp_path / "o1")} == {"sampled", "extended"}
    at_once = replace(CONFIG, suite=replace(CONFIG.suite, eval=EvalConfig(budgets=(0,), samples=8)))
    carry_out(Stage(tmp_path / "none"), loaded, config=at_once)
    assert {cell.mode for cell in load_cells(tmp_path / "none")} == {"sampled"}


def test_the_scorer_is_kept_and_calibrated(measured):
    stage, findings, _ = measured
    assert (stage.path / "scorers" / "riddle.safetensors").is_file()
    assert [(s.budget, s.answers) for s in findings.scorings] == [(4, 320), (16, 320)]
    for scoring, cell in zip(findings.scorings, sampled(stage), strict=True):
        rows = list(stage.rollouts([cell.file]))
        chances, right = (np.array([row[name] for row in rows]) for name in ("chance", "score"))
        assert scoring.error == calibration_error(chances, right == 1) < 0.1


def test_claims_are_paired_at_the_budget_in_the_middle(measured):
    stage, _, _ = measured
    claims = {claim.id: claim for claim in read_claims(stage.path / "claims.json")}
    assert set(claims) == {
        "o1.riddle.majority_over_one_8_at_4",
        *(f"o1.riddle.{name}_over_{other}_8_at_4" for name in ("best", "weighted") for other in ("one", "majority")),
    }
    cell = sampled(stage)[0]
    answers = list(answers_of(stage, cell).values())
    gain = parallel.each(parallel.best, answers, 8).mean() - parallel.each(parallel.majority, answers, 8).mean()
    assert claims["o1.riddle.best_over_majority_8_at_4"].value == pytest.approx(gain)
    assert all(claim.holds for claim in claims.values())


def test_what_is_on_disk_is_not_computed_again(measured, loaded):
    stage, findings, asked = measured
    again, more = carry_out(stage, loaded)
    assert again == findings == load_findings(stage.path)
    assert len(asked) > 0
    assert more == []


@pytest.mark.parametrize("left", [0, 130, 180, 300])
def test_a_suite_that_was_cut_short_ends_the_same(left, measured, loaded, tmp_path, monkeypatch):
    stage = Stage(tmp_path / "cut")
    monkeypatch.setattr(Skilled, "left", left)
    with pytest.raises(KeyboardInterrupt):
        carry_out(stage, loaded)
    monkeypatch.undo()
    whole, findings, asked = measured
    again, more = carry_out(stage, loaded)
    assert again == findings
    assert list(stage.rollouts()) == list(whole.rollouts())
    assert left == 0 or len(more) < len(asked)


def test_without_problems_to_train_on_no_scorer_chooses(loaded, tmp_path):
    class Untrained(Riddle):
        def problems(self, split, seed, level=None, start=0):
            if split == "train":
                raise ConfigError("riddle has no problems in split 'train'")
            return super().problems(split, seed, level, start)

    findings, _ = carry_out(Stage(tmp_path / "o1"), loaded, [Untrained()])
    assert findings.left_out == (
        "riddle: no scorer could be trained, so none chooses among answers: riddle has no problems in split 'train'",
    )
    assert {s.method for s in findings.spendings} == {"one", "extended", "chunked", "any", "majority"}
    assert findings.scorings == ()


def test_shares_of_problems_have_intervals_where_all_are_right():
    cell = Cell(
        model="m", task="t", level=None, mode="sampled", budget=16, problems=60, value=1.0, low=0.9, high=1.0,
        thought=9.0, interrupted=0.0, invalid=20, file=0,
    )  # fmt: skip
    answers = [
        Answers(scores_K=np.ones(count), votes_K=np.zeros(count, np.int64), tokens_K=np.full(count, 30))
        for count in [8] * 3 + [7] * 55
    ]
    found = spendings_of(cell, 1, answers, [1, 2, 4, 7])
    assert [(s.method, s.samples) for s in found] == [
        ("one", 1), *((method, k) for k in (2, 4, 7) for method in ("any", "majority"))
    ]  # fmt: skip
    assert {s.problems for s in found} == {58}
    assert {(s.value, s.low, s.high) for s in found} == {astuple(proportion(58, 58))}  # no share is certain


def test_test_problems_that_are_like_training_problems_are_counted(tmp_path):
    words = "one two three four five six seven eight nine ten eleven twelve thirteen"
    prompts = {f"Read {words}.": "train", f"Say {words} again.": "test", "2+2?": "test"}
    file = tmp_path / "mine.jsonl"
    file.write_text("\n".join(json.dumps({"prompt": p, "answer": 2, "split": s}) for p, s in prompts.items()))
    task = Jsonl(file=file)
    (told,) = overlaps(task, [Riddle(), task], 200)
    assert told.startswith("mine: 1 of 2 test problems share 13 words in a row with a training problem of mine, or")
    assert overlaps(Riddle(), [Riddle()], 200) == ()  # it makes its problems


def test_the_best_way_to_spend_tokens():
    one = Spending(
        task="t", level=1, budget=16, method="one", samples=1, tokens=30.0, problems=9, value=0.3, low=0, high=1, file=0
    )
    longer = replace(one, budget=64, tokens=70.0, value=0.5)
    most = replace(one, method="majority", samples=4, tokens=120.0, value=0.6)
    checked = replace(one, method="any", samples=4, tokens=120.0, value=0.9)  # takes a verifier
    worse = replace(longer, method="best", samples=2, tokens=140.0, value=0.55)
    ways = best_ways([one, longer, most, checked, worse])
    assert [(way.tokens, way.best, way.alone) for way in ways] == [
        (32, one, one), (64, one, one), (128, most, longer), (256, most, longer)
    ]  # fmt: skip
    assert best_ways([]) == []
