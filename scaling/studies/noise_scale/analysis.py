"""The runs of a study, and what follows from comparing them."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scaling.noise import Average, Estimate, estimate, noise_scale
from scaling.report import records
from scaling.report.reading import jsonl
from scaling.report.records import Directory, Workdir, check_alike, read_points
from scaling.studies.noise_scale.record import Record

KINDS = ("base", "rate", "batch", "model", "temperature")  # in the order to be shown


@dataclass(frozen=True, eq=False, kw_only=True)
class Point(Record):
    """One run."""

    directory: Directory

    @property
    def name(self) -> str:
        """A model by its name, which is that of its directory; others by what sets them apart."""
        return " ".join(self.label.split()) or self.directory.name

    @property
    def level(self) -> Average | None:
        """B_simple over the run, as one number; None where it is not known."""
        level = self.noise_scale and self.noise_scale.level
        return level if level and level.noise_scale else None

    @functools.cached_property
    def _updates(self):
        """(step, |G|^2, tr(Sigma)) of every measured update, [n] each, from metrics.jsonl."""
        keys = ("step", "part_grad_sq_norm", "grad_sq_norm", "part_batch")
        rows = [
            [row.get(key) for key in keys]
            for row in jsonl(self.directory.path / "metrics.jsonl")
            if row["split"] == "train"
        ]
        step, small, big, part = (
            np.array([row for row in rows if None not in row], float).reshape(-1, 4).T
        )
        return step, *estimate(small, big, part, self.global_batch)

    def within(self, first: float, last: float) -> Estimate:
        """B_simple over the updates from step `first` to `last`."""
        step, *moments = self._updates
        inside = (first <= step) & (step <= last)
        return noise_scale(*(moment[inside] for moment in moments))


@dataclass(frozen=True, eq=False)
class Study(records.Study):
    """One run, and others that differ from it in one thing."""

    points: list[Point]

    @property
    def base(self) -> Point:
        """The run that the others are variants of; the first where it is missing."""
        return self.points[0]

    @property
    def has_base(self) -> bool:
        """Whether that run is there."""
        return self.base.kind == "base"

    @property
    def measured(self) -> list[Point]:
        """Points that have a noise scale to show."""
        return [point for point in self.points if point.noise_scale and point.noise_scale.windows]

    def variants(self, kind: str) -> list[Point]:
        """Points of a kind, the base first."""
        points = [point for point in self.points if point.kind == kind]
        return [self.base, *points] if self.has_base and kind != "base" else points


def read(workdir: Workdir) -> Study:
    """The study in one work directory.

    Raises:
      UserError: records that cannot be read, or of several data sets.
    """
    points = read_points(workdir, Point)
    order = {kind: place for place, kind in enumerate(KINDS)}
    points.sort(key=lambda p: (order.get(p.kind, 9), p.learning_rate, p.global_batch, p.parameters))
    check_alike(workdir.path, points, lambda p: {"data set": p.directory.recipe["data set"]})
    return Study(workdir.path, points, workdir.unfinished)


def slope(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Exponent of the power law nearest to the points, least squares in logs; None below two."""
    if len(set(x)) < 2:
        return None
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def levels(points: Sequence[Point], of: str) -> tuple[list[float], list[float]]:
    """(values of an attribute, noise scales) of the points that have one, by the former."""
    pairs = sorted((getattr(p, of), p.level.noise_scale) for p in points if p.level)
    return [x for x, _ in pairs], [y for _, y in pairs]


@dataclass(frozen=True)
class Rise:
    """B_simple in a cut of the temperature, and without it."""

    inside: Estimate
    outside: Estimate
    against: str  # what `outside` is of

    @property
    def ratio(self) -> float | None:
        """The factor of the cut is expected; None where not resolved."""
        resolved = self.inside.noise_scale and self.outside.noise_scale
        return self.inside.noise_scale / self.outside.noise_scale if resolved else None


def rise(study: Study, point: Point) -> Rise | None:
    """Of a temperature test; compared with the base run at the same steps, else with the run itself
    just before. None where metrics.jsonl has no updates."""
    first, last = point.dip.first_step, point.dip.last_step
    inside = point.within(first, last)
    if not inside.measurements:
        return None
    if study.has_base and study.base is not point:
        outside = study.base.within(first, last)
        if outside.noise_scale:
            return Rise(inside, outside, "the base run at the same steps")
    before = point.within(2 * first - last - 1, first - 1)
    return Rise(inside, before, "the same run just before")


def equal_loss_spread(points: Sequence[Point]) -> float | None:
    """Largest ratio of B_simple between two runs at equal loss, the median over losses.

    Taken on curves through the resolved windows, linear in logs, over the losses that all share.
    """
    curves = []
    for point in points:
        windows = point.noise_scale.resolved if point.noise_scale else []
        pairs = sorted((w.loss, w.noise_scale) for w in windows if w.loss and w.loss > 0)
        if len(pairs) > 1:
            curves.append(np.log(pairs).T)
    if len(curves) < 2:
        return None
    low, high = max(c[0, 0] for c in curves), min(c[0, -1] for c in curves)
    if low >= high:
        return None
    losses = np.linspace(low, high, 50)
    values = np.stack([np.interp(losses, *curve) for curve in curves])
    return float(np.exp(np.median(np.ptp(values, axis=0))))
