"""Paired comparison of two recipes under the same seeds, without JAX.

A seed fixes the initial weights and the order of examples of both, so the variation they share
cancels in the differences, to which Student's t test is applied.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy


@dataclasses.dataclass(frozen=True)
class Paired:
    """The mean of second - first over the pairs in which both have a value.

    Attributes:
      low, high: interval of the mean at `level`.
      p: two-sided, of no difference in the mean.

    All three are None for fewer than two pairs, and where all differences are equal: errors are
    multiples of 1 / n, so a few may be equal by chance, and would have no spread.
    """

    pairs: int
    difference: float | None
    low: float | None
    high: float | None
    p: float | None


def paired(
    first: Sequence[float | None], second: Sequence[float | None], level: float = 0.95
) -> Paired:
    """Student's paired t test. Values are matched by index; incomplete pairs are left out."""
    both = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    if not both:
        return Paired(0, None, None, None, None)
    a, b = np.asarray(both, float).T
    differences = b - a
    mean, count = float(differences.mean()), len(both)
    error = float(scipy.stats.sem(differences)) if count > 1 else 0.0
    if error <= 1e-9 * float(np.abs(a).max() + np.abs(b).max()):
        return Paired(count, mean, None, None, None)
    half = float(scipy.stats.t.ppf((1 + level) / 2, count - 1)) * error
    p = float(2 * scipy.stats.t.sf(abs(mean) / error, count - 1))
    return Paired(count, mean, mean - half, mean + half, p)


def median_ratio(
    first: Sequence[float], second: Sequence[float], level: float = 0.95, draws: int = 2000
) -> tuple[float, float, float]:
    """The median of second / first over rounds, and its interval by a bootstrap over them.

    What slows a machine for a round is in both of its values, and cancels.

    Args:
      first, second: of the same rounds, positive.
    """
    ratios = np.divide(second, first)
    rows = np.random.default_rng(0).integers(len(ratios), size=(draws, len(ratios)))
    ends = np.quantile(np.median(ratios[rows], axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(np.median(ratios)), float(ends[0]), float(ends[1])


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p values adjusted for multiple comparisons (Holm 1979); None stays None.

    The i-th smallest of n is multiplied by n - i + 1, then made at least the one before it.
    """
    ascending = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    least = 0.0
    for rank, (p, i) in enumerate(ascending):
        least = max(least, min(1.0, p * (len(ascending) - rank)))
        adjusted[i] = least
    return adjusted


def mean_and_deviation(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and standard deviation (n - 1), ignoring None; None where there are too few values."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return None, None
    mean = math.fsum(numbers) / len(numbers)
    return mean, float(np.std(numbers, ddof=1)) if len(numbers) > 1 else None
