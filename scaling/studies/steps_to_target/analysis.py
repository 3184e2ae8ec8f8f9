"""What the figures and the page show, computed from the records alone."""

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scaling.crossings import fewest_of
from scaling.errors import UserError
from scaling.fits import (
    DIMINISHING,
    MAX_USEFUL,
    MAXIMAL,
    PERFECT,
    PERFECT_END,
    Breakpoint,
    Interval,
    StepsFit,
    fit_steps,
    read_off,
)
from scaling.minima import noise_of
from scaling.ratios import Ratio, critical_batch_ratio
from scaling.report.wording import parameter_text
from scaling.studies.steps_to_target.records import Point, Study, Trial
from scaling.studies.steps_to_target.wording import measure_text

MAX_PANELS = 12
FAR_BELOW = 4  # intervals that begin lower than the steps over this run out of the figure
NARROW = 0.13  # of the axis: the name of a regime does not fit above it
LOG_SCALES = ("log", "reverse_log")


def reached_points(study: Study) -> list[Point]:
    """Points whose training reached the goal, by batch size."""
    return [point for point in study.points if point.reached]


def censored_points(study: Study) -> list[Point]:
    """Points that spent their budget of steps without reaching the goal."""
    return [point for point in study.points if point.censored_at is not None]


def shown_points(study: Study) -> list[Point]:
    """Points that have a place in the figure of steps against batch."""
    return [point for point in study.points if point.reached or point.censored_at is not None]


def fewest_steps(point: Point, study: Study) -> float | None:
    """Its fewest steps, to be compared: of as many trials as every batch size has had."""
    if not point.reached:
        return None
    least = min(len(other.trials) for other in study.points)
    return fewest_of([trial.steps_to_target for trial in point.trials], least)


@functools.cache
def fit_of(study: Study) -> tuple[StepsFit | None, str]:
    """The fit of steps against batch; or None, and the sentence that says why there is none."""
    points, reached = shown_points(study), reached_points(study)
    noise = noise_of(
        ([trial.steps_to_target for trial in point.trials], point.resolution[0])
        for point in reached
    )
    try:
        fit = fit_steps(
            [point.global_batch for point in points],
            [fewest_steps(point, study) for point in points],
            censored_at=[point.censored_at for point in points],
            noise=noise if noise[1] else None,
        )
    except UserError as error:
        return None, str(error)
    return fit, ""


def turns_inside(study: Study) -> list[tuple[str, Breakpoint, float]]:
    """(name, turn, steps there) of the turns that lie among the batch sizes that reached."""
    fit, _ = fit_of(study)
    if not fit:
        return []
    turns = {PERFECT_END: fit.perfect_scaling_end, MAX_USEFUL: fit.max_useful_batch}
    return [
        (name, turn, float(fit.steps(turn.batch)))
        for name, turn in turns.items()
        if turn.where == "inside"
    ]


def turns_read_off(study: Study) -> tuple[Interval, Interval]:
    """Between which measured batch sizes each turn lies, by the points that the fit holds."""
    fit, _ = fit_of(study)
    points = [p for p in reached_points(study) if p.global_batch <= fit.measured[1]]
    return read_off([p.global_batch for p in points], [fewest_steps(p, study) for p in points])


def critical_batch_against(study: Study, first: Study) -> Ratio | None:
    """B_crit over that of `first`; None where one of them has no fit."""
    fits = [fit_of(each)[0] for each in (study, first)]
    return critical_batch_ratio(*fits) if all(fits) else None


def perfect_scaling(study: Study, batches: np.ndarray) -> np.ndarray:
    """Steps if they fell in proportion to the batch from the smallest one that reached."""
    first = reached_points(study)[0]
    return first.steps_to_target * first.global_batch / batches


