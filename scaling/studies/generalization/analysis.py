"""What follows from the records: which law the distance follows, and how its slope changes."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scaling.studies.generalization.records import LAWS, NAIVE, Layer, Point, Study

SAME = 1.1  # slopes whose ratio is within this factor are the same


def medians(study: Study) -> dict[str, float]:
    """Law -> its R^2, the median over points; empty where no point has a fit."""
    points = [point for point in study.points if point.fits]
    if not points:
        return {}
    return {law: statistics.median(p.mean_of(law, "r2") for p in points) for law in LAWS}


def exponents(study: Study) -> list[float]:
    """The power of t at every point that has a fit."""
    return [p.mean_of("power", "slope") for p in study.points if p.fits]


@dataclass(frozen=True)
class Ratio:
    """A slope over another; `low` and `high` are the extremes over pairs of seeds."""

    value: float
    low: float
    high: float
    seeds: int

    @property
    def close(self) -> bool:
        """Whether the two are the same for all that matters."""
        return 1 / SAME <= self.value <= SAME

    @property
    def unclear(self) -> bool:
        """Whether seeds disagree on which of the two is larger."""
        return self.seeds > 1 and self.low <= 1 <= self.high


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
    return Ratio(mine / other, min(each), max(each), min(len(ours), len(theirs)))


def main_recipe(study: Study) -> str:
    """The one that corrections are measured against."""
    return NAIVE if NAIVE in study.recipes else study.recipes[0]


def fitted(study: Study, recipe: str) -> list[Point]:
    """Its points that have a fit."""
    return [point for point in study.of_recipe(recipe) if point.fits]


def small(study: Study) -> Point | None:
    """The small batch: the base batch, or the smallest with a fit where that is no use."""
    points = fitted(study, main_recipe(study))
    base = [point for point in points[:-1] if point.global_batch == point.base_batch]
    return (base or points or [None])[0]


def large(study: Study, recipe: str) -> Point | None:
    """The recipe's largest batch with a fit, if that is larger than the small one."""
    points, reference = fitted(study, recipe), small(study)
    if not points or reference is None or points[-1].global_batch <= reference.global_batch:
        return None
    return points[-1]


def at_batch(points: Sequence[Point], batch: int) -> Point | None:
    """The one of that batch size."""
    return next((point for point in points if point.global_batch == batch), None)


def batch_power(points: Sequence[Point]) -> float | None:
    """Exponent of the slope as a power of the batch, least squares in logs; None below three."""
    pairs = [(p.global_batch, p.slope) for p in points if p.fits and p.slope > 0]
    if len(pairs) < 3:
        return None
    x, y = np.log(np.array(pairs, float)).T
    return float(np.polyfit(x, y, 1)[0])


def spread(layers: Sequence[Layer], when: str) -> float | None:
    """Largest over smallest ||w|| / ||g||; None where fewer than two layers have one."""
    ratios = [getattr(layer, when).ratio for layer in layers]
    ratios = [value for value in ratios if value and 0 < value < math.inf]
    return max(ratios) / min(ratios) if len(ratios) > 1 else None
