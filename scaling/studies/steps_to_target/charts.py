"""The figures, as panels and marks."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from scaling.fits import DIMINISHING, MAX_USEFUL, MAXIMAL, PERFECT, PERFECT_END
from scaling.report.charts import (
    GREY,
    Axis,
    Band,
    Line,
    Mark,
    Panel,
    Points,
    Rule,
    Span,
    batches,
    of_metric,
    shades,
    shown,
    style_of,
)
from scaling.report.wording import (
    count,
    metric_value,
    number,
    parameter_text,
    steps_label,
)
from scaling.studies.steps_to_target import analysis
from scaling.studies.steps_to_target.analysis import Budget, Point, Quantity, Study
from scaling.studies.steps_to_target.record import Trial
from scaling.studies.steps_to_target.tables import point_texts

BLACK = "#000000"
MOST_PANELS = 12
REGIMES = {PERFECT: "#e3f1e8", DIMINISHING: "#fbf2d9", MAXIMAL: "#f6e3df"}
BREAKPOINTS = {PERFECT_END: "|", MAX_USEFUL: "d"}  # markers
# Outcome of a trial -> colour and marker.
OUTCOMES = {
    "infeasible": ("#999999", "x"),
    "missed": ("#E69F00", "s"),
    "reached": ("#0072B2", "o"),
}
BEST = ("#D55E00", "*")


def shared_goal(studies: Sequence[Study]) -> str:
    """The goal of all, or "the goal" where they differ."""
    goals = {study.goal_text for study in studies}
    return goals.pop() if len(goals) == 1 else "the goal"


def steps_to_target(studies: Sequence[Study]) -> list[Panel]:
    """Steps to the goal against the batch, the papers' main figure.

    A study alone shows its regimes; of several each has one entry in the legend.
    """
    if len(studies) == 1:
        spans = [Span(low, high, REGIMES[name], name) for name, low, high in studies[0].regimes]
        marks = [*spans, *_steps(studies[0], *style_of(0))]
    else:
        own = [_steps(study, *style_of(index)) for index, study in enumerate(studies)]
        marks = _an_entry_each(studies, own)
    y_axis = Axis(f"optimizer steps to {shared_goal(studies)}", "binary", steps_label)
    return shown([Panel(batches(studies[0].unit), y_axis, marks)])


def _an_entry_each(studies, marks: list[list[Mark]]) -> list[Mark]:
    """The marks of all studies, where the entry of a study's last mark is that of all its own."""
    return [
        replace(mark, label=study.label if mark is own[-1] else "", series=study.label)
        for study, own in zip(studies, marks, strict=True)
        for mark in own
    ]


def _steps(study: Study, color: str, marker: str) -> list[Mark]:
    """Perfect scaling, the fit, repeats, then the points."""
    marks, reached = [], study.reached
    censored = [point for point in study.points if point.censored_at is not None]
    if reached:
        ends = [point.global_batch for point in study.measured]
        x = np.geomspace(min(ends), max(ends), 60)
        perfect = reached[0].examples / x
        label = "perfect scaling from the smallest batch"
        marks.append(Line(x, perfect, color, label, "dash", 0.9, guide=True))
        if study.fit:
            marks.append(Band(x, *study.fit.band(x), color))
            marks.append(Line(x, study.fit.steps(x), color, "fitted curve, 95% band", guide=True))
    if repeats := [(1.1 * p.global_batch, step) for p in reached for step in p.repeat_steps]:
        look = {"size": 2.5, "faint": True}
        marks.append(Points(*zip(*repeats, strict=True), color, "best trial, fresh seeds", **look))
    if study.label:
        marks += _breakpoints(study, color)
    if censored:
        x, y = [p.global_batch for p in censored], [p.censored_at for p in censored]
        look = {"size": 7, "hollow": True, "texts": point_texts(study, censored)}
        marks.append(Points(x, y, color, "not reached in the steps tried", "^", **look))
    if reached:
        x, y = [p.global_batch for p in reached], [p.steps_to_target for p in reached]
        around = [p.steps_interval or (p.steps_to_target,) * 2 for p in reached]
        low, high = zip(*around, strict=True)
        look = {"low": low, "high": high, "texts": point_texts(study, reached)}
        marks.append(Points(x, y, color, "fewest steps of all trials, 95%", marker, **look))
    return marks


