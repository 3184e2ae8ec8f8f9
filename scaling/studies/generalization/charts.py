"""The figures, each described once for paper and screen."""

import math
from collections.abc import Callable, Sequence

from scaling.report.plots import plain

from scaling.report.charts import Axis, Line, Mark, Panel, Points, Rule, batches, shown
from scaling.report.drawing import BATCH, GREY, shades, style_of
from scaling.report.wording import (
    count,
    decimal_label,
    metric_value,
    number,
    study_label,
)
from scaling.studies.generalization.analysis import fitted, small
from scaling.studies.generalization.records import Point, Study

Place = Callable[[Point, int], float]
DISTANCE = Axis("distance ‖w − w₀‖", "linear", decimal_label)
STEPS = Axis("optimizer step", tick=decimal_label)
EPOCHS = Axis("epochs", tick=decimal_label)
ERROR = Axis("validation error", tick=lambda value: metric_value("error", value))
LOSS = Axis("training loss", tick=decimal_label)
GRADIENT = Axis("gradient norm ‖g‖", tick=decimal_label)
TOLD = {
    "weight_distance": "distance from initialisation",
    "grad_norm": "gradient norm",
    "train_loss": "training loss",
    "validation_error": "validation error",
}
FIT = "log t, fitted over this range"


def distance(study: Study) -> list[Panel]:
    """How far the weights walk, with the log law on it; one panel per recipe."""
    return _by_recipe(study, STEPS, DISTANCE, "weight_distance", _step, fits=True)


def validation(study: Study) -> list[Panel]:
    """Validation error against epochs; one panel per recipe."""
    return _by_recipe(study, EPOCHS, ERROR, "validation_error", _epoch)


def validation_steps(study: Study) -> list[Panel]:
    """Validation error against steps; one panel per recipe."""
    return _by_recipe(study, STEPS, ERROR, "validation_error", _step)


def training(study: Study) -> list[Panel]:
    """Training loss against epochs; one panel per recipe."""
    return _by_recipe(study, EPOCHS, LOSS, "train_loss", _epoch)


def gradients(study: Study) -> list[Panel]:
    """Norm of the batch's gradient; one panel per recipe."""
    return _by_recipe(study, STEPS, GRADIENT, "grad_norm", _step)


def _step(point: Point, step: int) -> float:
    return step


def _epoch(point: Point, step: int) -> float:
    return step * point.global_batch / point.train_size


def colors(study: Study) -> dict[int, str]:
    """Batch size -> colour, the same in all figures of a study."""
    return dict(zip(study.batches, shades(len(study.batches)), strict=True))


def batch_text(point: Point) -> str:
    """In legends."""
    return f"batch {count(point.global_batch)}"


def _by_recipe(study, x, y, column, place, fits=False) -> list[Panel]:
    panels = []
    for recipe in study.recipes:
        points = study.of_recipe(recipe)
        marks = [
            mark
            for point in points
            for mark in _curves(point, column, place, colors(study)[point.global_batch], fits)
        ]
        marks += [_fit(point) for point in points if fits and point.fits]  # on top of the marks
        panels.append(Panel(x, y, marks, recipe if len(study.recipes) > 1 else ""))
    return shown(panels)


def _curves(point: Point, column: str, place: Place, color: str, apart: bool) -> list[Mark]:
    """Seeds, faint, behind their mean, which is a line; or marks apart, for a fit to lie on."""
    marks, label = [], batch_text(point)
    for run in point.runs if len(point.runs) > 1 or point.diverged else []:
        # A seed that diverged would leave no room for the others.
        lost = run.status == "diverged"
        name = f"{label} (all seeds diverged)" if lost and not point.complete else ""
        x, y = _placed(point, run.curve.of(column), place)
        faint = bool(point.complete)
        marks.append(Line(x, y, color, name, width=0.8, guide=lost, faint=faint))
    curve = point.mean(column)
    x, y = _placed(point, curve, place)
    if not x:
        return marks
    texts = [_told(point, column, *pair) for pair in curve.items() if _logs(*pair)]
    if apart:
        return [*marks, Points(x, y, color, label, size=3.5, texts=texts)]
    dots = Points(x, y, color, size=1.0, hollow=True, texts=texts)  # without a rim that cuts lines
    return [*marks, Line(x, y, color, label), dots]


def _placed(point, curve, place):
    pairs = [(place(point, step), v) for step, v in curve.items() if _logs(step, v)]
    return [x for x, _ in pairs], [y for _, y in pairs]


def _logs(step, value):
    """Whether it has a place on axes of logs; step 0 and an error of 0 do not."""
    return step > 0 and value > 0


def _told(point: Point, column: str, step: int, value: float) -> str:
    shown_value = metric_value("error" if column.endswith("error") else "", value)
    seeds = len(point.finals(column))
    of = f"mean of {count(seeds)} seeds" if seeds > 1 else "one seed"
    lines = [
        f"<b>{plain(point.directory.name)}</b>",
        f"step {count(step)}, epoch {number(_epoch(point, step))}",
        f"{TOLD[column]} {shown_value}, {of}",
    ]
    return "<br>".join(lines)


def _fit(point: Point) -> Line:
    """The mean of the seeds' fits, which is the fit of their mean; straight over log t."""
    slope, intercept = point.slope, point.mean_of("log", "intercept")
    ends = [float(step) for step in point.fit_steps]
    heights = [intercept + slope * math.log(step) for step in ends]
    return Line(ends, heights, "#000000", FIT, "dash", 1.2, guide=True)


def slopes(studies: Sequence[Study]) -> list[Panel]:
    """The slope of the log law against the batch, one line per recipe; one panel per study."""
    return shown(_slopes(study, study_label(study, studies)) for study in studies)


def _slopes(study: Study, title: str) -> Panel:
    reference = small(study)
    marks: list[Mark] = []
    if reference is not None:
        label = f"slope at batch {count(reference.global_batch)}"
        marks.append(Rule(GREY, label, y=reference.slope, dash="dot"))
    for index, recipe in enumerate(study.recipes):
        marks += _slopes_of(recipe, fitted(study, recipe), index)
    ends = [fit.log.slope for point in study.points for fit in point.fits.values()]
    scale = "linear" if min(ends, default=0) >= 0 else "near"
    axis = Axis("slope of ‖w − w₀‖ against ln t", scale, decimal_label, (0.0, *ends))
    return Panel(batches(BATCH), axis, marks, title)


def _slopes_of(recipe: str, points: Sequence[Point], index: int) -> list[Mark]:
    """Points that are of several recipes lie on each other, so marks are hollow and grow."""
    color, marker = style_of(index)
    x, y = [p.global_batch for p in points], [p.slope for p in points]
    spans = [sorted(fit.log.slope for fit in p.fits.values()) for p in points]
    seeds = any(len(span) > 1 for span in spans)
    marked = Points(
        x,
        y,
        color,
        f"{recipe}, range over seeds" if seeds else recipe,
        marker,
        size=5 + 1.5 * index,
        hollow=index > 0,
        low=[span[0] for span in spans] if seeds else [],
        high=[span[-1] for span in spans] if seeds else [],
        texts=[_slope_told(point) for point in points],
    )
    return [Line(x, y, color, dash="dash" if index % 2 else "solid"), marked]


def _slope_told(point: Point) -> str:
    lines = [
        f"<b>{plain(point.directory.name)}</b>",
        plain(f"slope {number(point.slope)}, R² {point.mean_of('log', 'r2'):.3f}"),
        f"{count(len(point.fits))} of {count(len(point.runs))} seeds",
    ]
    return "<br>".join(lines)
