"""The records of accuracy: batch sizes x recipes, each trained under several seeds."""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.errors import UserError
from scaling.paired import mean_and_deviation
from scaling.report import records
from scaling.report.records import (
    Directory,
    Workdir,
    check_alike,
    from_keys,
    read_points,
    recipes_of,
)

NAIVE = "naive"  # the recipe that changes nothing but the batch
Curve = dict[int, float]  # step -> validation error


@dataclass(frozen=True)
class Run:
    """One seed; each split has its loss and error after the last step."""

    seed: int
    status: str  # complete or diverged
    diverged_at: int | None
    train: dict[str, float] | None
    validation: dict[str, float] | None
    test: dict[str, float] | None

    @property
    def diverged(self) -> bool:
        """Whether its loss stopped being finite."""
        return self.status == "diverged"

    def error(self, split: str) -> float | None:
        """None where it diverged or was not evaluated."""
        scores = getattr(self, split)
        return None if self.diverged or not scores else scores.get("error")


@dataclass(frozen=True)
class Trial:
    """A learning rate that was tried."""

    learning_rate: float
    validation_error: float | None
    status: str


@dataclass(frozen=True)
class Tuning:
    """The search for a point's learning rate."""

    range: list[float]
    trials: list[Trial]
    best: int | None
    at_edge: str | None  # low or high, where the best one lies at an end of the range
    widened: int


@dataclass(frozen=True, eq=False)
class Point:
    """One batch size under one recipe: its result.json, and the curves beside it."""

    directory: Directory
    curves: dict[int, Curve]  # by place among the runs
    status: str  # complete, or diverged: every seed or every tuning trial
    global_batch: int
    base_batch: int
    tolerance: float
    recipe: str
    recipes: list[str]  # all that come to the same at this batch
    steps: int
    epochs: float
    learning_rate: float | None
    settings: dict[str, Any]
    tuning: Tuning | None
    runs: list[Run]

    @property
    def diverged(self) -> int:
        """How many seeds diverged."""
        return sum(run.diverged for run in self.runs)

    @property
    def failed(self) -> bool:
        """Whether any seed diverged, or none could be run."""
        return self.diverged > 0 or self.status == "diverged"

    def errors(self, split: str) -> dict[int, float]:
        """Seed -> error, of the seeds that have one."""
        found = {run.seed: run.error(split) for run in self.runs}
        return {seed: error for seed, error in found.items() if error is not None}

    def mean(self, split: str) -> float | None:
        """Over seeds."""
        return mean_and_deviation(list(self.errors(split).values()))[0]

    def deviation(self, split: str) -> float | None:
        """Over seeds; None from fewer than two."""
        return mean_and_deviation(list(self.errors(split).values()))[1]

    @property
    def gap(self) -> float | None:
        """Test error - training error, over the seeds that have both."""
        train, test = self.errors("train"), self.errors("test")
        gaps = [test[seed] - train[seed] for seed in test if seed in train]
        return mean_and_deviation(gaps)[0]


@dataclass(frozen=True, eq=False)
class Study(records.Study):
    """All points, by batch, then in the order of the recipes."""

    points: list[Point]

    @property
    def base_batch(self) -> int:
        """The small batch that large ones are compared with."""
        return self.points[0].base_batch

    @property
    def tolerance(self) -> float:
        """Added error that counts as none."""
        return self.points[0].tolerance

    @functools.cached_property
    def recipes(self) -> list[str]:
        """Those measured, in the order of the study."""
        return _in_order(self.points)

    @property
    def baseline(self) -> str:
        """The recipe that others are compared with at each batch: naive, else the first."""
        return NAIVE if NAIVE in self.recipes else self.recipes[0]

    @property
    def batches(self) -> list[int]:
        """In rising order."""
        return sorted({point.global_batch for point in self.points})

    @property
    def larger_batches(self) -> list[int]:
        """Those above the base batch."""
        return [batch for batch in self.batches if batch > self.base_batch]

    def of(self, batch: int, recipe: str) -> Point | None:
        """A recipe at a batch size, under any of its names."""
        found = (p for p in self.points if p.global_batch == batch and recipe in p.recipes)
        return next(found, None)

    def at(self, batch: int) -> list[Point]:
        """Every point of a batch size, once."""
        return [point for point in self.points if point.global_batch == batch]

    @property
    def reference(self) -> Point | None:
        """The first recipe at the base batch."""
        found = [self.of(self.base_batch, recipe) for recipe in self.recipes]
        return next(filter(None, found), None)


def read(workdir: Workdir) -> Study:
    """The study in one work directory.

    Raises:
      UserError: records that cannot be read, two of the same point, or of different questions.
    """
    points = read_points(workdir, _read_point)
    order = {recipe: place for place, recipe in enumerate(_in_order(points))}
    points.sort(key=lambda point: (point.global_batch, min(map(order.get, point.recipes))))
    _check_distinct(workdir.path, points)
    # What a recipe sets may differ from point to point, all else of the model may not.
    changed = {key.removeprefix("model.") for point in points for key in point.settings}
    check_alike(workdir.path, points, lambda point: _question(point, changed))
    return Study(workdir.path, points, workdir.unfinished)


def _read_point(directory: Directory) -> Point:
    result = directory.result
    tuning = result["tuning"] and from_keys(
        Tuning,
        result["tuning"]
        | {"trials": [from_keys(Trial, trial) for trial in result["tuning"]["trials"]]},
    )
    new = {
        "directory": directory,
        "curves": _read_curves(directory.path / "metrics.jsonl"),
        "recipes": list(dict.fromkeys([result["recipe"], *recipes_of(directory)])),
        "runs": [from_keys(Run, run) for run in result["runs"]],
        "tuning": tuning,
    }
    return from_keys(Point, result | new)


def _in_order(points: Sequence[Point]) -> list[str]:
    """Recipes as the study lists them; those it does not list by name, the naive one first."""
    measured = {recipe for point in points for recipe in point.recipes}
    listed = [recipe for point in points for recipe in _listed(point.directory.config)]
    others = sorted(measured, key=lambda recipe: (recipe != NAIVE, recipe))
    return [recipe for recipe in dict.fromkeys([*listed, *others]) if recipe in measured]


def _listed(config):
    section = config.get("recipes")
    recipes = section.get("all") if isinstance(section, dict) else None
    if not isinstance(recipes, list | tuple | dict):
        return []
    return [recipe for recipe in recipes if isinstance(recipe, str)]


def _check_distinct(path, points):
    seen = {}
    for point in points:
        for recipe in point.recipes:
            other = seen.setdefault((point.global_batch, recipe), point)
            if other is not point:
                raise UserError(
                    f"{other.directory.name} and {point.directory.name} in {path} are both of "
                    f"batch {point.global_batch:,} and recipe {recipe}; keep one of them."
                )


def _question(point, changed):
    recipe = point.directory.recipe
    kept = {key: value for key, value in recipe["model"].items() if key not in changed}
    alike = {key: recipe[key] for key in ("data set", "training set size")}
    return alike | {"model": kept, "base batch": point.base_batch, "tolerance": point.tolerance}


def _read_curves(path: Path) -> dict[int, Curve]:
    """Validation errors along the runs; none where there is no file."""
    curves = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break  # a write cut short
        if row["split"] == "validation" and row.get("error") is not None:
            curves.setdefault(row.get("trial", 0), {})[row["step"]] = row["error"]
    return {trial: dict(sorted(curve.items())) for trial, curve in curves.items()}


def check_together(studies: Sequence[Study]) -> None:
    """Any two share a page."""
