"""Finished work directories: the part of the records common to all studies."""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from scaling.crossings import ERROR, LOSS, OF_AVERAGED, Metric
from scaling.errors import UserError
from scaling.report.reading import RecordError, from_json
from scaling.studies import STUDIES

T = TypeVar("T")

OLDER = {"error": ERROR, "loss": LOSS}  # metrics of records that do not name them


@dataclass(frozen=True, eq=False)
class Directory:
    """A finished point: its result.json and the files beside it."""

    path: Path
    result: dict[str, Any]
    config: dict[str, Any]
    launches: list[dict[str, Any]]  # provenance of each
    parameters: int | None  # of the model
    recipe: dict[str, Any]  # data, model, optimizer and loss
    tokenizer: str = ""  # and its checksum; "" of data without one
    unit: str = "examples"  # what the task's weights count
    rows: str = "examples"  # what its examples are called
    per_row: int | None = None  # units in each, where these are others
    metrics: dict[str, Metric] = field(default_factory=lambda: dict(OLDER))  # the headline first

    @property
    def study(self) -> str:
        """One of STUDIES; older records of single runs have no such key."""
        return self.result.get("study", "train")

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.name


@dataclass(frozen=True, eq=False)
class Workdir:
    """A work directory: the points of one study."""

    path: Path
    study: str  # one of STUDIES
    directories: list[Directory]
    unfinished: list[str]  # directories of points without a result


@dataclass(frozen=True, eq=False)
class Study:
    """A work directory as read by its kind; the type of the points depends on the kind, and each
    has a `directory`."""

    workdir: Path
    points: list[Any]  # finished ones
    unfinished: list[str]
    label: str = ""  # distinguishes it from the studies shown with it; "" if there are none

    def named(self, *parts: str) -> str:
        """The label, if there is one, and other parts of a name: sgd, batch 64"""
        return ", ".join(filter(None, [self.label, *parts]))

    def noted(self, text: str) -> str:
        """A sentence under the label, if there is one: sgd: No curve is fitted."""
        return f"{self.label}: {text}" if self.label else text

    @property
    def title(self) -> str:
        """The config's title."""
        return " ".join(str(self.points[0].directory.config.get("title", "")).split())

    @property
    def recipe(self) -> dict[str, Any]:
        """Data, model, optimizer and loss of its first point."""
        return self.points[0].directory.recipe

    @property
    def metric(self) -> str:
        """The one that the study is about, of points that name one."""
        return self.points[0].metric

    @property
    def measure(self) -> Metric:
        """Its words, form and direction."""
        return self.points[0].directory.metrics[self.metric]

    @property
    def compared_in(self) -> str:
        """What the metric of studies shown together has to be: the same one, of the last or of
        averaged weights, and of the same tokens where it counts by tokens."""
        words = self.measure.words.removesuffix(OF_AVERAGED)
        tokenizer = self.points[0].directory.tokenizer
        if not tokenizer or self.metric.endswith("bits_per_byte"):
            return words
        return f"{words} of tokens by {tokenizer}"

    @property
    def headline(self) -> tuple[str, Metric]:
        """The metric that stands for all, by its name in the records."""
        return next(iter(self.points[0].directory.metrics.items()))

    @property
    def called(self) -> str:
        """What examples are called: sequences; of a log, what its batch sizes count."""
        return self.points[0].directory.rows

    @property
    def rows(self) -> str:
        """What a batch size counts: examples; sequences of 32 tokens"""
        first = self.points[0].directory
        return self.called + (f" of {first.per_row:,} {first.unit}" if first.per_row else "")

    @property
    def holds(self) -> str:
        """What counts: tokens where rows hold those, else what examples are called."""
        return self.points[0].directory.unit if self.per_row else self.called

    @property
    def per_row(self) -> float | None:
        """How many of those a row holds; None where rows are what counts."""
        return self.points[0].directory.per_row

    def in_units(self, rows: float | None) -> float | None:
        """What so many rows hold, such as tokens; None where rows are what counts."""
        return rows * self.per_row if rows is not None and self.per_row else None

    @property
    def loss(self) -> Metric:
        """What is trained for."""
        return self.points[0].directory.metrics["loss"]


def read_workdirs(workdirs: Sequence[Path]) -> list[Workdir]:
    """All of `workdirs`.

    Raises:
      UserError: see `read_workdir`; a workdir named twice.
    """
    resolved = [Path(workdir).resolve() for workdir in workdirs]
    for workdir in resolved:
        if resolved.count(workdir) > 1:
            raise UserError(f"{workdir} is named twice; name each workdir once.")
    return [read_workdir(workdir) for workdir in workdirs]