def steps_extent(study: Study) -> list[float]:
    """Everything that the axis of steps must hold."""
    extent = [point.censored_at for point in censored_points(study)]
    for point in reached_points(study):
        extent += [point.steps_to_target, *point.repeat_steps]
        if point.steps_interval:
            low, high = point.steps_interval
            extent += [max(low, point.steps_to_target / FAR_BELOW), high]
    fit, _ = fit_of(study)
    if fit:  # what it says of censored batches, as far as that leaves room for the others
        batches = [point.global_batch for point in shown_points(study)]
        extent += np.minimum(fit.steps(batches), 4 * max(extent)).tolist()
    return extent


@dataclass(frozen=True)
class Span:
    """A regime's part of the axis of batches."""

    name: str
    low: float
    high: float
    narrow: bool


def regime_spans(study: Study, left: float, right: float) -> list[Span]:
    """The regimes between `left` and `right`, or nothing where there is no fit."""
    fit, _ = fit_of(study)
    if not fit:
        return []
    first, *_, last = [point.global_batch for point in shown_points(study)]
    turns = [
        left if turn.batch <= first else right if turn.batch >= last else turn.batch
        for turn in (fit.perfect_scaling_end, fit.max_useful_batch)
    ]
    ends = itertools.pairwise([left, *turns, right])
    narrow = (right / left) ** NARROW
    return [
        Span(name, low, high, high / low < narrow)
        for name, (low, high) in zip((PERFECT, DIMINISHING, MAXIMAL), ends, strict=True)
        if low < high
    ]


def shown_trial(point: Point) -> int | None:
    """The best trial; where none reached the goal, the one that came closest to it."""
    if point.best_trial is not None:
        return point.best_trial
    missed = [t for t in point.trials if t.outcome == "missed" and t.best_metric is not None]
    return min(missed, key=lambda t: t.best_metric).trial if missed else None


def curves(study: Study) -> list[tuple[Point, np.ndarray, np.ndarray]]:
    """(point, steps, values) of the metric along each point's `shown_trial`, as far as known."""
    found = []
    for point in study.points:
        trial = shown_trial(point)
        if trial is None:
            continue
        steps, values = point.evaluations.of(trial)
        keep = (steps > 0) & np.isfinite(values)
        if keep.any():
            found.append((point, steps[keep], values[keep]))
    return found


def chosen_points(points: list[Point]) -> list[Point]:
    """At most MAX_PANELS points, evenly spread, the first and the last among them."""
    places = np.linspace(0, len(points) - 1, min(MAX_PANELS, len(points)))
    return [points[round(place)] for place in places]


@dataclass(frozen=True)
class Axis:
    """A quantity that places trials in a scatter plot.

    Attributes:
      of: a trial's place; None if it has none.
      edges: of the range that a point searched; None if there is none to show.
    """

    label: str
    of: Callable[[Trial], float | None]
    edges: Callable[[Point], tuple[float, float] | None]
    log: bool


def trial_axes(study: Study) -> tuple[Axis, Axis] | None:
    """The axes of the scatter of trials, or None if nothing was searched.

    Learning rate and momentum go first; where only one range was searched, the second axis is the
    best value of the metric.
    """
    ranges = study.points[0].ranges
    preferred = ["learning_rate", "momentum", *ranges]
    names = sorted(ranges, key=lambda name: (ranges[name][0] == "discrete", preferred.index(name)))
    if not names:
        return None
    if len(names) > 1:
        return _range_axis(study, names[0]), _range_axis(study, names[1])
    return _range_axis(study, names[0]), _metric_axis(study)


def _range_axis(study, name):
    """The axis of a searched range; 1 - value for what is searched near 1."""
    scale = study.points[0].ranges[name][0]
    flipped = name == "momentum" or scale == "reverse_log"
    place = (lambda value: 1 - value) if flipped else (lambda value: value)

    def edges(point):
        ends = [place(value) for value in point.ranges[name][1:]]
        return min(ends), max(ends)

    return Axis(
        label="1 − " * flipped + parameter_text(name),
        of=lambda trial: place(trial.values[name]),
        edges=edges,
        log=scale in LOG_SCALES,
    )


