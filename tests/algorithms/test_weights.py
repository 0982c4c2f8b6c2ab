import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steep.algorithms import token_weights

LENGTHS = [[1, 3], [2, 4, 6]]
"""2 prompts of 4 and 12 tokens, 5 rollouts, 16 tokens."""


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("prompt_mean", [[1 / 8, 1 / 8], [1 / 24, 1 / 24, 1 / 24]]),
        ("token_mean", [[1 / 16, 1 / 16], [1 / 16, 1 / 16, 1 / 16]]),
        ("sequence_mean", [[1 / 5, 1 / 15], [1 / 10, 1 / 20, 1 / 30]]),
        ("constant", [[1 / 40, 1 / 40], [1 / 40, 1 / 40, 1 / 40]]),
    ],
)
def test_weights_by_hand(how, expected):
    result = token_weights(LENGTHS, how, max_tokens=8)
    for weights, hand in zip(result, expected, strict=True):
        np.testing.assert_allclose(weights, hand, rtol=1e-15)


lengths_by_group = st.lists(st.lists(st.integers(0, 50), max_size=5), min_size=1, max_size=5)


@pytest.mark.parametrize("how", ["prompt_mean", "token_mean", "sequence_mean", "constant"])
@given(lengths=lengths_by_group)
def test_weights_sum(how, lengths):
    """Over all tokens the weights add up to 1, or, if constant, to the mean length over max_tokens."""
    weights = token_weights(lengths, how, max_tokens=50)
    assert [w.shape for w in weights] == [(len(group),) for group in lengths]
    total = sum(float(w @ np.array(group, dtype=float)) for w, group in zip(weights, lengths, strict=True))
    present = [length for group in lengths for length in group if length]
    expected = 0.0 if not present else np.mean(present) / 50 if how == "constant" else 1.0
    assert total == pytest.approx(expected, abs=1e-12)


def test_what_counts_the_same():
    """Share of the batch: of each prompt under prompt_mean, of each rollout under sequence_mean."""
    by_prompt = token_weights(LENGTHS, "prompt_mean")
    assert [w @ n for w, n in zip(by_prompt, map(np.array, LENGTHS), strict=True)] == pytest.approx([1 / 2, 1 / 2])
    by_sequence = token_weights(LENGTHS, "sequence_mean")
    shares = np.concatenate([w * n for w, n in zip(by_sequence, map(np.array, LENGTHS), strict=True)])
    assert shares == pytest.approx([1 / 5] * 5)


def test_constant_weights_need_max_tokens():
    with pytest.raises(ValueError, match="max_tokens"):
        token_weights(LENGTHS, "constant")
