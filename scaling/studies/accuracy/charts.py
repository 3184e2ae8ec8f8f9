"""The figures of errors over batch sizes, each described once for paper and screen."""

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scaling.report.charts import Axis, Line, Mark, Panel, Points, Rule, Span, batches, shown
from scaling.report.drawing import BATCH, GREY
from scaling.report.plots import plain
from scaling.report.wording import count, study_label
from scaling.studies.accuracy.judging import choices, to_reference, verdict
from scaling.studies.accuracy.looks import Look, looks, panels_of
from scaling.studies.accuracy.records import Point, Study
from scaling.studies.accuracy.texts import (
    error_text,
    interval,
    percent_tick,
    points_text,
    seeds_text,
)

APART = 2**0.09  # recipes at one batch stand side by side by this ratio
ROW = 0.1  # of the axis: what is not on the scale stands above it, a row for each recipe
FAR = 6.0  # what adds more than this multiple of the middle added error is off the scale
WITHIN, ABOVE = "#dcebe3", "#f1efef"
MARK_FAILED, MARK_OFF = "o", "^"
FAILED, OFF = "diverged, on some seed at least", "off the scale"
GAPS = 3  # recipes besides the baseline


@dataclass(frozen=True)
class Frame:
    """The axis of errors, the same in all panels of a study; above `ceiling` are rows."""

    low: float
    ceiling: float
    rows: int

    @property
    def step(self) -> float:
        """Between rows."""
        return ROW * (self.ceiling - self.low)

    @property
    def top(self) -> float:
        """Upper end."""
        return self.ceiling + (self.rows + 0.75) * self.step if self.rows else self.ceiling

    def holds(self, point: Point) -> bool:
        """Whether a point stands on the scale."""
        mean = point.mean("test")
        return not point.failed and mean is not None and mean <= self.ceiling

    def tick(self, value: float) -> str:
        """Rows have none."""
        return percent_tick(value) if value <= self.ceiling or not self.rows else ""


def error_by_batch(studies: Sequence[Study]) -> list[Panel]:
    """Test error against the batch, a line per recipe; panels by study and kind of recipe."""
    styles, drawn = looks(studies), []
    for study in studies:
        panels = panels_of(study, studies)
        frame = _frame(study, [recipes for _, recipes in panels])
        for title, recipes in panels:
            marks = _level(study, frame) + _recipes(study, recipes, styles, frame)
            y = Axis("test error", "near", frame.tick, include=(frame.low, frame.top))
            name = ", ".join(filter(None, [study_label(study, studies), title]))
            drawn.append(Panel(batches(BATCH), y, marks, name))
    return shown(drawn)


def _frame(study: Study, panels: Sequence[Sequence[str]]) -> Frame:
    """Around all errors but those far above the rest."""
    points = [p for p in study.points if not p.failed and p.mean("test") is not None]
    if not points:
        return Frame(0.0, 1.0, _rows(study, panels, lambda point: True))
    means = [point.mean("test") for point in points]
    added = [mean - min(means) for mean in means if mean > min(means)]
    middle = statistics.median(added) if added else 0.0
    cap = min(means) + FAR * max(middle, study.tolerance)
    ends = [_ends(point) for point in points if point.mean("test") <= cap]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    level = study.reference.mean("test") if study.reference else None
    if level is not None and level <= cap:
        low, high = min(low, level - study.tolerance), max(high, level + study.tolerance)
    off = lambda point: point.failed or (point.mean("test") or 0.0) > cap
    return Frame(max(low, 0.0), high, _rows(study, panels, off))


def _rows(study, panels, off):
    """The most that any panel needs."""
    return max(
        sum(any(off(point) for point in _of(study, recipe)) for recipe in recipes)
        for recipes in panels
    )


def _of(study: Study, recipe: str) -> list[Point]:
    """A recipe's points by batch."""
    found = [study.of(batch, recipe) for batch in study.batches]
    return [point for point in found if point]


def _ends(point, split="test"):
    """Mean ± standard deviation."""
    mean, deviation = point.mean(split), point.deviation(split) or 0.0
    return max(mean - deviation, 0.0), mean + deviation


def _level(study: Study, frame: Frame) -> list[Mark]:
    """The reference and its tolerance, and what lies above the scale."""
    marks = []
    level = study.reference.mean("test") if study.reference else None
    if level is not None:
        low, high = level - study.tolerance, level + study.tolerance
        name = f"reference ± {points_text(study.tolerance)[1:]} points"
        marks = [Span(max(low, 0.0), high, WITHIN, name, axis="y"), Rule(GREY, y=level, dash="dot")]
    if frame.rows:
        marks.append(Span(frame.ceiling + frame.step / 4, frame.top, ABOVE, axis="y"))
    return marks


