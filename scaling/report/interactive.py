"""The interactive figures, as Plotly's data and layout: plain dicts that JSON can hold.

Plotly reads a part of HTML in its texts, so every text from a record goes through `plain`.
"""

import html
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from scaling.report import analysis
from scaling.report.analysis import (
    OPEN_ENDED,
    censored_points,
    fit_of,
    perfect_scaling,
    reached_points,
    shown_points,
)
from scaling.report.drawing import BEST, COLORS, OUTCOMES, REGIMES
from scaling.report.records import Point, Study, Trial
from scaling.report.ticks import Scale, decades, powers_of_two
from scaling.report.wording import (
    batch_label,
    count,
    edge_text,
    goal_text,
    interval_text,
    metric_value,
    number,
    parameter_text,
    shared_goal,
    steps_label,
    study_label,
    two_lines,
)

Plot = dict[str, Any]

BATCH = "global batch (examples)"
GREY = "#595959"
SYMBOLS = ("circle", "square", "diamond", "triangle-down", "pentagon", "cross")


def plain(text: str) -> str:
    """Text that Plotly shows as it is."""
    return html.escape(text, quote=False)


def steps_to_target(studies: list[Study]) -> Plot | None:
    """Steps to the goal against the batch; hovering tells all about a point."""
    points = [point for study in studies for point in shown_points(study)]
    if not points:
        return None
    data = []
    for index, study in enumerate(studies):
        color, symbol = COLORS[index % len(COLORS)], SYMBOLS[index % len(SYMBOLS)]
        label = study_label(study, studies) if len(studies) > 1 else ""
        traces = [*_lines(study, color), *_points(study, color, symbol, label)]
        if label:  # one legend entry each, which hides and shows all of it
            traces = [t | {"legendgroup": index, "showlegend": False} for t in traces]
            traces[-1] |= {"showlegend": True, "name": plain(label)}
        data += traces
    across = powers_of_two(point.global_batch for point in points)
    up = powers_of_two(step for study in studies for step in analysis.steps_extent(study))
    y_title = f"optimizer steps to {plain(shared_goal(studies))}"
    layout = _layout(
        _log_axis(BATCH, across, batch_label), _log_axis(y_title, up, steps_label), 500
    )
    if len(studies) == 1:
        regimes, legend = _regimes(studies[0], across)
        layout |= regimes
        data += legend
    return {"data": data, "layout": layout}


def _lines(study, color):
    """Perfect scaling, the fit and its band."""
    reached = reached_points(study)
    if not reached:
        return []
    ends = [point.global_batch for point in shown_points(study)]
    batches = np.geomspace(min(ends), max(ends), 60)
    thin = {"color": color, "width": 1, "dash": "dash"}
    traces = [_line(batches, perfect_scaling(study, batches), "perfect scaling", thin)]
    fit, _ = fit_of(study)
    if fit:
        low, high = fit.band(batches)
        around = np.concatenate([batches, batches[::-1]]), np.concatenate([low, high[::-1]])
        band = {"fill": "toself", "fillcolor": color, "opacity": 0.15, "showlegend": False}
        traces.append(_line(*around, "", {"width": 0}) | band)
        traces.append(_line(batches, fit.steps(batches), "fit, 95% band", {"color": color}))
    return traces


def _points(study, color, symbol, label):
    """Repeats, censored points and, last, the points with their intervals."""
    reached, censored = reached_points(study), censored_points(study)
    traces = []
    if repeats := [(p.global_batch, step) for p in reached for step in p.repeat_steps]:
        style = {"color": color, "size": 4, "opacity": 0.5}
        again = _marks(*zip(*repeats, strict=True), "best trial again, fresh seeds", style)
        traces.append(again | {"hoverinfo": "skip"})
    for points, name, style in (
        (censored, "not reached in the steps tried", {"symbol": "triangle-up-open", "size": 11}),
        (reached, "fewest steps, 95% interval", {"symbol": symbol, "size": 9}),
    ):
        if not points:
            continue
        steps = [point.steps_to_target or point.censored_at for point in points]
        marks = _marks([p.global_batch for p in points], steps, name, style | {"color": color})
        texts = [point_text(point, label) for point in points]
        traces.append(marks | {"hovertext": texts, "hoverinfo": "text"})
    if reached:
        traces[-1] |= {"error_y": _error_bars(reached, color)}
    return traces


def _error_bars(points, color):
    intervals = [(p.steps_to_target, *p.steps_interval) for p in points]
    return {
        "type": "data",
        "symmetric": False,
        "array": [(high or OPEN_ENDED * steps) - steps for steps, _, high in intervals],
        "arrayminus": [steps - low for steps, low, _ in intervals],
        "color": color,
        "thickness": 1.2,
        "width": 0,
    }


