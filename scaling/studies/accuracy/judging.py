"""What a recipe at a batch size adds to the error, and which one to use."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from scaling.paired import Paired, holm, paired
from scaling.report.records import Directory
from scaling.studies import recipe_records
from scaling.studies.accuracy.record import Record

REFERENCE, WITHIN, WORSE = "reference", "within tolerance", "worse"
UNCLEAR, DIVERGED = "unclear", "diverged"
SAME_EPOCHS = 1.05  # times the epochs: as many, but for rounding to whole steps


@dataclass(frozen=True, eq=False, kw_only=True)
class Point(Record):
    """One point."""

    directory: Directory
    curves: dict[int, dict[int, float]]  # place among the runs -> step -> validation error


@dataclass(frozen=True, eq=False)
class Study(recipe_records.Study):
    """All points, by batch, then in the order of the recipes."""

    points: list[Point]

    @property
    def tolerance(self) -> float:
        """Added error that counts as none."""
        return self.points[0].tolerance

    @property
    def reference(self) -> Point | None:
        """The first recipe at the base batch."""
        return next(iter(self.points_at(self.base_batch)), None)

    @property
    def larger_batches(self) -> list[int]:
        """Those above the base batch."""
        return [batch for batch in self.batches if batch > self.base_batch]


def difference(first: Record, second: Record) -> Paired:
    """Test error of `second` - `first`, paired by seed."""
    a, b = first.errors("test"), second.errors("test")
    seeds = sorted({*a, *b})
    return paired([a.get(seed) for seed in seeds], [b.get(seed) for seed in seeds])


def to_reference(study: Study, point: Point) -> Paired | None:
    """What a point adds; None of the reference itself, and where there is none."""
    reference = study.reference
    return None if reference in (None, point) else difference(reference, point)


def verdict(study: Study, point: Point) -> str:
    """Whether a point is as good as the reference.

    within tolerance: the 95% interval of the added test error ends below the tolerance. worse: it
    lies above 0, and its middle above the tolerance. diverged: some seed did. unclear: the rest.
    """
    added = to_reference(study, point)
    if point.failed:
        return DIVERGED
    if point is study.reference:
        return REFERENCE
    if added is None or added.low is None:
        return UNCLEAR
    if added.high <= study.tolerance:
        return WITHIN
    return WORSE if added.low > 0 and added.difference > study.tolerance else UNCLEAR


def failure(point: Record) -> str:
    """3 of 5 seeds"""
    if not point.runs:
        return "every learning rate tried" if point.tuning else "every seed"
    return f"{point.diverged} of {len(point.runs)} seeds"


def times_longer(study: Study, point: Point) -> float | None:
    """How many times the epochs of the reference a point takes; None where it is about one."""
    usual = study.reference or min(study.points, key=lambda one: one.epochs)
    ratio = point.epochs / usual.epochs
    return ratio if ratio > SAME_EPOCHS else None


def ranked(study: Study, points: Sequence[Point], longer: bool = True) -> list[Point]:
    """Those without a diverged seed, by validation error.

    The test error has no part in it, so that of the first is unbiased.

    Args:
      longer: also those that take more epochs than the reference.
    """
    points = [
        point for point in points if not point.failed and point.mean("validation") is not None
    ]
    points = [point for point in points if longer or not times_longer(study, point)]
    return sorted(points, key=lambda point: point.mean("validation"))


def recommended(study: Study, batch: int, longer: bool = True) -> Point | None:
    """The recipe to use: the one of the least validation error."""
    return next(iter(ranked(study, study.points_at(batch), longer)), None)


def choices(study: Study, batch: int) -> list[Point]:
    """The recommended point, and that without more epochs where it is another."""
    points = [recommended(study, batch, longer) for longer in (True, False)]
    return list(dict.fromkeys(point for point in points if point))


def within(study: Study, batch: int) -> list[Point]:
    """The points of a batch that are within the tolerance."""
    return [point for point in study.points_at(batch) if verdict(study, point) == WITHIN]


@functools.cache
def changes(study: Study, batch: int) -> dict[Point, tuple[Paired, float | None]]:
    """Every other point of a batch against the baseline, and its p value adjusted for all of them
    (Holm); empty where the baseline was not measured. A point with several names is one
    comparison.
    """
    baseline = study.point(batch, study.baseline)
    if baseline is None:
        return {}
    others = [point for point in study.points_at(batch) if point is not baseline]
    differences = [difference(baseline, point) for point in others]
    adjusted = holm([one.p for one in differences])
    return dict(zip(others, zip(differences, adjusted, strict=True), strict=True))
