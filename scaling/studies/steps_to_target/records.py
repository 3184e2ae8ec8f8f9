"""The records of steps_to_target as plain dataclasses."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scaling.errors import UserError
from scaling.minima import interval_of
from scaling.report import records
from scaling.report.records import Directory, Workdir, check_alike, from_keys, read_points
from scaling.report.wording import measure_text


@dataclass(frozen=True, eq=False)
class Evaluations:
    """The metric of a point's trials: three columns, sorted by trial, then step."""

    trial: np.ndarray
    step: np.ndarray
    value: np.ndarray  # nan where it was not finite

    def of(self, trial: int) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values of one trial."""
        rows = self.trial == trial
        return self.step[rows], self.value[rows]


@dataclass(frozen=True)
class Trial:
    """One set of metaparameters at a point, and what came of it: an entry of result.json."""

    trial: int
    seed: int
    values: dict[str, float]
    outcome: str  # reached, missed or infeasible
    steps_to_target: int | None
    stopped_at_step: int
    best_metric: float | None  # None: it diverged before its first evaluation
    last_train_loss: float | None


@dataclass(frozen=True, eq=False)
class Point:
    """One batch size: the keys of its result.json, and what lies beside it."""

    directory: Directory
    evaluations: Evaluations
    status: str  # reached, target_not_reached, all_diverged or met_at_start
    global_batch: int
    train_size: int
    metric: str
    goal: float
    steps_to_target: int | None
    resolution: list[int] | None
    steps_interval: tuple[int, int] | None  # worked out from the trials; None: too few reached
    censored_at: int | None
    budget_steps: int
    stopped_at_step: int
    margin: float
    trial_steps: int
    trial_steps_saved: int
    best_trial: int | None
    best: dict[str, float] | None
    at_edge: list[list[str]]
    widened: int
    ranges: dict[str, list]
    counts: dict[str, int]
    trials: list[Trial]
    repeats: list[dict[str, Any]]
    test: dict[str, float] | None
    seconds: dict[str, float]
    trial_steps_per_second: float
    devices: dict[str, Any]

    @property
    def split(self) -> str:
        """The data that the goal is measured on: validation or train."""
        return self.directory.config.get("target", {}).get("split", "validation")

    @property
    def reached(self) -> bool:
        """Whether training reached the goal; not so where it was met before training."""
        return self.status == "reached"

    @property
    def examples(self) -> int | None:
        """Examples used up to the goal."""
        return None if self.steps_to_target is None else self.steps_to_target * self.global_batch

    @property
    def epochs(self) -> float | None:
        """Passes over the training set up to the goal."""
        return None if self.examples is None else self.examples / self.train_size

    @property
    def repeat_steps(self) -> list[int]:
        """Steps of those repeats of the best trial that reached the goal."""
        steps = (repeat["steps_to_target"] for repeat in self.repeats)
        return sorted(step for step in steps if step is not None)


@dataclass(frozen=True, eq=False)
class Study(records.Study):
    """One question asked at several batch sizes, in rising order."""

    points: list[Point]

    @property
    def metric(self) -> str:
        """The metric that the goal is about."""
        return self.points[0].metric

    @property
    def goal(self) -> float:
        """What the metric must fall below."""
        return self.points[0].goal

    @property
    def split(self) -> str:
        """The data that the goal is measured on: validation or train."""
        return self.points[0].split


def read(workdir: Workdir) -> Study:
    """The study in one work directory.

    Raises:
      UserError: records that cannot be read, or points that do not belong together.
    """
    return Study(workdir.path, read_by_batch(workdir, read_point), workdir.unfinished)


def read_by_batch(workdir: Workdir, read_one) -> list[Point]:
    """What `read_one` makes of each directory, one per batch size, of one question."""
    points = sorted(read_points(workdir, read_one), key=lambda point: point.global_batch)
    for before, point in itertools.pairwise(points):
        if before.global_batch == point.global_batch:
            raise UserError(
                f"{before.directory.name} and {point.directory.name} in {workdir.path} are both of "
                f"batch {point.global_batch:,}; keep one of them."
            )
    check_alike(workdir.path, points, _question)
    return points


def _question(point):
    return {"goal": (point.metric, point.goal), "split": point.split, **point.directory.recipe}


def read_point(directory: Directory) -> Point:
    """One point, its evaluations included."""
    return from_keys(Point, point_keys(directory))


def point_keys(directory: Directory) -> dict[str, Any]:
    """The fields of a Point, and whatever else its result.json holds."""
    result, target = directory.result, directory.config.get("target", {})
    path, split = directory.path / "metrics.jsonl", target.get("split", "validation")
    return result | {
        "directory": directory,
        "evaluations": _read_evaluations(path, result["metric"], split),
        "trials": [from_keys(Trial, trial) for trial in result["trials"]],
        "steps_interval": interval_of(result),
    }


def check_together(studies: Sequence[Study]) -> None:
    """UserError for metrics that cannot share an axis."""
    first = studies[0]
    of = lambda study: measure_text(study.metric, study.split)
    for other in studies[1:]:
        if of(other) != of(first):
            raise UserError(
                f"{first.workdir} measures steps to a {of(first)} and {other.workdir} to a "
                f"{of(other)}; report them apart."
            )


def _read_evaluations(path, metric, split):
    """The rows of the goal's split; the write that a kill cut short is left out."""
    columns = ([], [], [])
    lines = path.read_text().splitlines() if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            if number == len(lines):
                break
            raise UserError(f"Line {number} of {path} is not valid JSON.") from None
        if row["split"] == split:
            value = row[metric]
            row_values = (row["trial"], row["step"], np.nan if value is None else value)
            for column, item in zip(columns, row_values, strict=True):
                column.append(item)
    trial, step, value = (
        np.array(column, kind) for column, kind in zip(columns, (int, int, float), strict=True)
    )
    order = np.lexsort((step, trial))
    return Evaluations(trial[order], step[order], value[order])
