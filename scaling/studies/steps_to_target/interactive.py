"""The interactive figures, as Plotly's data and layout."""

import math

import numpy as np

from scaling.report.blocks import Plot
from scaling.report.drawing import (
    BATCH,
    BEST,
    GREY,
    OUTCOMES,
    REGIMES,
    SYMBOLS,
    TURNS,
    shades,
    style_of,
)
from scaling.report.plots import layout, line, log_axis, marks, plain, value_axis
from scaling.report.ticks import decades, powers_of_two
from scaling.report.wording import (
    batch_label,
    count,
    metric_value,
    number,
    parameter_text,
    steps_label,
)
from scaling.studies.steps_to_target import analysis
from scaling.studies.steps_to_target.analysis import (
    censored_points,
    fit_of,
    perfect_scaling,
    reached_points,
    shown_points,
)
from scaling.studies.steps_to_target.records import Point, Study, Trial
from scaling.studies.steps_to_target.wording import (
    budget_text,
    edge_text,
    goal_text,
    interval_text,
    measure_text,
    shared_goal,
    study_label,
    two_lines,
)


def steps_to_target(studies: list[Study]) -> Plot | None:
    """Steps to the goal against the batch; hovering tells all about a point."""
    points = [point for study in studies for point in shown_points(study)]
    if not points:
        return None
    data = []
    for index, study in enumerate(studies):
        color, marker = style_of(index)
        label = study_label(study, studies) if len(studies) > 1 else ""
        lines = _lines(study, color) + (_turns(study, color, label) if label else [])
        traces = [*lines, *_points(study, color, SYMBOLS[marker], label)]
        if label and traces:  # one legend entry each, which hides and shows all of it
            traces = [t | {"legendgroup": index, "showlegend": False} for t in traces]
            traces[-1] |= {"showlegend": True, "name": plain(label)}
        data += traces
    across = powers_of_two(point.global_batch for point in points)
    up = powers_of_two(step for study in studies for step in analysis.steps_extent(study))
    x_axis = log_axis(BATCH, across, batch_label)
    y_axis = log_axis(f"optimizer steps to {shared_goal(studies)}", up, steps_label)
    frame = layout(x_axis, y_axis, 500)
    if len(studies) == 1:
        regimes, legend = _regimes(studies[0], across)
        frame |= regimes
        data += legend
    return {"data": data, "layout": frame}


def _lines(study, color):
    """Perfect scaling, the fit and its band."""
    reached = reached_points(study)
    if not reached:
        return []
    ends = [point.global_batch for point in shown_points(study)]
    batches = np.geomspace(min(ends), max(ends), 60)
    thin = {"color": color, "width": 1, "dash": "dash"}
    traces = [line(batches, perfect_scaling(study, batches), "perfect scaling", thin)]
    fit, _ = fit_of(study)
    if fit:
        low, high = fit.band(batches)
        around = np.concatenate([batches, batches[::-1]]), np.concatenate([low, high[::-1]])
        band = {"fill": "toself", "fillcolor": color, "opacity": 0.15, "showlegend": False}
        traces.append(line(*around, "", {"width": 0}) | band)
        traces.append(line(batches, fit.steps(batches), "fit, 95% band", {"color": color}))
    return traces


def _turns(study, color, label):
    """The two turns on the curve, where they lie among the measured batches."""
    traces = []
    for name, turn, steps in analysis.turns_inside(study):
        symbol = SYMBOLS[TURNS[name]] + "-open"
        style = {"symbol": symbol, "size": 12, "color": color, "line": {"width": 2}}
        trace = marks([turn.batch], [steps], name, style)
        text = f"{plain(label)}<br>{name} {turn.describe()}"
        traces.append(trace | {"hovertext": text, "hoverinfo": "text"})
    return traces


