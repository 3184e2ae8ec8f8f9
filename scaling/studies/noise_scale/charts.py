"""The figures, each described once for paper and screen."""

import math
from collections.abc import Sequence

from scaling.report.charts import Axis, Line, Mark, Panel, Points, Rule, Span, batches, shown
from scaling.report.drawing import BATCH, COLORS, GREY, MARKERS, style_of
from scaling.report.plots import plain
from scaling.report.wording import count, decimal_label, number, study_label
from scaling.studies.noise_records import Estimate, estimate_text, exact_marks, window_marks
from scaling.studies.noise_scale.records import Dip, Point, Study, levels, rise

NOISE_SCALE = Axis("noise scale B_simple (examples)", tick=decimal_label)
STEPS = Axis("optimizer step", tick=decimal_label)
LOSS = Axis("training loss, falling to the right", tick=decimal_label, reverse=True)
SHADE = "#f3e3c3"


def over_steps(studies: Sequence[Study]) -> list[Panel]:
    """B_simple along the base run."""
    marks, noises, colors = [], [], []
    for index, study in enumerate(studies):
        if not study.measured:
            continue
        color, marker = style_of(index)
        point = study.measured[0]
        label = study_label(study, studies)
        batch = f"batch size trained with{label and ', ' + label}"
        marks.append(Rule(color if label else GREY, batch, y=point.global_batch))
        marks += window_marks(
            point.noise,
            lambda window: window.middle,
            color,
            label or "B_simple over a window of steps, 95% interval",
            label or point.name,
            marker,
        )
        noises.append(point.noise)
        colors.append(color)
    return shown([Panel(STEPS, NOISE_SCALE, marks + exact_marks(noises, colors))])


def over_loss(studies: Sequence[Study]) -> list[Panel]:
    """B_simple against the training loss, of the base run and of other models."""
    marks = []
    for index, study in enumerate(studies):
        label = study_label(study, studies)
        for place, point in enumerate(_with_noise(study.variants("model"), study)):
            color, marker = _look(index, place, len(studies))
            name = ", ".join(filter(None, [label, _model_name(point)]))
            marks += window_marks(
                point.noise,
                lambda window: window.loss if window.loss and window.loss > 0 else None,
                color,
                name,
                name,
                marker,
            )
    return shown([Panel(LOSS, NOISE_SCALE, marks)])


def _with_noise(points, study):
    """Those with noise to show; a study of neither base nor models shows its first."""
    return [point for point in points or study.measured[:1] if point in study.measured]


def _look(index, place, studies):
    """Colours for studies where there are several, and markers for their runs; else colours."""
    if studies > 1:
        return style_of(index)[0], MARKERS[place % len(MARKERS)]
    return style_of(place)


def _model_name(point: Point) -> str:
    """The run and the size of its model."""
    return f"{point.name}, {count(point.parameters)} parameters"


def over_variants(studies: Sequence[Study]) -> list[Panel]:
    """One number per run, against the learning rate and against the batch size."""
    rate, batch = [], []
    for index, study in enumerate(studies):
        color, marker = style_of(index)
        label = study_label(study, studies)
        rates, sizes = study.variants("rate"), study.variants("batch")
        if any(point.kind == "rate" for point in rates):
            rate += _guide(rates, "learning_rate", -1, color, "proportional to 1 / learning rate")
            rate += _levels(rates, "learning_rate", color, marker, label)
        if any(point.kind == "batch" for point in sizes):
            batch += _guide(sizes, "global_batch", 0, color, "independent of the batch size")
            batch += _levels(sizes, "global_batch", color, marker, label)
    average = Axis("B_simple, average over training (examples)", tick=decimal_label)
    panels = [Panel(Axis("learning rate"), average, rate), Panel(batches(BATCH), average, batch)]
    return shown(panels)


def _guide(points, of, exponent, color, label) -> list[Line]:
    """The expected power law through the geometric middle of the points."""
    x, y = levels(points, of)
    if len(x) < 2:
        return []
    log_mean = lambda values: sum(map(math.log, values)) / len(values)
    level = log_mean(y) - exponent * log_mean(x)
    ends = [x[0], x[-1]]
    heights = [math.exp(level) * end**exponent for end in ends]
    return [Line(ends, heights, color, label, "dash", 1, guide=True)]


def _levels(points, of, color, marker, label) -> list[Points]:
    found = [point for point in points if point.level]
    x, y = [getattr(p, of) for p in found], [p.level for p in found]
    low, high = ([p.level_interval[i] for p in found] for i in (0, 1))
    texts = [
        "<br>".join([f"<b>{plain(p.name)}</b>", plain(f"B_simple {number(p.level)} on average")])
        for p in found
    ]
    label = label or "one run, 95% interval"
    return [Points(x, y, color, label, marker, 6, low=low, high=high, texts=texts)]


def temperature(studies: Sequence[Study]) -> list[Panel]:
    """One panel per temperature test, beside the base run."""
    panels = []
    for study in studies:
        for point in study.measured:
            if point.dip is not None:
                title = study_label(study, studies)
                panels.append(Panel(STEPS, NOISE_SCALE, _temperature(study, point), title))
    return shown(panels)


def _temperature(study: Study, point: Point) -> list[Mark]:
    dip = point.dip
    middle = lambda window: window.middle
    cut = f"learning rate divided by {number(dip.factor)}"
    marks = [Span(dip.first_step, dip.last_step, SHADE, cut)]
    found = rise(study, point)
    if found and found.outside.noise_scale:
        ends, level = [dip.first_step, dip.last_step], found.outside.noise_scale * dip.factor
        label = f"expected: {number(dip.factor)} times {found.against}"
        marks.append(Line(ends, [level] * 2, "#000000", label, "dash", 1.4))
    if study.has_base and study.base in study.measured:
        base = study.base
        marks += window_marks(base.noise, middle, COLORS[0], "base run", base.name)
    name = "run with the cut"
    marks += window_marks(point.noise, middle, COLORS[1], name, point.name, "s")
    return marks + (_inside(found.inside, dip) if found else [])


def _inside(estimate: Estimate, dip: Dip) -> list[Points]:
    """B_simple of the updates in the cut alone; a lower bound where it is not resolved."""
    x, color = [math.sqrt(dip.first_step * dip.last_step)], COLORS[3]
    texts = [plain(f"inside the cut: B_simple {estimate_text(estimate)}")]
    if estimate.noise_scale:
        ends = {"low": [estimate.low], "high": [estimate.high]}
        label = "all updates inside the cut, 95% interval"
        return [Points(x, [estimate.noise_scale], color, label, "D", 7, texts=texts, **ends)]
    label = "inside the cut not resolved: at least this"
    bound = Points(x, [estimate.low], color, label, "^", 8, hollow=True, texts=texts)
    return [bound] if estimate.low else []
