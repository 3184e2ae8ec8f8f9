"""Examples per second against batch and devices, what bounds them, and published tables beside."""

import functools
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scaling.comms import (
    JITTER,
    MOST_DEVIATION,
    NETWORKS,
    DeviceFit,
    Forecast,
    fit_device,
    forecast,
)
from scaling.errors import UserError
from scaling.paired import median_ratio
from scaling.published import EFFICIENCIES, RESNET50, RESNET50_JITTER
from scaling.report import records
from scaling.report.blocks import Note, Picture, Section
from scaling.report.charts import (
    GREY,
    Axis,
    Band,
    Line,
    Panel,
    Points,
    Rule,
    batches,
    shown,
    style_of,
)
from scaling.report.kind import Kind, about_all
from scaling.report.records import Directory, Workdir, read_points
from scaling.report.tables import Column, Table, csv_only, within
from scaling.report.wording import (
    capital,
    count,
    decimal_label,
    interval,
    listed,
    number,
    percent,
    subject,
)
from scaling.studies.throughput.record import Record, Row, Variant

PEAK_SHARE = 0.9  # of the peak rate, whose batch is told
BESIDE = 1.08  # between the marks of one batch, so that their intervals can be told apart
TERMS = {
    "fixed": "what an update takes whatever its batch",
    "examples": "the examples",
    "exchange": "the exchange between devices",
    "waiting": "waiting for the slowest device",
    "all_reduce": "the all-reduce",
    "input": "the input",
}
Ratio = tuple[float, float, float]  # value, and its 95% interval


@dataclass(frozen=True, eq=False, kw_only=True)
class Point(Record):
    """What was measured, and where its record lies."""

    directory: Directory

    @property
    def shared(self) -> bool:
        """Whether its devices are parts of one CPU: what several do is no matter of speed."""
        return self.devices["platform"] == "cpu" and self.devices["count"] > 1

    @functools.cached_property
    def alone(self) -> list[Row]:
        """On one device, by batch; of the fewest where there is none."""
        fewest = min(row.devices for row in self.rows)
        return [row for row in self.rows if row.devices == fewest]

    @functools.cached_property
    def fit(self) -> DeviceFit:
        """Seconds of an update of one device, t0 + b / r."""
        sizes = [row.per_device_batch for row in self.alone]
        return fit_device(sizes, [statistics.median(row.device) for row in self.alone])

    def batch_text(self, batch: float) -> str:
        """215, beyond the 16 measured; or 1 or less, where it is below what was measured."""
        least, most = (self.alone[end].per_device_batch for end in (0, -1))
        if batch > most:
            return f"{number(batch)}, beyond the {count(most)} measured"
        return number(batch) if batch >= least else f"{count(least)} or less"

    def row(self, devices: int, per_device_batch: int) -> Row | None:
        """That of so many devices and examples on each."""
        size = devices, per_device_batch
        return next((r for r in self.rows if (r.devices, r.per_device_batch) == size), None)

    def weak(self, row: Row) -> Ratio | None:
        """R(n, n b) / (n R(1, b)): the batch on each device is the same."""
        return None if self.shared else _efficiency(row, self.row(1, row.per_device_batch))

    def strong(self, row: Row) -> Ratio | None:
        """R(n, B) / (n R(1, B)): the global batch is the same."""
        return None if self.shared else _efficiency(row, self.row(1, row.global_batch))

    def mfu(self, row: Row) -> float | None:
        """Model FLOPs per second over those of the devices' dense peak."""
        if self.peak_flops is None:
            return None
        return row.rate() * self.flops_per_example / (row.devices * self.peak_flops)

    def bound(self, row: Row) -> str:
        """Which term limits it: the input where it is slower than the devices."""
        if statistics.median(row.input) > statistics.median(row.device):
            return "input"
        device = self.fit.device
        one = self.row(1, row.per_device_batch)
        both = (statistics.median(each.device) for each in (row, one or row))
        exchange = 0.0 if self.shared else max(0.0, next(both) - next(both))
        examples = device.seconds(row.per_device_batch) - device.fixed_seconds
        terms = {"fixed": device.fixed_seconds, "examples": examples, "exchange": exchange}
        return max(terms, key=terms.get)

    def forecast(self, devices: int, jitter: float) -> Forecast:
        """Of so many devices, the largest batch on each, over the network that the config names;
        nothing is hidden of the all-reduce unless it was measured."""
        batch, hidden = self.alone[-1].per_device_batch, self.hidden
        network, hides = NETWORKS[self.network], min(1.0, max(0.0, hidden[0])) if hidden else 0.0
        work = self.fit.device, batch, devices, network, self.gradient_bytes
        return forecast(*work, hides, jitter)

    @property
    def hidden(self) -> Ratio | None:
        """The share of the all-reduce that the update hides, 1 - (with - without) / alone."""
        if self.overlap is None or self.shared:
            return None
        o = self.overlap
        exposed = [a - b for a, b in zip(o.together, o.apart, strict=True)]
        shares = [1 - each / reduce for each, reduce in zip(exposed, o.alone, strict=True)]
        middle = statistics.median(shares)
        return middle, min(shares), max(shares)