def point_text(point: Point, label: str) -> str:
    """What hovering over a point of the study `label` tells; a study alone has none."""
    lines = [plain(label)] * bool(label) + [f"<b>batch {count(point.global_batch)}</b>"]
    if point.reached:
        lines.append(f"{count(point.steps_to_target)} steps to the goal")
        lines.append(f"95% interval {interval_text(point.steps_interval)}")
        lines.append(f"{count(point.examples)} examples, {number(point.epochs)} epochs")
        lines += [plain(f"{parameter_text(k)} {number(v)}") for k, v in point.best.items()]
        lines += [plain(edge_text(point, edge)) for edge in point.at_edge]
    else:
        goal = goal_text(point.metric, point.goal)
        lines.append(f"{plain(goal)} not reached in {count(point.censored_at)} steps")
    counts = ", ".join(f"{count(n)} {kind}" for kind, n in point.counts.items())
    return "<br>".join([*lines, plain(f"trials: {counts}")])


def _regimes(study, across):
    """Shapes and names of the regimes, and traces for the legend of those too narrow for a name."""
    shapes, names, traces = [], [], []
    for span in analysis.regime_spans(study, across.low, across.high):
        box = {"type": "rect", "layer": "below", "yref": "paper", "y0": 0, "y1": 1}
        fill = {"fillcolor": REGIMES[span.name], "line": {"width": 0}}
        shapes.append(box | fill | {"x0": span.low, "x1": span.high})
        if span.narrow:
            style = {"symbol": "square", "size": 11, "color": REGIMES[span.name]}
            nowhere = {"x": [None], "y": [None], "showlegend": True}
            traces.append(_marks([], [], span.name, style) | nowhere)
            continue
        place = {"x": math.log10(span.low * span.high) / 2, "y": 1, "yref": "paper"}
        look = {"yanchor": "bottom", "showarrow": False, "font": {"size": 11, "color": GREY}}
        names.append(place | look | {"text": "<br>".join(two_lines(span.name))})
    margin = {"l": 70, "r": 12, "t": 40, "b": 50}  # the names are above
    return {"shapes": shapes, "annotations": names, "margin": margin}, traces


def best_values(studies: list[Study]) -> list[Plot]:
    """One figure per metaparameter: the best trials' values against the batch."""
    return [_best_value(value, studies) for value in analysis.best_values(studies)]


def _best_value(value, studies):
    data = []
    for index, study in enumerate(studies):
        series = value.series(study)
        if not series:
            continue
        color, symbol = COLORS[index % len(COLORS)], SYMBOLS[index % len(SYMBOLS)]
        batches = np.array([point.global_batch for point, _ in series])
        label = study_label(study, studies) if len(studies) > 1 else ""
        style = {"color": color, "width": 1.5}
        best = _line(batches, [best for _, best in series], plain(label or "best trial"), style)
        texts = [point_text(point, label) for point, _ in series]
        best |= {"mode": "lines+markers", "marker": {"symbol": symbol, "size": 7}}
        data.append(best | {"hovertext": texts, "hoverinfo": "text"})
        rules = analysis.heuristics(series, batches) if value.heuristics else {}
        for dash, (rule, values) in zip(("dash", "dot"), rules.items(), strict=False):
            data.append(_line(batches, values, rule, {"color": color, "width": 1, "dash": dash}))
    measured = [trace for trace in data if "marker" in trace]
    every = lambda key: [number for trace in measured for number in trace[key]]
    x_axis = _log_axis(BATCH, powers_of_two(every("x"), most=7), batch_label)
    layout = _layout(x_axis, _value_axis(value.label, every("y")), 330)
    return {"data": data, "layout": layout | {"showlegend": False}}


