"""Each figure against its definition: the mean over all ways to draw k of the answers."""

from itertools import combinations

import numpy as np
import pytest

from steep.evals.parallel import Answers, answers_in, any_right, best, comparable, each, majority, weighted
from steep.evals.voting import votes
from steep.tasks.arithmetic import Arithmetic
from steep.types import Group, Message, Problem, wrong


def answers(right, votes=None, chances=None):
    return Answers(
        scores_K=np.array(right, float),
        votes_K=np.zeros(len(right), np.int64) if votes is None else np.array(votes),
        tokens_K=np.ones(len(right), np.int64),
        chances_K=None if chances is None else np.array(chances),
    )


def by_definition(figure, total, k):
    return np.mean([figure(drawn) for drawn in combinations(range(total), k)])


RIGHT = [0, 0, 1, 0, 1, 0, 0]
VOTES = [-1, 3, 0, 1, 0, -1, 3]
CHANCES = [0.4, 0.5, 0.1, 0.8, 0.55, 0.3, 0.75]


def test_worked_by_hand():
    four = answers([1, 0, 0, 1], votes=[0, 1, 2, 0], chances=[0.2, 0.9, 0.8, 0.7])
    assert any_right(four, 1) == 0.5
    assert any_right(four, 2) == pytest.approx(1 - 1 / 6)  # of six pairs one is all wrong
    assert any_right(four, 4) == 1.0
    assert [best(four, k) for k in (1, 2, 4)] == pytest.approx([0.5, 1 / 6, 0.0])  # the pair of both right ones
    assert majority(four, 4) == 1.0  # two of four
    assert majority(four, 1) == 0.5


@pytest.mark.parametrize("k", range(1, 8))
def test_any_right_and_best_are_the_mean_over_all_draws(k):
    seven = answers(RIGHT, VOTES, CHANCES)
    assert any_right(seven, k) == pytest.approx(by_definition(lambda drawn: max(RIGHT[i] for i in drawn), 7, k))
    chosen = by_definition(lambda drawn: RIGHT[max(drawn, key=lambda i: CHANCES[i])], 7, k)
    assert best(seven, k) == pytest.approx(chosen)


@pytest.mark.parametrize("k", range(1, 8))
def test_majority_is_the_mean_over_all_draws_up_to_its_noise(k):
    def wins(drawn):
        given = [VOTES[i] for i in drawn if VOTES[i] >= 0]
        most = {v for v in given if given.count(v) == max(map(given.count, given))}
        return (0 in most) / max(len(most), 1)

    seven = answers(RIGHT, VOTES)
    expected = by_definition(wins, 7, k)
    assert majority(seven, k) == pytest.approx(expected, abs=1e-12 if k in (1, 7) else 3 * (0.25 / 512) ** 0.5)


@pytest.mark.parametrize("k", range(1, 8))
def test_weighted_is_a_majority_by_the_sum_of_chances(k):
    def wins(drawn):
        sums = {}
        for i in drawn:
            if VOTES[i] >= 0:
                sums[VOTES[i]] = sums.get(VOTES[i], 0) + CHANCES[i]
        return float(max(sums, key=sums.get, default=-1) == 0)

    expected = by_definition(wins, 7, k)
    found = weighted(answers(RIGHT, VOTES, CHANCES), k)
    assert found == pytest.approx(expected, abs=1e-12 if k in (1, 7) else 3 * (0.25 / 512) ** 0.5)


def test_an_answer_that_deceives_the_scorer_is_outvoted():
    four = answers([1, 1, 0, 1], votes=[0, 0, 1, 0], chances=[0.4, 0.5, 0.9, 0.3])
    assert (best(four, 4), weighted(four, 4)) == (0.0, 1.0)


def test_nothing_is_right_where_all_abstain():
    assert majority(answers([0, 0], votes=[-1, -1]), 2) == 0.0


def test_of_equals_half_is_right():
    assert majority(answers([1, 0], votes=[0, 1]), 2) == 0.5


def test_a_thousand_answers():
    right = np.arange(1000) % 10 == 0
    many = answers(right, votes=np.where(right, 0, np.arange(1000)), chances=right + 0.0)
    assert any_right(many, 1) == pytest.approx(0.1)
    assert any_right(many, 64) == pytest.approx(1 - np.prod([(900 - i) / (1000 - i) for i in range(64)]))
    assert best(many, 64) == pytest.approx(any_right(many, 64))
    assert majority(many, 1000) == 1.0


def test_all_figures_are_of_the_same_problems_which_are_nearly_all():
    """Of 20 problems one has 2 answers that could be checked at one of two budgets, one has 5 there, and all have 6."""
    whole, most, few = answers([1] * 6), answers([0, 0, 1, 1, 0]), answers([1, 1])
    all_whole = {str(number): whole for number in range(20)}
    problems, sizes = comparable([all_whole, all_whole | {"3": few, "7": most}])
    assert sizes == [1, 2, 4, 5]
    assert problems == [problem for problem in all_whole if problem != "3"]
    assert comparable([all_whole]) == (list(all_whole), [1, 2, 4, 6])
    assert comparable([{"a": few, "b": most}]) == (["a", "b"], [1, 2])  # a half of them is not nearly all
    assert comparable([{"a": few, "b": answers([])}, {"a": few, "b": most}]) == (["a"], [1, 2])
    assert comparable([{}]) == comparable([]) == ([], [])
    assert each(any_right, [most, few], 2).tolist() == pytest.approx([0.7, 1.0])


def test_scores_in_shares_count_as_in_accuracies():
    three = answers([0.5, 0.5, 0.2], votes=[0, 0, 1], chances=[0.3, 0.4, 0.9])
    assert any_right(three, 1) == pytest.approx(0.4)
    assert any_right(three, 2) == pytest.approx(0.5)  # of each pair the better one
    assert majority(three, 3) == pytest.approx(0.5)
    assert best(three, 3) == pytest.approx(0.2)
    assert weighted(three, 3) == pytest.approx(0.2)


def test_answers_are_read_without_those_that_could_not_be_checked():
    row = {"problem": "p", "verdict": "correct", "score": 1.0, "vote": 2, "tokens": 9}
    half = row | {"verdict": "wrong", "score": 0.5, "vote": None}
    rows = [row, row | {"verdict": "invalid"}, half, row | {"problem": "q"}]
    found = answers_in(rows)
    assert list(found) == ["p", "q"]
    assert found["p"].scores_K.tolist() == [1.0, 0.5]
    assert found["p"].votes_K.tolist() == [2, -1]
    assert found["p"].chances_K is None
    scored = answers_in([r | {"chance": 0.25} for r in rows])
    assert scored["p"].chances_K.tolist() == [0.25, 0.25]


def test_answers_that_say_the_same_share_a_vote(making, template):
    task = Arithmetic(levels=(1,))
    problem = Problem(
        id="arithmetic/3+5", task="arithmetic", split="test", level=1,
        prompt=(Message(role="user", content="3+5"),), key={"answer": 8, "expression": "3+5"},
    )  # fmt: skip
    texts = ["8", "= 8.", "24", "8", "", "what", "+24"]
    drawn = tuple(making.rollout(template, "3 + 5", text, 4, wrong("")) for text in texts)
    assert votes(Group(problem=problem, rollouts=drawn), task, template) == [0, 0, 1, 0, None, 2, 1]
