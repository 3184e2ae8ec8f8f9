"""Which batch size, on how many devices: what the measurements of one task advise."""

from collections.abc import Iterator, Sequence

from scaling.advice import RECOMMENDED, overlap
from scaling.report.blocks import Note, Picture, Section
from scaling.report.kind import Kind
from scaling.report.tables import Column, Table, csv_only, of_points, within
from scaling.report.wording import count, listed, number, parameter_text, subject
from scaling.studies.advise import charts
from scaling.studies.advise.study import (
    Study,
    cost_text,
    layout,
    read,
    time_text,
)

SOURCES = {"noise_scale": "the noise scale", "fit": "the fit of S(B)"}
SPEED = ("seconds", "examples_per_second", "spread")


def answer(study: Study) -> str:
    """What is recommended, the critical batch sizes that it rests on, and what is extrapolated."""
    point = study.point
    options = list(dict.fromkeys(o for n in RECOMMENDED if (o := point.recommended.get(n))))
    texts = [
        f"{listed([parameter_text(name) for name in point.names(option)])}: {layout(option)} in "
        f"{time_text(point, option)}, for {cost_text(point, option)}{point.per_s_min}, at learning "
        f"rate {number(option.learning_rate)}"
        for option in options
    ]
    if not texts:
        texts = ["no option keeps within the limits" if point.options else "nothing is recommended"]
    known = [
        f"{critical} by {SOURCES[key]}" for key, critical in point.critical.items() if critical
    ]
    reasons = dict.fromkeys(reason for option in options for reason in option.extrapolated)
    return (
        f"{subject(study)}, {'; '.join(texts)}. The critical batch size is "
        f"{listed(known) or 'not measured'}."
    ) + f" Extrapolated: {'; '.join(reasons)}." * bool(reasons)


def cautions(study: Study) -> Iterator[str]:
    """One sentence each."""
    point, noise = study.point, study.point.noise_scale
    if not point.options:
        yield "No critical batch size is resolved; train longer, or with a larger batch."
    elif not point.unit_hours:
        yield (
            "S_min is not known: times and costs are for each step of it, and no limit was applied."
        )
    if point.tracked_status == "diverged":
        yield "The run that the noise scale was measured in diverged."
    if noise and noise.coupled:
        yield f"Batch norm couples examples: B_simple is of parts of {noise.b_small:g} of them."
    steps = [w.last_step - w.first_step + 1 for w in noise.windows] if noise else []
    resolved = [n for n, w in zip(steps, noise.windows, strict=True) if w.resolved] if noise else []
    if 0 < sum(resolved) < sum(steps):
        yield (
            f"B_simple is resolved in {sum(resolved) / sum(steps):.0%} of the run's steps; in the "
            "others it is probably larger."
        )


def _range_text(ends: Sequence[float]) -> str:
    return " to ".join(dict.fromkeys(count(round(end)) for end in ends))


OPTIONS = [
    Column(
        "recommended",
        lambda study, point, option: listed([parameter_text(name) for name in point.names(option)]),
        str,
        "recommended",
    ),
    Column("devices", "devices", count),
    Column("batch", "global_batch", count),
    Column("microbatches", lambda s, p, o: f"{o.accum_steps:,} x {o.micro_batch:,}", str),
    *csv_only(-1, "accum_steps", "micro_batch"),
    Column("steps", "steps"),
    Column("s per step", "step_seconds"),
    *csv_only(-1, "compute_seconds", "all_reduce_seconds"),
    Column("time (interval)", lambda study, point, option: time_text(point, option), str),
    *csv_only(-1, "hours", "hours_low", "hours_high", "device_hours"),
    Column("cost", lambda study, point, option: cost_text(point, option), str),
    *csv_only(-1, "cost", "cost_low", "cost_high"),
    *csv_only(1, "currency", "unit_hours"),
    Column("efficiency", "efficiency", "{:.0%}".format),
    Column("learning rate", "learning_rate"),
    Column("extrapolated", lambda s, p, o: "; ".join(o.extrapolated), str, "extrapolated"),
]
CRITICAL = [
    Column("by", lambda study, point, pair: SOURCES[pair[0]], str),
    Column("B_crit (95%)", lambda study, point, pair: pair[1], str),
    Column("measured at batch", lambda study, point, pair: pair[1] and pair[1].range, _range_text),
]
DEVICE = [
    *csv_only(2, "per_device_batch", "bytes", "fits"),
    *(Column("", lambda *row, key=key: getattr(row[3], key, None), key=key) for key in SPEED),
]


def table(studies: Sequence[Study]) -> Table:
    """The options that no other beats in both time and cost."""
    return Table(OPTIONS, within(studies, lambda point: point.front), wrap=True)


def sections(studies: Sequence[Study]) -> Iterator[Section]:
    """The page from top to bottom."""
    caption = (
        "Time against cost of every batch size (along a curve) on every number of devices (one "
        "curve each). Left and low is better. Open marks are extrapolated. Large open marks: the "
        "least time, the least cost, and the knee between them, the least product of both."
    )
    nothing = "no critical batch size is resolved"
    networks = listed(list(dict.fromkeys(study.point.network for study in studies)))
    note = (
        "Options that no other beats in both time and cost; all are in tables/advise_options.csv. "
        f"Intervals follow from those of S(B). The all-reduce is over {networks}. Learning rates "
        "are where to start tuning."
    )
    yield Section(
        "Time against cost",
        [
            Picture("advise_options", caption, charts.trade_off(studies), nothing),
            table(studies),
            Note(note),
            Table(OPTIONS, within(studies, lambda p: p.options), "advise_options.csv", shown=False),
        ],
    )
    critical = within(studies, lambda point: list(point.critical.items()))
    notes = [Note(text) for study in studies if (text := _compared(study))]
    yield Section("Critical batch size", [Table(CRITICAL, critical), *notes])

    caption = (
        "Examples per second of one device against its batch. Beyond the knee a larger batch on "
        "the device hardly trains faster; beyond what fits, microbatches are accumulated."
    )
    panels, nothing = charts.throughput(studies), "no throughput was measured"
    devices = Table(DEVICE, _devices(studies), "advise_devices.csv", shown=False)
    yield Section("Throughput", [Picture("advise_throughput", caption, panels, nothing), devices])


def _compared(study: Study) -> str:
    """How the two critical batch sizes compare; nothing without both."""
    noise, fit = (study.point.critical.get(source) for source in SOURCES)
    if not (noise and fit):
        return ""
    ratio = number(noise.value / fit.value) if noise.value and fit.value else "an unknown number of"
    return study.noted(
        f"B_simple is {ratio} times the B_crit of the fit, and their intervals "
        f"{'overlap' if overlap(noise, fit) else 'do not overlap'}. 2 to 8 times is usual for "
        "image classification (McCandlish 2018, Table 1): B_simple leaves out the Hessian and "
        "grows while the loss falls, and the fit depends on how well each batch was tuned."
    )


def _devices(studies: Sequence[Study]) -> list[tuple]:
    """Rows (study, point, memory, speed), one per per-device batch."""
    rows = []
    for study, point in of_points(studies):
        speeds = {speed.per_device_batch: speed for speed in point.throughput}
        rows += [(study, point, fit, speeds.get(fit.per_device_batch)) for fit in point.memory]
    return rows


KIND = Kind(
    "Advice",
    read,
    answer,
    table,
    sections,
    cautions,
    details=lambda study: {"goal": [study.point.goal] * bool(study.point.goal)},
    shared=lambda study: f"costs in {study.point.currency}",
)
