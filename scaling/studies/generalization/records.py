"""The records of generalization as plain dataclasses, and means over their seeds."""

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scaling.diffusion import Diffusion, Line
from scaling.errors import UserError
from scaling.report import records
from scaling.report.records import (
    Directory,
    Workdir,
    check_alike,
    from_keys,
    read_points,
    recipes_of,
)

NAIVE = "naive"  # the recipe that leaves the small batch's learning rate as it is
LAWS = ("log", "root", "power")
# What a curve tells at its steps.
COLUMNS = ("weight_distance", "grad_norm", "train_loss", "validation_error", "validation_loss")
# Of the model, what comes to the same at the small batch: a ghost batch is the batch there.
NORMS = ("norm", "ghost_batch")


@dataclass(frozen=True)
class Curve:
    """A run's evaluations; without steps where the record has none."""

    step: list[int]
    columns: dict[str, list[float | None]]  # by COLUMNS

    def of(self, column: str) -> dict[int, float]:
        """Step -> value, where there is one."""
        pairs = zip(self.step, self.columns[column], strict=True)
        return {step: v for step, v in pairs if v is not None and math.isfinite(v)}


@dataclass(frozen=True)
class Run:
    """One seed."""

    seed: int
    status: str  # complete or diverged
    diverged_at: int | None
    curve: Curve
    diffusion: Diffusion | None  # None: too few evaluations for a fit


@dataclass(frozen=True)
class Norms:
    """Of one layer at one time, means over seeds."""

    weight_norm: float | None
    grad_norm: float | None

    @property
    def ratio(self) -> float | None:
        """||w|| / ||g||; None where the gradient is zero."""
        known = self.weight_norm is not None and self.grad_norm
        return self.weight_norm / self.grad_norm if known else None


@dataclass(frozen=True)
class Layer:
    """One array of parameters, at the first and the last update."""

    name: str
    size: int
    start: Norms
    end: Norms

    @property
    def kernel(self) -> bool:
        """A matrix of weights or of filters, and not a bias or a scale of a normalisation."""
        return self.name.endswith("kernel")


@dataclass(frozen=True, eq=False)
class Point:
    """One batch size under one recipe."""

    directory: Directory
    status: str  # complete, or diverged: all seeds
    global_batch: int
    base_batch: int  # whose learning rate the recipes start from
    recipe: str
    recipes: list[str]  # all names that come to the same at this batch
    steps: int
    epochs: float
    train_size: int
    optimizer: str
    learning_rate: float
    fit_steps: list[int]  # first and last update that the fits rest on
    runs: list[Run]
    layers: list[Layer]  # none where the record has none

    @property
    def complete(self) -> list[Run]:
        """Seeds that did not diverge: all numbers are of these."""
        return [run for run in self.runs if run.status != "diverged"]

    @property
    def diverged(self) -> list[Run]:
        """Seeds that did."""
        return [run for run in self.runs if run.status == "diverged"]

    @property
    def fits(self) -> dict[int, Diffusion]:
        """Seed -> how its distance grows."""
        return {run.seed: run.diffusion for run in self.complete if run.diffusion}

    def mean_of(self, law: str, what: str) -> float | None:
        """Mean over seeds of a law's "slope", "intercept" or "r2"."""
        values = [getattr(getattr(fit, law), what) for fit in self.fits.values()]
        return statistics.mean(values) if values else None

    @property
    def slope(self) -> float | None:
        """Of the distance against ln t, mean over seeds."""
        return self.mean_of("log", "slope")

    def mean(self, column: str) -> dict[int, float]:
        """Step -> mean over seeds, at the steps at which all of them have a value."""
        curves = [curve for run in self.complete if (curve := run.curve.of(column))]
        shared = [step for step in curves[0] if all(step in c for c in curves)] if curves else []
        return {step: statistics.mean(curve[step] for curve in curves) for step in shared}

    def finals(self, column: str) -> list[float]:
        """The last value of each seed."""
        curves = (run.curve.of(column) for run in self.complete)
        return [curve[max(curve)] for curve in curves if curve]


@dataclass(frozen=True, eq=False)
class Study(records.Study):
    """Batch sizes in rising order, each under its recipes."""

    points: list[Point]

    @property
    def recipes(self) -> list[str]:
        """All recipes, the one that corrects nothing first."""
        names = dict.fromkeys(name for point in self.points for name in point.recipes)
        return sorted(names, key=lambda name: name != NAIVE)

    @property
    def batches(self) -> list[int]:
        """All batch sizes."""
        return sorted({point.global_batch for point in self.points})

    def of_recipe(self, recipe: str) -> list[Point]:
        """Its points in rising order of batch; one may be of several recipes."""
        return [point for point in self.points if recipe in point.recipes]


def read(workdir: Workdir) -> Study:
    """The study in one work directory.

    Raises:
      UserError: records that cannot be read, or points that do not belong together.
    """
    order = lambda point: (point.global_batch, point.recipe != NAIVE)
    points = sorted(read_points(workdir, _read_point), key=order)
    check_alike(workdir.path, points, _question)
    study = Study(workdir.path, points, workdir.unfinished)
    for recipe in study.recipes:
        some = study.of_recipe(recipe)
        check_alike(workdir.path, some, _of_recipe)
        for before, point in itertools.pairwise(some):
            if before.global_batch == point.global_batch:
                raise UserError(
                    f"{before.directory.name} and {point.directory.name} in {workdir.path} are "
                    f"both of batch {point.global_batch:,} with the recipe {recipe}; keep one of "
                    "them."
                )
    return study


def _question(point):
    """What no recipe changes."""
    recipe = point.directory.recipe
    shared = {key: recipe[key] for key in ("data set", "training set size")}
    return shared | {"model": recipe["model"]["name"], "base batch": point.base_batch}


def _of_recipe(point):
    """What a recipe may change, but the same way at every batch."""
    model = point.directory.recipe["model"].items()
    model = {key: value for key, value in model if key not in NORMS}
    return {"optimizer": point.optimizer, "model": model}


def _read_point(directory: Directory) -> Point:
    result = directory.result
    own = {
        "directory": directory,
        "recipes": list(dict.fromkeys([*recipes_of(directory), result["recipe"]])),
        "runs": [_read_run(run) for run in result["runs"]],
        "layers": [_read_layer(layer) for layer in result["layers"] or []],
    }
    return from_keys(Point, result | own)


def _read_run(record):
    curve, fits = record.get("curve") or {}, record["diffusion"]
    steps = list(curve.get("step", []))
    columns = {name: list(curve.get(name) or [None] * len(steps)) for name in COLUMNS}
    for name, values in columns.items():
        if len(values) != len(steps):
            raise ValueError(f"{len(values)} values of {name} at {len(steps)} steps")
    own = {
        "curve": Curve(steps, columns),
        "diffusion": fits and Diffusion(**{law: from_keys(Line, fits[law]) for law in LAWS}),
    }
    return from_keys(Run, record | own)


def _read_layer(record):
    norms = {when: from_keys(Norms, record[when]) for when in ("start", "end")}
    return from_keys(Layer, record | norms)


def check_together(studies: Sequence[Study]) -> None:
    """Any two share a page; no figure holds curves of two."""
