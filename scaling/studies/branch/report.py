"""The critical batch size along a run: Merrill et al. 2025, beside the noise scale."""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scaling import branching
from scaling.paired import Paired, paired
from scaling.report import records
from scaling.report.blocks import Note, Picture, Section
from scaling.report.charts import (
    COLORS,
    Axis,
    Line,
    Panel,
    Points,
    Rule,
    batches,
    shades,
    shown,
)
from scaling.report.kind import Kind, about_all
from scaling.report.records import Directory, Workdir, check_alike, read_points
from scaling.report.tables import Column, Table, csv_only, of_points, within
from scaling.report.wording import count, number, percent, subject
from scaling.studies.branch.record import Branch, Record, Snapshot
from scaling.studies.noise_records import UNRESOLVED, estimate_text

CRITICAL, NOISE, STEPS = COLORS[:3]


@dataclass(frozen=True, eq=False, kw_only=True)
class Point(Record):
    """One run."""

    directory: Directory

    def critical(self, snapshot: Snapshot) -> branching.Critical:
        """At this run's tolerance."""
        return snapshot.critical(self.tolerance)

    def batch(self, snapshot: Snapshot, end: str = "factor") -> float:
        """The critical batch size in examples, or the "low" or "high" end of its interval; inf
        above the largest branch."""
        return self.global_batch * getattr(self.critical(snapshot), end)

    def over(self, snapshot: Snapshot) -> float | None:
        """B_simple over the critical batch size, where both are known."""
        batch, scale = self.batch(snapshot), snapshot.noise.noise_scale
        return scale / batch if scale and math.isfinite(batch) else None

    @property
    def saved(self) -> float | None:
        """Share of the steps that the batch warmup saves."""
        return self.warmup and 1 - self.warmup.steps / self.constant.steps

    @property
    def cost(self) -> Paired | None:
        """Of the batch warmup in validation loss, seed by seed."""
        return self.warmup and paired(self.constant.losses, self.warmup.losses)


def read(workdir: Workdir) -> records.Study:
    """The study in one work directory, by batch size."""
    points = sorted(read_points(workdir, Point), key=lambda point: point.global_batch)
    check_alike(workdir.path, points, lambda p: {"tolerance": p.tolerance, **p.directory.recipe})
    return records.Study(workdir.path, points, workdir.unfinished)


def answer(study: records.Study) -> str:
    """The critical batch size at the first and the last snapshot, the noise scale, the warmup."""
    point = study.points[0]
    if not point.snapshots:
        return f"{subject(study)}, the run diverged before its first snapshot."
    ends = [point.snapshots[0], *point.snapshots[1:][-1:]]
    places = [f"{batch_text(point, s)} after {count(s.examples)} {study.called}" for s in ends]
    text = f"{subject(study)}, the critical batch size is {' and '.join(places)}."
    ratios = [ratio for s in point.snapshots if (ratio := point.over(s))]
    if ratios:
        low, high = number(min(ratios)), number(max(ratios))
        span = f"{low} to {high} times" if len(ratios) > 1 else f"{low} times"
        text += f" B_simple is {span} the critical batch size."
    if point.saved:
        cost = difference_text(point.cost)
        text += f" A batch warmup by it saves {percent(point.saved)} of the steps"
        text += f" and ends {cost} above the validation loss without." if cost else "."
    return text


def batch_text(point: Point, snapshot: Snapshot) -> str:
    """20.1 (95%: 17.5 to 142), or above 512 (95%: above 300)."""
    value, low, high = (point.batch(snapshot, end) for end in ("factor", "low", "high"))
    largest = point.global_batch * max(branch.factor for branch in snapshot.branches)
    text = number(value) if math.isfinite(value) else f"above {count(largest)}"
    if math.isinf(value) and low == largest:
        return text
    upper = f"to {number(high)}" if math.isfinite(high) else "or more"
    return f"{text} (95%: {number(low)} {upper})"


def difference_text(cost: Paired | None) -> str:
    """0.0021 (95%: -0.0005 to 0.005); empty if there is none."""
    if cost is None or cost.difference is None:
        return ""
    if cost.low is None:
        return number(cost.difference)
    return f"{number(cost.difference)} (95%: {number(cost.low)} to {number(cost.high)})"


def along(studies: Sequence[records.Study]) -> list[Panel]:
    """The critical batch size and the noise scale against the examples so far."""
    return shown(_along(study, point) for study, point in of_points(studies))


