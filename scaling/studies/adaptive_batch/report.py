"""A batch that follows the noise scale: McCandlish et al. 2018, Appendix D, Figure 16."""

import functools
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from scaling.errors import UserError
from scaling.fits import StepsFit, fit_steps
from scaling.report import records
from scaling.report.blocks import Note, Picture, Section
from scaling.report.charts import COLORS, Axis, Line, Panel, Points, batches, shades, shown
from scaling.report.kind import Kind, about_all
from scaling.report.records import Directory, Workdir, check_alike, read_points
from scaling.report.tables import Column, Table, csv_only, of_points, within
from scaling.report.wording import (
    batch_label,
    count,
    decimal_label,
    goal_text,
    interval,
    listed,
    number,
    percent,
    subject,
)
from scaling.studies.adaptive_batch.record import Record
from scaling.studies.adaptive_batch.savings import Saving, allowed, saving

FIXED, ADAPTIVE, PREDICTED = COLORS[:3]
MARGIN = 1.5  # the curves go on beyond the measured batch sizes by this
MANY = 40  # measurements of the noise scale in one run


@dataclass(frozen=True, eq=False, kw_only=True)
class Point(Record):
    """One point."""

    directory: Directory

    @property
    def name(self) -> str:
        """256; r = 64"""
        return batch_label(self.global_batch) if self.r is None else f"r = {number(self.r)}"


@dataclass(frozen=True, eq=False)
class Study(records.Study):
    """Fixed batch sizes in rising order, then adaptive ones by r."""

    points: list[Point]

    def points_of(self, kind: str) -> list[Point]:
        """Fixed or adaptive points that reached the hardest goal."""
        return [point for point in self.points if point.kind == kind and point.ends]

    @property
    def goal(self) -> str:
        """The hardest."""
        first = self.points[0]
        return goal_text(first.directory.metrics[first.metric], first.goals[-1], "train")

    @property
    def gamma(self) -> float | None:
        """Median over adaptive points: 1 where a fixed batch is as good as any."""
        gammas = [point.gamma for point in self.points if point.gamma is not None]
        return statistics.median(gammas) if gammas else None

    @functools.cached_property
    def fit(self) -> StepsFit | None:
        """The curve of the fixed batch sizes; None without S_min and E_min."""
        points = self.points_of("fixed")
        try:
            fit = fit_steps([p.global_batch for p in points], [p.steps for p in points])
        except UserError:
            return None
        return fit if 0 < fit.b_crit < math.inf else None

    def saving(self, point: Point) -> Saving | None:
        """Of an adaptive point over the fit of the fixed ones."""
        ends = [(end.steps, end.examples) for end in point.ends if end.steps]
        return saving(self.fit, ends) if point.kind == "adaptive" and self.fit and ends else None


def read(workdir: Workdir) -> Study:
    """The study in one work directory.

    Raises:
      UserError: records that cannot be read or that differ in goals or recipe.
    """
    points = read_points(workdir, Point)
    points.sort(key=lambda p: (p.kind == "adaptive", p.global_batch or 0, p.r or 0))
    check_alike(
        workdir.path, points, lambda p: {"goals": (p.metric, p.goals), **p.directory.recipe}
    )
    return Study(workdir.path, points, workdir.unfinished)


def answer(study: Study) -> str:
    """What the adaptive point saves whose r is nearest to E_min / S_min, which the paper
    proposes."""
    about, adaptive, gamma = subject(study), study.points_of("adaptive"), study.gamma
    if not adaptive:
        return f"{about}, no run with an adaptive batch reached {study.goal}."
    if not study.fit:
        text = f"{about}, adaptive batches reach {study.goal}; the fixed batch sizes do not "
        return text + "give a curve to compare them with."
    point = min(adaptive, key=lambda point: abs(math.log(point.r / study.fit.b_crit)))
    saved = saving_text(study.saving(point))
    text = f"{about}, an adaptive batch ({point.name}) saves {saved} of the steps and examples to "
    text += f"{study.goal}, compared with a fixed batch of its mean size."
    if gamma is None:
        return text
    return f"{text} The paper's gamma, {number(gamma)}, predicts {percent(allowed(gamma))}."


def saving_text(saved: Saving) -> str:
    """2.1% (95%: −4.9% to 8.7%)"""
    return percent(saved.share) + interval(saved.low, saved.high, percent)


