"""The figures."""

import math
from collections.abc import Sequence

from scaling.report.charts import (
    COLORS,
    GREY,
    MARKERS,
    Axis,
    Line,
    Mark,
    Panel,
    Points,
    Rule,
    Span,
    batches,
    shown,
    style_of,
)
from scaling.report.wording import count, number
from scaling.studies.noise_records import estimate_text, exact_marks, window_marks
from scaling.studies.noise_scale.analysis import Point, Study, levels, rise

NOISE_SCALE = Axis("noise scale B_simple (examples)")
STEPS = Axis("optimizer step")
LOSS = Axis("training loss, falling to the right", reverse=True)
SHADE = "#f3e3c3"


def over_steps(studies: Sequence[Study]) -> list[Panel]:
    """B_simple along the base run."""
    marks, noises, colors = [], [], []
    for index, study in enumerate(studies):
        if not study.measured:
            continue
        (color, marker), point = style_of(index), study.measured[0]
        label = study.label or "B_simple over a window of steps, 95% interval"
        batch = ", ".join(filter(None, ["batch size trained with", study.label]))
        marks.append(Rule(color if study.label else GREY, batch, y=point.global_batch))
        name = study.label or point.name
        middle = lambda window: window.middle
        marks += window_marks(point.noise_scale, middle, color, label, name, marker)
        noises.append(point.noise_scale)
        colors.append(color)
    return shown([Panel(STEPS, NOISE_SCALE, marks + exact_marks(noises, colors))])


def over_loss(studies: Sequence[Study]) -> list[Panel]:
    """B_simple against the training loss, of the base run and of other models."""
    marks = []
    place_of = lambda window: window.loss if window.loss and window.loss > 0 else None
    for index, study in enumerate(studies):
        points = study.variants("model") or study.measured[:1]
        for place, point in enumerate(point for point in points if point in study.measured):
            color, marker = style_of(place)
            if len(studies) > 1:  # colours for studies, markers for their runs
                color, marker = style_of(index)[0], MARKERS[place % len(MARKERS)]
            parts = [study.label, point.name, f"{count(point.parameters)} parameters"]
            name = ", ".join(filter(None, parts))
            marks += window_marks(point.noise_scale, place_of, color, name, name, marker)
    return shown([Panel(LOSS, NOISE_SCALE, marks)])


def over_variants(studies: Sequence[Study]) -> list[Panel]:
    """One number per run, against the learning rate and against the batch size."""
    average = "B_simple, average over training (examples)"
    panels = []
    for kind, of, exponent, axis, guide in (
        ("rate", "learning_rate", -1, Axis("learning rate"), "proportional to 1 / learning rate"),
        ("batch", "global_batch", 0, batches(), "independent of the batch size"),
    ):
        marks = []
        for index, study in enumerate(studies):
            points = study.variants(kind)
            if any(point.kind == kind for point in points):
                color, marker = style_of(index)
                marks += _guide(points, of, exponent, color, guide)
                marks.append(_levels(points, of, color, marker, study.label))
        panels.append(Panel(axis, Axis(average), marks))
    return shown(panels)


def _guide(points, of, exponent, color, label) -> list[Line]:
    """The expected power law through the geometric middle of the points."""
    x, y = levels(points, of)
    if len(x) < 2:
        return []
    log_mean = lambda values: sum(map(math.log, values)) / len(values)
    level = math.exp(log_mean(y) - exponent * log_mean(x))
    ends = [x[0], x[-1]]
    return [Line(ends, [level * x**exponent for x in ends], color, label, "dash", 1, guide=True)]


def _levels(points, of, color, marker, label) -> Points:
    points = [point for point in points if point.level]
    return Points(
        [getattr(point, of) for point in points],
        [point.level.noise_scale for point in points],
        color,
        label or "one run, 95% interval",
        marker,
        6,
        low=[point.level.low for point in points],
        high=[point.level.high for point in points],
        texts=[f"{p.name}\nB_simple {estimate_text(p.level)} on average" for p in points],
    )


def temperature(studies: Sequence[Study]) -> list[Panel]:
    """One panel per temperature test, beside the base run."""
    return shown(
        Panel(STEPS, NOISE_SCALE, _temperature(study, point), study.label)
        for study in studies
        for point in study.measured
        if point.dip
    )


def _temperature(study: Study, point: Point) -> list[Mark]:
    dip, found = point.dip, rise(study, point)
    marks = [Span(dip.first_step, dip.last_step, SHADE, f"learning rate / {number(dip.factor)}")]
    if found and found.outside.noise_scale:
        ends, level = [dip.first_step, dip.last_step], found.outside.noise_scale * dip.factor
        label = f"expected: {number(dip.factor)} times {found.against}"
        marks.append(Line(ends, [level] * 2, "#000000", label, "dash", 1.4))
    runs = [(point, COLORS[1], "run with the cut", "s")]
    if study.has_base and study.base in study.measured and study.base is not point:
        runs.insert(0, (study.base, COLORS[0], "base run", "o"))
    for run, color, label, marker in runs:
        middle = lambda window: window.middle
        marks += window_marks(run.noise_scale, middle, color, label, run.name, marker)
    if found:
        inside, color = found.inside, COLORS[3]
        x = [math.sqrt(dip.first_step * dip.last_step)]
        look = {"texts": [f"inside the cut: B_simple {estimate_text(inside)}"]}
        if inside.noise_scale:
            look |= {"low": [inside.low], "high": [inside.high]}
            label = "all updates inside the cut, 95% interval"
            marks.append(Points(x, [inside.noise_scale], color, label, "D", 7, **look))
        elif inside.low:
            label = "inside the cut not resolved: at least this"
            marks.append(Points(x, [inside.low], color, label, "^", 8, hollow=True, **look))
    return marks
