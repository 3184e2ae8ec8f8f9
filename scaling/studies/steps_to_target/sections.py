"""What the page shows: figures with captions, tables, notes."""

import math
import statistics
from collections.abc import Sequence

from scaling.fits import BENDS, MAX_USEFUL, PERFECT_END, Interval
from scaling.report.blocks import Block, Heading, Legend, Note, Picture, Section, Table
from scaling.report.drawing import style_of
from scaling.report.wording import NOTHING, SPLITS, count, metric_value, number, parameter_text
from scaling.studies.steps_to_target import figures, interactive
from scaling.studies.steps_to_target.analysis import (
    MAX_PANELS,
    censored_points,
    critical_batch_against,
    fit_of,
    turns_inside,
    turns_read_off,
)
from scaling.studies.steps_to_target.records import Point, Study
from scaling.studies.steps_to_target.wording import (
    interval_text,
    measure_text,
    shared_goal,
    study_label,
)

SHARED = ("steps_to_target", "best_values")  # figures of all studies together
OWN = ("trials", "validation_curves", "budgets")  # figures of each study
SEARCHES = ("best_values", *OWN)  # figures of `searches`
NOTHING_TO_SHOW = {
    "steps_to_target": "no batch size reached the goal or spent its steps on it",
    "best_values": "no batch size has a best trial with values that were searched",
    "trials": "nothing was searched",
    "validation_curves": "the records hold no evaluation after the first step",
    "budgets": "fewer than two batch sizes reached the goal, or no evaluations are recorded",
}


def sections(studies: Sequence[Study]) -> list[Section]:
    """The page from top to bottom."""
    return [_steps(studies), *searches(studies)]


def searches(studies: Sequence[Study], prefix: str = "") -> list[Section]:
    """What the search at each batch size came to; names of files begin with `prefix`."""
    indices = range(len(studies))
    of_each = (section for index in indices for section in _of_study(index, studies, prefix))
    return [_points(studies, prefix), _best_values(studies, prefix), *of_each]


def _steps(studies):
    caption = (
        f"Optimizer steps to {shared_goal(studies)} against the global batch, log2 axes. A point "
        "is the fewest steps of all trials at its batch size; its bar is the 95% interval of what "
        "searches of this many trials come to (their median), where enough of them reached the "
        "goal; small marks are the best trial again under fresh seeds. Dashed: steps in proportion "
        "to 1 / batch, from the smallest batch that reached the goal."
    )
    if any(censored_points(study) for study in studies):
        caption += " Triangles: not reached in so many steps."
    if len(studies) > 1 and any(turns_inside(study) for study in studies):
        caption += (
            " Ticks and diamonds on the curves: the end of perfect scaling and the maximum useful "
            "batch, where they lie among the batches measured."
        )
    plot = interactive.steps_to_target(studies)
    plots = [plot] if plot else []
    picture = _picture("steps_to_target", figures.steps_to_target(studies), caption, plots)
    return Section("Steps against batch", [picture, *_fits(studies)])


