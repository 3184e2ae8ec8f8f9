"""Which batch size, on how many devices: what the measurements of one task advise."""

from collections.abc import Sequence

from scaling.report.blocks import Heading, Note, Section, Table
from scaling.report.pictures import picture
from scaling.report.provenance import origins
from scaling.report.tables import head, to_csv
from scaling.report.wording import (
    NOTHING,
    between,
    count,
    headline,
    listed,
    number,
    parameter_text,
    study_label,
)
from scaling.studies.advise import charts
from scaling.studies.advise.charts import RECOMMENDED, time_text, unit
from scaling.studies.advise.records import Option, Point, Study, check_together, read

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

NAME = "Advice"
FIGURES = ("advise_options", "advise_throughput")


def answer(study: Study) -> str:
    """The advice as it was given."""
    return study.point.paragraph


def cautions(study: Study) -> list[str]:
    """One sentence each."""
    point, found = study.point, []
    if study.unfinished:
        found.append(f"Not finished, and therefore not in here: {listed(study.unfinished)}.")
    if not point.options:
        found.append("No critical batch size is resolved, so there is nothing to choose from yet.")
    elif not point.unit_hours:
        found.append(
            "S_min is not known: hours and costs are for each step of it, and only their ratios "
            "mean anything."
        )
    if point.directory.result.get("devices", {}).get("simulated"):
        found.append("Measured on simulated devices, whose times say nothing of real ones.")
    return found


def sections(studies: Sequence[Study]) -> list[Section]:
    """The page from top to bottom."""
    return [_options(studies), _critical(studies), _throughput(studies)]


def _options(studies):
    caption = (
        "Time against cost of every batch size (along a curve) on every number of devices (one "
        "curve each). Left and low is better. Open marks rest on something that was not measured; "
        "what, is told beside the option. Large open marks: the least time, the least cost, and "
        "the knee between them, the least product of both."
    )
    panels = charts.trade_off(studies)
    shown = picture(FIGURES[0], caption, panels, "no critical batch size is resolved yet")
    tables = []
    for study in studies:
        tables += [Heading(study.label)] * (len(studies) > 1)
        tables += [_front(study.point)] if study.point.options else []
    networks = listed(list(dict.fromkeys(study.point.network for study in studies)))
    note = (
        "Options that no other beats in both time and cost; all are in tables/advise_options.csv. "
        f"Time and its interval follow from those of S(B). The all-reduce is over {networks}."
    )
    return Section("Time against cost", [shown, *tables, *[Note(note)] * bool(tables)])


def _front(point: Point) -> Table:
    of = unit(point)
    header = ["", "devices", "batch", "steps" if point.unit_hours else "steps / S_min"]
    header += ["s per step", "of it compute", "all-reduce"]
    header += [
        f"{point.time_unit[0]}{of} (interval)",
        f"{point.currency}{of} (interval)",
        "efficiency",
    ]
    rows = [_option(point, option) for option in point.front]
    return Table([*header, "extrapolated"], rows, wrap=True)


def _option(point: Point, option: Option) -> list[str]:
    same = lambda other: other and (other.devices, other.global_batch) == key
    key = (option.devices, option.global_batch)
    names = [parameter_text(name) for name in RECOMMENDED if same(point.recommended.get(name))]
    cost = f"{number(option.cost)} ({between(option.cost_low, option.cost_high)})"
    row = [listed(names), count(option.devices), count(option.global_batch), number(option.steps)]
    row += [number(option.step_seconds), number(option.compute_seconds)]
    row += [
        number(option.all_reduce_seconds),
        time_text(point, option),
        cost if point.priced else NOTHING,
    ]
    return [*row, f"{option.efficiency:.0%}", "; ".join(option.extrapolated) or NOTHING]


def _critical(studies):
    rows = []
    for study in studies:
        for source, what in (("noise_scale", "noise scale B_simple"), ("fit", "fit of S(B)")):
            found = study.point.critical.get(source)
            row = [study.label] * (len(studies) > 1) + [what]
            if found is None:
                rows.append([*row, "not measured", NOTHING, NOTHING])
                continue
            value = "not resolved" if found.value is None else number(found.value)
            low, high = (count(round(end)) for end in (found.range[0], found.range[-1]))
            rests = f"batch {low}" if low == high else f"batches {low} to {high}"
            rows.append([*row, value, between(found.low, found.high), rests])
    header = ["study"] * (len(studies) > 1) + ["by", "B_crit, examples", "95% interval"]
    return Section("Critical batch size", [Table([*header, "measured at"], rows)])


def _throughput(studies):
    caption = (
        "Examples per second of one device against its batch. Beyond the knee a larger batch on "
        "the device hardly trains faster; beyond what fits, microbatches are accumulated."
    )
    panels = charts.throughput(studies)
    shown = picture(FIGURES[1], caption, panels, "no throughput was measured")
    return Section("Throughput", [shown])


def tables(studies: Sequence[Study]) -> dict[str, str]:
    """File name -> CSV: every option, and what was measured of each per-device batch."""
    options = [
        head(study, study.point)
        | vars(option)
        | {
            "device_hours": option.device_hours,
            "currency": study.point.currency,
            "unit_hours": study.point.unit_hours,
            "extrapolated": "; ".join(option.extrapolated),
        }
        for study in studies
        for option in study.point.options
    ]
    return {"advise_options.csv": to_csv(options), "advise_devices.csv": to_csv(_devices(studies))}


def _devices(studies):
    rows = []
    for study in studies:
        speeds = {speed.per_device_batch: speed for speed in study.point.throughput}
        for fitting in study.point.memory:
            speed = speeds.get(fitting.per_device_batch)
            rows.append(head(study, study.point) | vars(fitting) | (vars(speed) if speed else {}))
    return rows
