"""Finished work directories of the study steps_to_target, read into plain dataclasses."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from scaling.errors import UserError
from scaling.report import REPORTED


@dataclass(frozen=True, eq=False)
class Evaluations:
    """The validation metric of a point's trials: three columns, sorted by trial, then step."""

    trial: np.ndarray
    step: np.ndarray
    value: np.ndarray  # nan where it was not finite

    def of(self, trial: int) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values of one trial."""
        rows = self.trial == trial
        return self.step[rows], self.value[rows]


@dataclass(frozen=True, eq=False)
class Directory:
    """What lies beside a point's result.json."""

    name: str
    config: dict[str, Any]
    launches: list[dict[str, Any]]  # provenance of each
    parameters: int | None  # of the model
    recipe: dict[str, Any]  # what all points of a study share
    evaluations: Evaluations


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
    """One batch size: the keys of its result.json, and the directory they come from."""

    directory: Directory
    status: str  # reached, target_not_reached, all_diverged or met_at_start
    global_batch: int
    train_size: int
    metric: str
    goal: float
    steps_to_target: int | None
    resolution: list[int] | None
    steps_interval: list[int | None] | None
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
class Study:
    """A work directory: one question asked at several batch sizes."""

    workdir: Path
    points: list[Point]  # finished ones, by batch size
    unfinished: list[str]  # directories of the others
    label: str = ""  # what tells it from the studies that it is shown with

    @property
    def metric(self) -> str:
        """The validation metric that the goal is about."""
        return self.points[0].metric

    @property
    def goal(self) -> float:
        """What the metric must fall below."""
        return self.points[0].goal

    @property
    def title(self) -> str:
        """The config's title."""
        return " ".join(str(self.points[0].directory.config.get("title", "")).split())

    @property
    def recipe(self) -> dict[str, Any]:
        """What all its points share: goal, data, model, optimizer."""
        return self.points[0].directory.recipe


def read_studies(workdirs: Sequence[Path]) -> list[Study]:
    """The studies in `workdirs`, each with a label that tells it from the others.

    Raises:
      UserError: see `read_study`; a workdir named twice; metrics that cannot share an axis.
    """
    resolved = [Path(workdir).resolve() for workdir in workdirs]
    for workdir in resolved:
        if resolved.count(workdir) > 1:
            raise UserError(f"{workdir} is named twice; name each workdir once.")
    studies = [read_study(workdir) for workdir in workdirs]
    first = studies[0]
    for other in studies[1:]:
        if other.metric != first.metric:
            raise UserError(
                f"{first.workdir} measures steps to a validation {first.metric} and "
                f"{other.workdir} to a validation {other.metric}; report them apart."
            )
    return [
        replace(study, label=label) for study, label in zip(studies, _labels(studies), strict=True)
    ]


def read_study(workdir: Path) -> Study:
    """The study in one work directory.

    Raises:
      UserError: no such directory, nothing finished in it, records that cannot be read or that are
        of another study, or points that do not belong together.
    """
    workdir = Path(workdir)
    if not workdir.is_dir():
        raise UserError(f"There is no workdir {workdir}.")
    places = [
        path
        for path in sorted(workdir.iterdir())
        if (path / "config.json").is_file() or (path / "result.json").is_file()
    ]
    finished = [path for path in places if (path / "result.json").is_file()]
    unfinished = [path.name for path in places if path not in finished]
    if not finished:
        begun = f": {', '.join(unfinished)} not finished" if unfinished else ""
        raise UserError(f"{workdir} holds no finished point of a study{begun}.")
    points = sorted(map(_read_point, finished), key=lambda point: point.global_batch)
    _check_one_study(workdir, points)
    return Study(workdir, points, unfinished)


