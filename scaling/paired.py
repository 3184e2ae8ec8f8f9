"""Comparing two recipes that ran under the same seeds. Plain numbers only.

A seed fixes the initial weights and the order of examples of both, so what they have in common
cancels in the difference: the test is Student's on the differences, seed by seed.
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
      low, high: the interval of the mean at `level`.
      p: two-sided, of no difference in the mean.

    All three are None from fewer than two pairs, and where all differences are equal, for then
    there is no spread to judge by: errors are multiples of 1 / n, a few easily alike by chance.
    """

    pairs: int
    difference: float | None
    low: float | None
    high: float | None
    p: float | None


def paired(
    first: Sequence[float | None], second: Sequence[float | None], level: float = 0.95
) -> Paired:
    """Student's paired test. Values are matched by place; a pair that lacks one is left out."""
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


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p values adjusted for being the smallest of several (Holm 1979); None stays None.

    The i-th smallest of n is multiplied by n - i + 1; none becomes smaller than one before it.
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    least = 0.0
    for rank, (p, place) in enumerate(known):
        least = max(least, min(1.0, p * (len(known) - rank)))
        adjusted[place] = least
    return adjusted


def mean_and_deviation(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and standard deviation (n - 1) of the values there are; None where too few are."""
    known = [value for value in values if value is not None]
    if not known:
        return None, None
    mean = math.fsum(known) / len(known)
    return mean, float(np.std(known, ddof=1)) if len(known) > 1 else None
