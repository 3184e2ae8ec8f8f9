"""How the slope of the distance against ln t changes with the batch (Hoffer 2017, Fig. 2)."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scaling.report.records import Directory
from scaling.studies import recipe_records
from scaling.studies.generalization.record import Layer, Record


@dataclass(frozen=True, eq=False, kw_only=True)
class Point(Record):
    """One point."""

    directory: Directory


@dataclass(frozen=True, eq=False)
class Study(recipe_records.Study):
    """All points, by batch, then in the order of the recipes."""

    points: list[Point]

    def fitted(self, recipe: str) -> list[Point]:
        """A recipe's points that have a fit."""
        return [point for point in self.points_of(recipe) if point.fits]


@dataclass(frozen=True)
class Ratio:
    """A slope over another; `low` and `high` are the extremes over pairs of seeds."""

    value: float
    low: float
    high: float


def ratio(point: Point, reference: Point) -> Ratio | None:
    """The slope of one point over that of another, seed by seed where they share seeds.

    None where either has none, or the reference does not grow.
    """
    ours, theirs = ({s: fit.log.slope for s, fit in p.fits.items()} for p in (point, reference))
    if not ours or not theirs or min(theirs.values()) <= 0:
        return None
    pairs = [(ours[seed], theirs[seed]) for seed in ours if seed in theirs]
    pairs = pairs or [(mine, other) for mine in ours.values() for other in theirs.values()]
    each = [mine / other for mine, other in pairs]
    mine, other = (statistics.mean(column) for column in zip(*pairs, strict=True))
    return Ratio(mine / other, min(each), max(each))


def small(study: Study) -> Point | None:
    """The small batch: the base batch, or the smallest with a fit where no larger one has one."""
    points = study.fitted(study.baseline)
    base = [point for point in points[:-1] if point.global_batch == point.base_batch]
    return next(iter(base or points), None)


def large(study: Study, recipe: str) -> Point | None:
    """The recipe's largest batch with a fit, if that is larger than the small one."""
    points, reference = study.fitted(recipe), small(study)
    if not points or reference is None or points[-1].global_batch <= reference.global_batch:
        return None
    return points[-1]


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