def _read_point(path):
    result = _read_object(path / "result.json")
    study = result.get("study", "train")  # records of single runs do not name their study
    if study not in REPORTED:
        raise UserError(
            f"{path} holds a record of another study, {study!r}; a report is made of "
            f"{' or '.join(REPORTED)}."
        )
    config = _read_object(path / "config.json")
    resolved = _read_object(path / "resolved.json", missing={})
    try:
        directory = Directory(
            name=path.name,
            config=config,
            launches=resolved.get("launches", []),
            parameters=resolved.get("model", {}).get("parameters"),
            recipe=_recipe(config, result),
            evaluations=_read_evaluations(path / "metrics.jsonl", result["metric"]),
        )
        trials = [_from_keys(Trial, trial) for trial in result["trials"]]
        return _from_keys(Point, result | {"directory": directory, "trials": trials})
    except (KeyError, TypeError, AttributeError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"has another form ({error})"
        raise UserError(
            f"The record in {path} {what}; delete the directory to measure it anew."
        ) from None


def _recipe(config, result):
    return {
        "goal": (result["metric"], result["goal"]),
        "data set": config["data"]["name"],
        "training set size": result["train_size"],
        "model": config["model"],
        "optimizer": config["optim"]["name"],
    }


def _from_keys(cls, record):
    """An instance of a dataclass whose fields are keys of `record`."""
    return cls(**{one.name: record[one.name] for one in fields(cls)})


def _read_object(path, missing=None):
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        if missing is None:
            raise UserError(f"There is no {path}; a report needs it.") from None
        return missing
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise UserError(f"{path} is not valid JSON; delete it to measure it anew.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a record, which holds keys and values.")
    return content


def _read_evaluations(path, metric):
    """The rows of the validation split; the write that a kill cut short is left out."""
    columns = ([], [], [])
    lines = path.read_text().splitlines() if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            if number == len(lines):
                break
            raise UserError(f"Line {number} of {path} is not valid JSON.") from None
        if row["split"] == "validation":
            value = row[metric]
            row_values = (row["trial"], row["step"], np.nan if value is None else value)
            for column, item in zip(columns, row_values, strict=True):
                column.append(item)
    trial, step, value = (
        np.array(column, kind) for column, kind in zip(columns, (int, int, float), strict=True)
    )
    order = np.lexsort((step, trial))
    return Evaluations(trial[order], step[order], value[order])


def _check_one_study(workdir, points):
    first = points[0]
    for before, point in itertools.pairwise(points):
        names = f"{before.directory.name} and {point.directory.name}"
        if before.global_batch == point.global_batch:
            raise UserError(
                f"{names} in {workdir} are both of batch {point.global_batch:,}; keep one of them."
            )
    for point in points[1:]:
        for key, value in first.directory.recipe.items():
            if (other := point.directory.recipe[key]) != value:
                raise UserError(
                    f"{first.directory.name} and {point.directory.name} in {workdir} differ in "
                    f"their {key} ({value} and {other}); keep them in workdirs of their own."
                )


def _labels(studies):
    """For each study, the shortest thing that tells it from the others."""
    names = [study.workdir.resolve().name for study in studies]
    paths = [str(study.workdir) for study in studies]
    for labels in (_differing(studies), [study.title for study in studies], names):
        if all(labels) and len(set(labels)) == len(labels):
            return labels
    return paths


def _differing(studies):
    """Those values of data, model and optimizer in which the studies differ."""
    recipes = [study.recipe for study in studies]
    columns = []
    for key in ("data set", "training set size", "model", "optimizer"):
        column = [recipe[key] for recipe in recipes]
        if any(value != column[0] for value in column):
            columns.append([_in_words(value) for value in column])
    return [", ".join(values) for values in zip(*columns, strict=True)] or [""] * len(studies)


def _in_words(value):
    if isinstance(value, dict):
        options = ", ".join(f"{k}={v}" for k, v in value.items() if k != "name" and v is not None)
        return f"{value['name']}({options})" if options else value["name"]
    return f"{value:,} examples" if isinstance(value, int) else str(value)
