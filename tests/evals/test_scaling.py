from dataclasses import asdict

import numpy as np
import pytest

from steep.evals.scaling import REACH_FORETELLING, Measured, Sigmoid, fit, scaling
from steep.evals.statistics import proportion

CURVES = [
    Sigmoid(start=0.2, asymptote=0.9, half=3e14, steepness=1.3),
    Sigmoid(start=0.4, asymptote=0.75, half=2e14, steepness=2.5),
    Sigmoid(start=0.05, asymptote=0.61, half=8e14, steepness=0.9),
]
COMPUTE = np.concatenate([[0.0], np.linspace(1e14, 3e15, 30)])


def measured(curve, problems, seed=0, compute=COMPUTE):
    """Evaluations of so many problems each along a curve; without noise if there are none."""
    rng = np.random.default_rng(seed)
    if not problems:
        return [
            Measured(compute=c, value=v, low=v - 0.02, high=v + 0.02)
            for c, v in zip(compute, curve.at(compute), strict=True)
        ]
    drawn = [proportion(rng.binomial(problems, v), problems) for v in curve.at(compute)]
    return [Measured(compute=c, **asdict(estimate)) for c, estimate in zip(compute, drawn, strict=True)]


def test_the_curve_worked_by_hand():
    curve = Sigmoid(start=0.2, asymptote=0.8, half=100.0, steepness=2.0)
    assert curve.at(np.array([0.0, 100.0, 200.0])).tolist() == pytest.approx([0.2, 0.5, 0.2 + 0.6 / 1.25])


@pytest.mark.parametrize("curve", CURVES)
def test_a_curve_without_noise_is_recovered(curve):
    found = fit(COMPUTE, curve.at(COMPUTE), np.full(len(COMPUTE), 0.01))
    assert asdict(found) == pytest.approx(asdict(curve), rel=0.001)


@pytest.mark.parametrize("curve", CURVES[:2])
def test_the_asymptote_is_within_5_percent_where_a_thousand_problems_are_asked(curve):
    for seed in range(2):
        found = scaling(measured(curve, 1000, seed))
        assert found.curve.asymptote == pytest.approx(curve.asymptote, rel=0.05)
        assert found.asymptote.low <= found.curve.asymptote <= found.asymptote.high
        assert found.asymptote.high - found.asymptote.low < 0.1


def test_intervals_cover_the_truth():
    curve = CURVES[0]
    found = [scaling(measured(curve, 500, seed)) for seed in range(5)]
    assert sum(f.asymptote.low <= curve.asymptote <= f.asymptote.high for f in found) >= 4


def test_the_first_half_foretells_the_second():
    found = scaling(measured(CURVES[1], None))
    assert asdict(found.forecast) == pytest.approx(asdict(CURVES[1]), rel=0.01)
    assert found.forecast_error < 1e-3
    late = [
        m if m.compute <= 1.5e15 else Measured(compute=m.compute, value=0.5, low=0.48, high=0.52)
        for m in measured(CURVES[1], None)
    ]
    assert scaling(late).forecast_error == pytest.approx(0.25, abs=0.01)


def test_a_forecast_does_not_take_noise_for_the_foot_of_a_rise():
    compute, value = np.array([0.0, 16, 24, 32, 40]), np.array([0.5, 0.5, 0.5, 0.5, 0.56])
    later = np.array([90.0])
    assert fit(compute, value, np.full(5, 0.03)).at(later) > 0.8
    assert fit(compute, value, np.full(5, 0.03), REACH_FORETELLING).at(later) < 0.65


def test_the_burn_in_is_left_out_and_the_start_is_not():
    points = measured(CURVES[0], None)
    wild = [m if m.compute != 1e14 else Measured(compute=1e14, value=0.9, low=0.88, high=0.92) for m in points]
    found, expected = scaling(wild), scaling(points)
    assert found.points == 1 + 30 - 2  # below 3e14 there are two
    assert found.curve == expected.curve


def test_too_few_points_give_no_fit():
    assert scaling([]) is None
    assert scaling(measured(CURVES[0], None, compute=COMPUTE[:1])) is None
    assert scaling(measured(CURVES[0], None, compute=COMPUTE[[0, *range(18, 30, 2)]])) is None
    short = scaling(measured(CURVES[0], None, compute=COMPUTE[[0, *range(16, 30, 2)]]))
    assert short.points == 8
    assert (short.forecast, short.forecast_error) == (None, None)


def test_where_nothing_rose_no_curve_is_told():
    flat = Sigmoid(start=0.6, asymptote=0.6, half=3e14, steepness=2.0)
    found = scaling(measured(flat, 300, seed=1))
    assert found.rise.low <= 0 <= found.rise.high
    assert found.doubt == "no rise measured"
    risen = scaling(measured(CURVES[0], 300))
    assert risen.doubt == ""
    assert risen.rise.value == pytest.approx(0.7 / (1 + 0.1**1.3), abs=0.05)  # to ten times the compute half way
    assert risen.half.low < CURVES[0].half < risen.half.high


def test_a_rise_between_two_evaluations_has_no_shape():
    values = [0.2] + [0.8] * (len(COMPUTE) - 1)
    jump = [Measured(compute=c, value=v, low=v - 0.02, high=v + 0.02) for c, v in zip(COMPUTE, values, strict=True)]
    found = scaling(jump)
    assert found.rise.value == pytest.approx(0.6, abs=0.01)
    assert found.doubt == "a rise whose shape cannot be told"


def test_accuracies_stay_between_0_and_1():
    compute = np.array([0.0, 1e14, 2e14, 4e14, 8e14])
    rising = fit(compute, np.array([0.0, 0.1, 0.3, 0.6, 0.95]), np.full(5, 0.02))
    assert 0 <= rising.start <= rising.asymptote <= 1
    flat = fit(compute, np.full(5, 0.5), np.full(5, 0.02))
    assert flat.at(compute) == pytest.approx(np.full(5, 0.5), abs=1e-6)
