"""The figures, each described once for paper and screen."""

from collections.abc import Sequence

from scaling.report.charts import Axis, Line, Panel, Points, batches, shown
from scaling.report.drawing import COLORS, shades
from scaling.report.kinds.adaptive_batch.records import Point, Study, along, bends, fit_of
from scaling.report.plots import plain
from scaling.report.wording import batch_label, count, decimal_label, number, study_label

FIXED, ADAPTIVE, PREDICTED = COLORS[0], COLORS[1], COLORS[2]
MARGIN = 1.5  # the curves go on beyond the measured batch sizes by this
PANELS = 4
MANY = 40  # measurements of the noise scale in one run


def trade_off(studies: Sequence[Study]) -> list[Panel]:
    """Steps against examples to the last goal; one panel per study."""
    return shown(_trade_off(study, study_label(study, studies)) for study in studies)


def _trade_off(study: Study, title: str) -> Panel:
    marks = []
    fixed = [point for point in study.of_kind("fixed") if point.ends]
    adaptive = [point for point in study.of_kind("adaptive") if point.ends]
    fit, _ = fit_of(study)
    if bends(fit):
        ends = fixed[0].global_batch / MARGIN, fixed[-1].global_batch * MARGIN
        label = "fit of the fixed batch sizes"
        marks.append(Line(*along(fit, 1.0, *ends), FIXED, label, guide=True))
        if study.gamma is not None:
            label = f"predicted for an adaptive one, gamma = {number(study.gamma)}"
            curve = along(fit, study.gamma, *ends)
            marks.append(Line(*curve, PREDICTED, label, "dash", guide=True))
    for points, color, marker, label in (
        (fixed, FIXED, "o", "fixed batch size, median of seeds (small: each)"),
        (adaptive, ADAPTIVE, "D", "adaptive batch, one mark per r (small: seeds)"),
    ):
        ends = [end for point in points for end in point.ends]
        x, y = [end.examples for end in ends], [end.steps for end in ends]
        marks.append(Points(x, y, color, marker=marker, size=3, faint=True))
        marks.append(
            Points(
                [point.examples for point in points],
                [point.steps for point in points],
                color,
                label,
                marker,
                6,
                names=[_name(point) for point in points],
                names_at="below" if points is adaptive else "above",
                texts=[_told(point) for point in points],
            )
        )
    x_axis = Axis("examples processed", tick=decimal_label)
    return Panel(x_axis, Axis("optimizer steps", tick=decimal_label), marks, title)


def _name(point: Point) -> str:
    if point.kind == "fixed":
        return batch_label(point.global_batch)
    return f"r = {number(point.r)}"


def _told(point: Point) -> str:
    lines = [
        f"<b>{plain(point.directory.name)}</b>",
        f"{number(point.steps)} steps, {number(point.examples)} examples",
        f"{count(len(point.ends))} of {count(len(point.runs))} seeds",
    ]
    return "<br>".join(lines)


def schedules(studies: Sequence[Study]) -> list[Panel]:
    """The batch over the steps, with the noise scale that it follows; one panel per r."""
    pairs = [(study, point) for study in studies for point in study.of_kind("adaptive")]
    panels = shown(_schedule(point, study_label(study, studies)) for study, point in pairs)
    return panels[:PANELS]


def _schedule(point: Point, label: str) -> Panel:
    marks = []
    colors = shades(len(point.runs))
    for run, color in zip(point.runs, colors, strict=True):
        resolved = [(step, scale) for step, scale in run.noise_scale if scale and scale > 0]
        last = max([step for step, _ in [*run.schedule, *run.noise_scale]], default=1)
        x, y = _stairs(run.schedule, last)
        name = f"batch size, seed {run.seed}"
        told = [f"seed {run.seed}, step {count(s)}: batch {count(b)}" for s, b in run.schedule]
        marks.append(Line(x, y, color, name))
        steps, sizes = ([pair[i] for pair in run.schedule] for i in (0, 1))
        marks.append(Points(steps, sizes, color, size=2.5, texts=told))
        x, y = [step for step, _ in resolved], [scale for _, scale in resolved]
        told = [f"seed {run.seed}, step {count(s)}: B_simple {number(v)}" for s, v in resolved]
        texts = [plain(text) for text in told]
        small = {"size": 4 if len(x) < MANY else 2, "hollow": True, "texts": texts}
        marks.append(Points(x, y, color, "B_simple where resolved, same colour", "D", **small))
    title = ", ".join(filter(None, [label, f"r = {number(point.r)}"]))
    steps = Axis("optimizer step", "linear", decimal_label)
    return Panel(steps, batches("examples: batch size, B_simple"), marks, title)


def _stairs(schedule, last):
    """Corners of the batch over the steps."""
    x, y = [], []
    ends = [step for step, _ in schedule[1:]] + [last]
    for (first, batch), end in zip(schedule, ends, strict=True):
        x += [first, end]
        y += [batch, batch]
    return x, y
