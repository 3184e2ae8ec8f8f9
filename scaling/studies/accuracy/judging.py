"""What a recipe at a batch size adds to the error, and which one to use."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from scaling.paired import Paired, holm, paired
from scaling.studies import recipe_records
from scaling.studies.accuracy.record import Record

REFERENCE, WITHIN, WORSE = "reference", "within tolerance", "worse"
UNCLEAR, DIVERGED = "unclear", "diverged"
SAME_EPOCHS = 1.05  # times the epochs: as many, but for rounding to whole steps


@dataclass(frozen=True, eq=False, kw_only=True)
class Point(recipe_records.Point, Record):
    """One point."""

    # metric -> place among the runs -> step -> its value on validation
    curves: dict[str, dict[int, dict[int, float]]]


def difference(first: Record, second: Record, sign: int = 1) -> Paired:
    """By how much the test error, or the metric by `sign`, of `second` is above that of `first`,
    paired by seed."""
    a, b = first.scores("test"), second.scores("test")
    of = lambda scores: [sign * scores[s] if s in scores else None for s in sorted({*a, *b})]
    return paired(of(a), of(b))


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

    def added(self, point: Point) -> Paired | None:
        """By how much a point is worse than the reference on the test split; None of the reference
        itself, and where there is none."""
        if self.reference in (None, point):
            return None
        return difference(self.reference, point, self.sign)

    def verdict(self, point: Point) -> str:
        """Whether a point is as good as the reference.

        within tolerance: the 95% interval of the added test error ends below the tolerance. worse:
        it lies above 0, and its middle above the tolerance. diverged: some seed did. unclear: the
        rest.
        """
        added = self.added(point)
        if point.failure:
            return DIVERGED
        if point is self.reference:
            return REFERENCE
        if added is None or added.low is None:
            return UNCLEAR
        if added.high <= self.tolerance:
            return WITHIN
        return WORSE if added.low > 0 and added.difference > self.tolerance else UNCLEAR

    def times_longer(self, point: Point) -> float | None:
        """How many times the epochs of the reference a point takes; None where it is about one."""
        usual = self.reference or min(self.points, key=lambda one: one.epochs)
        ratio = point.epochs / usual.epochs
        return ratio if ratio > SAME_EPOCHS else None

    def ranked(self, points: Sequence[Point], longer: bool = True) -> list[Point]:
        """Those without a diverged seed, the best on validation first.

        The test split has no part in it, so that of the first is unbiased.

        Args:
          longer: also those that take more epochs than the reference.
        """
        usable = [p for p in points if not p.failure and p.mean("validation") is not None]
        usable = [p for p in usable if longer or not self.times_longer(p)]
        return sorted(usable, key=lambda point: self.sign * point.mean("validation"))

    def choices(self, batch: int) -> list[Point]:
        """The recommended point, the best on validation, and the recommended one without more
        epochs where that is another."""
        ranks = [self.ranked(self.points_at(batch), longer) for longer in (True, False)]
        return list(dict.fromkeys(point for points in ranks for point in points[:1]))

    def within(self, batch: int) -> list[Point]:
        """The points of a batch that are within the tolerance."""
        return [point for point in self.points_at(batch) if self.verdict(point) == WITHIN]

    @functools.cached_property
    def changes(self) -> dict[Point, tuple[Paired, float | None]]:
        """Every point against the baseline at its batch, where that was measured, and its p value
        adjusted for all points of the batch (Holm). A point with several names is one comparison.
        """
        changes = {}
        for batch in self.batches:
            if baseline := self.point(batch, self.baseline):
                others = [point for point in self.points_at(batch) if point is not baseline]
                differences = [difference(baseline, point, self.sign) for point in others]
                adjusted = holm([one.p for one in differences])
                changes |= zip(others, zip(differences, adjusted, strict=True), strict=True)
        return changes
