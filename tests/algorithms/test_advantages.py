import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steep.algorithms import AdvantageConfig, Gae, Overlong, advantages, gae, overlong_penalty
from steep.errors import ConfigError

SCORES = [np.array(scores, dtype=np.float32) for scores in ([1, 0, 0, 0], [1, 1], [1, 0])]
"""Means 1/4, 1, 1/2; the second group is flat."""


@pytest.mark.parametrize(
    ("baseline", "scale", "expected"),
    [
        ("group_mean", "none", [[3 / 4, -1 / 4, -1 / 4, -1 / 4], [0, 0], [1 / 2, -1 / 2]]),
        # The others of the first have mean 0; those of the second 1/3.
        ("leave_one_out", "none", [[1, -1 / 3, -1 / 3, -1 / 3], [0, 0], [1, -1]]),
        # std sqrt(3)/4 and 1/2.
        ("group_mean", "group_std", [[3**0.5, -(3**-0.5), -(3**-0.5), -(3**-0.5)], [0, 0], [1, -1]]),
        # Mean square of the six deviations of groups 1 and 3: (9 + 1 + 1 + 1 + 4 + 4) / 16 / 6 = 5/24.
        ("group_mean", "batch_std", [np.array([3, -1, -1, -1]) / 4 / (5 / 24) ** 0.5, [0, 0], (1.2**0.5, -(1.2**0.5))]),
        (
            "leave_one_out",
            "batch_std",
            [np.array([3, -1, -1, -1]) / 3 / (5 / 24) ** 0.5, [0, 0], (4.8**0.5, -(4.8**0.5))],
        ),
        ("none", "none", [[1, 0, 0, 0], [1, 1], [1, 0]]),
    ],
)
def test_advantages_by_hand(baseline, scale, expected):
    result = advantages(SCORES, AdvantageConfig(baseline=baseline, scale=scale, eps=0.0))
    for advantage, hand in zip(result, expected, strict=True):
        np.testing.assert_allclose(advantage, hand, rtol=1e-12)


def test_the_default_is_the_group_mean_over_the_batch_std():
    assert AdvantageConfig() == AdvantageConfig(baseline="group_mean", scale="batch_std", eps=1e-6)


@given(
    score=st.floats(0, 1) | st.just(0.1),
    size=st.integers(1, 9),
    baseline=st.sampled_from(["group_mean", "leave_one_out"]),
    scale=st.sampled_from(["none", "group_std", "batch_std"]),
)
def test_flat_groups_get_exact_zeros_and_do_not_change_the_others(score, size, baseline, scale):
    config = AdvantageConfig(baseline=baseline, scale=scale)
    flat = np.full(size, score)
    assert advantages([flat], config)[0].tolist() == [0.0] * size
    alone, beside = advantages([SCORES[0]], config), advantages([flat, SCORES[0]], config)
    assert beside[0].tolist() == [0.0] * size
    np.testing.assert_array_equal(beside[1], alone[0])


def test_a_score_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="invalid verdict"):
        advantages([np.array([1.0, np.nan])], AdvantageConfig())


def test_a_scale_without_a_baseline_is_refused():
    with pytest.raises(ConfigError, match="needs a baseline"):
        AdvantageConfig(baseline="none", scale="batch_std")


def test_gae_by_hand():
    # delta = (0 + 2 - 1, 0 + 3 - 2, 10 + 4 - 3) with gamma 1; lambda 1/2: A3 = 11, A2 = 1 + 5.5, A1 = 1 + 3.25.
    result, returns = gae(np.array([0, 0, 10]), np.array([1, 2, 3]), Gae(gamma=1.0, lam=0.5), last_value=4.0)
    assert result.tolist() == [4.25, 6.5, 11.0]
    assert returns.tolist() == [5.25, 8.5, 14.0]
    # gamma 1/2: delta = (1 - 1, 1.5 - 2, 10 - 3); gamma lambda = 1/4.
    result, _ = gae(np.array([0, 0, 10]), np.array([1, 2, 3]), Gae(gamma=0.5, lam=0.5))
    assert result.tolist() == [(-0.5 + 7 / 4) / 4, -0.5 + 7 / 4, 7.0]


def test_gae_by_default_is_the_return_less_the_value():
    values = np.array([0.3, 0.6, 0.2])
    result, returns = gae(np.array([0, 0, 1]), values, Gae())
    np.testing.assert_allclose(result, 1 - values)
    np.testing.assert_allclose(returns, [1, 1, 1])


def test_gae_of_no_tokens_is_empty_and_misaligned_arrays_are_refused():
    result, returns = gae(np.zeros(0), np.zeros(0), Gae())
    assert (len(result), len(returns)) == (0, 0)
    with pytest.raises(ValueError, match="one entry a token"):
        gae(np.zeros(3), np.zeros(1), Gae())


def test_overlong_penalty_by_hand():
    lengths = [0, 16384, 18432, 20480, 20481]  # DAPO's own limit and buffer
    assert [overlong_penalty(length, 20480, 4096) for length in lengths] == [0, 0, -0.5, -1, -1]
    assert [overlong_penalty(length, 8, 0) for length in (8, 9)] == [0, -1]
    assert [Overlong().penalty(length, 20480) for length in lengths] == [0, 0, -0.25, -0.5, -0.5]