def _breakpoints(study, color) -> list[Mark]:
    """On the curve, where they lie among the measured batches."""
    inside = {
        name: turn
        for name, turn in study.breakpoints.items()
        if turn.where == "inside" and turn.determined
    }
    return [
        Points(
            [turn.batch],
            [float(study.fit.steps(turn.batch))],
            color,
            marker=BREAKPOINTS[name],
            size=8,
            hollow=True,
            texts=[f"{study.label}\n{name} {turn.describe()}"],
        )
        for name, turn in inside.items()
    ]


def best_values(studies: Sequence[Study]) -> list[Panel]:
    """Hyperparameters of the best trials against the batch, with the usual rules."""
    panels = []
    for value in analysis.best_values(studies):
        with_it = [study for study in studies if value.best(study)]
        own = [_best(value, study, *style_of(studies.index(study))) for study in with_it]
        marks = _an_entry_each(with_it, own) if len(studies) > 1 else own[0]
        panels.append(Panel(batches(studies[0].unit), Axis(value.label), marks))
    return panels


def _best(value: Quantity, study: Study, color: str, marker: str) -> list[Mark]:
    series = value.best(study)
    x, y = [point.global_batch for point, _ in series], [v for _, v in series]
    marks: list[Mark] = [Line(x, y, color)]
    if not value.flipped:
        ratio = np.array(x) / x[0]
        for label, dash, power in (
            ("linear in the batch", "dash", 1),
            ("square root of the batch", "dot", 0.5),
        ):
            marks.append(Line(x, y[0] * ratio**power, color, label, dash, 0.9, guide=True))
    if edge := [(p.global_batch, v) for p, v in series if value.name in dict(p.at_edge)]:
        label = "at the edge of its range"
        marks.append(Points(*zip(*edge, strict=True), BLACK, label, size=10, hollow=True))
    texts = point_texts(study, [point for point, _ in series])
    return [*marks, Points(x, y, color, "best trial", marker, texts=texts)]


def trials(study: Study) -> list[Panel]:
    """Every trial by outcome, a panel per batch size, with the ranges that were searched."""
    pair = analysis.quantities(study)
    places = np.linspace(0, len(study.points) - 1, min(MOST_PANELS, len(study.points)))
    points = [study.points[round(place)] for place in places] if pair else []
    axes = [_shared_axis(quantity, study, points) for quantity in pair]
    return [
        Panel(*axes, _trials(study, point, *pair), f"batch {count(point.global_batch)}")
        for point in points
    ]


def _values(study, trial: Trial) -> dict[str, float | None]:
    """By the names of quantities."""
    return trial.values | {study.best_metric: trial.best_metric}


def _shared_axis(quantity: Quantity, study, points) -> Axis:
    """The same for all points."""
    values = [quantity.of(_values(study, trial)) for point in points for trial in point.trials]
    values += [edge for point in points for edge in quantity.edges(point)]
    include = tuple(value for value in values if value is not None)
    scale = points[0].ranges.get(quantity.name, ["log"])[0]
    log = scale in ("log", "reverse_log") and min(include, default=0) > 0
    return Axis(quantity.label, "decimal" if log else "near", include=include)


def _trials(study, point: Point, across: Quantity, up: Quantity) -> list[Mark]:
    left, right = across.edges(point)
    look = {"dash": "dash", "label": "range searched"}
    if vertical := up.edges(point):
        low, high = vertical
        corners = [left, right, right, left, left], [low, low, high, high, low]
        marks: list[Mark] = [Line(*corners, GREY, width=0.8, **look)]
    else:
        marks = [Rule(GREY, x=edge, **look) for edge in (left, right)]
    groups = [
        (outcome, color, marker, 3.2, [trial for trial in point.trials if trial.outcome == outcome])
        for outcome, (color, marker) in OUTCOMES.items()
    ]
    groups.append(("best", *BEST, 9, [t for t in point.trials if t.trial == point.best_trial]))
    for label, color, marker, size, group in groups:
        places = [[q.of(_values(study, trial)) for q in (across, up)] for trial in group]
        placed = [(*place, t) for place, t in zip(places, group, strict=True) if None not in place]
        if placed:
            x, y, shown_trials = zip(*placed, strict=True)
            texts = [_trial_text(study, trial) for trial in shown_trials]
            marks.append(Points(x, y, color, label, marker, size, texts=texts))
    return marks


