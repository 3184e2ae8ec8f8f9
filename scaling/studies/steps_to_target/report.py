"""Steps to a goal against the batch size: Shallue et al. 2018, Figure 1."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from scaling.fits import BENDS, MAX_USEFUL, PERFECT_END, StepsFit
from scaling.ratios import Ratio
from scaling.report.blocks import Block, Note, Picture, Section
from scaling.report.kind import Details, Kind, about_all
from scaling.report.tables import Column, Table, within
from scaling.report.wording import (
    SPLITS,
    capital,
    count,
    interval,
    listed,
    measure_text,
    number,
    parameter_text,
    percent,
)
from scaling.studies.steps_to_target import charts, growth
from scaling.studies.steps_to_target.analysis import Point, Study, read
from scaling.studies.steps_to_target.tables import TRIAL, table


def answer(study: Study) -> str:
    """The two breakpoints, or the steps where there is no curve; then what speaks against it."""
    about, fit = f"{study.subject}, steps to {study.goal_text}", study.fit
    if not fit:
        steps = [
            f"{count(point.steps_to_target)} at batch {count(point.global_batch)}"
            for point in study.reached
        ]
        return f"{about}: {listed(steps) or 'not reached at any batch size'}. {study.no_fit}"
    perfect, useful = study.breakpoints.values()
    unit = [] if study.unit == "examples" else [f"Batch sizes are in {study.unit}."]
    seen = perfect.determined and perfect.where != "below"  # what lies before it was measured
    halves = "doubling the batch halves them up to the end of perfect scaling,"
    saves = f"Doubling the batch saves less than {fit.least_saving:.0%} of them beyond"
    sentences = (
        f"{about}: {halves if seen else 'the end of perfect scaling is'} {perfect.describe()}.",
        f"{saves} the largest useful batch, {useful.describe()}."
        if useful.determined
        else f"The largest useful batch is {useful.describe()}.",
    )
    return " ".join([*sentences, *unit, *fit.doubts])


def compared(study: Study, first: Study) -> str:
    """Critical batch sizes, where both have a fit."""
    ratio = study.ratio_to(first)
    if not ratio:
        return ""
    return f"Its critical batch size over that of {first.label} is {ratio.describe()}."


def cautions(study: Study) -> list[str]:
    """One sentence each."""
    least = study.least
    tried = min(point.tried or 0 for point in study.points)
    edges = {edge: None for point in study.points for edge in point.at_edge}
    no_steps = {
        "target_not_reached": f"{study.goal_text} was not reached in the steps tried; ease the "
        "goal or give more steps.",
        "all_diverged": "every trial diverged; search smaller learning rates.",
        "met_at_start": f"{study.goal_text} was met before training; choose a harder goal.",
    }
    return about_all(
        study.points,
        *(
            (
                f"the best trial has its {parameter_text(edge[0])} at the {edge[1]} edge of its "
                "range; a better one may lie beyond, so widen it.",
                lambda p, edge=edge: edge in p.at_edge,
            )
            for edge in edges
        ),
        *((text, lambda p, status=status: p.status == status) for status, text in no_steps.items()),
        (
            f"more trials than the {count(least)} of another batch size, and more trials find "
            f"fewer steps; the curve is fitted to what {count(least)} of them find on average.",
            lambda p: p.reached and len(p.trials) > least,
        ),
        (
            f"too few trials to be compared with the {count(least)} or more of other batch sizes; "
            "the fit does without.",
            lambda p: p in study.sparse,
        ),
        (
            f"the best of more trials than the {count(tried)} of another batch size, and more "
            "trials find fewer steps.",
            lambda p: p.reached and p.tried and p.tried > max(tried, len(p.trials)),
        ),
        (
            "too few trials reached the goal for an interval; run more"
            f"{'' if study.log else ' or raise target.margin'}.",
            lambda p: p.reached and not p.steps_interval and p.tried != 1,
        ),
    )


def details(study: Study) -> Details:
    """Goal and ranges."""
    side = "above" if study.measure.better == "higher" else "below"
    goal = [f"{study.goal_text}, strictly {side}"] if study.goal is not None else []
    if study.log:
        return {"goal": goal}
    return {
        "goal": goal,
        "search": list(dict.fromkeys(map(_search_text, study.points))),
    }


def _search_text(point: Point) -> str:
    ranges = [
        f"{parameter_text(name)} {' to '.join(map(number, bounds))} ({scale.replace('_', ' ')})"
        if scale != "discrete"
        else f"{parameter_text(name)} one of {listed([number(value) for value in bounds])}"
        for name, (scale, *bounds) in point.ranges.items()
    ]
    widened = f"; widened {count(point.widened)} times" if point.widened else ""
    return f"{count(len(point.trials))} trials; {'; '.join(ranges)}{widened}"


def sections(studies: Sequence[Study]) -> Iterator[Section]:
    """The page from top to bottom."""
    caption = (
        f"Optimizer steps to {charts.shared_goal(studies)} against the global batch. A point is "
        "the fewest steps of all trials at its batch size; its bar is the 95% interval of what "
        "searches of this many trials come to (their median), where enough of them reached the "
        "goal; small marks are the best trial again under fresh seeds. Dashed: steps in proportion "
        "to 1 / batch, from the smallest batch that reached the goal. Triangles: not reached in so "
        "many steps."
    )
    if len(studies) > 1:
        caption += (
            " Ticks and open diamonds on the curves: the end of perfect scaling and the largest "
            "useful batch, where they lie among the batch sizes measured."
        )
    nothing = "no batch size reached the goal or spent its steps on it"
    picture = Picture("steps_to_target", caption, charts.steps_to_target(studies), nothing)
    yield Section("Steps against batch", [picture, *_fits(studies)])
    if laws := list(growth.blocks(studies)):
        yield Section("How the critical batch size grows", laws)
    for section in searches(studies):
        if not studies[0].log or any(_shows(block) for block in section.blocks):
            yield section


def _shows(block: Block) -> bool:
    """Whether it is a figure or a table with something in it."""
    return bool(getattr(block, "panels", getattr(block, "rows", ())))


def searches(studies: Sequence[Study], prefix: str = "") -> Iterator[Section]:
    """What the search at each batch size found; names of files begin with `prefix`."""
    note = (
        "Steps: the fewest of all trials, with the 95% interval of what searches of this many "
        "trials come to (their median). Repeats: median and range of the best trial's steps under "
        "fresh seeds, and how many reached the goal. Arrows: at the low or high edge of the range "
        f"searched. Test: the best trial at its crossing. More in tables/{prefix}points.csv and "
        f"tables/{prefix}trials.csv."
    )
    every_trial = within(studies, lambda point: point.trials)
    trials = Table(TRIAL, every_trial, f"{prefix}trials.csv", shown=False)
    yield Section("Batch by batch", [table(studies, prefix), Note(note), trials])
    caption = (
        "Hyperparameters of the best trial at each batch size, and what they would be if they grew "
        "linearly (dashed) or with the square root of the batch (dotted) from their value at the "
        "smallest one; a ring at the edge of the range searched. The effective learning rate is "
        "rate / (1 − momentum) for optimizers with momentum."
    )
    nothing = "no batch size has a best trial with values that were searched"
    panels = charts.best_values(studies)
    yield Section(
        "Best hyperparameters", [Picture(f"{prefix}best_values", caption, panels, nothing)]
    )
    for index, study in enumerate(studies, 1):
        yield from _of_one(study, prefix, f"-{index}" if len(studies) > 1 else "")


def _of_one(study: Study, prefix: str, suffix: str) -> Iterator[Section]:
    """The figures that show one study only."""
    of = f" of {study.label}" * bool(study.label)
    picture = lambda name, *rest: Picture(f"{prefix}{name}{suffix}", *rest)
    caption = (
        "Every trial by outcome: it reached the goal, missed it before training stopped at "
        f"{number(study.points[0].margin)} times the first crossing, or diverged (infeasible). "
        "Dashed: the range searched; the best trial should lie well inside."
    )
    if len(study.points) > charts.MOST_PANELS:
        caption += f" {charts.MOST_PANELS} of {len(study.points)} batch sizes are shown."
    trials = picture("trials", caption, charts.trials(study), "nothing was searched")
    yield Section(f"Trials{of}", [trials])
    caption = (
        f"{capital(study.measure_text)} along the best trial of each batch size, a dot where "
        "it crossed the goal; dotted: the closest trial, where none did. Training stops soon after "
        "the first crossing."
    )
    nothing = "the records hold no evaluation after the first step"
    curves = picture("validation_curves", caption, charts.curves(study), nothing)
    yield Section(f"{capital(SPLITS[study.split])} curves{of}", [curves])
    caption = (
        f"The best {study.measure_text} of any trial that did not diverge: left within a number of "
        "steps, where a larger batch has seen more examples; right within a number of examples, "
        "where a smaller batch has taken more steps. Open marks: training stopped before the "
        "budget was spent, so better may be possible."
    )
    nothing = "fewer than two batch sizes reached the goal, or no evaluations are recorded"
    budgets = picture("budgets", caption, charts.budgets(study), nothing)
    yield Section(f"Step budget or example budget{of}", [budgets])


def _breakpoint(name: str, study: Study, fit: StepsFit) -> str:
    """About 64 (95%: 40 to 100); read off the points: 32 to 128"""
    low, high = study.read_off[name]
    seen = f"{count(int(low))} to {count(int(high))}" if low and high < math.inf else ""
    seen = seen or (f"above {count(int(low))}" if low else f"below {count(int(high))}")
    return f"{study.breakpoints[name].describe()}; read off the points: {seen}"


@dataclass(frozen=True)
class Fitted:
    """A number of a fit, with its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """12 (95%: 10 to 14)"""
        return number(self.value) + interval(self.low, self.high)


