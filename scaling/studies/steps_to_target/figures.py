"""The figures, drawn for a paper: one function each, from studies to a figure.

A function returns None where there is nothing to show; the page says why.
"""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from scaling.report.drawing import (
    BATCH,
    BEST,
    GREY,
    OUTCOMES,
    REGIMES,
    TURNS,
    batch_axis,
    legend,
    metric_axis,
    new_figure,
    steps_axis,
    style_of,
    styled,
    value_axis,
)
from scaling.report.ticks import powers_of_two
from scaling.report.wording import batch_label, count
from scaling.studies.steps_to_target import analysis
from scaling.studies.steps_to_target.analysis import (
    censored_points,
    fit_of,
    perfect_scaling,
    reached_points,
    shown_points,
)
from scaling.studies.steps_to_target.records import Point, Study
from scaling.studies.steps_to_target.wording import (
    budget_text,
    goal_text,
    measure_text,
    shared_goal,
    study_label,
    two_lines,
)

DASHES = (0, (5, 3))
TURN_MARK = {"ls": "", "ms": 8, "mew": 1.3, "mfc": "w"}
FIT = "fitted curve, 95% band"


@styled
def steps_to_target(studies: list[Study]) -> Figure | None:
    """Steps to the goal against the batch, the papers' main figure."""
    shown = [point for study in studies for point in shown_points(study)]
    if not shown:
        return None
    figure = new_figure(6.5, 4.7)
    axes = figure.add_subplot()
    batch_axis(axes.xaxis, [point.global_batch for point in shown])
    steps_axis(axes.yaxis, [step for study in studies for step in analysis.steps_extent(study)])
    handles = _steps_legend(studies)
    if len(studies) == 1:
        handles += _shade_regimes(axes, studies[0])
    for index, study in enumerate(studies):
        _draw_steps(axes, study, *style_of(index))
        if len(studies) > 1:
            _mark_turns(axes, study, style_of(index)[0])
    axes.set(xlabel=BATCH, ylabel=f"optimizer steps to {shared_goal(studies)}")
    legend(figure, handles, columns=2)
    return figure


def _draw_steps(axes: Axes, study: Study, color: str, marker: str) -> None:
    """One study: lines behind, then repeats, intervals and points."""
    reached, censored = reached_points(study), censored_points(study)
    if reached:
        ends = [point.global_batch for point in shown_points(study)]
        batches = np.geomspace(min(ends), max(ends), 200)
        axes.plot(batches, perfect_scaling(study, batches), ls=DASHES, lw=0.9, color=color)
        fit, _ = fit_of(study)
        if fit:
            axes.plot(batches, fit.steps(batches), color=color)
            axes.fill_between(batches, *fit.band(batches), color=color, alpha=0.15, lw=0)
    for point in reached:
        beside = [1.1 * point.global_batch] * len(point.repeat_steps)
        axes.plot(beside, point.repeat_steps, ".", ms=4, mew=0, alpha=0.6, color=color)
        if point.steps_interval:
            axes.plot([point.global_batch] * 2, point.steps_interval, lw=1, color=color)
    for point in reached:
        axes.plot(point.global_batch, point.steps_to_target, marker, c=color, mec="w", mew=0.5)
    for point in censored:
        axes.plot(point.global_batch, point.censored_at, "^", ms=7, mfc="none", mec=color, mew=1.2)


def _mark_turns(axes, study, color):
    """The two turns on the curve, where they lie among the measured batches."""
    for name, turn, steps in analysis.turns_inside(study):
        axes.plot(turn.batch, steps, c=color, marker=TURNS[name], **TURN_MARK)


def _shade_regimes(axes: Axes, study: Study) -> list[Patch]:
    """The regimes, named above; returns a legend entry for each that is too narrow for a name."""
    narrow = []
    place = {"textcoords": "offset points", "ha": "center", "va": "bottom", "size": 8, "c": GREY}
    for span in analysis.regime_spans(study, *axes.get_xlim()):
        axes.axvspan(span.low, span.high, color=REGIMES[span.name], lw=0, zorder=-1)
        if span.narrow:
            narrow.append(Patch(color=REGIMES[span.name], label=span.name))
            continue
        top = math.sqrt(span.low * span.high), 1
        text = "\n".join(two_lines(span.name))
        axes.annotate(text, top, (0, 3), xycoords=("data", "axes fraction"), **place)
    return narrow


def _steps_legend(studies: list[Study]) -> list[Line2D]:
    """Studies by colour where there are several, then what the marks mean."""
    several = len(studies) > 1
    color, marker = (GREY, "o") if several else style_of(0)
    handles = []
    if several:
        for index, study in enumerate(studies):
            own, mark = style_of(index)
            label = study_label(study, studies)
            handles.append(Line2D([], [], color=own, marker=mark, label=label))
    points = [point for study in studies for point in study.points]
    line = lambda label, **style: handles.append(Line2D([], [], color=color, label=label, **style))
    if any(point.reached for point in points):
        line("fewest steps of all trials, 95% interval", ls="", marker=marker)
        if any(point.repeat_steps for point in points):
            line("best trial again, fresh seeds", ls="", marker=".", ms=5, mew=0, alpha=0.6)
    fits = [fit for fit, _ in map(fit_of, studies) if fit]
    if fits:
        line(FIT)
    if any(point.reached for point in points):
        line("perfect scaling from the smallest batch", ls=DASHES, lw=0.9)
    if any(point.censored_at for point in points):
        line("not reached in the steps tried", ls="", marker="^", ms=7, mfc="none")
    if several and fits:
        for name, marker in TURNS.items():
            line(name, marker=marker, **TURN_MARK)
    return handles