def _points(study, color, symbol, label):
    """Repeats, censored points and, last, the points with their intervals."""
    reached, censored = reached_points(study), censored_points(study)
    traces = []
    if repeats := [(p.global_batch, step) for p in reached for step in p.repeat_steps]:
        style = {"color": color, "size": 4, "opacity": 0.5}
        again = marks(*zip(*repeats, strict=True), "best trial again, fresh seeds", style)
        traces.append(again | {"hoverinfo": "skip"})
    for points, name, style in (
        (censored, "not reached in the steps tried", {"symbol": "triangle-up-open", "size": 11}),
        (reached, "fewest steps, 95% interval", {"symbol": symbol, "size": 9}),
    ):
        if not points:
            continue
        steps = [point.steps_to_target or point.censored_at for point in points]
        trace = marks([p.global_batch for p in points], steps, name, style | {"color": color})
        texts = [point_text(point, label) for point in points]
        traces.append(trace | {"hovertext": texts, "hoverinfo": "text"})
    if reached:
        traces[-1] |= {"error_y": _error_bars(reached, color)}
    return traces


def _error_bars(points, color):
    around = [p.steps_interval or [p.steps_to_target] * 2 for p in points]
    intervals = [(p.steps_to_target, *ends) for p, ends in zip(points, around, strict=True)]
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - steps for steps, _, high in intervals],
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
        goal = goal_text(point)
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
            traces.append(marks([], [], span.name, style) | nowhere)
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
        color, marker = style_of(index)
        batches = np.array([point.global_batch for point, _ in series])
        label = study_label(study, studies) if len(studies) > 1 else ""
        style = {"color": color, "width": 1.5}
        best = line(batches, [best for _, best in series], plain(label or "best trial"), style)
        texts = [point_text(point, label) for point, _ in series]
        best |= {"mode": "lines+markers", "marker": {"symbol": SYMBOLS[marker], "size": 7}}
        data.append(best | {"hovertext": texts, "hoverinfo": "text"})
        rules = analysis.heuristics(series, batches) if value.heuristics else {}
        for dash, (rule, values) in zip(("dash", "dot"), rules.items(), strict=False):
            data.append(line(batches, values, rule, {"color": color, "width": 1, "dash": dash}))
    measured = [trace for trace in data if "marker" in trace]
    every = lambda key: [number for trace in measured for number in trace[key]]
    x_axis = log_axis(BATCH, powers_of_two(every("x"), most=7), batch_label)
    frame = layout(x_axis, value_axis(value.label, every("y")), 330)
    return {"data": data, "layout": frame | {"showlegend": False}}


def validation_curves(study: Study) -> Plot | None:
    """The metric along the best trial of each batch size; the legend chooses among them."""
    curves = analysis.curves(study)
    if not curves:
        return None
    data = []
    for color, (point, steps, values) in zip(shades(len(curves)), curves, strict=True):
        name = f"batch {count(point.global_batch)}"
        dash = "solid" if point.reached else "dot"
        texts = [
            f"<b>{name}</b><br>step {count(int(step))}<br>{metric_value(study.metric, value)}"
            for step, value in zip(steps, values, strict=True)
        ]
        trace = line(steps, values, name, {"color": color, "width": 1.5, "dash": dash})
        trace |= {"legendgroup": name, "hovertext": texts, "hoverinfo": "text", "showlegend": True}
        data.append(trace)
        at = np.flatnonzero(steps == point.steps_to_target)
        dot = marks(steps[at], values[at], name, {"color": color, "size": 8})
        data.append(dot | {"legendgroup": name, "hoverinfo": "skip", "showlegend": False})
    across = powers_of_two(step for _, steps, _ in curves for step in steps.tolist())
    up = [value for _, _, values in curves for value in values.tolist() if value > 0]
    frame = layout(
        log_axis("optimizer step", across, steps_label),
        _metric_axis(study, measure_text(study), up),
        430,
    )
    return {"data": data, "layout": frame | {"shapes": [_goal(study)]}}


