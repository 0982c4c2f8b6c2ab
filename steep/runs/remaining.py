"""How long a run or a study will still take, from what the steps that are recorded took."""

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from steep.runs.stage import Stage

TRAINING = ("pretrain", "sft", "rl")
ESTIMATE_EVERY_S = 10.0


def steps(recipe: Mapping[str, Any], stage: str) -> int | None:
    """How many steps a stage has in a recipe's config, as run.json holds it; None if that does not say."""
    config = recipe.get(stage)
    return (config.get("steps") or config.get("num_steps")) if isinstance(config, Mapping) else None


def recorded(stage: Stage) -> tuple[int, float]:
    """How many steps are recorded, and the seconds that they took."""
    last = stage.last_timing
    return (last["step"] + 1, last["elapsed_s"]) if last else (0, 0.0)


class TrainingLeft:
    """Of runs of one kind, each given by its directory and the config of its recipe."""

    def __init__(self, runs: Iterable[tuple[Path, Mapping[str, Any]]]) -> None:
        self._runs = list(runs)
        self._seconds: float | None = None
        self._estimated = -math.inf

    def seconds(self) -> float | None:
        """For a step what those of its stage took in all of the runs; None while a stage has none.

        Estimated again every ten seconds, for that reads the end of every log.
        """
        now = time.monotonic()
        if now - self._estimated >= ESTIMATE_EVERY_S:
            self._estimated, self._seconds = now, self._estimate()
        return self._seconds

    def _estimate(self) -> float | None:
        taken_s = dict.fromkeys(TRAINING, 0.0)
        done: Counter[str] = Counter()
        total: Counter[str] = Counter()
        for path, recipe in self._runs:
            for name in TRAINING:
                count, seconds = recorded(Stage(path / name))
                total[name] += steps(recipe, name) or 0
                done[name] += count
                taken_s[name] += seconds
        if any(not done[name] for name in TRAINING if total[name]):
            return None
        return sum(taken_s[name] / done[name] * (total[name] - done[name]) for name in TRAINING if total[name])
