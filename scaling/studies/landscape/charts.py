"""The figures."""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.ticker import MaxNLocator

from scaling.report.charts import (
    GREY,
    Axis,
    Contours,
    Line,
    Panel,
    Points,
    Rule,
    of_metric,
    shown,
    style_of,
)
from scaling.report.records import Study
from scaling.report.wording import decimal_label, metric_value
from scaling.studies.landscape.views import Point, View

SPLITS = {"train": "training", "validation": "validation", "test": "test"}
DASH = {True: "solid", False: "dash"}  # training, and the split that is held out
MOST = 18  # level lines


def metrics_of(study: Study) -> list[str]:
    """The loss, and the headline where it is another."""
    return list(dict.fromkeys(["loss", study.headline[0]]))


def axis_of(study: Study, metric: str) -> Axis:
    """Losses by their logarithm; what is a share on a plain axis."""
    if metric == "loss":
        return of_metric(study.loss, "loss", tick=decimal_label)
    return of_metric(study.headline[1], study.headline[1].words, scale="near")


def lines(studies: Sequence[Study]) -> list[Panel]:
    """A panel per point and metric; nets by colour."""
    panels = []
    for study in studies:
        for point in study.points:
            for metric in metrics_of(study):
                marks = []
                for view in point.views:
                    for split in point.splits:
                        marks += _line(view, split, metric)
                title = study.named(point.label)
                x = Axis("α along a filter-normalised direction", "near", decimal_label)
                panels.append(Panel(x, axis_of(study, metric), marks, title))
    return shown(panels)


def _line(view: View, split: str, metric: str):
    """Directions, faint, behind their mean."""
    color, _ = style_of(view.index)
    label, dash = f"{view.name}, {SPLITS[split]}", DASH[split == "train"]
    alpha, values = view.lines(split, metric)
    marks = []
    if split == "train":
        for one in values:
            look = {"faint": True, "width": 0.8, "series": label}
            marks.append(Line(*_finite(alpha, one), color, **look))
    x, y = _finite(alpha, values.mean(0))
    texts = [f"{label}\nα {a:.3g}: {metric} {v:.3g}" for a, v in zip(x, y, strict=True)]
    dots = Points(x, y, color, size=1.5, texts=texts, series=label)
    return [*marks, dots, Line(x, y, color, label, dash)]


def paths(studies: Sequence[Study], kind: str) -> list[Panel]:
    """Between the first net and the last; a panel per metric, points by colour.

    Args:
      kind: "line" or "arc".
    """
    panels = []
    for study in studies:
        for metric in metrics_of(study):
            pairs = [(point, *style_of(k)) for k, point in enumerate(study.points)]
            marks = [m for point, color, _ in pairs for m in _path(point, kind, metric, color)]
            if marks:
                first, *_, last = study.points[0].views
                label = f"{first.name} at 0, {last.name} at 1"
                marks = [Rule(GREY, x=0.0, dash="dot"), Rule(GREY, x=1.0, dash="dot"), *marks]
                x = Axis(label, "near", decimal_label)
                panels.append(Panel(x, axis_of(study, metric), marks, study.label))
    return shown(panels)


def _path(point: Point, kind, metric, color):
    marks = []
    for split in point.splits:
        found = point.path(kind, split, metric)
        if found is not None:
            label = ", ".join(filter(None, [point.label, SPLITS[split]]))
            x, y = _finite(*found)
            texts = [f"{label}\nat {a:.3g}: {metric} {v:.3g}" for a, v in zip(x, y, strict=True)]
            dots = Points(x, y, color, size=2.5, texts=texts, series=label)
            marks += [dots, Line(x, y, color, label, DASH[split == "train"])]
    return marks


def planes(studies: Sequence[Study], metric: str) -> list[Panel]:
    """A panel per net, all on the same levels."""
    views = [(s, view) for s in studies for point in s.points for view in point.views]
    found = [(study, view, view.plane(metric)) for study, view in views]
    found = [(study, view, plane) for study, view, plane in found if plane is not None]
    if not found:
        return []
    levels = levels_of(np.concatenate([values.ravel() for *_, (_, values) in found]))
    panels = []
    for study, view, (alpha, values) in found:
        share = partial(metric_value, study.headline[1])
        tick = decimal_label if metric == "loss" else share
        name = study.named(view.name, view.point.label)
        here = f"{name}\n{metric} {tick(view.centre('train', metric))}"
        marks = [
            Contours(alpha, alpha, values.T, levels, tick),
            Points([0.0], [0.0], "#000000", marker="x", size=5, texts=[here]),
        ]
        axes = [Axis(f"α along direction {k}", "near", decimal_label) for k in (1, 2)]
        panels.append(Panel(*axes, marks, name))
    return panels


def levels_of(values: np.ndarray) -> list[float]:
    """Common levels: 1, 2 and 5 in every decade where values differ by decades, or 1 alone, else
    equal steps."""
    values = values[np.isfinite(values)]
    low, high = float(values.min()), float(values.max())
    if low > 0 and high / low > 10:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
        levels = [float(f"{step}e{decade}") for decade in decades for step in (1, 2, 5)]
        levels = levels if len(levels) <= MOST else levels[::3]
    else:
        levels = MaxNLocator(10).tick_values(low, high).tolist()
    return [level for level in levels if low < level < high] or [low]


def _finite(x, y) -> tuple[list[float], list[float]]:
    keep = np.isfinite(y)
    return x[keep].tolist(), y[keep].tolist()
