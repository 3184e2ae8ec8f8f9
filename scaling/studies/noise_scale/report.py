"""The gradient noise scale: McCandlish et al. 2018, Figures 4, 14 and 15."""

from collections.abc import Sequence

from scaling.report.blocks import Block, Note, Section, Table
from scaling.report.pictures import picture
from scaling.report.provenance import origins
from scaling.report.tables import head, to_csv
from scaling.report.wording import NOTHING, count, headline, number, study_label, times
from scaling.studies.noise_records import estimate_text
from scaling.studies.noise_scale import charts
from scaling.studies.noise_scale.records import (
    Point,
    Study,
    check_together,
    equal_loss_spread,
    levels,
    read,
    rise,
    slope,
)
from scaling.studies.noise_scale.words import answer, cautions

__all__ = [
    "FIGURES",
    "NAME",
    "answer",
    "cautions",
    "check_together",
    "headline",
    "origins",
    "read",
    "sections",
    "study_label",
    "tables",
]

NAME = "Noise scale"
FIGURES = ("noise_scale", "noise_scale_loss", "noise_scale_variants", "noise_scale_temperature")


def sections(studies: Sequence[Study]) -> list[Section]:
    """The page from top to bottom; a part that the study did not ask for is left out."""
    kinds = {point.kind for study in studies for point in study.points}
    found = [_over_steps(studies), _over_loss(studies)]
    found += [_over_variants(studies)] * bool(kinds & {"rate", "batch"})
    found += [_temperature(studies)] * ("temperature" in kinds)
    return [*found, _runs(studies)]


def _over_steps(studies):
    caption = (
        "B_simple = tr(Sigma) / |G|^2, the noise of one example's gradient relative to the "
        "gradient itself, over windows of the run; each is a ratio of averages with its 95% "
        "interval. The values from every example's gradient are before the first step, drawn at 1, "
        "and after the last. Where the gradient cannot be told from its noise, B_simple is not "
        "resolved: an open triangle is then a lower bound, and a gap is no bound at all. Batches "
        "far below B_simple lose no efficiency by growing, batches far above it gain little."
    )
    panels = charts.over_steps(studies)
    nothing = "no window of the run has a noise scale or a bound of one"
    return Section("Noise scale over training", [picture(FIGURES[0], caption, panels, nothing)])


def _over_loss(studies):
    caption = (
        "B_simple against the training loss in the same window. The paper finds it to grow as the "
        "loss falls, and to be about the same for models of any size at equal loss."
    )
    panels = charts.over_loss(studies)
    shown = picture(FIGURES[1], caption, panels, "no window has both a noise scale and a loss")
    notes = []
    for study in studies:
        spread = equal_loss_spread(study.variants("model"))
        if spread is not None:
            says = f"at equal loss B_simple of the models differs by a factor of {number(spread)}"
            notes.append(_note(study, studies, says + " (median over the losses that all reach)."))
    return Section("Noise scale against loss", [shown, *notes])


def _over_variants(studies):
    caption = (
        "B_simple averaged over training, one mark per run. It goes as 1 / temperature, and the "
        "temperature of SGD is learning rate / batch: so it should fall in proportion to the "
        "learning rate (dashed, slope −1 through the middle of the marks). Over batch sizes it "
        "should be the same, at equal temperature; at equal learning rate it grows with the batch."
    )
    panels = charts.over_variants(studies)
    shown = picture(FIGURES[2], caption, panels, "no variant has a noise scale")
    notes = []
    for study in studies:
        power = slope(*levels(study.variants("rate"), "learning_rate"))
        if power is not None:
            power = f"{power:.2f}".replace("-", "−")
            says = f"B_simple goes as the learning rate to the power {power} (expected −1)."
            notes.append(_note(study, studies, says))
        _, values = levels(study.variants("batch"), "global_batch")
        if len(values) > 1:
            ratio = number(max(values) / min(values))
            says = f"over {len(values)} batch sizes B_simple differs by a factor of {ratio}."
            notes.append(_note(study, studies, says))
    return Section("Noise scale by learning rate and batch size", [shown, *notes])