@styled
def best_values(studies: list[Study]) -> Figure | None:
    """Metaparameters of the best trials against the batch, with the usual heuristics."""
    values = analysis.best_values(studies)
    if not values:
        return None
    figure = new_figure(0.6 + 2.6 * len(values), 3.2)
    panels = figure.subplots(1, len(values), squeeze=False)[0]
    for axes, value in zip(panels, values, strict=True):
        _draw_best(axes, value, studies)
    line = lambda label, **style: Line2D([], [], label=label, **style)
    handles = []
    if len(studies) > 1:
        for index, study in enumerate(studies):
            color, marker = style_of(index)
            handles.append(line(study_label(study, studies), color=color, marker=marker))
    if any(value.heuristics for value in values):
        handles.append(line("linear in the batch", ls="--", lw=0.9, color=GREY))
        handles.append(line("square root of the batch", ls=":", lw=1.1, color=GREY))
    if any(point.at_edge for study in studies for point in reached_points(study)):
        ring = {"ls": "", "marker": "o", "ms": 10, "mfc": "none", "c": "k"}
        handles.append(line("at the edge of its range", **ring))
    if handles:
        legend(figure, handles, columns=3)
    return figure


def _draw_best(axes: Axes, value: analysis.BestValue, studies: list[Study]) -> None:
    """One panel."""
    batches, shown = [], []
    for index, study in enumerate(studies):
        series = value.series(study)
        if not series:
            continue
        color, marker = style_of(index)
        own = np.array([point.global_batch for point, _ in series])
        axes.plot(own, [best for _, best in series], marker=marker, color=color)
        batches.extend(own)
        shown += [best for _, best in series]
        at_edge = [pair for pair in series if value.parameter in dict(pair[0].at_edge)]
        for point, best in at_edge:
            axes.plot(point.global_batch, best, "o", ms=10, mfc="none", mec="k", mew=0.8)
        if value.heuristics:
            rules = analysis.heuristics(series, own)
            for rule, style in (("linear", "--"), ("square root", ":")):
                axes.plot(own, rules[rule], style, lw=0.9, color=color)
    batch_axis(axes.xaxis, batches, most=7)
    value_axis(axes.yaxis, shown)
    axes.set(xlabel=BATCH, ylabel=value.label)


@styled
def trials(study: Study) -> Figure | None:
    """Every trial by outcome, one panel per batch size, with the ranges that were searched."""
    pair = analysis.trial_axes(study)
    if pair is None:
        return None
    points = analysis.chosen_points(study.points)
    columns = min(4, len(points))
    rows = math.ceil(len(points) / columns)
    width = min(3.4, 7.0 / columns)
    figure = new_figure(0.9 + width * columns, 0.9 + 0.9 * width * rows)
    figure.get_layout_engine().set(wspace=0.06)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, point in zip(panels, points, strict=False):
        _draw_trials(axes, point, pair)
        axes.set_title(f"batch {count(point.global_batch)}")
    for axes in panels[len(points) :]:
        axes.remove()
    for above in panels[len(points) - columns : len(panels) - columns]:
        above.tick_params(labelbottom=True)  # nothing is below it
    for axis, name in zip(pair, ("xaxis", "yaxis"), strict=True):
        value_axis(getattr(panels[0], name), _places(axis, points), axis.log, most=4)
    figure.supxlabel(pair[0].label, size=9)
    figure.supylabel(pair[1].label, size=9)
    handles = [
        Line2D([], [], ls="", color=color, marker=marker, ms=4, label=outcome)
        for outcome, (color, marker) in reversed(OUTCOMES.items())
    ]
    star = {"color": BEST[0], "marker": BEST[1], "ms": 9, "mec": "k"}
    handles.append(Line2D([], [], ls="", label="best", **star))
    handles.append(Patch(fill=False, ec=GREY, ls="--", lw=0.8, label="range searched"))
    legend(figure, handles, columns=5, side="upper", columnspacing=1.2)
    return figure


def _places(axis, points):
    """All that an axis of the scatter must hold."""
    places = [axis.of(trial) for point in points for trial in point.trials]
    edges = [edge for point in points for edge in axis.edges(point) or ()]
    return [place for place in places if place is not None] + edges or [1.0]


