"""How accuracy follows the compute of RL, and where it is going: the sigmoid of ScaleRL (arXiv 2510.13786).

    R(C) = R0 + (A - R0) / (1 + (C_mid / C)^B)

R0 is where RL begins, A what it approaches, C_mid the compute that takes it half way, B how steeply it rises. For given
C_mid and B the curve is linear in R0 and A, so these are solved for, and only the other two are searched, on a grid
that is drawn closer around the best.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steep.evals.statistics import Z95, Estimate

BURN_IN = 0.1
"""Share of the compute at whose evaluations training is still settling; they are left out."""
LEAST, LEAST_FORETELLING = 8, 5
"""Points of a fit, which has four parameters, and of one to the first half. Fewer would fit anything."""
REACH, REACH_FORETELLING = 10.0, 0.5
"""How far C_mid may be, in the compute of the last point. A forecast from the foot of a curve could be anything: with
evaluations of 300 problems one in twenty was 34 points off, and is 8 now that half of the rise must be behind it."""
GRID, ROUNDS = 17, 8
STEEPNESS = (0.2, 10.0)
EDGE = 1.01
"""A fit within this factor of a bound of C_mid or B is at it."""
DRAWS = 200

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """An accuracy on held-out problems after so much compute."""

    compute: float
    """Of RL, in FLOPs; 0 before its first step."""
    value: float
    low: float
    high: float

    @property
    def error(self) -> float:
        """Standard error: the interval's, and that of a binomial."""
        return max((self.high - self.low) / (2 * Z95), 1e-4)


@dataclass(frozen=True, kw_only=True)
class Sigmoid:
    start: float
    """R0."""
    asymptote: float
    """A."""
    half: float
    """C_mid."""
    steepness: float
    """B."""

    def at(self, compute: Array) -> Array:
        return self.start + (self.asymptote - self.start) * risen(compute, self.half, self.steepness)


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """The fit to a training run, and how well its first half foretold the second."""

    curve: Sigmoid
    asymptote: Estimate
    half: Estimate
    steepness: Estimate
    rise: Estimate
    """From R0 to the last evaluation."""
    at_bound: bool
    """C_mid or B ends at a bound of its search: the points do not tell the curve's shape."""
    points: int
    forecast: Sigmoid | None
    """Fitted to the first half of the compute; None where that has too few points."""
    forecast_error: float | None
    """Mean absolute error of that in the second half."""

    @property
    def doubt(self) -> str:
        """Why the curve does not tell where RL is going; nothing if it does."""
        if self.rise.low <= 0:
            return "no rise measured"
        return "a rise whose shape cannot be told" if self.at_bound else ""


def risen(compute: Array, half: Array | float, steepness: Array | float) -> Array:
    """The share of the way from R0 to A."""
    with np.errstate(divide="ignore"):  # nothing has risen without compute
        return np.asarray(1 / (1 + (half / compute) ** steepness))


def scaling(points: Sequence[Measured], seed: int = 0) -> Scaling | None:
    """None where there are too few points. The intervals are a bootstrap over the binomial noise of the points."""
    last = max((p.compute for p in points), default=0.0)
    settled = [p for p in points if p.compute == 0 or p.compute >= BURN_IN * last]
    if len(settled) < LEAST or last == 0:
        return None
    compute, value, error = (np.array([getattr(p, name) for p in settled]) for name in ("compute", "value", "error"))
    curve = fit(compute, value, error)
    rng = np.random.default_rng(seed)
    drawn = [fit(compute, noisy, error) for noisy in np.clip(rng.normal(value, error, (DRAWS, len(value))), 0, 1)]

    def interval(figure: Callable[[Sigmoid], float]) -> Estimate:
        low, high = np.quantile([figure(each) for each in drawn], [0.025, 0.975])
        return Estimate(figure(curve), float(low), float(high))

    first = compute <= last / 2
    forecast = None
    if first.sum() >= LEAST_FORETELLING:
        forecast = fit(compute[first], value[first], error[first], REACH_FORETELLING)
    missed = None if forecast is None else float(np.abs(forecast.at(compute[~first]) - value[~first]).mean())
    return Scaling(
        curve=curve,
        asymptote=interval(lambda each: each.asymptote),
        half=interval(lambda each: each.half),
        steepness=interval(lambda each: each.steepness),
        rise=interval(lambda each: float(each.at(np.array(last)) - each.start)),
        at_bound=not within(curve, compute, REACH),
        points=len(settled),
        forecast=forecast,
        forecast_error=missed,
    )


def fit(compute: Array, value: Array, error: Array, reach: float = REACH) -> Sigmoid:
    """Least squares under the points' errors, with R0 and A from 0 to 1, and C_mid from a tenth of the first point's
    compute to `reach` times the last's."""
    low, high = map(np.log, bounds(compute, reach))
    centre, width = (low + high) / 2, high - low
    for _ in range(ROUNDS):
        edges = np.clip(centre - width / 2, low, high), np.clip(centre + width / 2, low, high)
        half, steepness = np.meshgrid(*(np.exp(np.linspace(a, b, GRID)) for a, b in zip(*edges, strict=True)))
        start, asymptote, loss = _ends(risen(compute, half[..., None], steepness[..., None]), value, error)
        at = np.unravel_index(loss.argmin(), loss.shape)
        centre, width = np.log([half[at], steepness[at]]), width / 4
    return Sigmoid(
        start=float(start[at]), asymptote=float(asymptote[at]), half=float(half[at]), steepness=float(steepness[at])
    )


def bounds(compute: Array, reach: float) -> tuple[Array, Array]:
    """The least and the most of C_mid and B."""
    positive = compute[compute > 0]
    return np.array([positive.min() / 10, STEEPNESS[0]]), np.array([positive.max() * reach, STEEPNESS[1]])


def within(curve: Sigmoid, compute: Array, reach: float) -> bool:
    (low, high), found = bounds(compute, reach), np.array([curve.half, curve.steepness])
    return bool(((low * EDGE < found) & (found < high / EDGE)).all())


def _ends(risen_GGN: Array, value_N: Array, error_N: Array) -> tuple[Array, Array, Array]:
    """For each curve of a grid the best R0 and A, and the loss that is left."""
    weight = 1 / error_N**2
    rest = 1 - risen_GGN

    def dot(a: Array, b: Array) -> Array:
        return np.asarray((weight * a * b).sum(-1))

    aa, ab, bb = dot(rest, rest), dot(rest, risen_GGN), dot(risen_GGN, risen_GGN)
    ay, by = dot(rest, value_N), dot(risen_GGN, value_N)
    determinant = np.maximum(aa * bb - ab**2, 1e-12 * aa * bb + 1e-300)
    asymptote = np.clip((aa * by - ab * ay) / determinant, 0, 1)
    start = np.clip((ay - asymptote * ab) / np.maximum(aa, 1e-300), 0, 1)
    asymptote = np.clip((by - start * ab) / np.maximum(bb, 1e-300), 0, 1)  # again, if R0 had to be cut
    missed = start[..., None] * rest + asymptote[..., None] * risen_GGN - value_N
    return start, asymptote, dot(missed, missed)