def _temperature(studies):
    caption = (
        "The temperature test: the learning rate is cut for some steps (shaded) and B_simple "
        "should rise by the same factor (dashed), and return."
    )
    panels = charts.temperature(studies)
    shown = picture(FIGURES[3], caption, panels, "no run with a cut has a noise scale")
    notes = []
    for study in studies:
        for point in study.variants("temperature"):
            if point.dip is None:
                continue
            found = rise(study, point)
            if found is None:
                says = "whether B_simple rises is not known: metrics.jsonl has no updates of it."
            elif found.ratio is None:
                says = (
                    "whether B_simple rises is not known: inside the cut it is "
                    f"{estimate_text(found.inside)}, and {estimate_text(found.outside)} in "
                    f"{found.against}."
                )
            else:
                says = (
                    f"inside the cut B_simple is {estimate_text(found.inside)}, "
                    f"{times(found.ratio)} that of {found.against}; {number(point.dip.factor)} "
                    "times is expected."
                )
            notes.append(_note(study, studies, says))
    return Section("Temperature test", [shown, *notes])


def _note(study, studies, sentence) -> Block:
    label = study_label(study, studies)
    return Note(f"{label}: {sentence}" if label else sentence[0].upper() + sentence[1:])


def _runs(studies):
    header = ["run", "learning rate", "batch", "parameters", "training loss"]
    header += ["B_simple, start (95%)", "average", "end (95%)", "exact, start", "exact, end"]
    several = len(studies) > 1
    rows = [[study.label] * several + _row(point) for study in studies for point in study.points]
    note = (
        "Start and end: the first and the last window. Exact: from the gradient of every training "
        "example; after the slash B_noise = tr(H Sigma) / (G^T H G). Every window is in "
        "tables/noise_scale_windows.csv."
    )
    return Section("Run by run", [Table(["study"] * several + header, rows), Note(note)])


def _row(point: Point) -> list[str]:
    noise, result = point.noise, point.directory.result
    loss = number((result["train"] or {}).get("loss"))
    diverged = " (diverged)" if point.status == "diverged" else ""
    row = [point.name + diverged, number(point.learning_rate), count(point.global_batch)]
    row += [count(point.parameters), loss]
    if noise is None:
        return row + [NOTHING] * 5
    row += [estimate_text(noise.start), number(noise.average), estimate_text(noise.end)]
    for when in ("start", "end"):
        exact = noise.exact.get(when)
        values = [exact.noise_scale, exact.hessian_noise_scale] if exact else [None]
        row.append(" / ".join(number(value) for value in values))
    return row


def tables(studies: Sequence[Study]) -> dict[str, str]:
    """File name -> CSV: one row per run, and one per window."""
    pairs = [(study, point) for study in studies for point in study.points]
    windows = [
        head(study, point) | vars(window)
        for study, point in pairs
        for window in (point.noise.windows if point.noise else [])
    ]
    return {
        "noise_scale.csv": to_csv([head(*pair) | _numbers(pair[1]) for pair in pairs]),
        "noise_scale_windows.csv": to_csv(windows),
    }


def _numbers(point: Point) -> dict:
    keys = ("kind", "label", "status", "learning_rate", "global_batch", "steps", "parameters")
    row = {key: getattr(point, key) for key in keys}
    for split in ("train", "validation"):
        row |= {f"{split}_{k}": v for k, v in (point.directory.result.get(split) or {}).items()}
    if point.noise is None:
        return row
    row |= {key: getattr(point.noise, key) for key in ("source", "b_small", "b_big", "every")}
    row |= {"coupled": point.noise.coupled, "average": point.noise.average}
    for name in ("start", "end", "whole", "by_devices"):
        estimate = getattr(point.noise, name)
        row |= {f"{name}_{key}": v for key, v in (vars(estimate) if estimate else {}).items()}
    for when, exact in point.noise.exact.items():
        row |= {f"exact_{when}_{key}": value for key, value in vars(exact).items()}
    return row