def fitted(title: str, key: str) -> Column:
    """Of the fit that ends a row; None: there is no fit."""

    def of(*row) -> Fitted | None:
        *_, fit = row
        return fit and Fitted(getattr(fit, key), *getattr(fit, f"{key}_interval"))

    return Column(title, of, str, key)


FIT = [
    Column(PERFECT_END, partial(_breakpoint, PERFECT_END), str),
    Column(MAX_USEFUL, partial(_breakpoint, MAX_USEFUL), str),
    Column("bend", lambda study, fit: Fitted(fit.curve.bend, *fit.bend_interval), str),
    Column("scatter", "scatter", percent),
    fitted("B_crit", "b_crit"),
    fitted("S_min, steps", "s_min"),
    fitted("E_min", "e_min"),
]


def _beside(studies: Sequence[Study]) -> Iterator[Column]:
    """B_crit in tokens, and of logs Zhang's critical batch size."""

    def times(study, fit):
        ends = map(study.in_units, (fit.b_crit, *fit.b_crit_interval))
        return study.per_row and Fitted(*ends)

    def overhead(study, fit):
        value, ends = fit.overhead_batch(study.log.reference)
        return Fitted(value, *ends)

    if studies[0].per_row:
        yield Column("B_crit, {unit}", times, str, f"b_crit_{studies[0].holds}")
    if title := studies[0].overhead_title:
        yield Column(title, overhead, str, "overhead_batch")


