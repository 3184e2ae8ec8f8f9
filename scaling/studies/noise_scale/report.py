"""The gradient noise scale: McCandlish et al. 2018, Figures 4, 14 and 15."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from scaling.noise import Exact, Window
from scaling.report.blocks import Note, Picture, Section
from scaling.report.kind import Kind, about_all
from scaling.report.tables import Column, Table, csv_only, of_points, within
from scaling.report.wording import count, number, subject, times
from scaling.studies.noise_records import COUPLED, estimate_text
from scaling.studies.noise_scale import charts
from scaling.studies.noise_scale.analysis import (
    KINDS,
    Point,
    Study,
    equal_loss_spread,
    levels,
    read,
    rise,
    slope,
)


def answer(study: Study) -> str:
    """B_simple over the base run, and on which side of its batch size."""
    point, batch = study.base, count(study.base.global_batch)
    if _unmeasured(point):
        return f"{subject(study)}, no gradient noise was measured at batch {batch}."
    noise = point.noise_scale
    text = (
        f"{subject(study)}, the noise scale B_simple is {estimate_text(noise.start)} at the start "
        f"of training, {estimate_text(noise.end)} at the end, and {estimate_text(noise.level)} on "
        f"average ({study.rows}, 95% intervals)."
    )
    if point.level:
        if amount := study.in_units(point.level.noise_scale):
            text += f" The average is {number(amount)} {study.holds}."
        side = "above" if point.level.noise_scale > point.global_batch else "below"
        text += f" That predicts a critical batch size {side} the {batch} trained with."
    return text


def _unmeasured(point: Point) -> bool:
    return point.noise_scale is None or not point.noise_scale.whole.measurements


def cautions(study: Study) -> list[str]:
    """One sentence each."""
    missing = ["The base run is missing, so nothing is compared with it."]
    return missing * (not study.has_base) + about_all(
        study.points,
        ("diverged; noise after that is not of this training.", lambda p: p.status == "diverged"),
        ("no gradient noise was measured; train with a batch of more than one part.", _unmeasured),
        (
            "B_simple is not resolved in any window; measure more steps or a larger batch.",
            lambda p: not _unmeasured(p) and not p.noise_scale.resolved,
        ),
        (COUPLED, lambda p: p.noise_scale is not None and p.noise_scale.coupled),
    )


def _noise(of: str) -> Callable[[Study, Point], Any]:
    """An attribute of a point's noise."""
    return lambda study, point: getattr(point.noise_scale, of, None)


def _exact(when: str) -> Callable[[Study, Point], Any]:
    return lambda study, point: point.noise_scale and point.noise_scale.exactly(when)


def _exact_text(exact: Exact) -> str:
    return f"{number(exact.noise_scale)} / {number(exact.hessian_noise_scale)}"


