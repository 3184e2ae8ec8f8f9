"""Single runs: their curves, their metrics and their speed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

from scaling.crossings import best_of
from scaling.report.blocks import Note, Picture, Section
from scaling.report.charts import Axis, Line, Panel, Points, of_metric, shades, shown
from scaling.report.kind import Kind, about_all
from scaling.report.reading import jsonl
from scaling.report.records import Directory, Study, Workdir, read_points
from scaling.report.tables import Column, Table, csv_only, of_points, within
from scaling.report.wording import (
    count,
    decimal_label,
    listed,
    measure_text,
    metric_value,
    number,
    subject,
)
from scaling.studies.noise_records import estimate_text, window_marks
from scaling.studies.train.record import Record

MOST = 300  # points of a curve
MOST_EPOCHS = 60  # evaluations with their times
# Columns of evaluations, where it is tracked.
SHARPNESS, EDGES = "batch_sharpness", ("edge_small_batch", "edge_large_batch")
LOOKS = {"dash": "small", "dot": "large"}  # of the edges


@dataclass(frozen=True, eq=False, kw_only=True)
class Point(Record):
    """One run."""

    directory: Directory

    @cached_property
    def _rows(self):
        return list(jsonl(self.directory.path / "metrics.jsonl"))

    def curve(self, split: str, name: str) -> tuple[list[float], list[float]]:
        """(steps, values) from metrics.jsonl, every n-th row where there are more than MOST."""
        rows = self._rows
        rows = [row for row in rows if row["split"] == split and row.get(name) is not None]
        rows = rows[:: -(-len(rows) // MOST) or 1]
        return [row["step"] for row in rows], [row[name] for row in rows]

    @property
    def clocked(self) -> list["Clocked"]:
        """Its evaluations with their times, at most MOST_EPOCHS of them."""
        name = next(iter(self.directory.metrics))
        values = dict(zip(*self.curve("validation", name), strict=True))
        times = [(step, seconds) for step, seconds in self.clock if step in values]
        times = times[:: -(-len(times) // MOST_EPOCHS) or 1]
        before = [0.0, *(seconds for _, seconds in times)]
        return [
            Clocked(step, seconds - earlier, seconds, values[step])
            for (step, seconds), earlier in zip(times, before, strict=False)
        ]


@dataclass(frozen=True)
class Clocked:
    """An evaluation: seconds of training since the one before, and by then."""

    step: int
    seconds: float
    cumulative: float
    value: float


def read(workdir: Workdir) -> Study:
    """The runs in one work directory.

    Raises:
      UserError: records that cannot be read.
    """
    points = sorted(read_points(workdir, Point), key=lambda point: point.global_batch)
    return Study(workdir.path, points, workdir.unfinished)


def answer(study: Study) -> str:
    """The run with the best validation error, or what the task has instead; and its noise scale."""
    name, metric = study.headline
    values = {
        point: value
        for point in study.points
        if point.status == "complete" and (value := (point.validation or {}).get(name)) is not None
    }
    if not values:
        return f"{subject(study)}, no run has a {measure_text(metric)}."
    best = best_of(values, metric.better, key=values.get)
    lowest = "highest" if metric.better == "higher" else "lowest"
    several = f", the {lowest} of {len(study.points)} runs," if len(study.points) > 1 else ""
    value = f"{metric_value(metric, values[best])} {metric.unit}".rstrip()
    return (
        f"{subject(replace(study, points=[best]))}, batch {count(best.global_batch)} has a "
        f"{measure_text(metric)} of {value}{several} after {count(best.steps)} steps, "
        f"at {number(_rate(study, best))} {study.holds} per second.{_noise_text(study, best)}"
    )


def _noise_text(study, point):
    """A sentence; empty where the noise was not tracked."""
    if point.noise_scale is None or not point.noise_scale.whole.measurements:
        return ""
    level, how = point.noise_scale.level, "on average"
    if level.noise_scale is None:  # in too few of the windows
        level, how = point.noise_scale.together, "as far as it is resolved"
    if level.noise_scale is None:
        return f" Its noise scale B_simple is {estimate_text(level)}."
    amount = study.in_units(level.noise_scale)
    told = f" = {number(amount)} {study.holds}" if amount else ""
    return (
        f" Its noise scale B_simple, which predicts the critical batch size, is {how} "
        f"{estimate_text(level)} {study.rows}{told}."
    )


def cautions(study: Study) -> list[str]:
    """One sentence each."""
    return about_all(study.points, ("the run diverged.", lambda p: p.status == "diverged"))


def _rate(study, point):
    """Of what counts, per second."""
    return study.in_units(point.examples_per_second) or point.examples_per_second


BEGIN = [
    Column("run", lambda study, point: point.directory.name, str),
    Column("batch", "global_batch", count),
    Column("status", "status", str),
    Column("steps", "steps", count),
    Column("learning rate", "learning_rate"),
    Column("train loss", lambda study, point: (point.train or {}).get("loss")),
]
END = [
    *csv_only(-1, "train", "validation", "test", "seconds"),
    Column("{unit}/s", _rate, key="rate"),
    *csv_only(-1, "examples_per_second"),
    Column("s to the goal", lambda study, point: point.reached and point.reached[1], key="to_goal"),
    Column("B_simple", lambda s, p: p.noise_scale and p.noise_scale.level, estimate_text, "noise"),
]


def table(studies: Sequence[Study]) -> Table:
    """A row per run."""
    name, metric = studies[0].headline
    value = lambda split: lambda study, point: (getattr(point, split) or {}).get(name)
    held_out = [
        Column(f"{split} {metric.words}", value(split), partial(metric_value, metric))
        for split in ("validation", "test")
    ]
    return Table([*BEGIN, *held_out, *END], of_points(studies), "runs.csv")


def sections(studies: Sequence[Study]) -> Iterator[Section]:
    """The page from top to bottom."""
    runs, step = of_points(studies), Axis("optimizer step")
    headline, metric = studies[0].headline
    loss = Panel(step, of_metric(studies[0].loss, "training loss", tick=decimal_label))
    held_out = Panel(step, of_metric(metric, measure_text(metric)))
    noise = Panel(step, Axis(f"noise scale B_simple ({studies[0].rows})"))
    for (study, point), color in zip(runs, shades(len(runs)), strict=True):
        label = study.named(point.directory.name)
        for panel, split, name in ((loss, "train", "loss"), (held_out, "validation", headline)):
            x, y = point.curve(split, name)
            texts = [
                f"{label}, step {count(s)}: {panel.y.tick(v)}" for s, v in zip(x, y, strict=True)
            ]
            panel.marks.append(Line(x, y, color, label, width=1))
            panel.marks.append(Points(x, y, color, size=2, texts=texts, series=label))
        if point.noise_scale:
            middle = lambda window: window.middle
            noise.marks.extend(window_marks(point.noise_scale, middle, color, label, label))
    caption = f"Of curves of more than {MOST} points every n-th is shown."
    panels = shown([loss, held_out, noise])
    picture = Picture("runs", caption, panels, "metrics.jsonl is missing or has no finite values")
    yield Section("Curves", [picture])
    if any(point.curve("validation", SHARPNESS)[0] for _, point in runs):
        yield Section("Batch sharpness", list(_sharpness(runs)))
    yield Section("Run by run", [table(studies)])
    clocked = Table(_clock(metric), within(studies, lambda p: p.clocked), "clock.csv")
    if clocked.rows:
        note = "Seconds of training, without evaluations and compilation."
        yield Section("Time to accuracy", [clocked, Note(note)])


def _clock(metric):
    """Columns of evaluations with their times."""
    return [
        Column("run", lambda study, point, each: point.directory.name, str),
        Column("step", "step", count),
        Column("{rows}", lambda s, p, each: each.step * p.global_batch, count),
        Column("s since the one before", "seconds"),
        Column("s in all", "cumulative"),
        Column(f"validation {metric.words}", "value", partial(metric_value, metric), "value"),
    ]


def _sharpness(runs) -> Iterator[Note | Picture]:
    """Batch sharpness of every run that has it, between where small and large batches settle."""
    panel, ends = Panel(Axis("optimizer step"), Axis("batch sharpness", tick=decimal_label)), []
    for (study, point), color in zip(runs, shades(len(runs)), strict=True):
        label, (x, y) = study.named(point.directory.name), point.curve("validation", SHARPNESS)
        if not x:
            continue
        errors = point.curve("validation", f"{SHARPNESS}_error")[1]
        edges = [point.curve("validation", name) for name in EDGES]
        same = edges[0] == edges[1]  # without momentum
        for edge, (dash, size) in zip(edges[: 2 - same], LOOKS.items(), strict=False):
            told = f"where {'any' if same else size} batches settle" if not ends else ""
            panel.marks.append(Line(*edge, color, told, dash, series=label))
        panel.marks.append(Line(x, y, color, width=1, series=label))
        pairs = list(zip(y, errors, strict=True))
        bars = {"low": [v - e for v, e in pairs], "high": [v + e for v, e in pairs]}
        texts = [f"{label}, step {count(s)}: {number(v)}" for s, v in zip(x, y, strict=True)]
        panel.marks.append(Points(x, y, color, label, size=3, texts=texts, **bars))
        levels = list(dict.fromkeys(number(at[-1]) for _, at in edges if at))
        levels = f"level{'s' * (len(levels) > 1)} {listed(levels)}"
        ends.append(f"{number(y[-1])} in {label} ({levels})")
    caption = (
        "The curvature along a batch's gradient, ± its standard error. Dashed: where a small batch "
        "settles, 2(1−b)/η at momentum b and learning rate η; dotted: a large one, at the edge of "
        "stability of the whole gradient. Without momentum both are 2/η."
    )
    yield Picture("batch_sharpness", caption, shown([panel]), "no run has a batch sharpness")
    yield Note(f"At the last evaluation batch sharpness is {listed(ends)}.")


KIND = Kind("Single runs", read, answer, table, sections, cautions)