def _efficiency(row, one) -> Ratio | None:
    if one is None or one is row:
        return None
    rate = lambda each: [each.global_batch / seconds for seconds in each.device]
    return tuple(end / row.devices for end in median_ratio(rate(one), rate(row)))


def read(workdir: Workdir) -> records.Study:
    """The study in one work directory.

    Raises:
      UserError: records that cannot be read, or more than one.
    """
    points = read_points(workdir, Point)
    if len(points) > 1:
        names = listed([point.directory.name for point in points])
        raise UserError(f"{names} in {workdir.path} both hold throughput; keep one of them.")
    return records.Study(workdir.path, points, workdir.unfinished)


def rate_text(rate: float) -> str:
    """Three significant digits, written out: 13,500,000."""
    return count(round(float(f"{rate:.3g}"))) if rate >= 1000 else number(rate)


def ratio_text(found: Ratio) -> str:
    """93% (95%: 91% to 95%)"""
    return f"{percent(found[0])}{interval(*found[1:], percent)}"


def answer(study: records.Study) -> str:
    """The rates, what bounds them, and the line of T(b)."""
    (point,), rows = study.points, study.rows
    best = max(point.alone if point.shared else point.rows, key=Row.rate)
    each = {what: rate_text(best.rate(what)) for what in ("device", "input", "both")}
    device = point.fit.device
    s = "s" * (best.devices > 1)
    text = (
        f"{subject(study)}, {best.devices:,} device{s} alone make{'s' * (not s)} {each['device']} "
        f"{rows} per second at batch {count(best.per_device_batch)} on each, the input alone "
        f"{each['input']}, both together {each['both']}: bound by {TERMS[point.bound(best)]}."
    )
    if device.seconds_per_example:
        ends = interval(*(point.fit.half_rate_batch or (None, None)))
        half, most = (point.batch_text(device.batch_at(share)) for share in (0.5, PEAK_SHARE))
        text += (
            f" An update of one device takes {number(1e3 * device.fixed_seconds)} ms and "
            f"{number(1e6 * device.seconds_per_example)} us for every example: half the peak rate "
            f"at batch {half}{ends}, {PEAK_SHARE:.0%} of it at {most}."
        )
    return text


def cautions(study: records.Study) -> list[str]:
    """One sentence each."""
    return about_all(
        study.points,
        (
            "its devices are parts of one CPU and share its cores: efficiencies over them, and "
            "what they hide of an all-reduce, say nothing of several real devices.",
            lambda p: p.shared,
        ),
        (
            f"a measured time is more than {MOST_DEVIATION:.0%} off the line t0 + b / r.",
            lambda p: p.fit.deviation > MOST_DEVIATION,
        ),
        (
            "other programs were running.",
            lambda p: p.load_average > 1,
        ),
    )