SETTINGS = ("source", "b_small", "b_big", "every", "coupled")
RUNS = [
    Column("run", lambda study, point: point.directory.name, str),
    *csv_only(-1, "kind", "label", "steps", "train", "validation"),
    Column("status", lambda study, point: point.status if point.status != "complete" else "", str),
    Column("", "status"),
    Column("learning rate", "learning_rate"),
    Column("batch", "global_batch", count),
    Column("parameters", "parameters", count),
    Column("train loss", lambda study, point: (point.train or {}).get("loss")),
    Column("B_simple at start", _noise("start"), estimate_text, "start"),
    Column("on average", _noise("level"), estimate_text, "average"),
    Column("at end", _noise("end"), estimate_text, "end"),
    *(Column("", _noise(key), key=key) for key in ("whole", "by_devices", *SETTINGS)),
    Column("exact at start", _exact("start"), _exact_text, "exact_start"),
    Column("exact at end", _exact("end"), _exact_text, "exact_end"),
]
# (title, name of the files, kinds of runs that it shows, panels, caption)
FIGURES = (
    (
        "Noise scale over training",
        "noise_scale",
        {*KINDS},
        charts.over_steps,
        "B_simple = tr(Sigma) / |G|^2, the noise of one example's gradient relative to the "
        "gradient itself, over windows of the run, with 95% intervals; the values from every "
        "example's gradient are before the first step, drawn at 1, and after the last. An open "
        "triangle is a lower bound where B_simple is not resolved, a gap no bound at all. "
        "Batches far below B_simple lose no efficiency by growing, batches far above it gain "
        "little.",
    ),
    (
        "Noise scale against loss",
        "noise_scale_loss",
        {*KINDS},
        charts.over_loss,
        "B_simple against the training loss in the same window. The paper finds that it grows "
        "as the loss falls, and is about the same for models of any size at equal loss.",
    ),
    (
        "Noise scale by learning rate and batch size",
        "noise_scale_variants",
        {"rate", "batch"},
        charts.over_variants,
        "B_simple averaged over training, one mark per run. It is expected to go as 1 / "
        "temperature, which for SGD is learning rate / batch: to fall in proportion to the "
        "learning rate (dashed, slope −1 through the middle of the marks), and to be the same "
        "at batch sizes of equal temperature.",
    ),
    (
        "Temperature test",
        "noise_scale_temperature",
        {"temperature"},
        charts.temperature,
        "The learning rate is cut for some steps (shaded); B_simple should rise by the same "
        "factor (dashed), and return.",
    ),
)
TESTS = [
    Column(title, lambda study, test, i=i: test[i], str)
    for i, title in enumerate(("test", "expected", "measured"))
]
WINDOW = csv_only(-1, *(field.name for field in dataclasses.fields(Window)))


def table(studies: Sequence[Study]) -> Table:
    """A row per run."""
    level = lambda study, point: study.in_units(point.level and point.level.noise_scale)
    beside = [Column("average in {unit}", level, key=f"average_{studies[0].holds}")]
    shown = beside * bool(studies[0].per_row)
    return Table([*RUNS, *shown], of_points(studies), "noise_scale.csv")


def sections(studies: Sequence[Study]) -> Iterator[Section]:
    """The page from top to bottom; a figure that the study did not ask for is left out."""
    kinds = {point.kind for study in studies for point in study.points}
    for title, name, asked_by, draw, caption in FIGURES:
        if kinds & asked_by:
            picture = Picture(name, caption, draw(studies), "no run has such a noise scale")
            yield Section(title, [picture])
    tests = [(study, test) for study in studies for test in _tests(study)]
    if tests:
        yield Section("What it depends on", [Table(TESTS, tests, wrap=True)])
    windows = within(studies, lambda point: getattr(point.noise_scale, "windows", ()))
    note = (
        f"B_simple in {studies[0].rows}, with 95% intervals; start and end are the first and the "
        "last window. Exact: from the gradient of every training example; after the slash B_noise "
        "= tr(H Sigma) / (G^T H G). Every window is in tables/noise_scale_windows.csv."
    )
    csv = Table(WINDOW, windows, "noise_scale_windows.csv", shown=False)
    yield Section("Run by run", [table(studies), Note(note), csv])


def _tests(study: Study) -> Iterator[tuple[str, str, str]]:
    """(test, what the paper expects, what was measured)."""
    spread = equal_loss_spread(study.variants("model"))
    if spread is not None:
        test = "largest ratio of B_simple between models at equal loss, median over losses"
        yield test, "1", number(spread)
    power = slope(*levels(study.variants("rate"), "learning_rate"))
    if power is not None:
        yield (
            "power of the learning rate that B_simple goes as",
            "−1",
            f"{power:.2f}".replace("-", "−"),
        )
    _, values = levels(study.variants("batch"), "global_batch")
    if len(values) > 1:
        test = f"largest ratio of B_simple between {len(values)} batch sizes"
        yield test, "1", number(max(values) / min(values))
    for point in study.points:
        if point.dip and (change := rise(study, point)):
            ratio = "not resolved" if change.ratio is None else times(change.ratio)
            ends = f"{estimate_text(change.inside)}, and {estimate_text(change.outside)} in"
            test = f"B_simple inside the cut of the learning rate over {change.against}"
            yield test, times(point.dip.factor), f"{ratio}: {ends} {change.against}"


KIND = Kind("Noise scale", read, answer, table, sections, cautions)