def budgets(study: Study) -> list[Plot]:
    """The best metric within a number of steps, and within a number of examples."""
    found = analysis.budgets(study)
    values = [value for budget in found for value in budget.values if value > 0]
    batches = powers_of_two((point.global_batch for point in study.points), most=8)
    plots = []
    for kind in ("steps", "examples"):
        data = []
        for index, budget in enumerate(budget for budget in found if budget.kind == kind):
            color, marker = style_of(index)
            name = budget_text(budget, study)
            symbols = [SYMBOLS[marker] + "-open" * (not spent) for spent in budget.spent]
            texts = [
                f"<b>batch {count(batch)}</b><br>{metric_value(study.metric, value)} within {name}"
                + "<br>stopped before that was spent" * (not spent)
                for batch, value, spent in zip(
                    budget.batches, budget.values, budget.spent, strict=True
                )
            ]
            best = line(budget.batches, budget.values, name, {"color": color, "width": 1.5})
            best |= {"mode": "lines+markers", "marker": {"symbol": symbols, "size": 8}}
            data.append(best | {"hovertext": texts, "hoverinfo": "text", "showlegend": True})
        if data:
            y_axis = _metric_axis(study, f"best {measure_text(study)}", [*values, study.goal])
            frame = layout(log_axis(BATCH, batches, batch_label), y_axis, 400)
            plots.append({"data": data, "layout": frame | {"shapes": [_goal(study)]}})
    return plots


def _metric_axis(study, title, values):
    scale = decades([*values, study.goal], most=12)
    return log_axis(title, scale, lambda value: metric_value(study.metric, value))


def _goal(study):
    """The goal as a dashed line."""
    dashed = {"dash": "dash", "width": 1, "color": "#000000"}
    box = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "line": dashed}
    return box | {"y0": study.goal, "y1": study.goal}


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
        value_axis(axis.label, [v for v in places(axis) if v is not None] or [1.0], axis.log)
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
    frame = layout(*axes, 560) | {"shapes": _ranges(points[shown], across, up)}
    frame["legend"] = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}
    frame["sliders"] = [slider | {"pad": {"t": 60}}]
    return {"data": data, "layout": frame}


def _outcomes(point, across, up):
    """One trace per outcome, also where it has no trial: the slider counts on it."""
    groups = [
        (outcome, {"color": color, "symbol": SYMBOLS[marker], "size": 7}, outcome)
        for outcome, (color, marker) in OUTCOMES.items()
    ]
    star = {"color": BEST[0], "symbol": SYMBOLS[BEST[1]], "size": 15, "line": {"width": 1}}
    for name, style, outcome in [*groups, ("best", star, None)]:
        mine = [
            t
            for t in point.trials
            if up.of(t) is not None
            and (t.outcome == outcome if outcome else t.trial == point.best_trial)
        ]
        trace = marks([across.of(t) for t in mine], [up.of(t) for t in mine], name, style)
        texts = [trial_text(trial, point) for trial in mine]
        yield trace | {"hovertext": texts, "hoverinfo": "text", "showlegend": True}


def trial_text(trial: Trial, point: Point) -> str:
    """What hovering over a trial tells."""
    lines = [f"<b>trial {trial.trial}</b>: {plain(trial.outcome)}"]
    lines += [plain(f"{parameter_text(k)} {number(v)}") for k, v in trial.values.items()]
    if trial.steps_to_target is not None:
        lines.append(f"{count(trial.steps_to_target)} steps to the goal")
    best = metric_value(point.metric, trial.best_metric)
    lines.append(plain(f"best {measure_text(point)} {best}"))
    return "<br>".join([*lines, f"stopped at step {count(trial.stopped_at_step)}"])


def _ranges(point, across, up):
    """The edges of the search, as shapes."""
    dashed = {"dash": "dash", "width": 1, "color": GREY}
    left, right = across.edges(point)
    if (vertical := up.edges(point)) is None:
        box = {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "line": dashed}
        return [box | {"x0": x, "x1": x} for x in (left, right)]
    low, high = vertical
    return [{"type": "rect", "x0": left, "x1": right, "y0": low, "y1": high, "line": dashed}]
