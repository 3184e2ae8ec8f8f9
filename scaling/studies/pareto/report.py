"""Steps against examples for several goals: McCandlish et al. 2018, Figures 7 and 14, Table 1."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from scaling.report.blocks import Note, Picture, Section
from scaling.report.charts import (
    COLORS,
    Axis,
    Line,
    Mark,
    Panel,
    Points,
    of_metric,
    shades,
    shown,
    style_of,
)
from scaling.report.kind import Kind, about_all
from scaling.report.tables import Column, Table, csv_only, of_points, within
from scaling.report.wording import (
    batch_label,
    count,
    goal_text,
    listed,
    metric_value,
    number,
    subject,
    times,
)
from scaling.studies.noise_records import COUPLED, window_marks
from scaling.studies.pareto.fronts import Front, Study, read
from scaling.studies.steps_to_target import report as steps_to_target
from scaling.studies.steps_to_target.report import fitted

GOALS_FILE = "pareto_goals.csv"
PREFIX = "pareto_"  # of files about the searches, which steps_to_target has too
AGREEMENT = "the paper's own agreement is 2 to 8 times"
UNKNOWN_NOISE = (
    (
        "B_simple is not known: not resolved in any window, or not measured, as in a batch of one "
        "and above the training set.",
        lambda p: not (p.tracked and p.tracked.resolved),
    ),
    (COUPLED, lambda p: p.tracked and p.tracked.coupled),
)


def _goals(studies: Sequence[Study]) -> list[float]:
    """Of all studies, the easiest first."""
    higher = studies[0].measure.better == "higher"
    return sorted({front.goal for study in studies for front in study.fronts}, reverse=not higher)


def _goal(study: Study, front: Front) -> str:
    return goal_text(study.measure, front.goal, study.split)


def answer(study: Study) -> str:
    """The critical batch size that the noise scale predicts, over the one that was measured."""
    if study.known:
        ends = [f"{number(f.critical_batch)} at {_goal(study, f)}" for f in study.known]
        text = (
            f"steps to target give a critical batch size of {number(study.critical_average)} on "
            f"average over goals ({' to '.join(dict.fromkeys([ends[0], ends[-1]]))})."
        )
    else:
        reasons = [front.reason for front in study.fronts if front.reason]
        why = reasons[0] if reasons else "No goal's curve bends within what is measured."
        text = f"no critical batch size is measured. {why}"
    if not study.noise_average:
        return f"{subject(study)}, {text} No noise scale is resolved."
    over = f", {times(study.ratio)} as large; {AGREEMENT}" if study.ratio else ""
    average = number(study.noise_average)
    return (
        f"{subject(study)}, {text} The noise scale B_simple is {average} on average over "
        f"training{over}."
    )


def cautions(study: Study) -> list[str]:
    """Those of the searches, and what is not known of the curves and the noise."""
    doubted = [_goal(study, front) for front in study.fronts if front.fit and front.fit.doubts]
    against = (
        f"{listed(doubted)}: the steps do not follow a hyperbola, so B_crit and its interval are "
        f"of a curve that does not fit; what speaks against it is in tables/{GOALS_FILE}."
    )
    return [
        *steps_to_target.cautions(study),
        *[against] * bool(doubted),
        *about_all([point for point in study.points if point.reached], *UNKNOWN_NOISE),
    ]


def trade_off(studies: Sequence[Study]) -> list[Panel]:
    """Steps against examples, one curve per goal; one panel per study."""
    goals = _goals(studies)
    colors = dict(zip(goals, shades(len(goals)), strict=True))
    steps = Axis("optimizer steps")
    return shown(
        Panel(Axis(f"{s.called} processed"), steps, _curves(s, colors), s.label) for s in studies
    )


def _curves(study, colors) -> list[Mark]:
    """The batch sizes are named along the hardest goal that was reached."""
    marks, fronts = [], [front for front in study.fronts if front.batches]
    for front in fronts:
        goal, color = _goal(study, front), colors[front.goal]
        if front.fit:
            batch = np.geomspace(min(front.batches), max(front.batches), 60)
            steps = front.fit.hyperbola.steps(batch)  # eq. 2.11
            marks.append(Line(batch * steps, steps, color, guide=True, series=goal))
        named = map(batch_label, front.batches if front is fronts[-1] else ())
        pairs = list(zip(front.batches, front.steps, strict=True))
        examples = [batch * steps for batch, steps in pairs]
        texts = [f"batch {count(batch)}\n{goal}\n{count(steps)} steps" for batch, steps in pairs]
        look = {"names": list(named), "texts": texts}
        marks.append(Points(examples, front.steps, color, goal, **look))
    return marks


def critical_batch(studies: Sequence[Study]) -> list[Panel]:
    """B_crit by goal and B_simple by training loss, the paper's Figure 14 at the right."""
    first, several = studies[0], len(studies) > 1
    falling = first.measure.better == "lower"
    title = f"{first.measure_text}, {'falling' if falling else 'rising'} to the right"
    x_axis = of_metric(first.measure, title, reverse=falling)
    # One colour for B_crit and one for B_simple where a study is alone, else one for each study.
    colors = [(style_of(i)[0],) * 2 if several else COLORS[:2] for i, _ in enumerate(studies)]
    pairs = list(zip(studies, colors, strict=True))
    marks = [mark for study, (_, color) in pairs for mark in _noise(study, color)]
    marks += [mark for study, (color, _) in pairs for mark in _critical(study, color)]
    return shown([Panel(x_axis, Axis(f"batch size ({first.rows})"), marks)])


