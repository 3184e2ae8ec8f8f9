"""The figures, each described once for paper and screen."""

from collections.abc import Sequence

from scaling.report.charts import Axis, Line, Mark, Panel, Points, shown
from scaling.report.drawing import COLORS, shades, style_of
from scaling.report.plots import plain
from scaling.report.wording import (
    batch_label,
    count,
    decimal_label,
    goal_text,
    measure_text,
    metric_value,
    number,
    study_label,
)
from scaling.studies.noise_records import window_marks
from scaling.studies.pareto.records import Front, Study, fronts, hyperbola, place, tracked_run

EXAMPLES = Axis("examples processed", tick=decimal_label)
STEPS = Axis("optimizer steps", tick=decimal_label)


def trade_off(studies: Sequence[Study]) -> list[Panel]:
    """Steps against examples, one curve per goal; one panel per study."""
    goals = sorted({goal for study in studies for goal in study.goals}, reverse=True)
    colors = dict(zip(goals, shades(len(goals)), strict=True))
    return shown(
        Panel(EXAMPLES, STEPS, _fronts(study, colors), study_label(study, studies))
        for study in studies
    )


def _fronts(study, colors) -> list[Mark]:
    """The batch sizes are named along the hardest goal that was reached."""
    drawn = [front for front in fronts(study) if front.batches]
    marks = []
    for front in drawn:
        if front.fit:
            ends = min(front.batches), max(front.batches)
            marks.append(Line(*hyperbola(front.fit, *ends), colors[front.goal], guide=True))
    for front in drawn:
        label = goal_text(study.metric, front.goal, study.split)
        named = [batch_label(batch) for batch in front.batches] if front is drawn[-1] else []
        marks.append(
            Points(
                front.examples,
                front.steps,
                colors[front.goal],
                label,
                names=named,
                texts=[_told(study, front, i) for i in range(len(front.batches))],
            )
        )
    return marks


def _told(study, front: Front, index: int) -> str:
    lines = [
        f"<b>batch {count(front.batches[index])}</b>",
        plain(goal_text(study.metric, front.goal, study.split)),
        f"{count(front.steps[index])} steps, {count(front.examples[index])} examples",
    ]
    return "<br>".join(lines)


def critical_batch(studies: Sequence[Study]) -> list[Panel]:
    """B_crit by goal and B_simple by training loss, the paper's Figure 14 at the right."""
    first = studies[0]
    measure = measure_text(first.metric, first.split)
    tick = lambda value: metric_value(first.metric, value)
    x_axis = Axis(f"{measure}, falling to the right", tick=tick, reverse=True)
    marks = [mark for i, study in enumerate(studies) for mark in _noise(study, i, studies)]
    marks += [mark for i, study in enumerate(studies) for mark in _critical(study, i, studies)]
    return shown([Panel(x_axis, Axis("batch size (examples)", tick=decimal_label), marks)])


def _noise(study, index, studies) -> list[Mark]:
    """B_simple: of the run that stands for the study, before it the others, faint."""
    run = tracked_run(study)
    if run is None:
        return []
    color, marker = _colors(index, studies)[1], "o"
    prefix = study_label(study, studies)
    where = lambda window: place(study, window)
    marks = []
    for point in (*(p for p in study.points if p is not run and p.tracked), run):
        name = _name(prefix, f"B_simple at batch {count(point.global_batch)}")
        label = name if point is run else _name(prefix, "B_simple at other batch sizes")
        faint = point is not run
        marks += window_marks(point.tracked, where, color, label, name, marker, faint=faint)
    if study.metric != "loss":  # windows have no error to be placed by
        found = [front for front in fronts(study) if front.noise_scale]
        x, y = [front.goal for front in found], [front.noise_scale for front in found]
        label = _name(prefix, f"B_simple at batch {count(run.global_batch)}")
        marks.append(Points(x, y, color, label, marker))
    return marks


def _critical(study, index, studies) -> list[Mark]:
    found = [front for front in fronts(study) if front.critical_batch]
    intervals = [front.fit.b_crit_interval for front in found]
    color = _colors(index, studies)[0]
    texts = [
        "<br>".join(
            [
                f"<b>{plain(f'B_crit {number(front.critical_batch)}')}</b>",
                f"95% interval {number(low)} to {number(high)}",
                plain(goal_text(study.metric, front.goal, study.split)),
            ]
        )
        for front, (low, high) in zip(found, intervals, strict=True)
    ]
    points = Points(
        [front.goal for front in found],
        [front.critical_batch for front in found],
        color,
        _name(study_label(study, studies), "B_crit of a goal, 95% interval"),
        "D",
        7,
        low=[low for low, _ in intervals],
        high=[high for _, high in intervals],
        texts=texts,
    )
    return [points]


def _colors(index, studies):
    """Of B_crit and of B_simple: two where a study is alone, else one for each study."""
    return (style_of(index)[0],) * 2 if len(studies) > 1 else COLORS[:2]


def _name(*parts: str) -> str:
    return ", ".join(filter(None, parts))