def _fits(studies) -> list[Block]:
    """What the fits say, and why there is none."""
    rows, notes, any_fit = [], [], None
    fitted = [fit_of(study)[0] is not None for study in studies]
    compare = fitted[0] and sum(fitted) > 1
    for study in studies:
        label = study_label(study, studies) if len(studies) > 1 else ""
        fit, reason = fit_of(study)
        if not fit:
            notes.append(f"{label and label + ': '}No curve is fitted. {reason}")
            continue
        any_fit = fit
        turns = fit.perfect_scaling_end, fit.max_useful_batch
        row = [label] * bool(label)
        for turn, seen in zip(turns, turns_read_off(study), strict=True):
            row.append(f"{turn.describe()}; read off the points: {_between(seen)}")
        row += [_fitted(fit.curve.bend, fit.bend_interval), f"{number(100 * fit.scatter)}%"]
        row += [_fitted(fit.b_crit, fit.b_crit_interval), _fitted(fit.s_min, fit.s_min_interval)]
        row.append(_fitted(fit.e_min, fit.e_min_interval))
        rows.append(row + [_against(study, studies[0])] * compare)
    if any_fit:
        notes.append(
            "Fit: S = S_min (1 + (B_crit / B)^bend)^(1 / bend). Perfect scaling ends where the "
            f"goal takes {any_fit.perfect_within - 1:.0%} more examples than at small batches, "
            "which is the critical batch size of Zhang et al. 2024 too; the maximum useful batch "
            f"is where doubling it saves less than {any_fit.least_saving:.0%} of the steps. Their "
            f"intervals are for any bend from {BENDS[0]:g} to {BENDS[1]:g}. B_crit, S_min and "
            "E_min are those of the hyperbola, bend 1 (McCandlish 2018), for comparison; E_min = "
            "S_min B_crit is the examples that the smallest batches take. Scatter: of the points "
            "around the curve."
        )
    header = [PERFECT_END, MAX_USEFUL, "bend", "scatter"]
    header += ["B_crit, examples", "S_min, steps", "E_min, examples"]
    if compare:
        header.append(f"B_crit over that of {study_label(studies[0], studies)}")
        notes.append(
            "B_crit over that of the first: each study's own scatter is its noise, and an interval "
            "is for its pair alone, not for all of them at once."
        )
    table = Table([""] * (len(studies) > 1) + header, rows, wrap=True)
    return [table] * bool(rows) + [Note(note) for note in notes]


def _against(study, first):
    """Its B_crit over that of the first study."""
    ratio = None if study is first else critical_batch_against(study, first)
    return ratio.describe() if ratio else NOTHING


def _between(batches: Interval) -> str:
    """64 to 128; above 64."""
    low, high = batches
    if high == math.inf:
        return f"above {count(int(low))}"
    return f"{count(int(low))} to {count(int(high))}" if low else f"below {count(int(high))}"


def _fitted(value, interval):
    return f"{number(value)} (95%: {number(interval[0])} to {number(interval[1])})"


def _points(studies, prefix):
    tables = []
    for study in studies:
        tables += [Heading(study_label(study, studies))] * (len(studies) > 1)
        tables.append(_points_table(study))
    note = (
        "Steps: the fewest of all trials, with the 95% interval of what searches of this many "
        "trials come to (their median). Repeats: median and range of the best trial's steps under "
        "fresh seeds, and how many reached the goal. Arrows: at the low or high edge of the range "
        "searched. Test: the best trial, once, as it was when it crossed. More in "
        f"tables/{prefix}points.csv and tables/{prefix}trials.csv."
    )
    return Section("Batch by batch", [*tables, Note(note)])


def _points_table(study: Study) -> Table:
    best = list(dict.fromkeys(name for point in study.points for name in point.best or {}))
    header = ["batch", "steps (95%)", "repeats (range), reached", "examples", "epochs"]
    header += [parameter_text(name) for name in best]
    header += ["reached / missed / infeasible", f"test {study.metric}"]
    rows = []
    for point in study.points:
        row = [count(point.global_batch), _steps_text(point), _repeats_text(point)]
        row += [count(point.examples), number(point.epochs)]
        row += [_best_text(point, name) for name in best]
        outcomes = (count(point.counts[kind]) for kind in ("reached", "missed", "infeasible"))
        test = (point.test or {}).get(study.metric)
        rows.append([*row, " / ".join(outcomes), metric_value(study.metric, test)])
    return Table(header, rows)


def _steps_text(point: Point) -> str:
    if point.reached:
        return f"{count(point.steps_to_target)} ({interval_text(point.steps_interval)})"
    return {
        "target_not_reached": f"not reached in {count(point.censored_at)}",
        "all_diverged": "all diverged",
        "met_at_start": "met at the start",
    }.get(point.status, point.status)


def _best_text(point, name):
    """The value of the best trial, with an arrow where it is at an edge of its range."""
    if not point.best:
        return NOTHING
    arrow = {"low": " ↓", "high": " ↑"}.get(dict(point.at_edge).get(name), "")
    return number(point.best.get(name)) + arrow


def _repeats_text(point: Point) -> str:
    """Median and range of those that reached the goal, and how many did."""
    if not point.repeats:
        return NOTHING
    steps = point.repeat_steps
    reached = f"{len(steps)} of {len(point.repeats)}"
    if not steps:
        return reached
    return f"{statistics.median(steps):,g} ({steps[0]:,} to {steps[-1]:,}), {reached}"


