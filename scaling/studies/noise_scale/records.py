"""The records of noise_scale as plain dataclasses, and what follows from them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scaling.report import records
from scaling.report.records import Directory, Workdir, check_alike, read_points
from scaling.studies.noise_records import Estimate, Noise, Updates, read_noise, read_updates

PLAIN = ("status", "kind", "label", "global_batch", "steps", "learning_rate", "parameters")
KINDS = ("base", "rate", "batch", "model", "temperature")  # in the order to be shown


@dataclass(frozen=True)
class Dip:
    """The stretch of steps in which the temperature is cut, and by how much."""

    factor: float
    first_step: int
    last_step: int


@dataclass(frozen=True, eq=False)
class Point:
    """One run."""

    directory: Directory
    status: str  # complete or diverged
    kind: str  # of KINDS
    label: str  # what sets it apart
    global_batch: int
    steps: int
    learning_rate: float
    parameters: int
    noise: Noise | None  # None: nothing was measured
    dip: Dip | None
    updates: Updates

    @property
    def level(self) -> float | None:
        """One number for the run: the windows' average, else all measurements together."""
        if self.noise is None:
            return None
        return self.noise.average or self.noise.whole.noise_scale

    @property
    def level_interval(self) -> tuple[float | None, float | None]:
        """Its 95% interval; of no width where the record has none."""
        noise = self.noise
        low, high = noise.average_low, noise.average_high
        if not noise.average:
            low, high = noise.whole.low, noise.whole.high
        return (self.level,) * 2 if low is high is None else (low, high)

    @property
    def name(self) -> str:
        """A model by its name, which is that of its directory; others by what sets them apart."""
        return " ".join(self.label.split()) or self.directory.name


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
        return [point for point in self.points if point.noise and point.noise.windows]

    def variants(self, kind: str) -> list[Point]:
        """Points of a kind, the base first."""
        points = [point for point in self.points if point.kind == kind]
        return [self.base, *points] if self.has_base and kind != "base" else points


def read(workdir: Workdir) -> Study:
    """The study in one work directory.

    Raises:
      UserError: records that cannot be read, or of several data sets.
    """
    points = sorted(
        read_points(workdir, _read_point),
        key=lambda p: (KINDS.index(p.kind), p.learning_rate, p.global_batch, p.parameters),
    )
    check_alike(workdir.path, points, lambda p: {"data set": p.directory.recipe["data set"]})
    return Study(workdir.path, points, workdir.unfinished)


def _read_point(directory: Directory) -> Point:
    result = directory.result
    if result["kind"] not in KINDS:
        raise ValueError(f"kind {result['kind']!r}")
    dip = result["dip"]
    return Point(
        directory=directory,
        noise=read_noise(result["noise_scale"]),
        updates=read_updates(directory.path / "metrics.jsonl", result["global_batch"]),
        dip=dip and Dip(dip["factor"], dip["first_step"], dip["last_step"]),
        **{key: result[key] for key in PLAIN},
    )


def check_together(studies: Sequence[Study]) -> None:
    """Any two share their axes."""


def slope(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Exponent of the power law nearest to the points, least squares in logs; None below two."""
    if len(set(x)) < 2:
        return None
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def levels(points: Sequence[Point], of: str) -> tuple[list[float], list[float]]:
    """(values of an attribute, noise scales) of the points that have one, by the former."""
    pairs = sorted((getattr(p, of), p.level) for p in points if p.level)
    return [x for x, _ in pairs], [y for _, y in pairs]


@dataclass(frozen=True)
class Rise:
    """How B_simple answers a cut of the temperature.

    Attributes:
      inside: B_simple of the updates in the dip.
      outside: without the cut: at the same steps of the base run, or just before the dip.
      against: which of the two.
    """

    inside: Estimate
    outside: Estimate
    against: str

    @property
    def ratio(self) -> float | None:
        """By how much it rises, the factor of the cut is expected; None where not resolved."""
        resolved = self.inside.noise_scale and self.outside.noise_scale
        return self.inside.noise_scale / self.outside.noise_scale if resolved else None


def rise(study: Study, point: Point) -> Rise | None:
    """The rise in a temperature test; None where there are no updates to tell it from."""
    first, last = point.dip.first_step, point.dip.last_step
    inside = point.updates.within(first, last)
    if not inside.measurements:
        return None
    if study.has_base and study.base is not point:
        outside = study.base.updates.within(first, last)
        if outside.noise_scale:
            return Rise(inside, outside, "the base run at the same steps")
    before = point.updates.within(2 * first - last - 1, first - 1)
    return Rise(inside, before, "the same run just before")


def equal_loss_spread(points: Sequence[Point]) -> float | None:
    """Largest ratio of B_simple between two runs at equal loss, the median over losses.

    Taken on curves through the resolved windows, linear in logs, over the losses that all share.
    """
    curves = []
    for point in points:
        windows = [w for w in point.noise.resolved if w.loss and w.loss > 0] if point.noise else []
        if len(windows) > 1:
            windows.sort(key=lambda window: window.loss)
            logs = [(math.log(w.loss), math.log(w.noise_scale)) for w in windows]
            curves.append(np.array(logs).T)
    if len(curves) < 2:
        return None
    low, high = max(c[0, 0] for c in curves), min(c[0, -1] for c in curves)
    if low >= high:
        return None
    losses = np.linspace(low, high, 50)
    values = np.stack([np.interp(losses, *curve) for curve in curves])
    return float(np.exp(np.median(np.ptp(values, axis=0))))
