"""Steps against examples goal by goal, and the noise scale where a run passes each goal."""

import functools
import math
from dataclasses import dataclass

import numpy as np

from scaling.errors import UserError
from scaling.fits import StepsFit, fit_steps
from scaling.noise import Window
from scaling.report.records import Workdir, check_alike
from scaling.studies.pareto.record import Crossing, Record
from scaling.studies.steps_to_target import analysis


@dataclass(frozen=True, eq=False, kw_only=True)
class Point(analysis.Point, Record):
    """One batch size."""

    def crossing(self, goal: float) -> Crossing:
        """When it reached a goal."""
        missed = Crossing(goal, None, None, None)
        return next((crossing for crossing in self.goals if crossing.goal == goal), missed)


@dataclass(frozen=True)
class Front:
    """One goal: what it takes at each batch size, and the hyperbola through it."""

    goal: float
    batches: list[int]
    steps: list[int]
    fit: StepsFit | None
    reason: str  # why there is no fit

    @property
    def critical_batch(self) -> float | None:
        """B_crit, where the measured batch sizes bound it."""
        return self.fit.b_crit if self.fit and 0 < self.fit.b_crit < math.inf else None


@dataclass(frozen=True, eq=False)
class Study(analysis.Study):
    """Several goals at several batch sizes, in rising order."""

    points: list[Point]

    @functools.cached_property
    def fronts(self) -> list[Front]:
        """One per goal, the easiest first."""
        return [_front(self.points, crossing.goal) for crossing in self.points[0].goals]

    @property
    def known(self) -> list[Front]:
        """Those with a B_crit."""
        return [front for front in self.fronts if front.critical_batch]

    @functools.cached_property
    def run(self) -> Point | None:
        """The point whose tracked run represents the study: its batch is nearest to B_crit.

        Nearest to the geometric mean over goals; without a fit, in the middle of the batch sizes.
        Of those whose B_simple is known on average, if there are any.
        """
        points = [point for point in self.points if point.tracked and point.tracked.windows]
        points = [p for p in points if p.tracked.level.noise_scale is not None] or points
        sizes = [f.critical_batch for f in self.known] or [point.global_batch for point in points]
        distance = lambda point: abs(math.log(point.global_batch) - np.log(sizes).mean())
        return min(points, key=distance, default=None)

    def place(self, window: Window) -> float | None:
        """Of a window on the axis of goals; goals of the error have no losses to compare with."""
        return window.loss if self.metric == "loss" and (window.loss or 0) > 0 else None

    def noise_at(self, goal: float) -> float | None:
        """B_simple of the run that represents the study where it passes a goal; None if unknown.

        Between its resolved windows, linear in logs of loss and B_simple. Where the goal is an
        error, of the window in which the point's search crossed it.
        """
        windows = self.run.tracked.resolved if self.run else []
        if self.metric != "loss":
            step = (self.run.crossing(goal).steps if self.run else None) or 0
            inside = [w.noise_scale for w in windows if w.first_step <= step <= w.last_step]
            return inside[0] if inside else None
        pairs = sorted((self.place(w), w.noise_scale) for w in windows if self.place(w))
        if not pairs or not pairs[0][0] <= goal <= pairs[-1][0]:
            return None
        loss, scale = np.log(np.array(pairs)).T
        return float(np.exp(np.interp(math.log(goal), loss, scale)))

    def ratio_at(self, front: Front) -> float | None:
        """B_simple over B_crit at a goal."""
        return _ratio(self.noise_at(front.goal), front.critical_batch)

    # A row of the paper's Table 1; None where unknown.

    @property
    def critical_start(self) -> float | None:
        """B_crit of the easiest goal with a fit."""
        return self.known[0].critical_batch if self.known else None

    @property
    def critical_average(self) -> float | None:
        """Mean over goals."""
        return float(np.mean([f.critical_batch for f in self.known])) if self.known else None

    @property
    def noise_start(self) -> float | None:
        """B_simple of the run's first window."""
        return self.run and self.run.tracked.start.noise_scale

    @property
    def noise_average(self) -> float | None:
        """B_simple averaged over the run."""
        return self.run and self.run.tracked.level.noise_scale

    @property
    def ratio(self) -> float | None:
        """B_simple over B_crit, of the averages."""
        return _ratio(self.noise_average, self.critical_average)


def _ratio(noise, critical):
    return noise / critical if noise and critical else None


def _front(points: list[Point], goal: float) -> Front:
    """Where training ended without the goal, it is censored."""
    batches, steps = [p.global_batch for p in points], [p.crossing(goal).steps for p in points]
    censored = [None if s else p.censored_at for p, s in zip(points, steps, strict=True)]
    reached = {batch: s for batch, s in zip(batches, steps, strict=True) if s}
    try:
        fit, reason = fit_steps(batches, steps, censored_at=censored), ""
    except UserError as error:
        fit, reason = None, str(error)
    return Front(goal, list(reached), list(reached.values()), fit, reason)


def read(workdir: Workdir) -> Study:
    """The study in one work directory.

    Raises:
      UserError: records that cannot be read, or points that do not belong together.
    """
    points = analysis.read_by_batch(workdir, Point)
    check_alike(workdir.path, points, lambda p: {"goals": [c.goal for c in p.goals]})
    return Study(workdir.path, points, workdir.unfinished)
