"""What `benchmarks.o1` makes of what steep's commands answer."""

import json
from pathlib import Path

import pytest

from benchmarks import o1


class Answered(o1.Bench):
    """A bench whose commands were carried out before."""

    def __init__(self, run: Path, **answers: object) -> None:
        super().__init__(run)
        for name, answer in answers.items():
            (self.kept / f"{name}.json").write_text(json.dumps(answer))


def figure(*right: float) -> dict[str, object]:
    """Of problems a, b, c, ..."""
    value = sum(right) / len(right)
    interval = {"value": value, "low": value - 0.05, "high": value + 0.05}
    return {"name": "right after a wrong step", **interval, "by_problem": dict(zip("abcdefgh", right, strict=False))}


def test_planted_mistakes_are_claimed_after_rl_and_against_before_on_shared_problems(tmp_path):
    """RL has three further problems, of which it gets one: on the five that both have it is one better."""
    bench = Answered(tmp_path, thoughts={"models": {"sft": [figure(1, 1, 1, 1, 0)], "rl": [figure(*[1] * 6, 0, 0)]}})
    enough, more = o1.planted(bench)
    assert (enough.value, enough.low, enough.holds) == (0.75, pytest.approx(0.7), True)
    assert (more.value, more.low >= 0, more.holds) == (pytest.approx(0.2), True, True)


def test_the_worst_forecast_counts():
    errors = [0.01, None, 0.07]
    (claim,) = o1.forecast({"scaling": [{"scaling": {"forecast_error": error}} for error in errors]})
    assert (claim.value, claim.low, claim.holds) == (0.07, 0.01, False)
    assert list(o1.forecast({"scaling": [{"scaling": {"forecast_error": None}}]})) == []
