"""The figures."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from scaling.report.charts import (
    GREY,
    MARKERS,
    Axis,
    Line,
    Mark,
    Panel,
    Points,
    Rule,
    batches,
    of_metric,
    shades,
    shown,
    style_of,
)
from scaling.report.wording import (
    count,
    decimal_label,
    measure_text,
    number,
)
from scaling.studies.generalization.slopes import Point, Study

STEPS = Axis("optimizer step", tick=decimal_label)
EPOCHS = Axis("epochs", tick=decimal_label)
WHEN = {"start": "after the first update", "end": "after the last update"}
FIT = "log t, fitted over this range"
SPREAD = 0.5  # of the batches within a row of a layer


@dataclass(frozen=True)
class Curves:
    """A figure of one column of the curves; a panel per study and recipe."""

    column: str
    y: Axis | None  # None: of the metric on validation
    caption: str
    epochs: bool = False  # over epochs, not steps


DISTANCE = Axis("distance ‖w − w₀‖", "near", decimal_label, include=(0.0,))
LOSS = Axis("training loss", tick=decimal_label)
GRADIENT = Axis("gradient norm ‖g‖", tick=decimal_label)
SEEDS = "Means over the seeds that did not diverge, single seeds faint."
FIGURES = {
    "distance": Curves(
        "weight_distance",
        DISTANCE,
        "Distance of the weights from initialisation, against log t (Hoffer 2017, Figure 2). "
        f"{SEEDS} A straight line is ultra-slow diffusion, distance as log t. It is fitted in the "
        "phase of the initial learning rate; the slope of the paper falls with the batch, until "
        "the learning rate is corrected.",
    ),
    "validation": Curves(
        "validation_error",
        None,
        f"{SEEDS} Against epochs a large batch has taken fewer steps at the same place (Hoffer "
        "2017, Figure 1).",
        epochs=True,
    ),
    "validation_steps": Curves(
        "validation_error",
        None,
        "The same against steps, where a large batch has seen more examples at the same place.",
    ),
    "training": Curves(
        "train_loss",
        LOSS,
        f"{SEEDS} The loss is the mean over the updates since the evaluation before.",
        epochs=True,
    ),
    "gradients": Curves(
        "grad_norm",
        GRADIENT,
        f"{SEEDS} The root mean square, over the updates since the evaluation before, of the norm "
        "of the batch's mean gradient. A small batch's holds more noise, whose part of the square "
        "goes as 1 / batch.",
    ),
}


def curves(studies: Sequence[Study], name: str) -> list[Panel]:
    """A figure of FIGURES."""
    figure, colors, panels = FIGURES[name], _colors(studies), []
    metric, loss = studies[0].measure, studies[0].loss
    if figure.y is None:
        figure = replace(figure, y=of_metric(metric, measure_text(metric)))
    elif figure.y is LOSS:
        figure = replace(figure, y=of_metric(loss, LOSS.label, tick=decimal_label))
    for study in studies:
        for recipe in study.recipes:
            points, marks = study.points_of(recipe), []
            for point in points:
                marks += _curves(point, figure, colors[point.global_batch])
            marks += [_fit(point) for point in points if figure.y is DISTANCE and point.fits]
            title = study.named(recipe if len(study.recipes) > 1 else "")
            panels.append(Panel(EPOCHS if figure.epochs else STEPS, figure.y, marks, title))
    return shown(panels)


def _colors(studies: Sequence[Study]) -> dict[int, str]:
    """Batch size -> colour, the same in all figures."""
    sizes = sorted({batch for study in studies for batch in study.batches})
    return dict(zip(sizes, shades(len(sizes)), strict=True))


def _label(point: Point) -> str:
    return f"batch {count(point.global_batch)}"


def _curves(point: Point, figure: Curves, color: str) -> list[Mark]:
    """Seeds, faint, behind their mean."""
    marks, label = [], _label(point)
    for run in point.runs:
        x, y, _ = _placed(point, figure, run.curve.column(figure.column))
        # A seed that diverged would leave no room for the others.
        look = {"width": 0.8, "guide": run.diverged, "faint": True, "series": label}
        marks.append(Line(x, y, color, **look))
    x, y, texts = _placed(point, figure, point.mean(figure.column))
    if x:
        dots = Points(x, y, color, size=2.5, texts=texts, series=label)
        marks += [Line(x, y, color, label), dots]
    return marks


def _placed(point, figure, curve):
    """x, y and texts, without what has no place on axes of logs: step 0 and an error of 0."""
    linear = figure.y.scale == "near"
    pairs = [(step, v) for step, v in curve.items() if step > 0 and (v > 0 or linear)]
    scale = point.global_batch / point.train_size if figure.epochs else 1
    texts = [
        f"{point.directory.name}\nstep {count(step)}\n{figure.y.label}: {figure.y.tick(value)}"
        for step, value in pairs
    ]
    return [step * scale for step, _ in pairs], [value for _, value in pairs], texts


def _fit(point: Point) -> Line:
    """The mean of the seeds' fits, which is the fit of their mean; straight over log t."""
    intercept = point.mean_of("log", "intercept")
    ends = [float(step) for step in point.fit_steps]
    heights = [intercept + point.slope * math.log(step) for step in ends]
    return Line(ends, heights, "#000000", FIT, "dash", 1.2, guide=True)


