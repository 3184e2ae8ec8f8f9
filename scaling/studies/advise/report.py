"""Which batch size, on how many devices: what the measurements of one task advise."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scaling.advice import RECOMMENDED, Option, Throughput, front
from scaling.comms import MOST_DEVIATION, DeviceFit
from scaling.errors import UserError
from scaling.report import records
from scaling.report.blocks import Note, Picture, Section
from scaling.report.charts import (
    COLORS,
    GREY,
    MARKERS,
    Axis,
    Line,
    Panel,
    Points,
    Rule,
    batches,
    shades,
    shown,
    style_of,
)
from scaling.report.kind import Kind, about_all
from scaling.report.records import Directory, Workdir, read_points
from scaling.report.tables import Column, Table, csv_only, hover, of_points, within
from scaling.report.wording import (
    between,
    capital,
    count,
    decimal_label,
    listed,
    number,
    parameter_text,
    subject,
)
from scaling.studies.advise.record import Record
from scaling.studies.noise_records import COUPLED

UNITS = (("days", 1 / 24), ("hours", 1.0), ("minutes", 60.0), ("seconds", 3600.0))
SOURCES = {"noise_scale": "the noise scale", "fit": "the fit of S(B)"}
SPEED = ("seconds", "examples_per_second", "spread")
RINGS = dict(zip(RECOMMENDED, (("o", 13), ("s", 10), ("D", 11)), strict=True))  # marker, size


@dataclass(frozen=True, eq=False, kw_only=True)
class Point(Record):
    """The advice, and what it rests on."""

    directory: Directory

    @property
    def per_s_min(self) -> str:
        """The unit of times and costs where S_min is not known, else empty."""
        return "" if self.unit_hours else " for each step of S_min"

    @property
    def time_unit(self) -> tuple[str, float]:
        """(name, how many to an hour) in which the options' times are neither tiny nor huge."""
        hours = [option.hours for option in self.options]
        typical = statistics.geometric_mean(hours) if hours else 1.0
        fitting = [unit for unit in UNITS if typical * unit[1] >= 1]
        return fitting[0] if fitting else UNITS[-1]

    @property
    def cost_unit(self) -> str:
        """The currency; device-hours where devices are free."""
        return self.currency if self.price_per_device_hour else "device-hours"

    def cost(self, option: Option) -> float:
        """In that unit."""
        return option.cost if self.price_per_device_hour else option.device_hours

    @property
    def front(self) -> list[Option]:
        """Options that no other beats in time and cost, the fastest first."""
        return front(self.options)

    @property
    def largest_fitting(self) -> int | None:
        """The largest per-device batch that fits the memory, where a larger one does not."""
        fitting = [row.per_device_batch for row in self.memory if row.fits]
        return max(fitting) if fitting and len(fitting) < len(self.memory) else None

    @property
    def line(self) -> DeviceFit | None:
        """t0 + b / r through the times of one device."""
        pairs = [(speed.per_device_batch, speed.seconds) for speed in self.throughput]
        return Throughput(*zip(*pairs, strict=True)).fit if pairs else None

    def recommended_for(self, option: Option) -> str:
        """What an option is recommended for: least time and knee"""
        place = lambda o: o and (o.devices, o.global_batch)
        names = [n for n in RECOMMENDED if place(self.recommended.get(n)) == place(option)]
        return listed([parameter_text(name) for name in names])


@dataclass(frozen=True, eq=False)
class Study(records.Study):
    """One task on one machine."""

    points: list[Point]

    @property
    def point(self) -> Point:
        """The advice."""
        return self.points[0]


def read(workdir: Workdir) -> Study:
    """The study in one work directory.

    Raises:
      UserError: records that cannot be read, or more than one.
    """
    points = read_points(workdir, Point)
    if len(points) > 1:
        names = " and ".join(point.directory.name for point in points[:2])
        raise UserError(f"{names} in {workdir.path} both hold advice; keep one of them.")
    return Study(workdir.path, points, workdir.unfinished)


def layout(option: Option) -> str:
    """batch 512 on 8 devices"""
    devices = f"{count(option.devices)} device{'s' * (option.devices > 1)}"
    return f"batch {count(option.global_batch)} on {devices}"


def time_text(study: Study, point: Point, option: Option) -> str:
    """32 (25 to 46) minutes; without an interval where nothing that it is of is uncertain"""
    unit, per_hour = point.time_unit
    time, low = number(option.hours * per_hour), option.hours_low * per_hour
    high = None if option.hours_high is None else option.hours_high * per_hour
    alone = high is not None and number(low) == number(high) == time
    return f"{time} {unit}" if alone else f"{time} ({between(low, high)}) {unit}"