def _metric_axis(study):
    values = [t.best_metric for p in study.points for t in p.trials if t.best_metric is not None]
    return Axis(
        label=f"best {measure_text(study)}",
        of=lambda trial: trial.best_metric,
        edges=lambda point: None,
        log=min(values, default=0) > 0,
    )


@dataclass(frozen=True)
class BestValue:
    """A metaparameter of the best trials.

    Attributes:
      parameter: its name in the records.
      of: its value at a point that reached the goal; None if it was not searched.
      heuristics: whether there are rules of how it should follow the batch.
    """

    label: str
    parameter: str
    of: Callable[[Point], float | None]
    heuristics: bool

    def series(self, study: Study) -> list[tuple[Point, float]]:
        """Points of the study that have it, and its value there."""
        pairs = [(point, self.of(point)) for point in reached_points(study)]
        return [(point, value) for point, value in pairs if value is not None]


def best_values(studies: list[Study]) -> list[BestValue]:
    """Learning rate, 1 - momentum and effective learning rate, those that were searched."""
    rate = BestValue("learning rate", "learning_rate", _best("learning_rate"), True)
    momentum = _best("momentum")
    effective = BestValue(
        "effective learning rate",
        "effective_learning_rate",
        _best("effective_learning_rate"),
        True,
    )
    values = [
        rate,
        BestValue(
            "1 − momentum",
            "momentum",
            lambda point: None if momentum(point) is None else 1 - momentum(point),
            False,
        ),
        effective,
    ]
    points = [point for study in studies for point in reached_points(study)]
    if all(rate.of(point) == effective.of(point) for point in points):
        values.remove(effective)
    return [value for value in values if any(value.of(point) is not None for point in points)]


def _best(name):
    return lambda point: point.best.get(name)


def heuristics(series: list[tuple[Point, float]], batches: np.ndarray) -> dict[str, np.ndarray]:
    """The linear and the square-root rule, from the value at the smallest batch."""
    first, value = series[0]
    ratio = batches / first.global_batch
    return {"linear": value * ratio, "square root": value * np.sqrt(ratio)}


@dataclass(frozen=True)
class Budget:
    """The best metric of any complete trial within a budget, by batch size.

    Attributes:
      kind: "steps" or "examples", what `amount` counts.
      spent: per batch, whether its trials ran until the budget was spent. They stop soon after the
        goal; what they reached until then is an upper bound of what the budget would give.
    """

    kind: str
    amount: int
    batches: list[int]
    values: list[float]
    spent: list[bool]


def budgets(study: Study) -> list[Budget]:
    """Up to three budgets of steps and of examples, all of them what the goal took at some batch:
    the least, the most and the one in the middle on a log scale."""
    reached = reached_points(study)
    if len(reached) < 2:
        return []
    found = [_within(study, "steps", n) for n in _three([p.steps_to_target for p in reached])]
    found += [_within(study, "examples", n) for n in _three([p.examples for p in reached])]
    return [budget for budget in found if budget.batches]


def _three(amounts):
    least, most = min(amounts), max(amounts)
    middle = min(amounts, key=lambda amount: abs(np.log(amount**2 / (least * most))))
    return sorted({least, middle, most})


def _within(study, kind, amount):
    budget = Budget(kind, amount, [], [], [])
    for point in study.points:
        steps = amount if kind == "steps" else amount // point.global_batch
        value = _best_metric(point, steps)
        if value is not None:
            budget.batches.append(point.global_batch)
            budget.values.append(value)
            budget.spent.append(steps <= point.stopped_at_step)
    return budget


def _best_metric(point, steps):
    """The best metric of any complete trial up to `steps`; None before the first evaluation."""
    rows = point.evaluations
    complete = [trial.trial for trial in point.trials if trial.outcome != "infeasible"]
    values = rows.value[(rows.step <= steps) & np.isin(rows.trial, complete)]
    values = values[np.isfinite(values)]
    return float(values.min()) if values.size else None