def _trial_text(study, trial: Trial) -> str:
    lines = [f"trial {trial.trial}: {trial.outcome}"]
    lines += [f"{parameter_text(name)} {number(value)}" for name, value in trial.values.items()]
    if trial.steps_to_target is not None:
        lines.append(f"{count(trial.steps_to_target)} steps")
    best = metric_value(study.measure, trial.best_metric)
    lines.append(f"{study.best_metric} {best}")
    return "\n".join([*lines, f"stopped at step {count(trial.stopped_at_step)}"])


def curves(study: Study) -> list[Panel]:
    """The metric along the best trial of each batch size."""
    points = [point for point in study.points if point.curve[0].size]
    marks: list[Mark] = [_goal(study)]
    for point, color in zip(points, shades(len(points)), strict=True):
        steps, values = point.curve
        label = f"batch {count(point.global_batch)}" + ", not reached" * (not point.reached)
        dash = "solid" if point.reached else "dot"
        marks.append(Line(steps, values, color, label, dash, 1.1, text=label))
        sign = -1 if study.measure.better == "higher" else 1
        end = (np.abs(steps - point.steps_to_target) if point.reached else sign * values).argmin()
        text = f"{label}\nstep {count(int(steps[end]))}: {metric_value(study.measure, values[end])}"
        look = {"size": 4, "hollow": not point.reached, "texts": [text], "series": label}
        marks.append(Points([steps[end]], [values[end]], color, **look))
    x_axis = Axis("optimizer step", "binary", steps_label)
    return shown([Panel(x_axis, _metric_axis(study, study.measure_text), marks)])


def budgets(study: Study) -> list[Panel]:
    """The best metric under a budget of steps, and under one of examples: two answers."""
    found = analysis.budgets(study)
    values = [value for budget in found for _, value, _ in budget.results]
    y_axis = _metric_axis(study, study.best_metric, values)
    panels = []
    for kind in ("steps", "examples"):
        own = [budget for budget in found if budget.kind == kind]
        marks = [mark for i, b in enumerate(own) for mark in _budget(study, b, *style_of(i))]
        panels.append(
            Panel(
                batches(study.unit),
                y_axis,
                [_goal(study), *marks],
                f"budget of {_amounts(study, kind)}",
            )
        )
    return shown(panels)


def _amounts(study, kind):
    """What a budget counts."""
    return study.called if kind == "examples" else kind


def _budget(study, budget: Budget, color, marker) -> list[Mark]:
    """A line; open marks where more steps than were run could have done better."""
    label = f"{budget.amount:,} {_amounts(study, budget.kind)}"
    if budget.kind == "examples" and study.points[0].train_size:
        label += f" ({number(budget.amount / study.points[0].train_size)} epochs)"
    batch, value, _ = zip(*budget.results, strict=True)
    marks: list[Mark] = [Line(batch, value, color, label)]
    for spent in (True, False):
        group = [(batch, value) for batch, value, done in budget.results if done == spent]
        texts = [
            f"batch {count(batch)}\n{metric_value(study.measure, value)} within {label}"
            + "\nstopped before that was spent" * (not spent)
            for batch, value in group
        ]
        x, y = [batch for batch, _ in group], [value for _, value in group]
        look = {"hollow": not spent, "texts": texts, "series": label}
        marks.append(Points(x, y, color, marker=marker, **look))
    return marks


def _metric_axis(study, label, include=()):
    return of_metric(study.measure, label, include=(study.goal, *include))


def _goal(study):
    return Rule(BLACK, f"goal: {study.goal_text}", y=study.goal)