def _along(study, point) -> Panel:
    first = next((s.examples for s in point.snapshots if s.examples), 1)
    place = lambda s: s.examples or first / 4  # an axis of logs has no 0
    at = lambda kept: [place(s) for s in kept]
    known = [s for s in point.snapshots if math.isfinite(point.batch(s))]
    beyond = [s for s in point.snapshots if math.isinf(point.batch(s))]
    marks = []
    for kept, value, look in (
        (known, "factor", {"label": "critical batch size, 95% interval"}),
        (beyond, "low", {"label": "critical batch size: at least this", "hollow": True}),
    ):
        kept = [s for s in kept if math.isfinite(point.batch(s, value))]
        if not kept:
            continue
        ends = {
            end: [v if math.isfinite(v := point.batch(s, end)) else None for s in kept]
            for end in (("low", "high") if value == "factor" else ())
        }
        texts = [f"{batch_text(point, s)}\nafter {count(s.step)} steps" for s in kept]
        y = [point.batch(s, value) for s in kept]
        marks.append(Points(at(kept), y, CRITICAL, texts=texts, **ends, **look))
    resolved = [s for s in point.snapshots if s.noise.noise_scale is not None]
    bounded = [s for s in point.snapshots if s.noise.noise_scale is None and s.noise.low]
    ends = {end: [getattr(s.noise, end) for s in resolved] for end in ("low", "high")}
    texts = lambda kept: [f"B_simple {estimate_text(s.noise)}" for s in kept]
    y = [s.noise.noise_scale for s in resolved]
    look = {"marker": "D", "texts": texts(resolved), **ends}
    marks.append(Points(at(resolved), y, NOISE, "noise scale B_simple, 95% interval", **look))
    if bounded:
        look = {"marker": "^", "hollow": True, "texts": texts(bounded)}
        marks.append(Points(at(bounded), [s.noise.low for s in bounded], NOISE, UNRESOLVED, **look))
    if point.warmup:
        marks.append(_schedule(point, first / 4))
    title = study.named(f"batch {count(point.global_batch)}") if len(study.points) > 1 else ""
    zero = " (0 at the left)" if point.snapshots and not point.snapshots[0].examples else ""
    x = Axis(f"{study.called} of the run{zero}")
    return Panel(x, batches(study.rows, "batch size"), marks, title or study.label)


def _schedule(point, first) -> Line:
    x, y = [], []
    parts = point.warmup.schedule
    ends = [place for place, _ in parts[1:]] + [point.examples]
    for (place, size), end in zip(parts, ends, strict=True):
        x += [max(place, first), max(end, first)]
        y += [size, size]
    return Line(x, y, STEPS, "batch warmup", dash="dash")


def excess(studies: Sequence[records.Study]) -> list[Panel]:
    """The excess loss of every branch; a panel per run."""
    panels = []
    for study, point in of_points(studies):
        colors, marks = shades(len(point.snapshots)), []
        for snapshot, color in zip(point.snapshots, colors, strict=True):
            critical = point.critical(snapshot)
            rows = list(zip(snapshot.best, critical.excess, critical.ends, strict=True))[1:]
            rows = [row for row in rows if math.isfinite(row[1]) and row[1] > 0]
            x, y = [b.global_batch for b, *_ in rows], [value for _, value, _ in rows]
            label = f"after {count(snapshot.step)} steps"
            texts = [f"batch {count(b.global_batch)}\n{number(v)} above" for b, v, _ in rows]
            marks.append(Line(x, y, color, width=0.8, series=label))
            marks.append(Points(x, y, color, label, texts=texts))
        marks.append(Rule("#595959", f"tolerance, {number(point.tolerance)}", y=point.tolerance))
        title = study.named(f"batch {count(point.global_batch)}") if len(study.points) > 1 else ""
        axis = Axis(f"validation loss above that at batch {count(point.global_batch)}")
        panels.append(
            Panel(
                batches(study.rows, "batch size of the branch"), axis, marks, title or study.label
            )
        )
    return shown(panels)