ROWS = [
    Column("devices", "devices", count),
    Column("batch on each", "per_device_batch", count),
    Column("microbatches", "accum_steps", count),
    Column("ms per update", lambda s, p, row: 1e3 * statistics.median(row.device)),
    Column("devices alone, per s", lambda s, p, row: row.rate(), rate_text, "device_rate"),
    Column("input alone, per s", lambda s, p, row: row.rate("input"), rate_text, "input_rate"),
    Column("both, per s", lambda s, p, row: row.rate("both"), rate_text, "both_rate"),
    Column("bound by", lambda s, p, row: TERMS[p.bound(row)], str, "bound"),
    Column("weak efficiency", lambda s, p, row: p.weak(row), ratio_text, "weak"),
    Column("strong efficiency", lambda s, p, row: p.strong(row), ratio_text, "strong"),
    Column("MFU", lambda s, p, row: p.mfu(row), percent, "mfu"),
    Column("GiB by compiler", lambda s, p, row: row.bytes / 2**30),
    Column("GiB in use", lambda s, p, row: row.peak_bytes and row.peak_bytes / 2**30),
    *csv_only(-1, "device", "input", "both", "bytes", "peak_bytes"),
]


def _price(study, point, variant: Variant) -> Ratio | None:
    first = point.variants[0]
    return None if variant is first else median_ratio(first.seconds, variant.seconds)


VARIANTS = [
    Column("batch", lambda s, p, v: p.variant_batch, count),
    Column("microbatches", "accum_steps", count),
    Column("activations", lambda s, p, v: "computed again" if v.remat else "kept", str),
    Column("ms per update", lambda s, p, v: 1e3 * statistics.median(v.seconds)),
    Column("time, of the first", _price, lambda r: f"{number(r[0])}{interval(*r[1:])}", "price"),
    Column("GiB by compiler", lambda s, p, v: v.bytes / 2**30),
    *csv_only(-1, "remat", "seconds", "bytes"),
]
PROJECTED = [
    Column("devices", lambda s, p, f: f.devices, count),
    Column(
        "{rows}/s",
        lambda s, p, f: f"{rate_text(f.low)} to {rate_text(f.high)}",
        str,
        "rates",
    ),
    Column(
        "efficiency",
        lambda s, p, f: f"{percent(f.share(f.low))} to {percent(f.share(f.high))}",
        str,
        "efficiency",
    ),
    Column("bound by", lambda s, p, f: TERMS[f.bound], str, "bound"),
]
EFFICIENCY = [
    Column("run", lambda s, p, run: run.run, str),
    Column("devices", lambda s, p, run: run.devices, count),
    Column("measured", lambda s, p, run: run.measured, "{:.1%}".format),
    Column(
        f"modelled, jitter {JITTER[1]:.0%} to {JITTER[0]:.0%}",
        lambda s, p, run: " to ".join(map(percent, run.interval)),
        str,
    ),
]
ENTRIES = [
    Column("system, ResNet-50", lambda s, p, entry: entry[0], str),
    Column("devices", lambda s, p, entry: entry[2], count),
    Column("batch on each", lambda s, p, entry: entry[1], count),
    Column("images/s", lambda s, p, entry: entry[3]),
    Column("from the others", lambda s, p, entry: entry[4]),
]


@dataclass(frozen=True)
class Projection:
    """Examples per second of more devices, by the published range of jitter."""

    devices: int
    low: float
    high: float
    ideal: float
    bound: str

    def share(self, rate: float) -> float:
        """Of the ideal line."""
        return rate / self.ideal


def projections(point: Point) -> list[Projection]:
    """Of the numbers of devices that the config names."""
    alone, found = point.forecast(1, 0.0).examples_per_second, []
    for devices in point.projected:
        high, low = (point.forecast(devices, jitter) for jitter in JITTER)
        rates = low.examples_per_second, high.examples_per_second
        found.append(Projection(devices, *rates, devices * alone, low.bound))
    return found


def table(studies: Sequence[records.Study]) -> Table:
    """A row per batch and number of devices."""
    return Table(ROWS, within(studies, lambda point: point.rows), "throughput.csv")