def trials(study: Study) -> Plot | None:
    """All trials by outcome; a slider chooses the batch size."""
    pair = analysis.trial_axes(study)
    if pair is None:
        return None
    across, up = pair
    points = study.points
    places = lambda axis: (
        [axis.of(t) for p in points for t in p.trials]
        + [edge for p in points for edge in axis.edges(p) or ()]
    )
    axes = [
        _value_axis(axis.label, [v for v in places(axis) if v is not None] or [1.0], axis.log)
        for axis in pair
    ]
    shown = next((i for i, point in enumerate(points) if point.reached), 0)
    data = [
        trace | {"visible": index == shown}
        for index, point in enumerate(points)
        for trace in _outcomes(point, across, up)
    ]
    per_point = len(data) // len(points)
    steps = [
        {
            "label": batch_label(point.global_batch),
            "method": "update",
            "args": [
                {"visible": [i // per_point == index for i in range(len(data))]},
                {"shapes": _ranges(point, across, up)},
            ],
        }
        for index, point in enumerate(points)
    ]
    slider = {"active": shown, "steps": steps, "currentvalue": {"prefix": "global batch "}}
    layout = _layout(*axes, 560) | {"shapes": _ranges(points[shown], across, up)}
    layout["legend"] = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}
    layout["sliders"] = [slider | {"pad": {"t": 60}}]
    return {"data": data, "layout": layout}


def _outcomes(point, across, up):
    """One trace per outcome, also where it has no trial: the slider counts on it."""
    groups = [
        (outcome, {"color": color, "symbol": symbol, "size": 7}, outcome)
        for outcome, (color, _, symbol) in OUTCOMES.items()
    ]
    star = {"color": BEST[0], "symbol": BEST[2], "size": 15, "line": {"width": 1}}
    for name, style, outcome in [*groups, ("best", star, None)]:
        mine = [
            t
            for t in point.trials
            if up.of(t) is not None
            and (t.outcome == outcome if outcome else t.trial == point.best_trial)
        ]
        marks = _marks([across.of(t) for t in mine], [up.of(t) for t in mine], name, style)
        texts = [trial_text(trial, point) for trial in mine]
        yield marks | {"hovertext": texts, "hoverinfo": "text", "showlegend": True}


def trial_text(trial: Trial, point: Point) -> str:
    """What hovering over a trial tells."""
    lines = [f"<b>trial {trial.trial}</b>: {plain(trial.outcome)}"]
    lines += [plain(f"{parameter_text(k)} {number(v)}") for k, v in trial.values.items()]
    if trial.steps_to_target is not None:
        lines.append(f"{count(trial.steps_to_target)} steps to the goal")
    best = metric_value(point.metric, trial.best_metric)
    lines.append(plain(f"best validation {point.metric} {best}"))
    return "<br>".join([*lines, f"stopped at step {count(trial.stopped_at_step)}"])


def _ranges(point, across, up):
    """The edges of the search, as shapes."""
    line = {"dash": "dash", "width": 1, "color": GREY}
    left, right = across.edges(point)
    if (vertical := up.edges(point)) is None:
        box = {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "line": line}
        return [box | {"x0": x, "x1": x} for x in (left, right)]
    low, high = vertical
    return [{"type": "rect", "x0": left, "x1": right, "y0": low, "y1": high, "line": line}]


def _line(x, y, name, style) -> Plot:
    line = {"type": "scatter", "mode": "lines", "name": name, "line": style, "hoverinfo": "skip"}
    return line | {"x": _numbers(x), "y": _numbers(y)}


def _marks(x, y, name, style) -> Plot:
    marks = {"type": "scatter", "mode": "markers", "name": name, "marker": style}
    return marks | {"x": _numbers(x), "y": _numbers(y)}


def _numbers(values: Iterable[float]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


def _layout(x_axis: Plot, y_axis: Plot, height: int) -> Plot:
    return {
        "xaxis": x_axis,
        "yaxis": y_axis,
        "height": height,
        "margin": {"l": 70, "r": 12, "t": 16, "b": 50},
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": "#222"},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "hovermode": "closest",
        "hoverlabel": {"bgcolor": "white", "align": "left", "namelength": -1},
        # Below everything, however many lines it takes on a narrow screen.
        "legend": {"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"},
    }


def _axis(title: str) -> Plot:
    line = {"showline": True, "linecolor": "#444", "gridcolor": "#e4e4e4", "zeroline": False}
    return line | {"title": {"text": plain(title)}, "automargin": True}


def _value_axis(title: str, values: Iterable[float], log: bool = True) -> Plot:
    """An axis of metaparameters."""
    if log:
        return _log_axis(title, decades(values), "{:g}".format)
    low, high = min(values), max(values)
    pad = 0.06 * (high - low or 1)
    return _axis(title) | {"range": [low - pad, high + pad]}


def _log_axis(title: str, scale: Scale, label: Callable[[float], str]) -> Plot:
    """Plotly's limits are powers of ten, its ticks are not."""
    return _axis(title) | {
        "type": "log",
        "range": [math.log10(scale.low), math.log10(scale.high)],
        "tickmode": "array",
        "tickvals": scale.ticks,
        "ticktext": [label(tick) for tick in scale.ticks],
    }
