"""Models beside each other on the problems that all were asked: differences of paired scores, with intervals."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

from steep.errors import SteepError
from steep.evals.card import Measured
from steep.evals.statistics import Estimate, bootstrap, mean_rate

Key = tuple[str, str, int]
"""Task, mode and thinking budget."""
Question = tuple[str, str, str]
"""A problem's id, prompt and key: only where all are the same was the same asked."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What one model is above the first, on the same problems."""

    model: str
    task: str
    mode: str
    budget: int
    problems: int
    """Those that could be checked with both."""
    accuracy: Estimate
    first: Estimate
    """The first model's accuracy."""
    difference: Estimate
    """The mean over problems, with a bootstrap's interval over problems."""
    up: int
    """Problems on which it scored more than the first model."""
    down: int

    @property
    def verdict(self) -> str:
        if self.difference.low > 0:
            return "better"
        return "worse" if self.difference.high < 0 else "level"


def compare(models: Mapping[str, Measured]) -> list[Difference]:
    """Each model beside the first, where all were measured alike. Raises if they were asked different problems."""
    scores = {name: scores_of(found) for name, found in models.items()}
    (first, base), *others = scores.items()
    shared = [key for key in base if all(key in other for _, other in others)]
    if not shared:
        raise SteepError(
            "the models share no task at the same budget and mode",
            "measure them alike: steep eval MODEL --task countdown --budgets 0,64,256",
        )
    for name, other in others:
        for key in shared:
            check_same(first, base[key].keys(), name, other[key].keys(), key)
    return [difference(name, key, base[key], other[key]) for name, other in others for key in sorted(shared)]


def scores_of(found: Measured) -> dict[Key, dict[Question, list[float]]]:
    """The scores of each question; none of one of which no answer could be checked."""
    scores: dict[Key, dict[Question, list[float]]] = {}
    for row in found.rows():
        questions = scores.setdefault((row["task"], row["mode"], row["budget"]), {})
        of_question = questions.setdefault((row["problem"], row["prompt"], row["key"]), [])
        if row["verdict"] != "invalid":
            of_question.append(row["score"])
    return scores


def check_same(first: str, asked: Set[Question], second: str, also: Set[Question], key: Key) -> None:
    if asked == also:
        return
    task, mode, budget = key
    raise SteepError(
        f"{first} and {second} were asked different problems of {task} ({mode}, {budget} tokens): {len(asked & also)} "
        f"are the same, {len(asked - also)} only {first} was asked, {len(also - asked)} only {second}",
        "measure both with the same --task, --levels and --problems",
    )


def difference(
    name: str, key: Key, base: Mapping[Question, Sequence[float]], other: Mapping[Question, Sequence[float]]
) -> Difference:
    checked = [question for question in base if base[question] and other[question]]
    first, second = (np.array([np.mean(scores[question]) for question in checked]) for scores in (base, other))
    if not checked:
        raise SteepError(
            f"{name} and the first have no problem of {key[0]} to which answers of both could be checked",
            "`steep tasks check` says what is wrong with the task",
        )
    gain = second - first
    task, mode, budget = key
    return Difference(
        model=name,
        task=task,
        mode=mode,
        budget=budget,
        problems=len(checked),
        accuracy=mean_rate(second),
        first=mean_rate(first),
        difference=bootstrap(gain),
        up=int((gain > 0).sum()),
        down=int((gain < 0).sum()),
    )
