"""Steps against examples for several goals: McCandlish et al. 2018, Figures 7 and 14, Table 1."""

from collections.abc import Sequence

from scaling.report.blocks import Note, Section, Table
from scaling.report.kind import steps_to_target
from scaling.report.pictures import picture
from scaling.report.tables import head, to_csv
from scaling.report.wording import NOTHING, count, headline, metric_value, number, study_label
from scaling.studies.pareto import charts
from scaling.studies.pareto.records import (
    Front,
    Study,
    check_together,
    fronts,
    read,
    summary,
    tracked_run,
)
from scaling.studies.pareto.words import AGREEMENT, answer, cautions
from scaling.studies.steps_to_target import origins
from scaling.studies.steps_to_target.sections import SEARCHES, searches

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

NAME = "Pareto fronts"
PREFIX = "pareto_"  # of files about the searches, which steps_to_target has too
OWN = ("pareto", "pareto_critical_batch")
FIGURES = (*OWN, *(PREFIX + name for name in SEARCHES))


def sections(studies: Sequence[Study]) -> list[Section]:
    """The page from top to bottom."""
    return [_trade_off(studies), _critical_batch(studies), *searches(studies, PREFIX)]


def _trade_off(studies):
    caption = (
        "What each goal takes: the fewest steps of all trials at each batch size, which stands at "
        "the points of the hardest goal. Curves: (S / S_min − 1)(E / E_min − 1) = 1, fitted goal "
        "by goal. Upper left: small batches, few examples and many steps; lower right: the other "
        "way round. At the bend both are twice their minimum and the batch is B_crit."
    )
    shown = picture(OWN[0], caption, charts.trade_off(studies), "no batch size reached a goal")
    several = len(studies) > 1
    rows = [
        [study.label] * several + _row(study, front) for study in studies for front in fronts(study)
    ]
    header = ["study"] * several + ["goal", "batch sizes that reached it", "S_min, steps"]
    header += ["E_min, examples", "B_crit (95%)", "B_simple there", "B_simple / B_crit"]
    notes = [
        Note(f"{study_label(study, studies) or 'No curve is fitted'}: {front.reason}")
        for study in studies
        for front in fronts(study)[-1:]
        if front.reason
    ]
    return Section("Steps against examples", [shown, Table(header, rows), *notes])


def _row(study: Study, front: Front) -> list[str]:
    row = [metric_value(study.metric, front.goal), count(len(front.batches))]
    if front.fit is None:
        row += [NOTHING] * 3
    else:
        low, high = front.fit.b_crit_interval
        row += [number(front.fit.s_min), number(front.fit.e_min)]
        row.append(f"{number(front.fit.b_crit)} ({number(low)} to {number(high)})")
    return [*row, number(front.noise_scale), number(front.ratio)]


def _critical_batch(studies):
    caption = (
        "The critical batch size of each goal, from the fits, and the noise scale B_simple of the "
        "best trial run again with its gradients' noise measured, at the training loss it has "
        "there. Faint: at other batch sizes. Both should rise together as the loss falls; they "
        f"need not be equal, and {AGREEMENT}."
    )
    panels = charts.critical_batch(studies)
    shown = picture(OWN[1], caption, panels, "there is neither a fit nor a resolved noise scale")
    header = ["", "B_crit, start", "B_crit, average", "B_simple, start", "B_simple, average"]
    header += ["ratio of averages", "B_simple of batch"]
    rows = []
    for study in studies:
        found, run = summary(study), tracked_run(study)
        values = (found.critical_start, found.critical_average, found.noise_start)
        row = [study.label, *map(number, values), number(found.noise_average)]
        rows.append([*row, number(found.ratio), count(run.global_batch) if run else NOTHING])
    note = (
        "The form of the paper's Table 1. B_crit at the start is that of the easiest goal, its "
        "average the mean over goals. B_simple at the start is the first window's, its average "
        "that over the run; the run is the one whose batch is nearest to B_crit."
    )
    return Section("Critical batch and noise scale", [shown, Table(header, rows), Note(note)])


def tables(studies: Sequence[Study]) -> dict[str, str]:
    """File name -> CSV: goals, windows of the tracked runs, and the searches' own tables."""
    goals = [
        {"study": study.label, "workdir": str(study.workdir)} | _numbers(front)
        for study in studies
        for front in fronts(study)
    ]
    crossings = [
        head(study, point) | {"global_batch": point.global_batch} | vars(crossing)
        for study in studies
        for point in study.points
        for crossing in point.goals
    ]
    windows = [
        head(study, point) | {"global_batch": point.global_batch} | vars(window)
        for study in studies
        for point in study.points
        for window in (point.tracked.windows if point.tracked else [])
    ]
    own = {
        "pareto_goals.csv": to_csv(goals),
        "pareto_crossings.csv": to_csv(crossings),
        "pareto_windows.csv": to_csv(windows),
    }
    searched = steps_to_target.tables(studies)
    return own | {PREFIX + name: table for name, table in searched.items()}


def _numbers(front: Front) -> dict:
    row = {"goal": front.goal, "batch_sizes": len(front.batches)}
    row |= {"noise_scale": front.noise_scale, "ratio": front.ratio, "reason": front.reason}
    if front.fit:
        for name in ("s_min", "e_min", "b_crit"):
            low, high = getattr(front.fit, f"{name}_interval")
            row |= {name: getattr(front.fit, name), f"{name}_low": low, f"{name}_high": high}
    return row
