"""The records of adaptive_batch as plain dataclasses, and what adapting the batch saves."""

import functools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scaling.errors import UserError
from scaling.fits import StepsFit, fit_steps
from scaling.report import records
from scaling.report.records import Directory, Workdir, check_alike, from_keys, read_points


@dataclass(frozen=True)
class Crossing:
    """When a run reached a goal; None where it did not."""

    goal: float
    steps: int | None
    examples: int | None


@dataclass(frozen=True)
class Run:
    """One seed."""

    seed: int
    status: str
    goals: list[Crossing]
    schedule: list[list[int]]  # [first step, batch]
    noise_scale: list[list[float | None]]  # [step, B_simple or None]

    @property
    def last(self) -> Crossing | None:
        """The hardest goal, if it was reached."""
        hardest = min(self.goals, key=lambda crossing: crossing.goal)
        return hardest if hardest.steps is not None else None


@dataclass(frozen=True, eq=False)
class Point:
    """One fixed batch size, or one price r of a step in examples."""

    directory: Directory
    kind: str  # fixed or adaptive
    status: str  # reached, target_not_reached or diverged
    global_batch: int | None
    r: float | None
    runs: list[Run]
    gamma: float | None

    @property
    def ends(self) -> list[Crossing]:
        """The last goal, of the seeds that reached it."""
        return [run.last for run in self.runs if run.last]

    @property
    def steps(self) -> float | None:
        """To the last goal, median over those seeds."""
        return statistics.median(end.steps for end in self.ends) if self.ends else None

    @property
    def examples(self) -> float | None:
        """To the last goal, median over those seeds."""
        return statistics.median(end.examples for end in self.ends) if self.ends else None


@dataclass(frozen=True, eq=False)
class Study(records.Study):
    """Fixed batch sizes in rising order, then adaptive ones by r."""

    points: list[Point]

    def of_kind(self, kind: str) -> list[Point]:
        """Fixed or adaptive points."""
        return [point for point in self.points if point.kind == kind]

    @property
    def goal(self) -> float:
        """The hardest, a training loss."""
        return min(self.points[0].directory.result["goals"])

    @property
    def gamma(self) -> float | None:
        """Median over adaptive points: 1 where a fixed batch is as good as any."""
        found = [point.gamma for point in self.points if point.gamma is not None]
        return statistics.median(found) if found else None


def read(workdir: Workdir) -> Study:
    """The study in one work directory.

    Raises:
      UserError: records that cannot be read or that differ in goals or recipe.
    """
    points = read_points(workdir, _read_point)
    points.sort(key=lambda p: (p.kind == "adaptive", p.global_batch or 0, p.r or 0))
    question = lambda p: {"goals": p.directory.result["goals"], **p.directory.recipe}
    check_alike(workdir.path, points, question)
    return Study(workdir.path, points, workdir.unfinished)


def _read_point(directory: Directory) -> Point:
    result = directory.result
    runs = [
        from_keys(Run, run | {"goals": [from_keys(Crossing, goal) for goal in run["goals"]]})
        for run in result["runs"]
    ]
    return from_keys(Point, result | {"directory": directory, "runs": runs})


def check_together(studies: Sequence[Study]) -> None:
    """Any two share their axes."""


@functools.cache
def fit_of(study: Study) -> tuple[StepsFit | None, str]:
    """The hyperbola of the fixed batch sizes; or None, and why there is none."""
    points = [point for point in study.of_kind("fixed") if point.steps]
    try:
        return fit_steps([p.global_batch for p in points], [p.steps for p in points]), ""
    except UserError as error:
        return None, str(error)


def bends(fit: StepsFit | None) -> bool:
    """Whether a fit has both S_min and E_min."""
    return fit is not None and 0 < fit.b_crit < math.inf


def along(
    fit: StepsFit, gamma: float, least: float, most: float
) -> tuple[Sequence[float], Sequence[float]]:
    """(examples, steps) on (S / S_min - 1)(E / E_min - 1) = gamma, eq. D.4, from the E of a fixed
    batch `least` to that of `most`."""
    batch = np.geomspace(least, most, 60)
    excess = batch / fit.b_crit  # E / E_min - 1 of a fixed batch
    examples, steps = fit.e_min * (1 + excess), fit.s_min * (1 + gamma / excess)
    return examples.tolist(), steps.tolist()


@dataclass(frozen=True)
class Saving:
    """Shares that adapting saves over a fixed batch, one per seed; negative where it costs."""

    steps: list[float]  # at as many examples
    examples: list[float]  # in as many steps


def saving(study: Study, point: Point) -> Saving:
    """What each seed of an adaptive point saves over the fit of the fixed batch sizes.

    A seed with fewer examples than E_min, or fewer steps than S_min, has no fixed batch to be
    compared with.
    """
    fit, _ = fit_of(study)
    if not bends(fit):
        return Saving([], [])
    steps, examples = [], []
    for end in point.ends:
        more_examples, more_steps = end.examples / fit.e_min - 1, end.steps / fit.s_min - 1
        if more_examples > 0:
            steps.append(1 - end.steps / (fit.s_min * (1 + 1 / more_examples)))
        if more_steps > 0:
            examples.append(1 - end.examples / (fit.e_min * (1 + 1 / more_steps)))
    return Saving(steps, examples)


def natural(study: Study) -> Point | None:
    """The adaptive point to judge by: its r is nearest to E_min / S_min, which the paper proposes.

    Without a fit, the one in the middle.
    """
    points = [point for point in study.of_kind("adaptive") if point.ends]
    if not points:
        return None
    fit, _ = fit_of(study)
    if not bends(fit):
        return points[len(points) // 2]
    return min(points, key=lambda point: abs(math.log(point.r / fit.b_crit)))