def read_workdir(path: Path) -> Workdir:
    """One work directory.

    Raises:
      UserError: no such directory, no finished point in it, or records that are unreadable, of
        several studies or of an unknown one.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"There is no workdir {path}. Name the folder that a study recorded in.")
    folders = [
        folder
        for folder in sorted(path.iterdir())
        if (folder / "config.json").is_file() or (folder / "result.json").is_file()
    ]
    finished = [folder for folder in folders if (folder / "result.json").is_file()]
    unfinished = [folder.name for folder in folders if folder not in finished]
    if not finished:
        begun = f": {', '.join(unfinished)} not finished" if unfinished else ""
        raise UserError(f"{path} has no finished point of a study{begun}.")
    directories = [read_directory(folder) for folder in finished]
    first = directories[0]
    for other in directories[1:]:
        if other.study != first.study:
            raise UserError(
                f"{first.name} and {other.name} in {path} are of different studies "
                f"({first.study} and {other.study}); use a workdir for each."
            )
    return Workdir(path, first.study, directories, unfinished)


def read_directory(path: Path) -> Directory:
    """One finished point.

    Raises:
      UserError: see `read_workdir`.
    """
    result = read_object(path / "result.json")
    study = result.get("study", "train")
    if study not in STUDIES:
        raise UserError(
            f"{path} has a record of an unknown study, {study!r}; a report needs one of "
            f"{', '.join(sorted(STUDIES))}."
        )
    config = read_object(path / "config.json")
    resolved = read_object(path / "resolved.json", missing={})
    with record_errors(path):
        sizes = resolved.get("data", {}).get("sizes", {})
        recipe = {
            "data set": config["data"]["name"],
            "training set size": result.get("train_size", sizes.get("train")),
            # The convolution method depends on the machine and does not change the results.
            "model": {k: v for k, v in config["model"].items() if k != "conv_method"},
            "optimizer": config["optim"]["name"],
            "loss": _loss_text(config),
        }
        parameters = resolved.get("model", {}).get("parameters")
        launches = resolved.get("launches", [])
        task = resolved.get("task", {})
        own = {key: task[key] for key in ("unit", "rows", "per_row") if key in task}
        if "tokenizer" in (files := resolved.get("data", {}).get("files", {})):
            of = "{tokenizer}, {vocabulary:,} tokens, checksum {tokenizer_sha256:.8}"
            own["tokenizer"] = of.format(**files)
        metrics = {name: Metric(**metric) for name, metric in task.get("metrics", {}).items()}
        own |= {"metrics": metrics} if metrics else {}
        return Directory(path, result, config, launches, parameters, recipe, **own)


def _loss_text(config):
    searched = "label_smoothing" in config.get("search", {}).get("space", {})
    value = config.get("loss", {}).get("label_smoothing", 0)
    return f"label smoothing {'searched' if searched else f'{value:g}'}"


@contextlib.contextmanager
def record_errors(path: Path) -> Iterator[None]:
    """Turn the errors of a malformed record into one sentence."""
    try:
        yield
    except RecordError as error:
        what = str(error)
    except KeyError as error:
        what = f"lacks {error}"
    except (TypeError, AttributeError, ValueError) as error:
        what = f"has another form ({error})"
    else:
        return
    raise UserError(f"The record in {path} {what}; delete the directory to measure it again.")


def read_points(workdir: Workdir, kind: type[T], **more: Callable[[Directory], Any]) -> list[T]:
    """The record of each directory as a `kind`: a dataclass of the keys of its result.json, of
    `directory`, and of `more`, whose functions compute fields from a directory.

    Raises:
      UserError: a key is missing, or its value has another type.
    """
    points = []
    for directory in workdir.directories:
        with record_errors(directory.path):
            own = {name: read(directory) for name, read in more.items()}
            points.append(from_json(kind, directory.result | own | {"directory": directory}))
    return points


def read_object(path: Path, missing: dict | None = None) -> dict[str, Any]:
    """A JSON object from a file, or `missing` if there is no such file.

    Raises:
      UserError: it is not a JSON object, or there is no file and no `missing`.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        if missing is None:
            raise UserError(f"There is no {path}; a report needs it.") from None
        return missing
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise UserError(f"{path} is not valid JSON; delete it to measure it again.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object; delete it to measure it again.")
    return content


def check_alike(workdir: Path, points: Sequence[T], of: Callable[[T], dict[str, Any]]) -> None:
    """UserError for the first key of `of(point)` in which the points differ."""
    first = points[0]
    for point in points[1:]:
        for key, value in of(first).items():
            if (other := of(point)[key]) != value:
                raise UserError(
                    f"{first.directory.name} and {point.directory.name} in {workdir} differ in "
                    f"their {key} ({value} and {other}); use a workdir for each."
                )


def labelled(studies: Sequence[Study]) -> list[Study]:
    """The studies, each with the shortest distinguishing label; a single one has none."""
    if len(studies) == 1:
        return list(studies)
    names = [study.workdir.resolve().name for study in studies]
    paths = [str(study.workdir) for study in studies]
    for labels in (_differing(studies), [study.title for study in studies], names, paths):
        if all(labels) and len(set(labels)) == len(labels):
            break
    return [replace(study, label=label) for study, label in zip(studies, labels, strict=True)]


def _differing(studies):
    """The first part of the recipes that is different in each; else all parts that differ."""
    recipes = [_parts(study.recipe) for study in studies]
    keys = dict.fromkeys(key for recipe in recipes for key in recipe)
    columns = [[_part(recipe, key) for recipe in recipes] for key in keys]
    differing = [column for column in columns if len(set(column) - {None}) > 1]
    alone = [column for column in differing if len(set(column)) == len(studies)]
    joined = [", ".join(filter(None, values)) for values in zip(*differing, strict=True)]
    return alone[0] if alone else joined or [""] * len(studies)


def _part(recipe, key):
    """Of a recipe's parts, "" where it is missing; None of an option of another model."""
    part, _, option = key.partition(".")
    other = option and recipe.get(part) != option.partition(".")[0]
    return None if other else recipe.get(key, "")


def _parts(recipe):
    """Key -> text; of the model its name and its options, which only those of its name have."""
    parts = {}
    for key, value in recipe.items():
        if isinstance(value, dict):
            name, options = value["name"], {k: v for k, v in value.items() if k != "name"}
            parts |= {key: name} | {f"{key}.{name}.{k}": f"{k}={v}" for k, v in options.items()}
        else:
            parts[key] = f"{value:,} examples" if isinstance(value, int) else str(value)
    return parts
