"""The gradient noise scale: McCandlish et al. 2018, Figures 4, 14 and 15."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from scaling.noise import Window
from scaling.report.blocks import Note, Picture, Section
from scaling.report.kind import Kind, about_all
from scaling.report.tables import Column, Table, csv_only, of_points, within
from scaling.report.wording import count, number, subject, times
from scaling.studies.noise_records import Exact, estimate_text
from scaling.studies.noise_scale import charts
from scaling.studies.noise_scale.analysis import (
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
        "average (examples, 95% intervals)."
    )
    if point.level:
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
        (
            "batch norm couples the examples of a batch, so B_simple is a rough guide.",
            lambda p: p.noise_scale is not None and p.noise_scale.coupled,
        ),
    )


def _noise(of: str) -> Callable[[Study, Point], Any]:
    """An attribute of a point's noise."""
    return lambda study, point: getattr(point.noise_scale, of, None)


def _exact(when: str) -> Callable[[Study, Point], Any]:
    return lambda study, point: point.noise_scale and point.noise_scale.exactly(when)


def _exact_text(exact: Exact) -> str:
    return f"{number(exact.noise_scale)} / {number(exact.hessian_noise_scale)}"


SETTINGS = (
    *("source", "b_small", "b_big", "every", "coupled"),
    *("average", "average_low", "average_high"),
)
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
    Column("on average", _noise("level"), estimate_text),
    Column("at end", _noise("end"), estimate_text, "end"),
    *(Column("", _noise(key), key=key) for key in ("whole", "by_devices", *SETTINGS)),
    Column("exact at start", _exact("start"), _exact_text, "exact_start"),
    Column("exact at end", _exact("end"), _exact_text, "exact_end"),
]
WINDOW = csv_only(-1, *(field.name for field in dataclasses.fields(Window)))


def table(studies: Sequence[Study]) -> Table:
    """A row per run."""
    return Table(RUNS, of_points(studies), "noise_scale.csv")


def sections(studies: Sequence[Study]) -> Iterator[Section]:
    """The page from top to bottom; a part that the study did not ask for is left out."""
    kinds = {point.kind for study in studies for point in study.points}
    yield _section(
        "Noise scale over training",
        studies,
        "noise_scale",
        charts.over_steps,
        "B_simple = tr(Sigma) / |G|^2, the noise of one example's gradient relative to the "
        "gradient itself, over windows of the run, with 95% intervals; the values from every "
        "example's gradient are before the first step, drawn at 1, and after the last. An open "
        "triangle is a lower bound where B_simple is not resolved, a gap no bound at all. Batches "
        "far below B_simple lose no efficiency by growing, batches far above it gain little.",
    )
    yield _section(
        "Noise scale against loss",
        studies,
        "noise_scale_loss",
        charts.over_loss,
        "B_simple against the training loss in the same window. The paper finds that it grows as "
        "the loss falls, and is about the same for models of any size at equal loss.",
        _spread_text,
    )
    if kinds & {"rate", "batch"}:
        yield _section(
            "Noise scale by learning rate and batch size",
            studies,
            "noise_scale_variants",
            charts.over_variants,
            "B_simple averaged over training, one mark per run. It is expected to go as 1 / "
            "temperature, which for SGD is learning rate / batch: to fall in proportion to the "
            "learning rate (dashed, slope −1 through the middle of the marks), and to be the same "
            "at batch sizes of equal temperature.",
            _variants_text,
        )
    if "temperature" in kinds:
        yield _section(
            "Temperature test",
            studies,
            "noise_scale_temperature",
            charts.temperature,
            "The learning rate is cut for some steps (shaded); B_simple should rise by the same "
            "factor (dashed), and return.",
            _rise_text,
        )
    windows = within(studies, lambda point: getattr(point.noise_scale, "windows", ()))
    note = (
        "B_simple in examples, with 95% intervals; start and end are the first and the last "
        "window. Exact: from the gradient of every training example; after the slash B_noise = "
        "tr(H Sigma) / (G^T H G). Every window is in tables/noise_scale_windows.csv."
    )
    csv = Table(WINDOW, windows, "noise_scale_windows.csv", shown=False)
    yield Section("Run by run", [table(studies), Note(note), csv])


def _section(title, studies, name, draw, caption, text=lambda study: "") -> Section:
    """A figure, and what `text` says of each study."""
    picture = Picture(name, caption, draw(studies), "no run has such a noise scale")
    notes = [Note(study.noted(words)) for study in studies if (words := text(study))]
    return Section(title, [picture, *notes])


def _spread_text(study: Study) -> str:
    spread = equal_loss_spread(study.variants("model"))
    if spread is None:
        return ""
    return (
        f"At equal loss B_simple of the models differs by a factor of {number(spread)} (median "
        "over the losses that all reach)."
    )


def _variants_text(study: Study) -> str:
    texts = []
    power = slope(*levels(study.variants("rate"), "learning_rate"))
    if power is not None:
        power = f"{power:.2f}".replace("-", "−")
        texts.append(f"B_simple goes as the learning rate to the power {power} (expected −1).")
    _, values = levels(study.variants("batch"), "global_batch")
    if len(values) > 1:
        ratio = number(max(values) / min(values))
        texts.append(f"Over {len(values)} batch sizes B_simple differs by a factor of {ratio}.")
    return " ".join(texts)


def _rise_text(study: Study) -> str:
    texts = []
    for point in study.points:
        found = point.dip and rise(study, point)
        if found:
            ratio = "an unknown ratio" if found.ratio is None else times(found.ratio)
            texts.append(
                f"Inside the cut B_simple is {estimate_text(found.inside)}, and "
                f"{estimate_text(found.outside)} in {found.against}: {ratio}, where "
                f"{number(point.dip.factor)} times is expected."
            )
        elif point.dip:
            texts.append("metrics.jsonl has no updates, so the rise in the cut is not known.")
    return " ".join(texts)


KIND = Kind("Noise scale", read, answer, table, sections, cautions)
