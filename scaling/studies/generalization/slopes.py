"""How the slope of the distance against ln t changes with the batch (Hoffer 2017, Fig. 2)."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scaling.studies import recipe_records
from scaling.studies.generalization.record import Layer, Record


@dataclass(frozen=True, eq=False, kw_only=True)
class Point(recipe_records.Point, Record):
    """One point."""


@dataclass(frozen=True, eq=False)
class Study(recipe_records.Study):
    """All points, by batch, then in the order of the recipes."""

    points: list[Point]

    def fitted(self, recipe: str) -> list[Point]:
        """A recipe's points that have a fit."""
        return [point for point in self.points_of(recipe) if point.fits]

    @property
    def small(self) -> Point | None:
        """The base batch, or the smallest batch with a fit where no larger one has one."""
        points = self.fitted(self.baseline)
        base = [point for point in points[:-1] if point.global_batch == point.base_batch]
        return next(iter(base or points), None)

    def large(self, recipe: str) -> Point | None:
        """The recipe's largest batch with a fit, if that is larger than the small one."""
        largest, small = self.fitted(recipe)[-1:], self.small
        larger = [p for p in largest if small and p.global_batch > small.global_batch]
        return next(iter(larger), None)


@dataclass(frozen=True)
class Ratio:
    """A slope over another; `low` and `high` are the extremes over seeds."""

    value: float
    low: float
    high: float


def ratio(point: Point, reference: Point) -> Ratio | None:
    """The slope of one point over that of another, seed by seed; None where they share no seed that
    has a fit, or the reference does not grow."""
    both = [(fit, reference.fits[s]) for s, fit in point.fits.items() if s in reference.fits]
    pairs = [(ours.log.slope, theirs.log.slope) for ours, theirs in both]
    if not pairs or min(theirs for _, theirs in pairs) <= 0:
        return None
    each = [mine / other for mine, other in pairs]
    mine, other = (statistics.mean(column) for column in zip(*pairs, strict=True))
    return Ratio(mine / other, min(each), max(each))


def batch_power(points: Sequence[Point]) -> float | None:
    """Exponent of the slope as a power of the batch, least squares in logs; None below three."""
    pairs = [(p.global_batch, p.slope) for p in points if p.fits and p.slope > 0]
    if len(pairs) < 3:
        return None
    x, y = np.log(np.array(pairs, float)).T
    return float(np.polyfit(x, y, 1)[0])


def unevenness(layers: Sequence[Layer], when: str) -> float | None:
    """Largest over smallest ||w|| / ||g||; None where fewer than two layers have one."""
    ratios = [getattr(layer, when).ratio for layer in layers]
    ratios = [value for value in ratios if value and 0 < value < math.inf]
    return max(ratios) / min(ratios) if len(ratios) > 1 else None