def _best_values(studies, prefix):
    caption = (
        "Metaparameters of the best trial at each batch size, and what they would be if they grew "
        "linearly (dashed) or with the square root of the batch (dotted) from their value at the "
        "smallest one. The effective learning rate is rate / (1 − momentum) for optimizers with "
        "momentum, and the rate for the others."
    )
    plots = interactive.best_values(studies)
    picture = _picture("best_values", figures.best_values(studies), caption, plots, prefix)
    entries = [(style_of(i)[0], study_label(study, studies)) for i, study in enumerate(studies)]
    legend = [Legend(entries)] * (len(studies) > 1)
    return Section("Best metaparameters", [*legend, picture])


def _of_study(index: int, studies: Sequence[Study], prefix: str) -> list[Section]:
    """The figures that show one study only."""
    study = studies[index]
    of = f" of {study_label(study, studies)}" if len(studies) > 1 else ""
    number_of = f"-{index + 1}" if len(studies) > 1 else ""
    measure = measure_text(study)
    split = SPLITS[study.split].capitalize()
    curves = (
        f"{measure.capitalize()} along the best trial of each batch size; a dot where it "
        "crossed the goal. Training stops soon after the first crossing."
    )
    budgets = (
        f"The best {measure} of any trial that did not diverge: left within a "
        "number of steps, where a larger batch has seen more examples; right within a number of "
        "examples, where a smaller batch has taken more steps. Open marks: training stopped "
        "before the budget was spent, so better may be possible."
    )
    show = lambda name, caption, plots=(): _picture(
        name, getattr(figures, name)(study), caption, plots, prefix, number_of
    )
    given = lambda plot: [plot] if plot else []
    scatter = show("trials", _trials_caption(study), given(interactive.trials(study)))
    along = show("validation_curves", curves, given(interactive.validation_curves(study)))
    return [
        Section(f"Trials{of}", [scatter, *_stopping(study)]),
        Section(f"{split} curves{of}", [along]),
        Section(
            f"Step budget or example budget{of}",
            [show("budgets", budgets, interactive.budgets(study))],
        ),
    ]


def _picture(name, figure, caption, plots=(), prefix="", suffix=""):
    return Picture(prefix + name + suffix, caption, figure, list(plots), NOTHING_TO_SHOW[name])


def _trials_caption(study):
    unplaced = sum(t.best_metric is None for point in study.points for t in point.trials)
    caption = (
        "Every trial by outcome: it reached the goal, missed it before training stopped, or "
        "diverged (infeasible). Dashed: the range searched. The best trial should lie well inside "
        "it; the slider chooses the batch size."
    )
    if len(study.points) > MAX_PANELS:
        caption += f" The figure on paper shows {MAX_PANELS} of {len(study.points)} batch sizes."
    if len(study.points[0].ranges) == 1 and unplaced:
        caption += f" {count(unplaced)} diverged before they were evaluated and have no place here."
    return caption


def _stopping(study: Study) -> list[Block]:
    margin = study.points[0].margin
    explanation = (
        f"Training of all trials stops at {number(margin)} times the first crossing: a later "
        "crossing cannot be the fewest steps. Trials that would have crossed later count as missed."
    )
    header = ["batch", "trials", "first crossing", "stopped at", "budget", "missed"]
    header += ["trial steps run", "skipped", "share skipped"]
    rows = []
    for point in study.points:
        row = [point.global_batch, len(point.trials), point.steps_to_target]
        row += [point.stopped_at_step, point.budget_steps, point.counts["missed"]]
        rows.append([*map(count, row), *_steps_run([point])])
    total = ["all", *[""] * 5, *_steps_run(study.points)]
    heading = Heading("What the stopping rule skipped")
    return [heading, Note(explanation), Table(header, [*rows, total])]


def _steps_run(points):
    run = sum(point.trial_steps for point in points)
    saved = sum(point.trial_steps_saved for point in points)
    share = f"{saved / (run + saved):.0%}" if run + saved else NOTHING
    return count(run), count(saved), share
