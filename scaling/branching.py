"""The critical batch size by branched training (Merrill et al. 2025, arXiv:2505.23971).

From one checkpoint, training goes on at K times the batch size for the same number of examples. The
critical batch size there is the largest that ends with a loss at most `tolerance` above that of the
batch size of the run itself. It is measured, where the noise scale is a prediction.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Critical:
    """The critical factor of a batch size, and the excess losses that it follows from.

    Attributes:
      factor: of the batch size; inf where no factor exceeds the tolerance.
      low, high: ends of its interval, factors that were measured; high is inf where none is known
        to exceed the tolerance.
      excess: [K] mean loss above that of factor 1, inf where a branch diverged.
      ends: [K] (low, high) interval of each.
    """

    factor: float
    low: float
    high: float
    excess: list[float]
    ends: list[tuple[float, float]]


def critical_factor(
    factors: Sequence[float], losses: Sequence[Sequence[float]], tolerance: float
) -> Critical:
    """Where the excess loss first passes the tolerance, between factors linear in log factor.

    Branches of one seed read the same examples first, so excesses are differences within seeds, and
    the interval of each is Student's. The interval of the factor is from the last one before the
    upper ends of these pass the tolerance to the first at which the lower ends do, since nothing is
    known of how the loss rises between two factors. Where a seed diverged both have passed. Seeds
    that diverge at the batch of the run itself are left out; of fewer than two nothing is known:
    the factor is 1, its interval unbounded.

    Args:
      factors: [K] ascending, the first 1.
      losses: [K][S] after the window, by factor and seed, S >= 2; inf where it diverged.
    """
    values = np.asarray(losses, float)
    values = values[:, np.isfinite(values[0])]
    if values.shape[1] < 2:
        unknown = [math.inf] * len(values)
        return Critical(1.0, 0.0, math.inf, unknown, [(-math.inf, math.inf)] * len(values))
    differences = values - values[0]
    finite = np.isfinite(differences).all(1)
    excess, half = np.full(len(values), np.inf), np.zeros(len(values))
    count = values.shape[1]
    quantile = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)
    excess[finite] = differences[finite].mean(1)
    half[finite] = quantile * differences[finite].std(1, ddof=1) / math.sqrt(count)
    low, high = excess - half, excess + half
    ends = list(zip(low.tolist(), high.tolist(), strict=True))
    last = float(factors[(_first_above(high, tolerance) or len(factors)) - 1])
    passed = _first_above(low, tolerance)
    beyond = math.inf if passed is None else float(factors[passed])
    value = _crossing(np.log(factors), excess, tolerance)
    return Critical(value, last, beyond, excess.tolist(), ends)


def _first_above(curve, tolerance) -> int | None:
    """Place of the first factor above the tolerance, never 0."""
    above = np.flatnonzero(curve > tolerance)
    return int(above[0]) if above.size else None


def _crossing(logs, curve, tolerance):
    """The factor at which a curve first passes the tolerance; inf where it does not."""
    k = _first_above(curve, tolerance)
    if k is None:
        return math.inf
    share = 0.0
    if math.isfinite(curve[k]):
        share = (tolerance - curve[k - 1]) / (curve[k] - curve[k - 1])
    return float(np.exp(logs[k - 1] + share * (logs[k] - logs[k - 1])))


def warmup(
    places: Sequence[int], critical: Sequence[float], batch: int, factors: Sequence[float]
) -> list[tuple[int, int]]:
    """The batch warmup that follows: [(examples at which it begins, batch size), ...].

    From each snapshot on, the largest measured batch size at or below the critical one; before the
    first, and where none is, the batch size of the run. It never falls.

    Args:
      places: [N] examples at the snapshots, ascending.
      critical: [N] critical factors.
      batch: of the run.
    """
    schedule = [(0, batch)]
    for place, limit in zip(places, critical, strict=True):
        size = max(round(batch * factor) for factor in factors if factor <= max(limit, 1.0))
        if size > schedule[-1][1]:
            schedule = [part for part in schedule if part[0] < place] + [(place, size)]
    return schedule
