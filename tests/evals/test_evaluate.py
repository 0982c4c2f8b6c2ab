"""One thought cut at each budget gives what sampling at each budget gives, and claims say what was measured."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from steep.engines import NativeConfig, NativeEngine
from steep.errors import SteepError
from steep.evals.claims import Curve, claim_r2, claim_smallest_gain, claim_training_gain, curve
from steep.evals.evaluate import EvalConfig, accuracy, evaluate
from steep.evals.suite import SuiteConfig, load_cells, measure
from steep.models.transformer import ModelConfig, Transformer, initialise
from steep.runs import Claim, Run, read_claims, write_evidence
from steep.tasks.countdown import Countdown
from steep.tasks.mixture import distinct
from steep.tokens import Template, Tokenizer, compact

TASK = Countdown()
TASKS = {"countdown": TASK}


@pytest.fixture(scope="module")
def template_and_engine() -> tuple[Template, NativeEngine]:
    texts = [p.prompt[0].content for p in distinct(TASK, "train", 40)]
    template = Template(Tokenizer.train(texts, 290, compact().control), compact())
    shape = ModelConfig(
        vocab_size=template.tokenizer.vocab_size,
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        num_kv_heads=2,
        head_dim=16,
        intermediate_size=32,
        max_positions=256,
    )
    model = Transformer(shape)
    initialise(model, torch.Generator().manual_seed(1))
    with torch.no_grad():  # likes to end its thoughts, so that some end before the budget
        model.embedding.weight[template.think_close_id] *= 30
    return template, NativeEngine(model, NativeConfig(rows=24, context=200), template.end_ids)


@pytest.mark.parametrize("extensions", [0, 2])
def test_cutting_one_thought_equals_sampling_at_each_budget(template_and_engine, extensions):
    template, engine = template_and_engine
    problems = distinct(TASK, "test", 12)
    config = EvalConfig(budgets=(0, 1, 4, 16, 64), answer=6, samples=2, extensions=extensions)
    cut = evaluate(engine, template, TASKS, problems, config)
    assert list(cut) == [0, 1, 4, 16, 64]
    for budget in config.budgets:
        alone = evaluate(engine, template, TASKS, problems, replace(config, budgets=(budget,)))
        for ours, theirs in zip(cut[budget], alone[budget], strict=True):
            for a, b in zip(ours.rollouts, theirs.rollouts, strict=True):
                assert a.ids.tolist() == b.ids.tolist()
                assert a.sampled.tolist() == b.sampled.tolist()
                assert a.thought_tokens == b.thought_tokens <= budget
                assert a.interrupted == b.interrupted
    interrupted = [np.mean([r.interrupted for g in cut[b] for r in g.rollouts]) for b in (1, 64)]
    assert interrupted[0] > interrupted[1]
    forced = [r for g in cut[64] for r in g.rollouts if not r.sampled[: r.thought_tokens].all()]
    assert bool(forced) == bool(extensions)


def test_a_budget_that_does_not_fit_the_engine_is_refused(template_and_engine):
    template, engine = template_and_engine
    problems = distinct(TASK, "test", 4)
    longest = max(len(template.render(p.prompt)) for p in problems)
    fitting = engine.context - longest - len(template.budget(1).closing) - 6
    config = EvalConfig(budgets=(0, fitting), answer=6)
    assert list(evaluate(engine, template, TASKS, problems, config)) == [0, fitting]
    with pytest.raises(SteepError, match=f"a budget of {fitting + 1} tokens takes a context of 201 with the longest"):
        evaluate(engine, template, TASKS, problems, replace(config, budgets=(0, fitting + 1)))


def test_a_suite_measures_once_and_its_curve_is_read_from_disk(template_and_engine, tmp_path: Path):
    template, engine = template_and_engine
    config = SuiteConfig(problems=10, modes=("sampled",), eval=EvalConfig(budgets=(0, 8), answer=6))
    with Run.create(tmp_path / "run", recipe="r.py", overrides=[], config=config, seed=0) as run:
        stage = run.stage("eval")
        cells = measure(stage, "m", engine, template, TASKS, config)
        again = measure(stage, "m", engine, template, TASKS, config)
    assert again == cells == load_cells(stage.path)
    assert [(c.budget, c.problems, c.level) for c in cells] == [(0, 10, None), (8, 10, None)]
    found = curve(stage, model="m", task="countdown", mode="sampled", budgets=(0, 8))
    assert found.scores_PB.shape == (10, 2)
    assert found.accuracies.tolist() == [c.value for c in cells]


def test_claims_about_a_curve():
    rng = np.random.default_rng(0)
    chances = np.array([0.2, 0.4, 0.6, 0.8])
    scores = (rng.random((2000, 1)) < chances).astype(float)
    straight = Curve((16, 32, 64, 128), scores)
    (r2,) = claim_r2("r2", straight, ">= 0.95", "do")
    assert r2.holds
    assert r2.low <= r2.value <= r2.high <= 1
    (gain,) = claim_smallest_gain("gain", straight, "> 0", "do")
    assert gain.value == pytest.approx(0.2, abs=0.04)
    assert gain.low > 0.1
    (falls,) = claim_smallest_gain("gain", Curve((1, 2), np.array([[1.0, 0.0], [1.0, 1.0]])), ">= 0", "do")
    assert falls.value == -0.5
    assert not falls.holds


def test_of_a_curve_without_problems_nothing_is_claimed():
    empty = Curve((16, 32), np.empty((0, 2)))
    assert claim_r2("r2", empty, ">= 0.95", "do") == claim_smallest_gain("gain", empty, "> 0", "do") == []


def test_the_gain_of_training_is_from_before_the_first_step_to_the_last():
    rows = [
        {"start/v": 0.4, "start/v_low": 0.3, "start/v_high": 0.5},
        {"v": 0.5, "v_low": 0.4, "v_high": 0.6},
        {"v": 0.7, "v_low": 0.6, "v_high": 0.8},
    ]
    (claim,) = claim_training_gain("gain", rows, "v", "> 0", "do")
    assert claim.value == pytest.approx(0.3)
    assert claim.high - claim.low == pytest.approx(2**0.5 * 0.2)
    assert claim_training_gain("gain", rows[1:], "v", "> 0", "do") == []


def test_claims_come_back_from_disk(tmp_path: Path):
    claims = [Claim(id="a", value=0.5, low=0.4, high=0.6, bar=">= 0.45", command="x")]
    write_evidence(tmp_path / "claims.json", claims, 1.0)
    assert read_claims(tmp_path / "claims.json") == claims
    assert read_claims(tmp_path / "none.json") == []


def test_accuracy_of_whole_scores_has_wilsons_interval(template_and_engine):
    template, engine = template_and_engine
    groups = evaluate(engine, template, TASKS, distinct(TASK, "test", 5), EvalConfig(budgets=(0,), answer=2))[0]
    estimate = accuracy(groups)
    assert (estimate.value, estimate.low) == (0.0, 0.0)
    assert estimate.high == pytest.approx(0.4345, abs=1e-3)
    one = evaluate(engine, template, TASKS, distinct(TASK, "test", 1), EvalConfig(budgets=(0,), answer=2, samples=5))[0]
    assert accuracy(one) == estimate