def sections(studies: Sequence[records.Study]) -> Iterator[Section]:
    """The page from top to bottom."""
    rows = studies[0].rows
    caption = (
        f"{capital(rows)} per second: of one device by its batch, with 95% intervals and the "
        "fitted b / (t0 + b / r), dashed; and of several, the same largest batch on each (weak "
        "scaling). The ideal line is as many times one device; the band is the forecast for a "
        f"jitter of {JITTER[0]:.0%} to {JITTER[1]:.0%}. Efficiency is over one device; published "
        "ones are over what their authors compare with."
    )
    panels = shown([_by_batch(studies), _by_devices(studies), _by_efficiency(studies)])
    note = (
        "Devices alone have their examples on them; the input alone makes them and brings them "
        "there; both is a run that does one while the other. Weak efficiency is R(n, n b) / "
        "(n R(1, b)), strong is R(n, B) / (n R(1, B)). MFU counts convolutions and matrix "
        "products, three times the forward pass, over the dense peak; there is none where the peak "
        "of the device in this dtype is not known."
    )
    picture = Picture("throughput", caption, panels, "nothing was measured")
    yield Section(f"{capital(rows)} per second", [picture, table(studies), Note(note)])
    variants = Table(VARIANTS, within(studies, lambda p: p.variants), "throughput_variants.csv")
    if variants.rows:
        note = (
            "The same update of one device in smaller parts, and with activations computed again "
            "in the backward pass: what larger batches cost."
        )
        yield Section("Ways to larger batches", [variants, Note(note)])
    yield Section("More devices", _more(studies))
    yield Section("Published", _published(studies[0]))


def _more(studies):
    projected = Table(PROJECTED, within(studies, projections), "throughput_projected.csv")
    networks = listed(list(dict.fromkeys(study.points[0].network for study in studies)))
    note = (
        f"Not measured: T(b, n) = (t0 + b / r) (1 + cv e(n)) + the all-reduce over {networks}, "
        "nominal, that is not hidden. The wait for the slowest of n devices is that of published "
        "tables."
    )
    blocks = [projected, Note(note)]
    for study in studies:
        point = study.points[0]
        if point.overlap is None:
            continue
        o = point.overlap
        times = (number(1e3 * statistics.median(v)) for v in (o.together, o.apart, o.alone))
        hidden = point.hidden
        text = "an update takes {} ms with the mean of gradients, {} without it; the mean alone {}"
        shown_as = f"{o.devices} devices, batch {count(o.per_device_batch)} on each: "
        told = "; its devices are parts of one CPU, so what is hidden means nothing"
        if hidden:
            told = f"; so {percent(hidden[0])} of it is hidden (rounds: {percent(hidden[1])} to "
            told += f"{percent(hidden[2])})"
        blocks.append(Note(study.noted(shown_as + text.format(*times) + told + ".")))
    return blocks


def _published(study):
    point = study.points[0]
    row = lambda entries: [(study, point, entry) for entry in entries]
    found = []
    for system in RESNET50:
        predicted = [None, *system.held_out(RESNET50_JITTER), None]
        entries = zip(system.entries, predicted, strict=True)
        found += [(system.name, *entry, rate) for entry, rate in entries]
    note = (
        "Weak efficiencies as published, and by the same model with the all-reduce hidden behind "
        "the backward pass. MLPerf's entries of ResNet-50: images per second predicted for each "
        "from fits to others of its system, never to itself."
    )
    return [Table(EFFICIENCY, row(EFFICIENCIES)), Table(ENTRIES, row(found)), Note(note)]


def _by_batch(studies) -> Panel:
    marks = []
    for index, study in enumerate(studies):
        (point,), (color, marker) = study.points, style_of(index)
        sizes = [row.per_device_batch for row in point.alone]
        device = point.fit.device
        line = [b / device.seconds(b) for b in sizes]
        labels = {"device": study.named("device alone"), "both": study.named("with its input")}
        marks.append(Line(sizes, line, color, "", "dash", 1, series=labels["device"]))
        for what, hollow in (("device", False), ("both", True)):
            ends = [_rates(row, what) for row in point.alone]
            places = [b * BESIDE**hollow for b in sizes]
            texts = [
                f"batch {count(b)}\n{number(rate)} {study.rows} per second"
                for b, (rate, *_) in zip(sizes, ends, strict=True)
            ]
            look = {"low": [low for _, low, _ in ends], "high": [high for *_, high in ends]}
            rates = [rate for rate, *_ in ends]
            marks.append(
                Points(
                    places, rates, color, labels[what], marker, hollow=hollow, texts=texts, **look
                )
            )
        if device.seconds_per_example and device.fixed_seconds:
            text = f"{PEAK_SHARE:.0%} of the peak rate"
            marks.append(Rule(GREY, text, x=device.batch_at(PEAK_SHARE), dash="dot"))
    rate = Axis(f"{studies[0].called} per second, one device", tick=decimal_label)
    return Panel(batches(studies[0].rows, "per-device batch"), rate, marks)