def _noise(study, color) -> list[Mark]:
    """B_simple: of the run that represents the study; behind it the others, faint."""
    marks, run = [], study.run
    for point in sorted((p for p in study.points if p.tracked), key=lambda p: p is run):
        name = study.named(f"B_simple at batch {count(point.global_batch)}")
        label = name if point is run else study.named("B_simple at other batch sizes")
        look = {"faint": point is not run}
        marks += window_marks(point.tracked, study.place, color, label, name, **look)
    if study.metric != "loss" and run:  # windows have no error to be placed by
        x = [front.goal for front in study.fronts if study.noise_at(front.goal)]
        marks.append(Points(x, [study.noise_at(goal) for goal in x], color, name))
    return marks


def _critical(study, color) -> list[Mark]:
    b_crit = fitted("", "b_crit")
    x, y = [front.goal for front in study.known], [front.critical_batch for front in study.known]
    ends = [front.fit.b_crit_interval for front in study.known]
    label = study.named("B_crit of a goal, 95% interval")
    texts = [f"B_crit {b_crit.cell((study, f, f.fit))}\n{_goal(study, f)}" for f in study.known]
    look = {"low": [low for low, _ in ends], "high": [high for _, high in ends], "texts": texts}
    return [Points(x, y, color, label, "D", 7, **look)]


GOALS = [
    Column("goal", lambda study, f, _: metric_value(study.measure, f.goal), str),
    Column("batch sizes that reached it", lambda study, f, _: len(f.batches), count, "batch_sizes"),
    *csv_only(1, "goal", "reason"),
    Column("", lambda study, f, _: f.fit and " ".join(f.fit.doubts), key="doubts"),
    fitted("S_min, steps", "s_min"),
    fitted("E_min", "e_min"),
    fitted("B_crit", "b_crit"),
    Column("B_simple there", lambda study, f, _: study.noise_at(f.goal), key="noise_scale"),
    Column("B_simple / B_crit", lambda study, f, _: study.ratio_at(f), key="ratio"),
]
TABLE_1 = [
    Column("B_crit, start", "critical_start"),
    Column("B_crit, average", "critical_average"),
    Column("B_simple, start", "noise_start"),
    Column("B_simple, average", "noise_average"),
    Column("ratio of averages", "ratio"),
    Column("B_simple of batch", lambda study, _: study.run and study.run.global_batch, count),
]
BATCH = Column("batch", lambda study, point, *_: point.global_batch, count, "global_batch")
CROSSING = [BATCH, *csv_only(2, "goal", "steps", "before", "examples")]
WINDOW = [BATCH, Column("", lambda study, point, window: window, key="window")]


def table(studies: Sequence[Study]) -> Table:
    """A row per batch size: the steps to each goal."""
    value = partial(metric_value, studies[0].measure)
    steps = lambda goal: lambda study, point: point.crossing(goal).steps
    at = [Column(f"steps to {value(goal)}", steps(goal), count) for goal in _goals(studies)]
    average = lambda study, point: point.tracked and point.tracked.level.noise_scale
    return Table([BATCH, *at, Column("B_simple", average)], of_points(studies))


def sections(studies: Sequence[Study]) -> Iterator[Section]:
    """The page from top to bottom."""
    caption = (
        "What each goal takes: the fewest steps of all trials at each batch size, which stands at "
        "the points of the hardest goal. Curves: (S / S_min − 1)(E / E_min − 1) = 1, fitted goal "
        "by goal; at the bend both are twice their minimum and the batch is B_crit."
    )
    goals = [(study, front, front.fit) for study in studies for front in study.fronts]
    crossings = within(studies, lambda point: point.goals)
    yield Section(
        f"Steps against {studies[0].called}",
        [
            Picture("pareto", caption, trade_off(studies), "no batch size reached a goal"),
            Table(GOALS, goals, GOALS_FILE),
            *(Note(s.noted(f.reason)) for s, f, _ in goals if f.reason),
            table(studies),
            Table(CROSSING, crossings, "pareto_crossings.csv", shown=False),
        ],
    )
    caption = (
        "The critical batch size of each goal, from the fits, and the noise scale B_simple of the "
        "best trial run again with its gradients' noise measured, at the training loss it has "
        "there. Faint: at other batch sizes. Both should rise together as the loss falls; they "
        f"need not be equal, and {AGREEMENT}."
    )
    nothing = "there is neither a fit nor a resolved noise scale"
    note = (
        "The form of the paper's Table 1. B_crit at the start is that of the easiest goal, its "
        "average the mean over goals. B_simple at the start is the first window's, its average "
        "that over the run; the run is the one whose batch is nearest to B_crit."
    )
    windows = within(studies, lambda point: point.tracked.windows if point.tracked else [])
    yield Section(
        "Critical batch and noise scale",
        [
            Picture("pareto_critical_batch", caption, critical_batch(studies), nothing),
            Table(TABLE_1, [(study, study) for study in studies]),
            Note(note),
            Table(WINDOW, windows, "pareto_windows.csv", shown=False),
        ],
    )
    yield from steps_to_target.searches(studies, PREFIX)


SEARCH = steps_to_target.KIND
KIND = Kind("Pareto fronts", read, answer, table, sections, cautions, SEARCH.details, SEARCH.shared)