def _recipes(study, recipes, styles, frame) -> list[Mark]:
    """A line per recipe; what several share is drawn once."""
    lines, points, rows, drawn = [], [], [], set()
    for place, recipe in enumerate(recipes):
        found, look = _of(study, recipe), styles[recipe]
        x = _places(found, recipes, place)
        for on, some in itertools.groupby(found, frame.holds):
            some = list(some)
            if on:
                y = [point.mean("test") for point in some]
                lines.append(Line([x[point] for point in some], y, look.color, width=1.1))
        own = [point for point in found if frame.holds(point) and point not in drawn]
        drawn.update(own)
        points.append(_marks(study, own, x, recipe, look))
        off = [p for p in found if p.failed or (p.mean("test") or 0.0) > frame.ceiling]
        if off:
            height = frame.ceiling + frame.step * (frame.rows - len(rows) + 0.25)
            rows.append(_row(study, off, x, recipe, look, height))
    above = [mark for row in rows for mark in row]
    return [*lines, *points, *above, *_keys({mark.marker for mark in above})]


def _places(points: Sequence[Point], recipes: Sequence[str], place: int) -> dict[Point, float]:
    """Where points stand: side by side, but at its batch what several recipes share."""
    shift = APART ** (place - (len(recipes) - 1) / 2)
    alone = lambda point: sum(recipe in point.recipes for recipe in recipes) == 1
    return {point: point.global_batch * (shift if alone(point) else 1) for point in points}


def _marks(study, points, x, label, look: Look, split="test", **changes) -> Points:
    """Means with standard deviations."""
    ends = [_ends(point, split) for point in points]
    return Points(
        [x[point] for point in points],
        [point.mean(split) for point in points],
        look.color,
        label,
        look.marker,
        low=[low for low, _ in ends],
        high=[high for _, high in ends],
        texts=[_told(study, point) for point in points],
        **changes,
    )


def _row(study, points, x, recipe, look: Look, height: float) -> list[Points]:
    """What is not on the scale, in a row of its own, named at one of its marks."""
    marks = []
    middle = math.sqrt(study.batches[0] * study.batches[-1])
    room = [point for point in points if point.global_batch >= middle]  # on their left
    named = room[0] if room else points[-1]
    for marker, some in (
        (MARK_FAILED, [point for point in points if point.failed]),
        (MARK_OFF, [point for point in points if not point.failed]),
    ):
        if some:
            names = [recipe if point is named else "" for point in some]
            marks.append(
                Points(
                    [x[point] for point in some],
                    [height] * len(some),
                    look.color,
                    marker=marker,
                    size=6,
                    hollow=True,
                    names=names if named in some else [],
                    names_at="left" if room else "right",
                    texts=[_told(study, point) for point in some],
                )
            )
    return marks


def _keys(markers) -> list[Points]:
    """What the marks above the scale mean, for the legend."""
    labels = {MARK_FAILED: FAILED, MARK_OFF: OFF}
    return [
        Points([], [], GREY, label, marker, 6, hollow=True)
        for marker, label in labels.items()
        if marker in markers
    ]


def _told(study: Study, point: Point) -> str:
    """What hovering tells."""
    lines = [f"<b>{plain(', '.join(point.recipes))}</b>, batch {count(point.global_batch)}"]
    if point.runs:
        lines.append(f"test error {error_text(point, 'test')} ({seeds_text(point)})")
        lines.append(f"training error {error_text(point, 'train')}")
    lines.append(f"over the reference {interval(to_reference(study, point))}")
    lines.append(plain(str(verdict(study, point))))
    return "<br>".join(lines)


def gap(studies: Sequence[Study]) -> list[Panel]:
    """Training and test error of the baseline and the recommended recipes; a panel per study."""
    styles = looks(studies)
    return shown(_gap(study, styles, study_label(study, studies)) for study in studies)


def _gap(study: Study, styles, title: str) -> Panel:
    marks = [Line([], [], GREY, "test error"), Line([], [], GREY, "training error", "dash")]
    largest_first = [choices(study, batch) for batch in reversed(study.larger_batches)]
    best = (point.recipe for points in largest_first for point in points)
    names = dict.fromkeys([study.baseline, *best])
    for recipe in list(names)[: GAPS + 1]:
        look = styles[recipe]
        for split, dash in (("train", "dash"), ("test", "solid")):
            found = [p for p in _of(study, recipe) if not p.failed and p.mean(split) is not None]
            x = {point: point.global_batch for point in found}
            y = [point.mean(split) for point in found]
            marks.append(Line(list(x.values()), y, look.color, dash=dash))
            label = recipe if split == "test" else ""
            marks.append(_marks(study, found, x, label, look, split, hollow=split == "train"))
    return Panel(batches(BATCH), Axis("error", "near", percent_tick, include=(0.0,)), marks, title)
