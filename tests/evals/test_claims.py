"""Claims over several seeds, from rows as an evaluation saves them; every value is worked out by hand."""

import numpy as np
import pytest

from steep.evals.claims import (
    by_problem,
    claim_before_and_after,
    claim_over_seeds,
    claim_spread,
    levels_and_lengths,
    paired,
    replayed,
    smallest_gain,
    stacked,
)
from steep.evals.mending import doubting, mended_share, mending
from steep.evals.statistics import proportion
from steep.tasks.countdown import Countdown

MENDED = "8*3=26 no 8*3=24>20"
LEFT = "8*3=26>20 9*2=18<20"
HALF = "8*3=26 no 8*3=24>20 9*2=19<20"
CLEAN = "8*3=24>20"


def row(problem, budget, score, **others):
    return {"model": "rl", "level": 1, "problem": problem, "budget": budget, "score": score, "thought": ""} | others


ROWS = [
    row("a", 16, 0.0),
    row("a", 64, 1.0),
    row("a", 64, 0.0),  # a second sample
    row("b", 16, 1.0),
    row("b", 64, 1.0),
    row("c", 16, 1.0),  # was invalid at 64
    row("a", 16, 1.0, model="sft"),
    row("a", 64, 1.0, model="sft"),
]


def test_rows_are_gathered_by_problem():
    rl = by_problem(ROWS, "score", (16, 64), model="rl")
    assert {problem: values.tolist() for problem, values in rl.items()} == {"a": [0.0, 0.5], "b": [1.0, 1.0]}
    assert stacked(rl, 2).tolist() == [[0.0, 0.5], [1.0, 1.0]]
    assert stacked({}, 2).shape == (0, 2)
    assert smallest_gain(stacked(rl, 2)) == 0.25
    assert paired(rl, by_problem(ROWS, "score", (16, 64), model="sft")).tolist() == [[-1.0, -0.5]]


def test_levels_and_lengths_of_the_rollouts_that_fit():
    rows = [row("a", 64, 1.0, thought_tokens=5), row("b", 64, 1.0, thought_tokens=9, level=3)]
    assert levels_and_lengths(rows, budget=64).tolist() == [[1, 5], [3, 9]]
    assert levels_and_lengths(rows, budget=16).shape == (0, 2)


def test_a_claim_over_seeds():
    seeds = [np.array([[0.1, 0.3], [0.1, 0.3]]), np.array([[0.4, 0.4]])]
    (claim,) = claim_over_seeds("gain", seeds, ">= 0.3", "do")
    assert (claim.value, claim.low, claim.high) == pytest.approx((0.3, 0.2, 0.4))
    assert claim.holds
    (smallest,) = claim_over_seeds("rises", seeds, "> 0", "do", smallest_gain)
    assert smallest.value == pytest.approx(0.1)


def test_what_a_seed_lacks_is_not_claimed():
    assert claim_over_seeds("gain", [np.ones((2, 1)), np.ones((0, 1))], "> 0", "do") == []
    assert claim_over_seeds("gain", [], "> 0", "do") == []
    assert claim_over_seeds("mended", [np.zeros((4, 3))], "> 0", "do", mended_share) == []
    assert claim_spread("ratio", [], ">= 1", "do") == []


def test_a_claim_before_and_after():
    before, after = [np.array([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]])], [np.array([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])]
    claims = claim_before_and_after("mended", before, after, "do", mended_share)
    assert [(c.id, c.value, c.bar, c.holds) for c in claims] == [
        ("mended_before", 0.5, "<= 1", True),
        ("mended_after", 1.0, ">= 0.5", True),
    ]
    assert claim_before_and_after("mended", before, [np.zeros((2, 3))], "do", mended_share) == []


def test_a_claim_with_its_spread():
    (claim,) = claim_spread("ratio", [1.0, 1.2, 1.4], ">= 1", "do")
    assert (claim.value, claim.low, claim.high) == pytest.approx((1.2, 1.0, 1.4))


@pytest.mark.parametrize(
    ("thought", "found"),
    [
        ("7 + 5 = 11. Wait, that is 12.", True),
        ("s t r a w no wait s t r a w b", True),
        ("So 3 * 4 = 14; let me double-check: 12.", True),
        ("That's not right.", True),
        ("No, that gives 5.", True),
        ("There are no apples left, and he waited.", False),
        ("Is 7 even? So the answer is no. No, 5 are left.", False),
        ("Check: 3 + 4 = 7.", False),
        ("12 - 5 = 7", False),
    ],
)
def test_what_says_that_a_thought_doubts(thought: str, found: bool):
    assert doubting([(thought, True)]).marked == proportion(found, 1)


def test_answers_are_told_after_doubts_and_without():
    counted = doubting([("wait, 4", True), ("oops", False), ("hmm", True), ("5", False)])
    assert (counted.marked, counted.right, counted.right_else) == (
        proportion(3, 4), proportion(2, 3), proportion(0, 1),
    )  # fmt: skip


def test_thoughts_that_mend_their_mistakes_are_counted():
    found = mending(Countdown(), [MENDED, LEFT, HALF, CLEAN])
    assert (found.wrong, found.mended, found.some) == (proportion(3, 4), proportion(1, 3), proportion(2, 3))
    rows = [row("a", 64, 1.0, thought=MENDED), row("b", 64, 0.0, thought=LEFT), row("b", 16, 0.0, thought=LEFT)]
    table = replayed(rows, Countdown(), budget=64)
    assert table.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert mended_share(table) == 0.5
