"""The figures."""

import math
from collections.abc import Sequence
from operator import attrgetter

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
    of_metric,
    shown,
    style_of,
)
from scaling.report.wording import count, decimal_label, number
from scaling.studies.noise_records import Noise, estimate_marks, estimate_text, window_marks
from scaling.studies.noise_scale.analysis import Point, Study, levels, rise

STEPS = Axis("optimizer step")
MIDDLE = attrgetter("middle")  # of a window
# Key of an exact value -> marker and label.
EXACT = {
    "noise_scale": ("D", "B_simple from every example's gradient"),
    "hessian_noise_scale": ("P", "B_noise, which weighs it by the Hessian"),
}


def _noise_scale(studies: Sequence[Study]) -> Axis:
    return Axis(f"noise scale B_simple ({studies[0].rows})")


def over_steps(studies: Sequence[Study]) -> list[Panel]:
    """B_simple along the base run."""
    marks = []
    for index, study in enumerate(studies):
        for point in study.measured[:1]:
            color, marker = style_of(index)
            batch = study.named("batch size trained with")
            marks.append(Rule(color if study.label else GREY, batch, y=point.global_batch))
            label = study.label or "B_simple over a window of steps, 95% interval"
            name = study.label or point.name
            marks += window_marks(point.noise_scale, MIDDLE, color, label, name, marker)
            marks += _exact(point.noise_scale, color)
    return shown([Panel(STEPS, _noise_scale(studies), marks)])


def _exact(noise: Noise, color: str) -> list[Points]:
    """Before the first step, drawn at 1 on the axis of logs, and after the last."""
    marks = []
    for key, (marker, label) in EXACT.items():
        steps = (("start", 1), ("end", noise.windows[-1].last_step))
        values = {step: getattr(noise.exactly(when), key, None) for when, step in steps}
        x, y = [s for s, v in values.items() if v], [v for v in values.values() if v]
        texts = [f"{label}: {number(value)}" for value in y]
        marks += [Points(x, y, color, label, marker, 7, hollow=True, texts=texts)] * bool(x)
    return marks


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
            name = study.named(point.name, f"{count(point.parameters)} parameters")
            marks += window_marks(point.noise_scale, place_of, color, name, name, marker)
    title = "training loss, falling to the right"
    loss = of_metric(studies[0].loss, title, tick=decimal_label, reverse=True)
    return shown([Panel(loss, _noise_scale(studies), marks)])


def over_variants(studies: Sequence[Study]) -> list[Panel]:
    """One number per run, against the learning rate and against the batch size."""
    rows = studies[0].rows
    average = f"B_simple, average over training ({rows})"
    panels = []
    for kind, of, exponent, axis, guide in (
        ("rate", "learning_rate", -1, Axis("learning rate"), "proportional to 1 / learning rate"),
        ("batch", "global_batch", 0, batches(rows), "independent of the batch size"),
    ):
        marks = []
        for index, study in enumerate(studies):
            points = [point for point in study.variants(kind) if point.level]
            if any(point.kind == kind for point in points):
                color, marker = style_of(index)
                marks += _guide(points, of, exponent, color, guide)
                texts = [f"{p.name}\nB_simple {estimate_text(p.level)} on average" for p in points]
                x, values = [getattr(p, of) for p in points], [p.level for p in points]
                label = study.label or "one run, 95% interval"
                marks += estimate_marks(x, values, texts, color, label, marker, 6)
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


def temperature(studies: Sequence[Study]) -> list[Panel]:
    """One panel per temperature test, beside the base run."""
    return shown(
        Panel(STEPS, _noise_scale(studies), _temperature(study, point), study.label)
        for study in studies
        for point in study.measured
        if point.dip
    )


def _temperature(study: Study, point: Point) -> list[Mark]:
    dip, change = point.dip, rise(study, point)
    ends = [dip.first_step, dip.last_step]
    marks = [Span(*ends, "#f3e3c3", f"learning rate / {number(dip.factor)}")]
    if change and change.outside.noise_scale:
        level = change.outside.noise_scale * dip.factor
        label = f"expected: {number(dip.factor)} times {change.against}"
        marks.append(Line(ends, [level] * 2, "#000000", label, "dash", 1.4))
    base = [study.base] if study.has_base and study.base in study.measured else []
    styles = {study.base: (COLORS[0], "base run", "o"), point: (COLORS[1], "run with the cut", "s")}
    for run in dict.fromkeys([*base, point]):
        color, label, marker = styles[run]
        marks += window_marks(run.noise_scale, MIDDLE, color, label, run.name, marker)
    if change:
        texts = [f"inside the cut: B_simple {estimate_text(change.inside)}"]
        style = COLORS[3], "all updates inside the cut, 95% interval", "D", 7
        marks += estimate_marks([math.sqrt(math.prod(ends))], [change.inside], texts, *style)
    return marks