def cost_text(study: Study, point: Point, option: Option) -> str:
    """4.2 USD"""
    return f"{number(point.cost(option))} {point.cost_unit}"


def answer(study: Study) -> str:
    """What is recommended, the critical batch sizes that it rests on, and what is extrapolated."""
    point = study.point
    options = list(dict.fromkeys(o for n in RECOMMENDED if (o := point.recommended.get(n))))
    texts = [
        f"{point.recommended_for(option)}: {layout(option)} in {time_text(study, point, option)}, "
        f"for {cost_text(study, point, option)}{point.per_s_min}, at learning rate "
        f"{number(option.learning_rate)}"
        for option in options
    ]
    if not texts:
        texts = ["no option keeps within the limits" if point.options else "nothing is recommended"]
    known = [f"{critical} by {SOURCES[k]}" for k, critical in point.critical.items() if critical]
    reasons = dict.fromkeys(reason for option in options for reason in option.extrapolated)
    return (
        f"{subject(study)}, {'; '.join(texts)}. The critical batch size is "
        f"{listed(known) or 'not measured'}{f', in {study.rows}' * bool(known)}."
    ) + f" Extrapolated: {'; '.join(reasons)}." * bool(reasons)


def cautions(study: Study) -> list[str]:
    """One sentence each."""
    goal = study.point.goal
    missed = f"the run did not reach {goal}; train longer or ease the goal"
    why = missed if goal else "no goal is set"
    return study.point.doubts + about_all(
        study.points,
        (
            "no critical batch size is resolved; train longer, or with a larger batch.",
            lambda p: not p.options,
        ),
        (
            f"{why}, so S_min is not known: steps, times and costs are for each step of it, and "
            "max_hours and max_cost were not applied.",
            lambda p: p.options and not p.unit_hours,
        ),
        (
            f"a measured time is more than {MOST_DEVIATION:.0%} off the line t0 + b / r, by which "
            "all times are told; their intervals do not hold that.",
            lambda p: p.line and p.line.deviation > MOST_DEVIATION,
        ),
        (
            "a device is this CPU: times and costs are of as many machines like it.",
            lambda p: p.options and p.devices.get("platform") == "cpu",
        ),
        (
            "the least time is at the most devices considered; more may be faster.",
            lambda p: (
                (fastest := p.recommended.get(RECOMMENDED[0])) is not None
                and fastest.devices == max(option.devices for option in p.options) > 1
            ),
        ),
        (
            "the steps are those of one run: intervals of time leave out how far those of another "
            "seed are from them.",
            lambda p: p.unit_hours and not p.critical.get("fit"),
        ),
        (
            "the run that the noise scale was measured in diverged.",
            lambda p: p.tracked_status == "diverged",
        ),
        (COUPLED, lambda p: p.noise_scale and p.noise_scale.coupled),
        (
            "B_simple is not resolved in every window; where it is not, it is probably larger.",
            lambda p: (
                p.noise_scale and 0 < len(p.noise_scale.resolved) < len(p.noise_scale.windows)
            ),
        ),
    )


def _range_text(ends: Sequence[float]) -> str:
    return " to ".join(dict.fromkeys(count(round(end)) for end in ends))


OPTIONS = [
    Column("recommended", lambda s, p, option: p.recommended_for(option), str, "recommended"),
    Column("devices", "devices", count),
    Column("batch", "global_batch", count),
    Column("microbatches", lambda s, p, o: f"{o.accum_steps:,} x {o.micro_batch:,}", str),
    *csv_only(-1, "accum_steps", "micro_batch"),
    Column("steps", "steps"),
    Column("s per step", "step_seconds"),
    *csv_only(-1, "compute_seconds", "all_reduce_seconds"),
    Column("time (interval)", time_text, str),
    *csv_only(-1, "hours", "hours_low", "hours_high", "device_hours"),
    Column("cost", cost_text, str),
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
        "Intervals follow from those of S(B) and the published range of the wait for the slowest "
        f"device. The all-reduce is over {networks}. Times leave out starting, compiling, "
        f"evaluating and waiting for input. {_rates_text(studies)}"
    )
    yield Section(
        "Time against cost",
        [
            Picture("advise_options", caption, shown(map(trade_off, studies)), nothing),
            table(studies),
            Note(note),
            Table(OPTIONS, within(studies, lambda p: p.options), "advise_options.csv", shown=False),
        ],
    )
    critical = within(studies, lambda point: list(point.critical.items()))
    note = (
        "B_simple of image classifiers is usually 2 to 8 times the B_crit of a fit (McCandlish "
        "2018, Table 1): it leaves out the Hessian and grows while the loss falls, and the fit "
        "depends on how well each batch was tuned."
    )
    yield Section("Critical batch size", [Table(CRITICAL, critical), Note(note)])

    caption = (
        f"{capital(studies[0].rows)} per second of one device against its batch. Beyond the "
        "knee a larger batch on the device hardly trains faster; beyond what fits, microbatches "
        "are accumulated."
    )
    devices = Table(DEVICE, _devices(studies), "advise_devices.csv", shown=False)
    picture = Picture("advise_throughput", caption, throughput(studies), "nothing was measured")
    yield Section("Throughput", [picture, devices])


