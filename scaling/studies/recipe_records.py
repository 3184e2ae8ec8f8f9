"""Records of points that are a batch size and a recipe, as reports read them; no JAX."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from scaling.errors import UserError
from scaling.paired import mean_and_deviation
from scaling.report import records
from scaling.report.records import Directory, Workdir, check_alike

T = TypeVar("T")
NAIVE = "naive"  # the recipe that changes nothing but the batch
Scores = dict[str, float]  # metrics of the task by name


@dataclass(frozen=True)
class Trial:
    """A learning rate that was tried."""

    learning_rate: float
    validation_error: float | None  # or its metric, after the last update; None: diverged
    status: str  # complete or diverged


@dataclass(frozen=True)
class Tuning:
    """The search for a point's learning rate."""

    range: tuple[float, float]  # lowest and highest rate tried
    trials: list[Trial]
    best: int | None  # place among the trials; None: all diverged
    at_edge: str | None  # low or high, where the best lies at an end of the range
    widened: int  # rounds beyond the first range

    @property
    def chosen(self) -> Trial | None:
        """The best trial."""
        return None if self.best is None else self.trials[self.best]


AT_EDGE = (  # of points with a tuning, for `about_all`
    "the best learning rate is the lowest or highest that was tried; a better one may lie beyond.",
    lambda point: point.tuning and point.tuning.chosen and point.tuning.at_edge,
)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One seed; the scores are of the weights after the last update, None where it diverged or the
    split was not evaluated."""

    seed: int
    status: str  # complete or diverged
    diverged_at: int | None  # step
    validation: Scores | None = None
    train: Scores | None = None  # of as many training examples as the validation split has
    test: Scores | None = None

    @property
    def diverged(self) -> bool:
        """Whether its loss stopped being finite."""
        return self.status == "diverged"

    def score(self, split: str, metric: str) -> float | None:
        """After the last update."""
        scores = getattr(self, split)
        return None if self.diverged or not scores else scores.get(metric)


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over seeds; the latter is None for one seed."""

    mean: float
    sd: float | None

    @property
    def ends(self) -> tuple[float, float]:
        """Mean ± standard deviation."""
        return self.mean - (self.sd or 0.0), self.mean + (self.sd or 0.0)


def spread_of(values: Sequence[float | None]) -> Spread | None:
    """Of the values there are; None where there is none."""
    mean, sd = mean_and_deviation(values)
    return None if mean is None else Spread(mean, sd)


@dataclass(frozen=True, eq=False, kw_only=True)
class Record:
    """What the result.json of any study of recipes begins with."""

    study: str
    status: str  # complete, or diverged: all runs
    global_batch: int
    base_batch: int  # whose learning rate the recipes start from
    recipe: str
    recipes: list[str]  # all names of the study that give this config at this batch
    steps: int
    epochs: float
    train_size: int  # examples
    optimizer: str
    learning_rate: float | None  # peak of the runs; None: no rate that was tried trains
    settings: dict[str, str]  # config keys that the recipe sets -> their values
    devices: dict[str, Any]
    seconds: dict[str, float]  # compile, train, eval
    metric: str = "error"  # by which recipes are compared: the headline of the task


@dataclass(frozen=True, eq=False, kw_only=True)
class Point:
    """What a report reads of a point beyond its record."""

    directory: Directory
    order: list[str]  # recipes of the study


@dataclass(frozen=True, eq=False)
class Study(records.Study):
    """Points by batch, then in the order of the recipes."""

    @property
    def sign(self) -> int:
        """1 where a lower metric is better, else -1."""
        return -1 if self.measure.better == "higher" else 1

    @functools.cached_property
    def recipes(self) -> list[str]:
        """Those measured, in the order of the study."""
        return in_order(self.points)

    @property
    def baseline(self) -> str:
        """The recipe that others are compared with at each batch: naive, else the first."""
        return NAIVE if NAIVE in self.recipes else self.recipes[0]

    @property
    def base_batch(self) -> int:
        """The small batch that large ones are compared with."""
        return self.points[0].base_batch

    @property
    def batches(self) -> list[int]:
        """In rising order."""
        return sorted({point.global_batch for point in self.points})

    @property
    def seeds(self) -> str:
        """Of all runs."""
        seeds = dict.fromkeys(str(run.seed) for point in self.points for run in point.runs)
        return ", ".join(seeds)

    def point(self, batch: int, recipe: str) -> Any | None:
        """A recipe at a batch size, under any of its names."""
        return next((p for p in self.points_at(batch) if recipe in p.recipes), None)

    def points_at(self, batch: int) -> list[Any]:
        """Every point of a batch size, once."""
        return [point for point in self.points if point.global_batch == batch]

    def points_of(self, recipe: str) -> list[Any]:
        """A recipe's points, by batch."""
        return [point for point in self.points if recipe in point.recipes]


def compared_by(study: Study) -> str:
    """What studies shown together must have in common, see `Kind.shared`."""
    return f"the {study.compared_in}"


def in_order(points: Sequence[Any]) -> list[str]:
    """Recipes as the study lists them, then those it does not list, as they were read."""
    listed = dict.fromkeys(recipe for point in points for recipe in point.order)
    measured = dict.fromkeys(recipe for point in points for recipe in point.recipes)
    return [recipe for recipe in listed | measured if recipe in measured]


def read_points(workdir: Workdir, kind: type[T], *alike: str, **more: Callable) -> list[T]:
    """The points of a workdir, sorted as `Study` has them.

    Args:
      kind: a `Point` and a `Record`.
      alike: attributes in which the points have to agree, beside data, model and optimizer, of
        which a recipe may set what it likes.
      more: see `records.read_points`.

    Raises:
      UserError: records that cannot be read, two points of one batch and recipe, or of different
        questions.
    """
    points = records.read_points(workdir, kind, recipes=_names, order=_order, **more)
    order = {recipe: place for place, recipe in enumerate(in_order(points))}
    points.sort(key=lambda point: (point.global_batch, min(map(order.get, point.recipes))))
    seen: dict[tuple[int, str], Any] = {}
    for point in points:
        for recipe in point.recipes:
            other = seen.setdefault((point.global_batch, recipe), point)
            if other is not point:
                raise UserError(
                    f"{other.directory.name} and {point.directory.name} in {workdir.path} are both "
                    f"of batch {point.global_batch:,} and recipe {recipe}; keep one of them."
                )
    changed = {key for point in points for key in point.settings}

    def question(point):
        recipe = point.directory.recipe
        model = {k: v for k, v in recipe["model"].items() if f"model.{k}" not in changed}
        values = {key: recipe[key] for key in ("data set", "training set size")} | {"model": model}
        values |= {"base batch": point.base_batch}
        if "optim.name" not in changed:
            values["optimizer"] = point.optimizer
        return values | {name: getattr(point, name) for name in alike}

    check_alike(workdir.path, points, question)
    return points


def _names(directory):
    """The recipes of a point. Those of its last launch too, for a recipe that was added to a study
    may give the config of one that was measured before."""
    result = directory.result
    names = directory.config.get("recipes", {}).get("names", result["recipes"])
    return list(dict.fromkeys([result["recipe"], *names]))


def _order(directory):
    return directory.config.get("recipes", {}).get("all", [])
