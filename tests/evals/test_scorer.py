import numpy as np
import pytest
import torch

from steep.evals import scorer as scorer_module
from steep.evals.scorer import Scorer, calibration_error, features, fit, parted
from steep.models import PackedAttention, packed_positions
from steep.models.kernels import ops
from steep.models.transformer import ModelConfig, Transformer, initialise
from steep.policies.batch import ROUND

SIZE = 16


def drawn(seed, problems=300, each=8, slope=2.0):
    """Answers whose chance of being right is known, and depends on the first number of their state."""
    rng = np.random.default_rng(seed)
    states = rng.normal(3.0, 5.0, (problems * each, SIZE))
    chances = 1 / (1 + np.exp(-(slope * (states[:, 0] - 3.0) / 5.0 - 1)))
    right = rng.random(len(chances)) < chances
    return torch.from_numpy(states).float(), chances, right, np.repeat(np.arange(problems), each)


def test_chances_are_those_that_the_answers_were_drawn_with():
    states, _, right, problems = drawn(0)
    scorer = fit(states, right, problems)
    unseen, truth, verdicts, _ = drawn(1)
    found = scorer.chances(unseen)
    assert np.corrcoef(found, truth)[0, 1] > 0.9
    assert calibration_error(found, verdicts) < 0.05
    assert (fit(states, right, problems).chances(unseen) == found).all()


def test_where_nothing_is_to_be_learned_the_share_of_right_answers_is_told():
    states, _, right, problems = drawn(0, slope=0.0)
    found = fit(states, right, problems).chances(drawn(1)[0])
    assert found.mean() == pytest.approx(1 / (1 + np.e), abs=0.03)
    assert found.std() < 0.06


def test_a_scorer_comes_back_from_its_file():
    states, _, right, problems = drawn(0, problems=40)
    scorer = fit(states, right, problems)
    again = Scorer.from_bytes(scorer.to_bytes())
    assert (again.chances(states) == scorer.chances(states)).all()


def test_calibration_error_worked_by_hand():
    chances, right = np.array([0.15, 0.15, 0.95, 0.95]), np.array([False, True, True, True])
    assert calibration_error(chances, right) == pytest.approx((2 * 0.35 + 2 * 0.05) / 4)
    assert calibration_error(np.array([1.0, 0.0]), np.array([True, False])) == 0.0


def test_features_are_those_of_each_response_alone(monkeypatch):
    monkeypatch.setattr(scorer_module, "BATCH_TOKENS", 24)
    monkeypatch.setattr(scorer_module, "HEAD_TOKENS", 3)
    config = ModelConfig(
        vocab_size=50, hidden_size=32, num_layers=2, num_heads=2, num_kv_heads=2, head_dim=16, intermediate_size=32,
        max_positions=64,
    )  # fmt: skip
    model = Transformer(config)
    initialise(model, torch.Generator().manual_seed(0))
    rng = np.random.default_rng(0)
    sequences = [tuple(rng.integers(0, 50, length).tolist()) for length in (9, 3, 30, 1, 12, 9)]
    answers = [4, 0, 5, 0, 11, 1]
    together = features(
        model, [(ids[: len(ids) - a], ids[len(ids) - a :]) for ids, a in zip(sequences, answers, strict=True)]
    )
    for row, ids, answer in zip(together, sequences, answers, strict=True):
        with torch.inference_mode():
            alone = model(torch.tensor(ids), packed_positions([len(ids)]), PackedAttention([len(ids)]))
            logprobs = model.logits(alone).log_softmax(-1)
        torch.testing.assert_close(row[:-1], alone[-1], rtol=1e-4, atol=1e-5)
        told = sum(float(logprobs[at - 1, ids[at]]) for at in range(len(ids) - answer, len(ids)))
        assert float(row[-1]) == pytest.approx(told, abs=1e-4)
    assert features(model, []).shape == (0, 33)


def test_features_of_a_batch_that_needs_no_filler(monkeypatch):
    """Without compiled kernels, for these take positions of any kind."""
    monkeypatch.setattr(ops, "library_for", lambda *tensors: None)
    config = ModelConfig(
        vocab_size=50, hidden_size=32, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=16, intermediate_size=32,
        max_positions=256,
    )  # fmt: skip
    model = Transformer(config)
    initialise(model, torch.Generator().manual_seed(0))
    ids = tuple(np.random.default_rng(0).integers(0, 50, ROUND).tolist())
    found = features(model, [(ids[:-4], ids[-4:])])
    with torch.inference_mode():
        alone = model(torch.tensor(ids), packed_positions([ROUND]), PackedAttention([ROUND]))
    torch.testing.assert_close(found[0, :-1], alone[-1], rtol=1e-4, atol=1e-5)


def test_a_response_is_parted_where_its_thought_ends():
    assert parted((1, 7), (4, 7, 5, 2), 7) == ((1, 7, 4, 7), (5, 2))
    assert parted((1, 7), (4, 5), 7) == ((1, 7), (4, 5))
    assert parted((1,), (4, 5), None) == ((1,), (4, 5))