def _rates(row: Row, what: str) -> Ratio:
    """Per second, with the interval of the median over rounds."""
    seconds = getattr(row, what)
    middle, low, high = median_ratio([1.0] * len(seconds), seconds)
    return tuple(row.global_batch / each for each in (middle, high, low))


def _devices_axis(*include: float) -> Axis:
    return Axis("devices", "binary", lambda n: count(round(n)), include)


def _by_devices(studies) -> Panel:
    """Per second: measured, ideal and forecast."""
    marks = []
    for index, study in enumerate(studies):
        (point,), (color, marker) = study.points, style_of(index)
        rows = _largest(point)
        batch, counts = count(rows[0].per_device_batch), [row.devices for row in rows]
        reach, ideal, *band = _reach(point)
        ends = [_rates(row, "device") for row in rows]
        texts = [
            f"{count(n)} device(s), batch {batch} on each\n{number(rate)} {study.rows} per second"
            for n, (rate, *_) in zip(counts, ends, strict=True)
        ]
        label = study.named(f"measured, batch {batch} on each")
        marks += [
            Line(reach, ideal, GREY, "ideal", "dash", 1),
            Band(reach, *band, color, study.named("forecast, not measured")),
            Points(counts, [rate for rate, *_ in ends], color, label, marker, texts=texts),
        ]
    rate = Axis(f"{studies[0].called} per second", tick=decimal_label)
    return Panel(_devices_axis(), rate, marks)


def _by_efficiency(studies) -> Panel:
    """Weak efficiency: measured, forecast and published."""
    marks, on_axes = [Rule(GREY, y=1.0)], [(1, 0.6)]
    for index, study in enumerate(studies):
        (point,), (color, marker) = study.points, style_of(index)
        reach, ideal, *band = _reach(point)
        shares = [[r / i for r, i in zip(rates, ideal, strict=True)] for rates in band]
        marks.append(Band(reach, *shares, color, series=study.named("forecast, not measured")))
        on_axes.append((max(reach), min(map(min, shares))))
        rows = [row for row in _largest(point) if point.weak(row)]
        found = [point.weak(row) for row in rows]
        look = {"low": [low for _, low, _ in found], "high": [high for *_, high in found]}
        middle, counts = [share for share, *_ in found], [row.devices for row in rows]
        if rows:
            marks.append(Points(counts, middle, color, marker=marker, **look))
    published = [
        (run.devices, run.measured, f"{run.run}\n{run.devices:,} devices") for run in EFFICIENCIES
    ]
    for system in RESNET50:
        (size, devices, rate), *entries = system.entries
        published += [
            (n, images / n / (rate / devices), f"MLPerf, {system.name}\nbatch {b} on each of {n:,}")
            for b, n, images in entries
            if b == size
        ]
    x, y, texts = zip(*published, strict=True)
    marks.append(Points(x, y, GREY, "published", "s", hollow=True, texts=texts))
    include_x, include_y = zip(*on_axes, strict=True)
    efficiency = Axis("efficiency of weak scaling", "near", percent, (*include_y, 1.0))
    return Panel(_devices_axis(*include_x), efficiency, marks)


def _largest(point) -> list[Row]:
    """Those of the largest batch on one device, by devices."""
    batch = point.alone[-1].per_device_batch
    return [row for row in point.rows if row.per_device_batch == batch]


def _reach(point):
    """Devices from one on, and examples per second: ideal, least and most by the forecast."""
    alone, found = point.forecast(1, 0.0).examples_per_second, projections(point)
    devices = [1, *(each.devices for each in found)]
    low, high = ([alone, *(getattr(each, end) for each in found)] for end in ("low", "high"))
    return devices, [n * alone for n in devices], low, high


KIND = Kind("Throughput", read, answer, table, sections, cautions)
