"""The records of pareto: searches of steps to target, each with several goals and a tracked run."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scaling.errors import UserError
from scaling.fits import StepsFit, fit_steps
from scaling.report.kind import steps_to_target
from scaling.report.records import Directory, Workdir, from_keys
from scaling.studies.noise_records import Noise, Window, read_noise
from scaling.studies.steps_to_target.records import check_together, point_keys, read_by_batch

__all__ = ["Front", "Point", "Study", "check_together", "fronts", "read"]


@dataclass(frozen=True)
class Crossing:
    """When the first of a point's trials reached a goal."""

    goal: float
    steps: int | None  # None: not reached
    before: int | None  # that trial's evaluation before
    examples: int | None


@dataclass(frozen=True, eq=False)
class Point(steps_to_target.records.Point):
    """One batch size; its own goal is the hardest."""

    goals: list[Crossing]  # the easiest first
    tracked: Noise | None  # of the best trial, run again

    def crossing(self, goal: float) -> Crossing | None:
        """When it reached a goal."""
        return next((crossing for crossing in self.goals if crossing.goal == goal), None)


@dataclass(frozen=True, eq=False)
class Study(steps_to_target.records.Study):
    """Several goals at several batch sizes, in rising order."""

    points: list[Point]

    @property
    def goals(self) -> list[float]:
        """All goals, the easiest first."""
        return sorted({crossing.goal for p in self.points for crossing in p.goals}, reverse=True)


def read(workdir: Workdir) -> Study:
    """The study in one work directory.

    Raises:
      UserError: records that cannot be read, or points that do not belong together.
    """
    return Study(workdir.path, read_by_batch(workdir, _read_point), workdir.unfinished)


def _read_point(directory: Directory) -> Point:
    keys = point_keys(directory)
    goals = sorted(keys["goals"], key=lambda goal: goal["goal"], reverse=True)
    crossings = [from_keys(Crossing, goal) for goal in goals]
    return from_keys(Point, keys | {"goals": crossings, "tracked": read_noise(keys["tracked"])})


@dataclass(frozen=True)
class Front:
    """One goal: what it takes at each batch size, and the hyperbola through it.

    Attributes:
      noise_scale: B_simple of the study's tracked run where it passes the goal; None if unknown.
    """

    goal: float
    batches: list[int]
    steps: list[int]
    fit: StepsFit | None
    reason: str  # why there is no fit
    noise_scale: float | None

    @property
    def examples(self) -> list[int]:
        """Examples that the goal takes at each batch size."""
        return [batch * steps for batch, steps in zip(self.batches, self.steps, strict=True)]

    @property
    def critical_batch(self) -> float | None:
        """B_crit, where the measured batch sizes bound it."""
        if self.fit is None or not 0 < self.fit.b_crit < math.inf:
            return None
        return self.fit.b_crit

    @property
    def ratio(self) -> float | None:
        """B_simple over B_crit."""
        both = self.critical_batch and self.noise_scale
        return self.noise_scale / self.critical_batch if both else None


@functools.cache
def fronts(study: Study) -> list[Front]:
    """One per goal, the easiest first."""
    fits = [_fit(study, goal) for goal in study.goals]
    run = tracked_run(study)
    found = []
    for goal, (fit, reason) in zip(study.goals, fits, strict=True):
        reached = [(p, p.crossing(goal)) for p in study.points if p.crossing(goal)]
        pairs = [(p.global_batch, crossing.steps) for p, crossing in reached if crossing.steps]
        batches, steps = ([pair[i] for pair in pairs] for i in (0, 1))
        noise_scale = _noise_at(study, run, goal) if run else None
        found.append(Front(goal, batches, steps, fit, reason, noise_scale))
    return found


@functools.cache
def _fit(study: Study, goal: float) -> tuple[StepsFit | None, str]:
    """A goal's hyperbola; where training ended without it, it is censored."""
    rows = []
    for point in study.points:
        crossing = point.crossing(goal)
        if crossing and crossing.steps:
            rows.append((point.global_batch, crossing.steps, None))
        elif crossing and point.censored_at:
            rows.append((point.global_batch, None, point.censored_at))
    batches, steps, censored = ([row[i] for row in rows] for i in range(3))
    try:
        return fit_steps(batches, steps, censored_at=censored), ""
    except UserError as error:
        return None, str(error)


@functools.cache
def tracked_run(study: Study) -> Point | None:
    """The point whose tracked run stands for the study: its batch is nearest to B_crit.

    Nearest to the geometric mean over goals; without a fit, in the middle of the batch sizes.
    """
    points = [point for point in study.points if point.tracked and point.tracked.windows]
    if not points:
        return None
    fits = [fit for fit, _ in (_fit(study, goal) for goal in study.goals) if fit]
    critical = [fit.b_crit for fit in fits if 0 < fit.b_crit < math.inf]
    wanted = np.log(critical or [point.global_batch for point in points]).mean()
    return min(points, key=lambda point: abs(math.log(point.global_batch) - wanted))


def place(study: Study, window: Window) -> float | None:
    """A window's place on the axis of goals; a goal of the error has no losses to compare with."""
    return window.loss if study.metric == "loss" and (window.loss or 0) > 0 else None


def _noise_at(study: Study, run: Point, goal: float) -> float | None:
    """B_simple of a tracked run at a goal.

    Between its resolved windows, linear in logs of loss and B_simple. Where the goal is an error,
    of the window in which the point's search crossed it.
    """
    windows = run.tracked.resolved
    if study.metric != "loss":
        crossing = run.crossing(goal)
        steps = crossing.steps if crossing else None
        inside = [w for w in windows if steps and w.first_step <= steps <= w.last_step]
        return inside[0].noise_scale if inside else None
    pairs = sorted((place(study, w), w.noise_scale) for w in windows if place(study, w))
    if not pairs or not pairs[0][0] <= goal <= pairs[-1][0]:
        return None
    loss, scale = np.log(np.array(pairs)).T
    return float(np.exp(np.interp(math.log(goal), loss, scale)))


@dataclass(frozen=True)
class Summary:
    """A row of the paper's Table 1; None where unknown."""

    critical_start: float | None  # at the easiest goal with a fit
    critical_average: float | None  # over goals
    noise_start: float | None
    noise_average: float | None

    @property
    def ratio(self) -> float | None:
        """B_simple over B_crit, of the averages."""
        both = self.critical_average and self.noise_average
        return self.noise_average / self.critical_average if both else None


def summary(study: Study) -> Summary:
    """Critical batch sizes and noise scales, at the start and averaged over training."""
    critical = [front.critical_batch for front in fronts(study) if front.critical_batch]
    run = tracked_run(study)
    noise = run.tracked if run else None
    return Summary(
        critical_start=critical[0] if critical else None,
        critical_average=float(np.mean(critical)) if critical else None,
        noise_start=noise and noise.start.noise_scale,
        noise_average=noise and noise.average,
    )


def hyperbola(fit: StepsFit, least: float, most: float) -> tuple[Sequence[float], Sequence[float]]:
    """(examples, steps) along the fit between two batch sizes, eq. 2.11."""
    batch = np.geomspace(least, most, 60)
    steps = fit.hyperbola.steps(batch)
    return (batch * steps).tolist(), steps.tolist()
