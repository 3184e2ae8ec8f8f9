"""What a recipe at a batch size costs, and which one to take."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from scaling.paired import Paired, holm, paired
from scaling.studies.accuracy.records import Point, Study

REFERENCE, HOLDS, COSTS = "reference", "holds", "costs"
UNCLEAR, DIVERGED = "unclear", "diverged"
SAME_EPOCHS = 1.05  # times the epochs: as many, but for rounding to whole steps


def difference(first: Point, second: Point) -> Paired:
    """Test error of `second` - `first`, paired by seed."""
    a, b = first.errors("test"), second.errors("test")
    seeds = sorted({*a, *b})
    return paired([a.get(seed) for seed in seeds], [b.get(seed) for seed in seeds])


def to_reference(study: Study, point: Point) -> Paired | None:
    """What a point costs; None of the reference itself, and where there is none."""
    reference = study.reference
    return None if reference in (None, point) else difference(reference, point)


@dataclass(frozen=True)
class Verdict:
    """Whether a point is as good as the reference, to within the tolerance.

    holds: the 95% interval of the added test error lies below the tolerance. costs: it lies above
    0, and its middle above the tolerance. diverged: some seed did. unclear: the rest; more seeds
    would tell.
    """

    word: str
    why: str = ""

    def __str__(self) -> str:
        if self.word == DIVERGED:
            return f"{self.why} diverged"
        return f"{self.word}: {self.why}" if self.why else self.word


def verdict(study: Study, point: Point) -> Verdict:
    """The verdict on one point."""
    if point.failed:
        return Verdict(DIVERGED, failure(point))
    if point is study.reference:
        return Verdict(REFERENCE)
    if point.mean("test") is None:
        return Verdict(UNCLEAR, "no test error")
    found = to_reference(study, point)
    if found is None:
        return Verdict(UNCLEAR, "no reference")
    if not found.pairs:
        return Verdict(UNCLEAR, "no seed in common with the reference")
    if found.low is None:
        return Verdict(UNCLEAR, "one seed" if found.pairs == 1 else "no spread")
    if found.high <= study.tolerance:
        return Verdict(HOLDS)
    if found.low > 0 and found.difference > study.tolerance:
        return Verdict(COSTS)
    return Verdict(UNCLEAR)


def failure(point: Point) -> str:
    """3 of 5 seeds"""
    if not point.runs:
        return "every learning rate tried" if point.tuning else "every seed"
    return f"{point.diverged} of {len(point.runs)} seeds"


def times_longer(study: Study, point: Point) -> float | None:
    """How many times the epochs of the reference a point takes; None where it is about one."""
    usual = study.reference or min(study.points, key=lambda one: one.epochs)
    ratio = point.epochs / usual.epochs
    return ratio if ratio > SAME_EPOCHS else None


def recommended(study: Study, batch: int, longer: bool = True) -> Point | None:
    """The recipe to take: the least validation error among those without a diverged seed.

    The test error has no say in it, so that of the chosen one is unbiased.

    Args:
      longer: also among those that take more epochs than the reference.
    """
    found = [point for point in study.at(batch) if not point.failed]
    found = [point for point in found if longer or not times_longer(study, point)]
    found = [point for point in found if point.mean("validation") is not None]
    return min(found, key=lambda point: point.mean("validation"), default=None)


def choices(study: Study, batch: int) -> list[Point]:
    """The recommended point, and that without more epochs where it is another."""
    found = [recommended(study, batch, longer) for longer in (True, False)]
    return list(dict.fromkeys(point for point in found if point))


def holding(study: Study, batch: int) -> list[Point]:
    """The points of a batch that hold."""
    return [point for point in study.at(batch) if verdict(study, point).word == HOLDS]


@dataclass(frozen=True)
class Change:
    """What a recipe changes over the baseline; p is adjusted for all recipes of the batch."""

    difference: Paired
    p: float | None


@functools.cache
def changes(study: Study, batch: int) -> dict[Point, Change]:
    """Every other point of a batch against the baseline; empty where that was not measured.

    A point with several names is one comparison.
    """
    baseline = study.of(batch, study.baseline)
    if baseline is None:
        return {}
    others = [point for point in study.at(batch) if point is not baseline]
    found = [difference(baseline, point) for point in others]
    adjusted = holm([one.p for one in found])
    return {point: Change(one, p) for point, one, p in zip(others, found, adjusted, strict=True)}


def names(study: Study, points: Sequence[Point]) -> list[str]:
    """Recipes of points, in the order of the study."""
    return [recipe for recipe in study.recipes if any(p.recipe == recipe for p in points)]
