"""The figures."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.ticker import MaxNLocator

from scaling.report.charts import (
    GREY,
    Axis,
    Contours,
    Line,
    Mark,
    Panel,
    Points,
    Rule,
    of_metric,
    shown,
    style_of,
)
from scaling.report.records import Study
from scaling.report.wording import decimal_label, metric_value
from scaling.studies.landscape.record import Histogram
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
    axes = [Axis(f"α along direction {k}", "near", decimal_label) for k in (1, 2)]
    grids = []
    for study, view in _views(studies):
        plane = view.plane(metric)
        if plane is not None:
            tick, name = _tick(study, metric), study.named(view.name, view.point.label)
            here = f"{name}\n{metric} {tick(view.centre('train', metric))}"
            mark = Points([0.0], [0.0], "#000000", marker="x", size=5, texts=[here])
            grids.append(_Grid(name, axes, (plane[0], *plane), [mark], tick))
    return _contours(grids)


def reliefs(studies: Sequence[Study]) -> tuple[list[str], list[list[list[float]]]]:
    """(titles, heights from 0 to 1) of the training losses of `planes`, by their logarithm."""
    found = [(study.named(v.name, v.point.label), v.plane("loss")) for study, v in _views(studies)]
    pairs = [(name, np.float64(plane[1])) for name, plane in found if plane is not None]
    if not pairs:
        return [], []
    values = np.concatenate([losses.ravel() for _, losses in pairs])
    values = values[np.isfinite(values) & (values > 0)]
    if not values.size:
        return [], []
    low, high = np.log([values.min(), values.max()])
    with np.errstate(divide="ignore"):
        logs = [np.nan_to_num(np.log(losses), nan=high, posinf=high) for _, losses in pairs]
    heights = [((each - low) / max(high - low, 1e-9)).clip(0, 1).tolist() for each in logs]
    return [name for name, _ in pairs], heights


def tracks(studies: Sequence[Study]) -> list[Panel]:
    """The training loss on the plane in which the weights of a net moved the most, with their way;
    a panel per net."""
    grids = []
    for study, view in _views(studies):
        found, track = view.track("loss"), view.net.track
        if found is None or track is None:
            continue
        axes = [
            Axis(f"component {k}, {share:.0%} of the variance", "near", decimal_label)
            for k, share in enumerate(track.explained, 1)
        ]
        name = study.named(view.name, view.point.label)
        x, y = zip(*track.coordinates, strict=True)
        texts = [f"{name}\nstep {step:,}" for step in track.steps]
        marks = [
            Line(x, y, "#000000", width=1.0),
            Points(x, y, "#000000", size=3.5, texts=texts),
            Points(x[-1:], y[-1:], "#000000", marker="x", size=6),
        ]
        grids.append(_Grid(name, axes, found, marks, decimal_label))
    return _contours(grids)


def maps(studies: Sequence[Study]) -> list[Panel]:
    """|least / largest eigenvalue| of the Hessian on the plane of two directions; a panel per
    net."""
    axes = [Axis(f"α along direction {k}", "near", decimal_label) for k in (1, 2)]
    grids = []
    for study, view in _views(studies):
        found = view.convexity
        if found is not None:
            mark = Points([0.0], [0.0], "#000000", marker="x", size=5)
            name = study.named(view.name, view.point.label)
            grids.append(_Grid(name, axes, (found[0], *found), [mark], decimal_label))
    return _contours(grids)


def histograms(studies: Sequence[Study]) -> list[Panel]:
    """The weights of the nets' kernels; a panel per point."""
    panels = []
    for study in studies:
        for point in study.points:
            marks = []
            for view in point.views:
                if view.net.histogram is not None:
                    color, _ = style_of(view.index)
                    x, y = density(view.net.histogram)
                    marks += [Points(x, y, color, size=0.5, series=view.name)]
                    marks += [Line(x, y, color, view.name, width=1.2)]
            weights = Axis("weight", "near", decimal_label)
            panels.append(Panel(weights, Axis("density"), marks, study.named(point.label)))
    return shown(panels)


def density(histogram: Histogram) -> tuple[list[float], list[float]]:
    """(weights, density) of the bins but the outermost, which hold what is beyond; NaN of an empty
    one."""
    count, edge = len(histogram.counts), histogram.edge
    middles = edge * ((2 * np.arange(count) + 1) / count - 1)
    heights = np.array(histogram.counts) / (sum(histogram.counts) * 2 * edge / count)
    return middles[1:-1].tolist(), np.where(heights > 0, heights, math.nan)[1:-1].tolist()


@dataclass(frozen=True)
class _Grid:
    """A panel of contours: (x, y, values), axes, and marks before them."""

    title: str
    axes: Sequence[Axis]
    values: tuple[np.ndarray, np.ndarray, np.ndarray]
    marks: list[Mark]
    tick: Callable[[float], str]


def _views(studies):
    return [(s, view) for s in studies for point in s.points for view in point.views]


def _tick(study, metric):
    return decimal_label if metric == "loss" else partial(metric_value, study.headline[1])


def _contours(grids: Sequence[_Grid]) -> list[Panel]:
    """All on the same levels."""
    if not grids:
        return []
    levels = levels_of(np.concatenate([grid.values[2].ravel() for grid in grids]))
    panels = []
    for grid in grids:
        x, y, z = grid.values
        marks = [Contours(x, y, z.T, levels, grid.tick), *grid.marks]
        panels.append(Panel(*grid.axes, marks, grid.title))
    return panels


def levels_of(values: np.ndarray) -> list[float]:
    """Common levels, two at least: 1, 2 and 5 in every decade where values differ by decades, or 1
    alone, else equal steps."""
    values = values[np.isfinite(values)]
    low, high = float(values.min()), float(values.max())
    if low > 0 and high / low > 10:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
        levels = [float(f"{step}e{decade}") for decade in decades for step in (1, 2, 5)]
        levels = levels if len(levels) <= MOST else levels[::3]
    else:
        levels = MaxNLocator(10).tick_values(low, high).tolist()
    inside = [level for level in levels if low < level < high]
    return inside if len(inside) > 1 else [low, high if high > low else low + (abs(low) or 1.0)]


def _finite(x, y) -> tuple[list[float], list[float]]:
    keep = np.isfinite(y)
    return x[keep].tolist(), y[keep].tolist()
