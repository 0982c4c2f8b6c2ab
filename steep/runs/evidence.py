"""The JSON object that backs a claim: a figure with its spread, the bar it is held to, and how to measure it again."""

import math
import operator
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steep.runs import environment
from steep.runs.files import read_json, write_json

BAR = re.compile(r"(>=|<=|==|>|<) *([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)")
COMPARE = {">=": operator.ge, "<=": operator.le, "==": operator.eq, ">": operator.gt, "<": operator.lt}


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One measured figure. What was not measured is no claim, so every number here is finite.

    Claim(id="nano.loglinear_r2", value=0.97, low=0.95, high=0.98, bar=">= 0.95", command="steep train recipes/nano.py")
    """

    id: str
    value: float
    low: float
    """`low` and `high`: the 95% interval or the spread of the pairs; equal to `value` for a count."""
    high: float
    bar: str
    """A comparison (>=, <=, >, < or ==) and a number."""
    command: str

    def __post_init__(self) -> None:
        if BAR.fullmatch(self.bar) is None:
            raise ValueError(f"claim {self.id}: the bar {self.bar!r} is not like '>= 0.95'")
        if not all(map(math.isfinite, (self.value, self.low, self.high))):
            raise ValueError(f"claim {self.id}: {self.value} [{self.low}, {self.high}] was not measured")
        if self.low > self.high:
            raise ValueError(f"claim {self.id}: low {self.low} is above high {self.high}")

    @property
    def holds(self) -> bool:
        """Whether the value (not the whole interval) meets the bar."""
        match = BAR.fullmatch(self.bar)
        assert match is not None
        return bool(COMPARE[match[1]](self.value, float(match[2])))


def evidence(claims: Sequence[Claim], seconds: float) -> dict[str, Any]:
    """The claims with commit, machine and versions; `seconds` is how long measuring took."""
    repeated = [id for id, count in Counter(claim.id for claim in claims).items() if count > 1]
    if repeated:
        raise ValueError(f"claimed more than once: {', '.join(repeated)}")
    git = environment.git()
    return {
        "commit": git["commit"] if git else None,
        "dirty": git["dirty"] if git else None,
        "machine": environment.machine_line(),
        "versions": environment.versions(),
        "seconds": round(seconds, 1),
        "claims": [
            {
                "id": claim.id,
                "value": float(claim.value),
                "low": float(claim.low),
                "high": float(claim.high),
                "bar": claim.bar,
                "holds": claim.holds,
                "command": claim.command,
            }
            for claim in claims
        ],
    }


def write_evidence(path: Path, claims: Sequence[Claim], seconds: float) -> dict[str, Any]:
    """Write `evidence(claims, seconds)` to a JSON file, and return it for printing."""
    document = evidence(claims, seconds)
    write_json(path, document)
    return document


def read_claims(path: Path) -> list[Claim]:
    """The claims that `write_evidence` wrote; none if there is no such file."""
    rows = read_json(path)["claims"] if path.is_file() else []
    return [Claim(**{name: value for name, value in row.items() if name != "holds"}) for row in rows]