def cautions(study: Study) -> list[str]:
    """One sentence each."""
    scales = lambda point: [scale for run in point.runs for _, scale in run.noise_scale]
    return about_all(
        study.points,
        (
            f"some seeds did not reach {study.goal}; the numbers are of the others.",
            lambda p: len(p.ends) < len(p.runs),
        ),
        (
            "B_simple was never resolved, so the batch never adapted.",
            lambda p: p.kind == "adaptive" and scales(p) and not any(scales(p)),
        ),
    )


def _seeds(study: Study, point: Point) -> str:
    diverged = sum(run.status == "diverged" for run in point.runs)
    reached = f"{len(point.ends)} of {len(point.runs)}"
    return reached + (f", {diverged} diverged" if diverged else "")


def _sizes(study: Study, point: Point) -> str | None:
    sizes = [batch for run in point.runs for _, batch in run.schedule]
    return f"{count(min(sizes))} to {count(max(sizes))}" if sizes and point.r else None


def _spread(key: str) -> Column:
    """Median and range."""

    def text(study: Study, point: Point) -> str | None:
        values = [getattr(end, key) for end in point.ends]
        span = f" ({count(min(values))} to {count(max(values))})" if len(values) > 1 else ""
        return number(getattr(point, key)) + span if values else None

    return Column(f"{key} (range)", text, str)


POINTS = [
    Column("batch", "name", str, "batch"),
    Column("", "kind"),
    Column("seeds that reached the goal", _seeds, str),
    _spread("steps"),
    Column("", "steps"),
    _spread("examples"),
    Column("", "examples"),
    Column("batch sizes used", _sizes, str),
    Column("saved (95%)", lambda study, point: study.saving(point), saving_text, "saved"),
    Column("gamma", "gamma"),
]
RUN = [*csv_only(1, "kind", "r", "global_batch"), *csv_only(2, "seed", "status")]
CROSSINGS = [*RUN, *csv_only(3, "goal", "steps", "examples")]
CHANGES = [
    *RUN,
    Column("", lambda *row: row[3][0], key="first_step"),
    Column("", lambda *row: row[3][1], key="batch"),
]


def table(studies: Sequence[Study]) -> Table:
    """A row per point."""
    return Table(POINTS, of_points(studies), "adaptive_batch_points.csv")


def sections(studies: Sequence[Study]) -> Iterator[Section]:
    """The page from top to bottom."""
    goals = listed(list(dict.fromkeys(study.goal for study in studies)))
    caption = (
        f"Steps against examples to {goals}. Runs whose batch follows sqrt(r B_simple) lie below "
        "the fitted curve of fixed batch sizes by what adapting saves. Dashed: what eq. D.4 "
        "predicts from how B_simple changed over those runs; where gamma is close to 1, a fixed "
        "batch is as good."
    )
    panels = shown(_trade_off(study) for study in studies)
    yield Section(
        "Steps against examples",
        [
            Picture("adaptive_batch", caption, panels, "no run reached the goal"),
            *(Note(_fit_text(study)) for study in studies),
        ],
    )
    adaptive = [(study, p) for study in studies for p in study.points if p.kind == "adaptive"]
    panels = shown(_schedule(study, point) for study, point in adaptive)
    caption = (
        "The batch size over each adaptive run, and B_simple as it was measured along it. The "
        "batch stays where B_simple is not resolved."
    )
    nothing = "no run has an adaptive batch"
    yield Section(
        "Batch size over training",
        [Picture("adaptive_batch_schedules", caption, panels, nothing)],
    )
    note = (
        "To the last goal; medians over seeds. Saved: of steps and examples, compared with a fixed "
        "batch of the runs' mean size on the fitted curve. Goals before the last, seed by seed, "
        "are in tables/adaptive_batch.csv."
    )
    runs = within(studies, lambda point: point.runs)
    crossings = [(*row, goal) for row in runs for goal in row[2].goals]
    changes = [(*row, change) for row in runs for change in row[2].schedule]
    yield Section(
        "Point by point",
        [
            table(studies),
            Note(note),
            Table(CROSSINGS, crossings, "adaptive_batch.csv", shown=False),
            Table(CHANGES, changes, "adaptive_batch_schedules.csv", shown=False),
        ],
    )


