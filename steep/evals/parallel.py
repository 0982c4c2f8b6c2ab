"""What several answers to one problem are worth: whether one of them is right, what most say, what a scorer prefers.

Each function gives what is expected of k of the K answers that there are, drawn without replacement, so that one set of
answers serves every k up to K.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

DRAWS = 512
"""How often k answers are drawn, at least, to count a majority: its noise is far below that of the problems."""
ENOUGH = 0.95
"""Of the problems, that must have as many answers as are drawn: now and then a check fails, and few have all."""
COLUMNS = ("problem", "verdict", "score", "vote", "tokens", "chance")


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """The K answers to one problem that could be checked."""

    scores_K: NDArray[np.float64]
    """From 0 to 1, which is right: accuracies are means of these."""
    votes_K: NDArray[np.int64]
    """The same number for answers that say the same; -1 abstains."""
    tokens_K: NDArray[np.int64]
    """Of the whole response, as they are paid for."""
    chances_K: NDArray[np.float64] | None = None
    """The scorer's, of being right; of a task that scores in shares, the score that it expects."""

    def __len__(self) -> int:
        return len(self.scores_K)


Method = Callable[[Answers, int], float]


def answers_in(rows: Iterable[Mapping[str, Any]]) -> dict[str, Answers]:
    """The answers in saved rollouts with the columns COLUMNS, by problem."""
    by_problem: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        of_problem = by_problem.setdefault(row["problem"], [])
        if row["verdict"] != "invalid":
            of_problem.append(row)
    return {
        problem: Answers(
            scores_K=np.array([row["score"] for row in found], float),
            votes_K=np.array([-1 if row["vote"] is None else row["vote"] for row in found], np.int64),
            tokens_K=np.array([row["tokens"] for row in found], np.int64),
            chances_K=np.array([row["chance"] for row in found]) if all("chance" in row for row in found) else None,
        )
        for problem, found in by_problem.items()
    }


def any_right(answers: Answers, k: int) -> float:
    """pass@k: one of k answers is right (Chen et al. 2021, arXiv 2107.03374); of scores in shares the best of k."""
    return float(_chance_of_first(len(answers), k) @ -np.sort(-answers.scores_K))


def majority(answers: Answers, k: int) -> float:
    """cons@k: the answer that most of k give is right."""
    return _elected(answers, k, np.ones(len(answers)))


def weighted(answers: Answers, k: int) -> float:
    """The answer whose chances add up to most is right: one answer that deceives the scorer does not win alone."""
    assert answers.chances_K is not None
    return _elected(answers, k, answers.chances_K)


def _elected(answers: Answers, k: int, weights_K: NDArray[np.float64]) -> float:
    """Of several answers with equally many votes one is drawn; where all abstain nothing is right.

    Answers that say the same but were judged differently count by their mean score.
    """
    bins = int(answers.votes_K.max()) + 2  # the first holds those that abstain
    given_K = answers.votes_K + 1
    score_C = np.bincount(given_K, answers.scores_K, bins) / np.maximum(np.bincount(given_K, minlength=bins), 1)
    drawn_Dk = _draws(len(answers), k)
    draws = len(drawn_Dk)
    at_D1 = bins * np.arange(draws)[:, None]
    places_Dk = at_D1 + given_K[drawn_Dk]
    votes_DC = np.bincount(places_Dk.ravel(), weights_K[drawn_Dk].ravel(), draws * bins).reshape(draws, bins)
    votes_DC[:, 0] = 0
    most_DC = (votes_DC == votes_DC.max(1, keepdims=True)) & (votes_DC > 0)
    return float((most_DC @ score_C / np.maximum(most_DC.sum(1), 1)).mean())


@lru_cache
def _draws(total: int, k: int) -> NDArray[np.int64]:
    """[D, k]: k of `total` answers, over and over. Every order of them is cut into draws that share none."""
    orders = -(-DRAWS // (total // k))
    orders_SK = np.random.default_rng(0).permuted(np.tile(np.arange(total), (orders, 1)), axis=1)
    return orders_SK[:, : total // k * k].reshape(-1, k)


def best(answers: Answers, k: int) -> float:
    """The one of k answers that the scorer prefers is right; among equals the earlier is taken."""
    assert answers.chances_K is not None
    order = np.argsort(-answers.chances_K, kind="stable")
    return float(_chance_of_first(len(answers), k) @ answers.scores_K[order])


@lru_cache
def _chance_of_first(total: int, k: int) -> NDArray[np.float64]:
    """[K]: how likely the answer at each place of an order is the first of k that are drawn of `total`."""
    places = np.arange(total - 1)
    onwards = np.maximum(total - k - places, 0) / (total - 1 - places)
    return np.concatenate([[1.0], onwards.cumprod()]) * k / total


def comparable(budgets: Sequence[Mapping[str, Answers]]) -> tuple[list[str], list[int]]:
    """The problems that all figures are counted on, and the numbers of answers that are drawn.

    These are 1, 2, 4, ... and as many as ENOUGH of the problems have at every budget. So what is between two figures is
    what more answers, or a longer thought, do, and never that other problems were counted.
    """
    least = {problem: min(len(by_problem.get(problem, ())) for by_problem in budgets) for problem in chain(*budgets)}
    lengths = sorted(filter(None, least.values()), reverse=True)
    most = lengths[ceil(ENOUGH * len(lengths)) - 1] if lengths else 0
    sizes = {2**power for power in range(most.bit_length()) if 2**power <= most} | {most} - {0}
    return [problem for problem, length in least.items() if length >= most > 0], sorted(sizes)


def each(method: Method, answers: Sequence[Answers], k: int) -> NDArray[np.float64]:
    """A figure of each problem."""
    return np.array([method(of_problem, k) for of_problem in answers])