def _draw_trials(axes: Axes, point: Point, pair: tuple[analysis.Axis, analysis.Axis]) -> None:
    """One panel."""
    across, up = pair
    for outcome, (color, marker) in OUTCOMES.items():
        mine = [trial for trial in point.trials if trial.outcome == outcome]
        mine = [trial for trial in mine if up.of(trial) is not None]
        x, y = [across.of(trial) for trial in mine], [up.of(trial) for trial in mine]
        axes.plot(x, y, marker, ls="", ms=3.2, mew=0.8, color=color)
    for trial in point.trials:
        if trial.trial == point.best_trial:
            place = across.of(trial), up.of(trial)
            axes.plot(*place, BEST[1], ms=10, color=BEST[0], mec="k", mew=0.7)
    (left, right), vertical = across.edges(point), up.edges(point)
    line = {"ls": "--", "lw": 0.8, "color": GREY}
    if vertical is None:
        axes.axvline(left, **line)
        axes.axvline(right, **line)
    else:
        low, high = vertical
        box = Rectangle((left, low), right - left, high - low, fill=False, **line)
        axes.add_patch(box)


@styled
def validation_curves(study: Study) -> Figure | None:
    """The validation metric along the best trial of each batch size."""
    curves = analysis.curves(study)
    if not curves:
        return None
    figure = new_figure(6.5, 3.8)
    axes = figure.add_subplot()
    batches = [point.global_batch for point, _, _ in curves]
    colors = ScalarMappable(LogNorm(min(batches), max(max(batches), 2 * min(batches))), "viridis")
    for point, steps, values in curves:
        color = colors.to_rgba(point.global_batch)
        axes.plot(steps, values, ls="-" if point.reached else ":", lw=1.1, color=color)
        if point.reached:
            at = np.searchsorted(steps, point.steps_to_target)
            axes.plot(steps[at : at + 1], values[at : at + 1], "o", ms=4, color=color, mec="w")
    steps_axis(axes.xaxis, np.concatenate([steps for _, steps, _ in curves]))
    metrics = np.concatenate([[study.goal], *(values for _, _, values in curves)])
    metric_axis(axes.yaxis, study.metric, metrics)
    axes.axhline(study.goal, ls=DASHES, lw=0.9, color="k")
    axes.set(xlabel="optimizer step", ylabel=measure_text(study))
    if len(batches) > 1:
        _batch_colorbar(figure.colorbar(colors, ax=axes, pad=0.02), batches)
    else:
        axes.set_title(f"batch {count(batches[0])}")
    handles = [Line2D([], [], ls=DASHES, lw=0.9, c="k", label=_goal_line(study))]
    dot = {"marker": "o", "ms": 4, "c": GREY, "mec": "w"}
    if any(point.reached for point, _, _ in curves):
        handles.append(Line2D([], [], label="best trial, goal reached", **dot))
    if not all(point.reached for point, _, _ in curves):
        handles.append(Line2D([], [], ls=":", c=GREY, label="closest trial, goal not reached"))
    legend(figure, handles, columns=3)
    return figure


def _goal_line(study):
    return f"goal: {goal_text(study)}"


def _batch_colorbar(bar, batches):
    scale = powers_of_two(batches, most=9)
    ticks = [tick for tick in scale.ticks if bar.vmin / 1.01 <= tick <= bar.vmax * 1.01]
    bar.ax.yaxis.set_major_locator(FixedLocator(ticks))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: batch_label(value)))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.ax.grid(False)
    bar.set_label(BATCH)


@styled
def budgets(study: Study) -> Figure | None:
    """Best metric under a budget of steps, and under one of examples: two different answers."""
    found = analysis.budgets(study)
    kinds = [kind for kind in ("steps", "examples") if any(b.kind == kind for b in found)]
    if not kinds:
        return None
    figure = new_figure(0.5 + 3.1 * len(kinds), 3.9)
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    values = [value for budget in found for value in budget.values]
    for axes, kind in zip(panels, kinds, strict=True):
        _draw_budgets(axes, study, [budget for budget in found if budget.kind == kind])
        batch_axis(axes.xaxis, [point.global_batch for point in study.points], most=8)
        axes.set(xlabel=BATCH, title=f"budget of {kind}")
        axes.axhline(study.goal, ls=DASHES, lw=0.9, color="k")
    metric_axis(panels[0].yaxis, study.metric, [*values, study.goal])
    panels[0].set_ylabel(f"best {measure_text(study)}")
    handles = [Line2D([], [], ls=DASHES, lw=0.9, c="k", label=_goal_line(study))]
    if not all(all(budget.spent) for budget in found):
        open_ = {"marker": "o", "mfc": "w", "ls": "", "c": GREY}
        handles.append(Line2D([], [], label="stopped before the budget was spent", **open_))
    legend(figure, handles, columns=2)
    return figure


def _draw_budgets(axes, study, found):
    """One panel; an open mark where more steps than were run could have done better."""
    for index, budget in enumerate(found):
        color, marker = style_of(index)
        label = budget_text(budget, study)
        axes.plot(budget.batches, budget.values, marker=marker, color=color, label=label)
        spent = [i for i, done in enumerate(budget.spent) if not done]
        batches, values = ([column[i] for i in spent] for column in (budget.batches, budget.values))
        axes.plot(batches, values, marker, mfc="w", mec=color, ls="")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2))
