"""reasoning-gym itself: its datasets, their levels and their scorers. Only isolated workers import this file.

A level of a dataset is its curriculum with all attributes set so high, or as high as they go. Entry number n is made
with the seed n; the few generators that draw from Python's or numpy's own random numbers get these seeded too.
"""

import random
from functools import cache, lru_cache
from typing import Any

import numpy as np
from reasoning_gym.factory import CURRICULA, DATASETS, create_curriculum


@cache
def levels() -> dict[str, list[int]]:
    """The levels of every dataset that its own configuration takes. A dataset without a curriculum has one."""
    return {name: [level for level in range(1, highest(name) + 1) if accepted(name, level)] for name in DATASETS}


def highest(name: str) -> int:
    if name not in CURRICULA:
        return 1
    return max(len(attribute.levels) for attribute in create_curriculum(name).attributes.values())


def accepted(name: str, level: int) -> bool:
    try:
        found = configuration(name, level, size=100)
        getattr(found, "validate", lambda: None)()
    except (AssertionError, ValueError):
        return False
    return True


def configuration(name: str, level: int, size: int) -> Any:
    common = {"seed": 0, "size": size}
    if name not in CURRICULA:
        return DATASETS[name][1](**common)
    curriculum = create_curriculum(name)
    curriculum.set_global_level(level - 1)
    return curriculum.generate_configuration(common)


@lru_cache(maxsize=64)
def dataset(name: str, level: int, size: int) -> Any:
    return DATASETS[name][0](configuration(name, level, size))


def entry(name: str, level: int, size: int, number: int) -> dict[str, Any]:
    """Question, answer and what the scorer needs besides."""
    random.seed(number)
    np.random.seed(number)
    found: dict[str, Any] = dataset(name, level, size)[number]
    return found


def score(name: str, level: int, size: int, answer: str, entry: dict[str, Any]) -> float:
    """What the dataset's scorer gives. One that raises, but takes the gold answer, could not read this one: 0."""
    scorer = dataset(name, level, size).score_answer
    try:
        return float(scorer(answer, entry))
    except Exception:
        if scorer(entry["answer"], entry) != 1.0:
            raise
        return 0.0