def slopes(studies: Sequence[Study]) -> list[Panel]:
    """The slope of the log law against the batch, one line per recipe; one panel per study."""
    return shown(map(_slopes, studies))


def _slopes(study: Study) -> Panel:
    reference = study.small
    marks: list[Mark] = []
    if reference is not None:
        label = f"slope at batch {count(reference.global_batch)}"
        marks.append(Rule(GREY, label, y=reference.slope, dash="dot"))
    for index, recipe in enumerate(study.recipes):
        points, (color, marker) = study.fitted(recipe), style_of(index)
        x, y = [p.global_batch for p in points], [p.slope for p in points]
        spans = [sorted(p.fitted("log", "slope")) for p in points]
        marks.append(Line(x, y, color, dash="dash" if index % 2 else "solid", series=recipe))
        marks.append(
            Points(
                x,
                y,
                color,
                recipe,
                marker,
                size=5 + 1.5 * index,  # points of several recipes lie on each other
                hollow=index > 0,
                low=[span[0] for span in spans],
                high=[span[-1] for span in spans],
                texts=[
                    f"{p.directory.name}\nslope {number(p.slope)} ({number(span[0])} to "
                    f"{number(span[-1])}), R² {p.mean_of('log', 'r2'):.3f}"
                    for p, span in zip(points, spans, strict=True)
                ],
            )
        )
    ends = [slope for point in study.points for slope in point.fitted("log", "slope")]
    axis = Axis("slope of ‖w − w₀‖ against ln t", "near", decimal_label, (0.0, *ends))
    return Panel(batches(study.rows), axis, marks, study.label)


def layers(studies: Sequence[Study]) -> list[Panel]:
    """||w|| / ||g|| of the kernels, of the baseline recipe (You 2017, Table 2); a panel per study
    and time."""
    colors = _colors(studies)
    return shown(_layers(study, when, colors) for study in studies for when in WHEN)


def _layers(study: Study, when: str, colors: dict[int, str]) -> Panel:
    points = [point for point in study.points_of(study.baseline) if point.layers]
    every = [layer for point in points for layer in point.kernels]
    names = tuple(dict.fromkeys(layer.name for layer in every))
    marks: list[Mark] = []
    for index, point in enumerate(points):
        layers = [layer for layer in point.kernels if getattr(layer, when).ratio]
        norms = [getattr(layer, when) for layer in layers]
        beside = SPREAD * (index / max(len(points) - 1, 1) - 0.5)
        texts = [
            f"{layer.name}, {_label(point)}\n‖w‖ {number(norm.weight_norm)}, "
            f"‖g‖ {number(norm.grad_norm)}, ‖w‖ / ‖g‖ {number(norm.ratio)}"
            for layer, norm in zip(layers, norms, strict=True)
        ]
        marks.append(
            Points(
                [norm.ratio for norm in norms],
                [names.index(layer.name) + beside for layer in layers],
                colors[point.global_batch],
                _label(point),
                MARKERS[index % len(MARKERS)],
                texts=texts,
            )
        )
    # Both times on one range, to be compared.
    ratios = [value for layer in every for time in WHEN if (value := getattr(layer, time).ratio)]
    x = Axis("‖w‖ / ‖g‖", tick=decimal_label, include=tuple(ratios))
    title = study.named(WHEN[when])
    return Panel(x, Axis("", "names", reverse=True, names=names), marks, title)
