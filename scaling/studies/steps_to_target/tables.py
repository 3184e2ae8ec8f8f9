"""A row per batch size, and one per trial."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import fields
from functools import partial

from scaling.report.tables import Column, Table, csv_only, hover, of_points
from scaling.report.wording import count, metric_value, number, parameter_text
from scaling.studies.steps_to_target.analysis import Point, Study
from scaling.studies.steps_to_target.record import Record, Trial

ARROWS = {"low": " ↓", "high": " ↑"}
# Fields of a record that its CSV has in another form, or not at all.
OTHERWISE = ("study", "global_batch", "resolution", "at_edge", "ranges", "trials", "repeats")
NO_STEPS = {"all_diverged": "all diverged", "met_at_start": "met at the start"}


def _steps_text(study: Study, point: Point) -> str:
    if point.reached:
        ends = " to ".join(map(count, point.steps_interval or ()))
        return count(point.steps_to_target) + (f" ({ends})" if ends else "")
    return NO_STEPS.get(point.status, f"not reached in {count(point.censored_at)}")


def _repeats_text(study: Study, point: Point) -> str | None:
    """Median and range of those that reached the goal, and how many did."""
    if not point.repeats:
        return None
    steps = point.repeat_steps
    reached = f"{len(steps)} of {len(point.repeats)}"
    if not steps:
        return reached
    return f"{statistics.median(steps):,g} ({count(steps[0])} to {count(steps[-1])}), {reached}"


def _best_text(name: str, study: Study, point: Point) -> str | None:
    """The value of the best trial, with an arrow where it is at an edge of its range."""
    if not point.best or name not in point.best:
        return None
    return number(point.best[name]) + ARROWS.get(dict(point.at_edge).get(name), "")


def _ends(key: str):
    """A pair as columns of the CSV."""
    return lambda study, point: dict(zip(("low", "high"), getattr(point, key) or (), strict=False))


STEPS = [
    Column("batch", "global_batch", count, "global_batch"),
    Column("steps (95%)", _steps_text, str),
    Column("repeats (range), reached", _repeats_text, str),
    Column("{rows}", "examples", count, "examples"),
    Column("epochs", "epochs"),
]
OUTCOMES = [
    Column(
        "trials that reached",
        lambda study, p: f"{count(p.counts['reached'])} of {count(len(p.trials))}",
        str,
    ),
]
MORE = [
    Column("", _ends("resolution"), key="resolution"),
    Column("", _ends("steps_interval"), key="steps_interval"),
    Column("", lambda study, p: len(p.repeats), key="repeats"),
    Column("", lambda study, p: list(map(":".join, p.at_edge)), key="at_edge"),
    *csv_only(1, "repeat_steps", *(f.name for f in fields(Record) if f.name not in OTHERWISE)),
]
TRIAL = [*csv_only(1, "global_batch"), *csv_only(2, *(f.name for f in fields(Trial)))]


def _columns(study: Study, names: Iterable[str]) -> list[Column]:
    best = [Column(parameter_text(name), partial(_best_text, name), str) for name in names]
    name, metric = study.headline
    value = lambda study, point: (point.test or {}).get(name)
    test = Column(f"test {metric.words}", value, partial(metric_value, metric))
    return [*STEPS, *best, *OUTCOMES, test, *MORE]


def table(studies: Sequence[Study], prefix: str = "") -> Table:
    """A row per batch size."""
    rows = of_points(studies)
    names = dict.fromkeys(name for _, point in rows for name in point.ranges)
    return Table(_columns(studies[0], names), rows, f"{prefix}points.csv")


def point_texts(study: Study, points: Sequence[Point]) -> list[str]:
    """For hovering."""
    return [hover(_columns(study, point.best or ()), (study, point)) for point in points]
