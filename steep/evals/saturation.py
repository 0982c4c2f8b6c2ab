"""Where a longer thought stops to pay: the smallest budget beyond which no gain could be measured."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from steep.evals.statistics import Estimate, LogFit, bootstrap, fit_log

Scores = Mapping[int, Mapping[str, float]]
"""By thinking budget, the mean score of the answers to each problem."""


@dataclass(frozen=True, kw_only=True)
class Saturation:
    """How accuracy follows the thinking budget, over the budgets above 0."""

    fit: LogFit
    largest: int
    """Thinking tokens."""
    level_from: int | None
    """The smallest budget than which no larger one is better, by paired intervals; None: the last step still pays."""
    gain: Estimate
    """Of the largest budget over that one; where accuracy still rises, over the budget before the largest."""
    before: int
    """The budget that the gain is over."""
    problems: int

    @property
    def words(self) -> str:
        """What a reader should take from the curve."""
        value, low, high = (round(100 * x, 1) + 0.0 for x in (self.gain.value, self.gain.low, self.gain.high))
        gained = f"{value} points ({low} to {high})"
        lost = f"{-value} points ({-high} to {-low})"
        if self.level_from is None:
            told = f"still rising at {self.largest} tokens, which add {gained} to what {self.before} give"
        else:
            falls = self.gain.high < 0
            further = f"lose {lost}" if falls else f"add {gained}"
            told = (
                f"{'is best' if falls else 'saturates'} at {self.level_from} tokens: from there on no budget is "
                f"measurably better on these {self.problems} problems, and {self.largest} tokens {further}"
            )
        return f"{self.fit.words}; {told}"


def saturation(scores: Scores) -> Saturation | None:
    """None with fewer than three budgets above 0, as for a fit, or without a problem that all of them have."""
    budgets = sorted(budget for budget in scores if budget > 0)
    shared = sorted(set.intersection(*(set(scores[budget]) for budget in budgets))) if len(budgets) >= 3 else []
    if not shared:
        return None
    by_problem = {budget: np.array([scores[budget][problem] for problem in shared]) for budget in budgets}
    gains = {
        at: [bootstrap(by_problem[later] - by_problem[at]) for later in budgets if later > at] for at in budgets[:-1]
    }
    level_from = next((at for at, gained in gains.items() if all(gain.low <= 0 for gain in gained)), None)
    before = budgets[-2] if level_from is None else level_from
    return Saturation(
        fit=fit_log(budgets, [float(by_problem[budget].mean()) for budget in budgets]),
        largest=budgets[-1],
        level_from=level_from,
        gain=gains[before][-1],
        before=before,
        problems=len(shared),
    )
