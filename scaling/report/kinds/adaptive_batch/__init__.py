"""A batch that follows the noise scale: McCandlish et al. 2018, Appendix D, Figure 16."""

import statistics
from collections.abc import Sequence

from scaling.report.blocks import Note, Section, Table
from scaling.report.kinds.adaptive_batch import charts
from scaling.report.kinds.adaptive_batch.records import (
    Point,
    Study,
    bends,
    check_together,
    fit_of,
    read,
    saving,
)
from scaling.report.kinds.adaptive_batch.words import answer, cautions, goal_of
from scaling.report.pictures import picture
from scaling.report.provenance import origins
from scaling.report.tables import head, to_csv
from scaling.report.wording import NOTHING, count, headline, listed, number, study_label

__all__ = [
    "FIGURES",
    "NAME",
    "answer",
    "cautions",
    "check_together",
    "headline",
    "origins",
    "read",
    "sections",
    "study_label",
    "tables",
]

NAME = "Adaptive batch"
FIGURES = ("adaptive_batch", "adaptive_batch_schedules")


def sections(studies: Sequence[Study]) -> list[Section]:
    """The page from top to bottom."""
    return [_trade_off(studies), _schedules(studies), _points(studies)]


def _trade_off(studies):
    goals = listed(list(dict.fromkeys(goal_of(study) for study in studies)))
    caption = (
        f"Steps against examples to {goals}. Runs whose batch follows sqrt(r B_simple) lie below "
        "the curve of fixed batch sizes by what adapting saves. Dashed: what eq. D.4 predicts from "
        "how B_simple changed over those runs; where gamma is close to 1, a fixed batch is as good."
    )
    panels = charts.trade_off(studies)
    shown = picture(FIGURES[0], caption, panels, "no run reached the goal")
    notes = []
    for study in studies:
        label = study_label(study, studies)
        label = f"{label}: " if label else ""
        fit, reason = fit_of(study)
        if fit is None:
            notes.append(Note(f"{label}No curve is fitted to the fixed batch sizes. {reason}"))
        elif not bends(fit):
            notes.append(
                Note(f"{label}The fixed batch sizes' curve does not bend, so it tells no B_crit.")
            )
        else:
            low, high = fit.b_crit_interval
            notes.append(
                Note(
                    f"{label}Fixed batch sizes: S_min {number(fit.s_min)} steps, E_min "
                    f"{number(fit.e_min)} examples, B_crit {number(fit.b_crit)} (95%: "
                    f"{number(low)} to {number(high)}); scatter {number(100 * fit.residual_sd)}%."
                )
            )
    return Section("Steps against examples", [shown, *notes])


def _schedules(studies):
    caption = (
        "The batch size over each adaptive run, and B_simple as it was measured along it. The "
        "batch stays where B_simple is not resolved."
    )
    panels = charts.schedules(studies)
    total = sum(len(study.of_kind("adaptive")) for study in studies)
    if total > len(panels) > 0:
        caption += f" {len(panels)} of {total} are shown."
    shown = picture(FIGURES[1], caption, panels, "no run has an adaptive batch")
    return Section("Batch size over training", [shown])


def _points(studies):
    several = len(studies) > 1
    header = ["study"] * several + ["batch", "seeds that reached it", "steps (range)"]
    header += ["examples (range)", "batch sizes used", "steps saved (range)"]
    header += ["examples saved (range)", "gamma"]
    rows = [
        [study.label] * several + _row(study, point) for study in studies for point in study.points
    ]
    note = (
        "To the last goal; medians over seeds. Saved: over the fit of the fixed batch sizes, at as "
        "many examples and in as many steps. Goals before the last, seed by seed, are in "
        "tables/adaptive_batch.csv."
    )
    return Section("Point by point", [Table(header, rows), Note(note)])


def _row(study: Study, point: Point) -> list[str]:
    fixed = point.kind == "fixed"
    row = [count(point.global_batch) if fixed else f"r = {number(point.r)}"]
    diverged = sum(run.status == "diverged" for run in point.runs)
    seeds = f"{count(len(point.ends))} of {count(len(point.runs))}"
    row.append(seeds + (f", {count(diverged)} diverged" if diverged else ""))
    row += [_spread([getattr(end, key) for end in point.ends]) for key in ("steps", "examples")]
    sizes = [batch for run in point.runs for _, batch in run.schedule]
    row.append(f"{count(min(sizes))} to {count(max(sizes))}" if sizes and not fixed else NOTHING)
    if fixed:
        return row + [NOTHING] * 3
    found = saving(study, point)
    row += [
        _spread(shares, lambda share: f"{share:.0%}") for shares in (found.steps, found.examples)
    ]
    return [*row, number(point.gamma)]


def _spread(values, text=number):
    """Median and range."""
    if not values:
        return NOTHING
    middle = text(statistics.median(values))
    return f"{middle} ({text(min(values))} to {text(max(values))})" if len(values) > 1 else middle


def tables(studies: Sequence[Study]) -> dict[str, str]:
    """File name -> CSV: one row per seed and goal, and one per change of batch."""
    triples = [(s, point, run) for s in studies for point in s.points for run in point.runs]
    crossings = [
        _about(study, point, run) | {"gamma": point.gamma} | vars(crossing)
        for study, point, run in triples
        for crossing in run.goals
    ]
    changes = [
        _about(study, point, run) | {"first_step": step, "batch": batch}
        for study, point, run in triples
        for step, batch in run.schedule
    ]
    return {
        "adaptive_batch.csv": to_csv(crossings),
        "adaptive_batch_schedules.csv": to_csv(changes),
    }


def _about(study, point, run):
    row = {"kind": point.kind, "r": point.r, "global_batch": point.global_batch}
    return head(study, point) | row | {"seed": run.seed, "status": run.status}