def _fit_text(study: Study) -> str:
    fit = study.fit
    if not fit:
        return study.noted("The fixed batch sizes do not give S_min, E_min and B_crit.")
    return study.noted(
        " ".join(
            [
                f"The hyperbola of the fixed batch sizes: S_min {number(fit.s_min)} steps, E_min "
                f"{number(fit.e_min)} examples, B_crit {number(fit.b_crit)}"
                f"{interval(*fit.b_crit_interval)}; scatter {percent(fit.residual_sd)}.",
                *fit.doubts,
            ]
        )
    )


def _trade_off(study: Study) -> Panel:
    """Steps against examples to the last goal."""
    marks = []
    fixed, adaptive = study.points_of("fixed"), study.points_of("adaptive")
    if study.fit:
        ends = fixed[0].global_batch / MARGIN, fixed[-1].global_batch * MARGIN
        label = "fit of the fixed batch sizes"
        marks.append(Line(*along(study.fit, 1.0, *ends), FIXED, label, guide=True))
        if study.gamma is not None:
            label = f"predicted for an adaptive one, gamma = {number(study.gamma)}"
            curve = along(study.fit, study.gamma, *ends)
            marks.append(Line(*curve, PREDICTED, label, "dash", guide=True))
    for points, color, marker, label, side in (
        (fixed, FIXED, "o", "fixed batch size, median of seeds (small: each)", "above"),
        (adaptive, ADAPTIVE, "D", "adaptive batch, one mark per r (small: seeds)", "below"),
    ):
        texts = [
            f"{point.directory.name}\n{number(point.steps)} steps, {number(point.examples)} "
            f"examples\n{_seeds(study, point)} seeds"
            for point in points
        ]
        names = {"names": [point.name for point in points], "names_at": side, "texts": texts}
        ends = [end for point in points for end in point.ends]
        x, y = ([getattr(end, key) for end in ends] for key in ("examples", "steps"))
        marks.append(Points(x, y, color, marker=marker, size=3, faint=True, series=label))
        x, y = ([getattr(point, key) for point in points] for key in ("examples", "steps"))
        marks.append(Points(x, y, color, label, marker, 6, **names))
    x_axis = Axis("examples processed", tick=decimal_label)
    return Panel(x_axis, Axis("optimizer steps", tick=decimal_label), marks, study.label)


def along(
    fit: StepsFit, gamma: float, least: float, most: float
) -> tuple[Sequence[float], Sequence[float]]:
    """(examples, steps) of the fitted curve from a fixed batch `least` to one of `most`, times what
    (S / S_min - 1)(E / E_min - 1) = gamma, eq. D.4, leaves of the hyperbola at the same E / S."""
    excess = np.geomspace(least, most, 60) / fit.b_crit  # E / E_min - 1 of a fixed batch
    batch = fit.b_crit * (1 + excess) / (1 + gamma / excess)
    steps = fit.steps(batch) * (1 + gamma / excess) / (1 + fit.b_crit / batch)
    return (batch * steps).tolist(), steps.tolist()


def _schedule(study: Study, point: Point) -> Panel:
    """The batch over the steps, with the noise scale that it follows."""
    marks = []
    for run, color in zip(point.runs, shades(len(point.runs)), strict=True):
        label = f"batch size, seed {run.seed}"
        last = max(step for step, _ in [*run.schedule, *run.noise_scale])
        steps, sizes = zip(*run.schedule, strict=True)
        corners = np.repeat([*steps, last], 2)[1:-1], np.repeat(sizes, 2)
        marks.append(Line(*(places.tolist() for places in corners), color, label))
        texts = [f"seed {run.seed}, step {count(s)}: batch {count(b)}" for s, b in run.schedule]
        marks.append(Points(steps, sizes, color, size=2.5, texts=texts, series=label))
        resolved = [(step, scale) for step, scale in run.noise_scale if scale and scale > 0]
        texts = [f"seed {run.seed}, step {count(s)}: B_simple {number(v)}" for s, v in resolved]
        x, y = [step for step, _ in resolved], [scale for _, scale in resolved]
        look = {"size": 4 if len(x) < MANY else 2, "hollow": True, "texts": texts}
        marks.append(Points(x, y, color, "B_simple where resolved, same colour", "D", **look))
    steps = Axis("optimizer step", "near", decimal_label, include=(0.0,))
    return Panel(steps, batches(study.rows, "batch size, B_simple"), marks, study.named(point.name))


KIND = Kind("Adaptive batch", read, answer, table, sections, cautions)