BATCH = Column("batch", lambda study, point, *_: point.global_batch, count, "global_batch")
SNAPSHOTS = [
    BATCH,
    Column("step", "step", count),
    Column("read by then", "examples", count, "examples"),
    Column("validation loss", "loss"),
    Column("critical batch size", lambda study, point, s: batch_text(point, s), str),
    Column("", lambda study, point, s: _finite(point.batch(s)), key="critical_batch"),
    Column("", lambda study, point, s: _finite(point.batch(s, "low")), key="critical_batch_low"),
    Column("", lambda study, point, s: _finite(point.batch(s, "high")), key="critical_batch_high"),
    Column("B_simple", "noise", estimate_text),
    Column("B_simple / critical", lambda study, point, s: point.over(s), key="ratio"),
]
BRANCHES = [
    BATCH,
    Column("from step", lambda study, point, s, b: s.step, count, "step"),
    Column("batch of the branch", lambda study, point, s, b: b.global_batch, count, "branch_batch"),
    *csv_only(3, "factor", "rate", "losses"),
    Column("steps", lambda study, point, s, b: b.steps, count, "steps"),
    Column("learning rate", lambda study, point, s, b: b.learning_rate, key="learning_rate"),
    Column("validation loss", lambda study, point, s, b: _finite(b.mean), key="loss"),
    Column("above batch x1", lambda study, point, s, b: _above(point, s, b), str),
]
WARMUPS = [
    BATCH,
    Column("batch sizes", lambda study, p: " ".join(f"{b:,}" for _, b in p.warmup.schedule), str),
    Column("from", lambda s, p: " ".join(f"{e:,}" for e, _ in p.warmup.schedule), str),
    Column("steps", lambda study, p: p.warmup.steps, count, "warmup_steps"),
    Column("steps, constant", lambda study, p: p.constant.steps, count, "constant_steps"),
    Column("saved", "saved", percent),
    Column("validation loss", lambda study, p: _mean(p.warmup.losses), key="warmup_loss"),
    Column("constant", lambda study, p: _mean(p.constant.losses), key="constant_loss"),
    Column("difference", lambda study, p: difference_text(p.cost), str),
    Column("", "cost", key="difference"),
]


def _finite(value):
    return value if math.isfinite(value) else None


def _mean(losses):
    known = [loss for loss in losses if loss is not None]
    return statistics.mean(known) if known else None


def _above(point, snapshot, branch: Branch) -> str:
    critical = point.critical(snapshot)
    k = snapshot.best.index(branch)
    value, (low, high) = critical.excess[k], critical.ends[k]
    if k == 0 or math.isinf(value):
        return "" if k == 0 else "diverged"
    return f"{number(value)} ({number(low)} to {number(high)})"


def table(studies: Sequence[records.Study]) -> Table:
    """A row per snapshot."""
    return Table(SNAPSHOTS, within(studies, lambda p: p.snapshots), "branch_snapshots.csv")


def sections(studies: Sequence[records.Study]) -> Iterator[Section]:
    """The page from top to bottom."""
    first = studies[0].points[0]
    caption = (
        f"From snapshots of the run, training goes on for {count(first.window)} "
        f"{studies[0].called} at multiples of its batch size. The critical batch size is the "
        f"largest whose validation loss ends at most {number(first.tolerance)} above that of the "
        "run's own batch size; B_simple is of the same weights, and should predict it (McCandlish "
        "2018)."
    )
    nothing = "the run diverged before its first snapshot"
    yield Section(
        "Critical batch size along the run",
        [Picture("branch", caption, along(studies), nothing), table(studies)],
    )
    caption = "The mean over seeds. Where a line passes the tolerance, the batch is too large."
    branches = [
        (study, point, s, b)
        for study, point, s in within(studies, lambda p: p.snapshots)
        for b in s.best
    ]
    note = (
        "Intervals are of the mean difference between branches of one seed, Student's at 95%. That "
        "of the critical batch size ends at batch sizes that were measured. At each batch size the "
        "best of the tried multiples of the learning rate counts."
    )
    yield Section(
        "Branches",
        [
            Picture("branch_excess", caption, excess(studies), "no branch has a higher loss"),
            Table(BRANCHES, branches, "branches.csv"),
            Note(note),
        ],
    )
    trained = [(study, point) for study, point in of_points(studies) if point.warmup]
    if trained:
        note = (
            "The batch warmup uses, from each snapshot on, the largest measured batch size at or "
            "below the critical one, from the beginning and with other seeds; the constant batch "
            "size is that of the run, with the same seeds and reads as much."
        )
        yield Section("Batch warmup", [Table(WARMUPS, trained, "branch_warmup.csv"), Note(note)])


def cautions(study: records.Study) -> list[str]:
    """One sentence each."""
    return about_all(
        study.points,
        ("the run diverged.", lambda p: p.status == "diverged"),
        (
            "every branch is within the tolerance at some snapshots; larger branch.factors would "
            "measure the critical batch size there.",
            lambda p: any(math.isinf(p.batch(s)) for s in p.snapshots),
        ),
    )


def details(study: records.Study) -> dict[str, list[str]]:
    """The seeds of the branches."""
    seeds = {len(b.losses) for p in study.points for s in p.snapshots for b in s.branches}
    return {
        "seeds": [
            f"{n} orders of the training set, the same for every branch" for n in sorted(seeds)
        ]
    }


KIND = Kind("Critical batch size by branches", read, answer, table, sections, cautions, details)