def _rates_text(studies):
    searched = dict.fromkeys(name for study in studies for name in study.point.searched)
    if not searched:
        return "Learning rates are where to start tuning."
    others = listed([parameter_text(name) for name in searched if name != "learning_rate"])
    return "Learning rates are those of the best trials in the records, or between them" + (
        f"; take {others} from there too." if others else "."
    )


def _devices(studies: Sequence[Study]) -> list[tuple]:
    """Rows (study, point, memory, speed), one per per-device batch."""
    rows = []
    for study, point in of_points(studies):
        speeds = {speed.per_device_batch: speed for speed in point.throughput}
        rows += [(study, point, fit, speeds.get(fit.per_device_batch)) for fit in point.memory]
    return rows


def trade_off(study: Study) -> Panel:
    """Time against cost, one curve per number of devices."""
    point, marks = study.point, []
    unit, per_hour = point.time_unit

    def places(options):
        return [point.cost(o) for o in options], [o.hours * per_hour for o in options]

    def open_or_filled(options, hollow, *style):
        texts = [hover(OPTIONS, (study, point, option)) for option in options]
        return Points(*places(options), *style, hollow=hollow, texts=texts)

    counts = sorted({option.devices for option in point.options})
    for index, (devices, color) in enumerate(zip(counts, shades(len(counts)), strict=True)):
        options = [option for option in point.options if option.devices == devices]
        options.sort(key=lambda option: option.global_batch)
        style = color, f"devices: {count(devices)}", MARKERS[index % len(MARKERS)], 5
        marks.append(Line(*places(options), color, width=1, series=style[1]))
        for hollow in (False, True):
            part = [option for option in options if bool(option.extrapolated) == hollow]
            marks += [open_or_filled(part, hollow, *style)] * bool(part)
    for key, style in RINGS.items():
        if option := point.recommended.get(key):
            label = f"{parameter_text(key)}: {layout(option)}"
            marks.append(open_or_filled([option], True, "#000000", label, *style))
    cost = f"cost ({point.currency})" if point.price_per_device_hour else point.cost_unit
    axis = lambda label: Axis(label + point.per_s_min, tick=decimal_label)
    return Panel(axis(cost), axis(f"time to the goal ({unit})"), marks, study.label)


def throughput(studies: Sequence[Study]) -> list[Panel]:
    """Examples per second against the per-device batch, with the knee and the memory's end."""
    marks, rows = [], studies[0].rows
    for index, study in enumerate(studies):
        point, (color, marker) = study.point, style_of(index)
        for x, rule, label, dash in (
            (point.throughput_knee, GREY, f"knee, 90% of the most {rows} per second", "dash"),
            (point.largest_fitting, COLORS[1], "largest batch that fits the memory", "dot"),
        ):
            if x is not None:
                color_of_rule = color if study.label else rule
                marks.append(Rule(color_of_rule, study.noted(label), x=x, dash=dash))
        x = [speed.per_device_batch for speed in point.throughput]
        y = [speed.examples_per_second for speed in point.throughput]
        label = study.label or "measured, with the spread of repeats"
        marks.append(Line(x, y, color, width=1, series=label))
        look = {
            "low": [s.examples_per_second / (1 + s.spread / 2) for s in point.throughput],
            "high": [s.examples_per_second * (1 + s.spread / 2) for s in point.throughput],
            "texts": [
                f"per-device batch {count(s.per_device_batch)}\n{number(s.examples_per_second)} "
                f"{rows} per second\n{number(s.seconds)} s per update"
                for s in point.throughput
            ],
        }
        marks.append(Points(x, y, color, label, marker, 6, **look))
    rate = Axis(f"{rows} per second, one device", tick=decimal_label)
    return shown([Panel(batches(rows, "per-device batch"), rate, marks)])


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