def _fits(studies: Sequence[Study]) -> Iterator[Block]:
    """What the fits say, and why there is none."""
    rows, first = [(study, study.fit) for study in studies if study.fit], studies[0]
    for study in studies:
        if not study.fit:
            yield Note(study.noted(f"No curve is fitted. {study.no_fit}"))
    if not rows:
        return
    ratio = lambda study, fit: None if study is first else study.ratio_to(first)
    over = Column(f"B_crit over that of {first.label}", ratio, Ratio.describe)
    yield Table([*FIT, *_beside(studies), over], rows, wrap=True)
    fit = rows[0][1]
    note = (
        "Fit: S = S_min (1 + (B_crit / B)^bend)^(1 / bend). Perfect scaling ends where the goal "
        f"takes {fit.perfect_within - 1:.0%} more examples than at small batches, the critical "
        "batch size of Zhang et al. 2024; the largest useful batch is where doubling it saves less "
        f"than {fit.least_saving:.0%} of the steps. Their intervals are for any bend from "
        f"{BENDS[0]:g} to {BENDS[1]:g}. B_crit and E_min = S_min B_crit, in {studies[0].unit}, and "
        "S_min are those of the hyperbola, bend 1 (McCandlish 2018), for comparison. Scatter: of "
        "the points around the curve."
    )
    if len(rows) > 1:
        note += (
            " B_crit over that of another: each study's own scatter is its noise, and an interval "
            "is for its pair alone, not for all of them at once."
        )
    yield Note(note)


KIND = Kind(
    "Steps to target",
    read,
    answer,
    table,
    sections,
    cautions,
    details,
    shared=lambda study: (
        "steps to a " + measure_text(study.measure._replace(words=study.compared_in), study.split)
    ),
    compared=compared,
    together=growth.sentence,
)
