"""Error and sharpness of large-batch training against the epoch of its start (Keskar 2016)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from scaling.report import records
from scaling.report.blocks import Note, Picture, Section
from scaling.report.charts import Axis, Line, Panel, Points, of_metric, shown, style_of
from scaling.report.kind import Kind, about_all
from scaling.report.records import Directory, Workdir, check_alike, read_points
from scaling.report.tables import Column, Table, csv_only, within
from scaling.report.wording import count, metric_value, number, subject
from scaling.studies.measure_records import TOP
from scaling.studies.recipe_records import Spread, spread_of
from scaling.studies.sharpness.report import spread_text, values
from scaling.studies.warm_start.record import Net, Record, Start

SIDES = ("small", "warm")
Of = Callable[[Net], float | None]


@dataclass(frozen=True)
class Place:
    """The starts of all seeds at one step."""

    step: int
    epochs: float
    starts: list[Start]

    def each(self, side: str, of: Of) -> list[float]:
        """Of the nets there ("small"), or of those trained from there ("warm")."""
        nets = [getattr(start, side) for start in self.starts]
        return [value for net in nets if net and (value := of(net)) is not None]

    def spread(self, side: str, of: Of) -> Spread | None:
        """Over the seeds."""
        return spread_of(self.each(side, of))


@dataclass(frozen=True, eq=False, kw_only=True)
class Point(Record):
    """One small batch."""

    directory: Directory

    @property
    def places(self) -> list[Place]:
        """By step."""
        at = lambda step: [start for start in self.starts if start.step == step]
        steps = sorted({start.step for start in self.starts})
        return [Place(step, self.epochs(step), at(step)) for step in steps]

    @property
    def keskar(self) -> str:
        """The name of the first of Keskar's measures."""
        names = (m.name for start in self.starts for m in start.small.measures)
        return next((name for name in names if name.startswith("φ")), "φ")

    def label(self, side: str) -> str:
        """What the nets of a side are."""
        return f"batch {count(self.global_batch if side == 'small' else self.large_batch)}"


def score(net: Net) -> float:
    """The headline metric."""
    return net.score


def measure(name: str) -> Of:
    """A measure of sharpness."""
    return lambda net: net.value(name)


def read(workdir: Workdir) -> records.Study:
    """The study in one work directory, by the small batch."""
    points = sorted(read_points(workdir, Point), key=lambda point: point.global_batch)
    alike = "large_batch", "metric", "split", "examples", "statistics"
    check_alike(
        workdir.path,
        points,
        lambda p: {**{key: getattr(p, key) for key in alike}, **p.directory.recipe},
    )
    return records.Study(workdir.path, points, workdir.unfinished)


def _words(study):
    """validation error"""
    return f"{study.points[0].split} {study.measure.words}"


def answer(study: records.Study) -> str:
    """The large batch from the first and from the last start, beside the small batch."""
    point, text = study.points[0], partial(metric_value, study.measure)
    places = [place for place in point.places if place.spread("warm", score)]
    if not places:
        return f"{subject(study)}, large-batch training diverged from every start."
    first, last = places[0], places[-1]
    told = f"{subject(study)}, {point.label('warm')} ends at a {_words(study)} of "
    told += f"{text(first.spread('warm', score).mean)} from {_from(point, first)}"
    if last is not first:
        told += f" and of {text(last.spread('warm', score).mean)} from {_from(point, last)}"
    own = last.spread("small", score).mean
    told += f"; {point.label('small')} itself comes to {text(own)} there."
    sharp = [place.spread("warm", measure(point.keskar)) for place in (first, last)]
    if not all(sharp):
        return told
    small = last.spread("small", measure(point.keskar))
    beside = f" ({point.label('small')}: {number(small.mean)})" if small else ""
    return (
        f"{told} The sharpness {point.keskar} of {point.label('warm')} is "
        f"{number(sharp[0].mean)} and {number(sharp[1].mean)}{beside}."
    )


def _from(point, place):
    if not place.step:
        return "initial weights"
    return f"the weights of {point.label('small')} after {number(place.epochs)} epochs"


def _columns(study) -> list[Column]:
    """A row is (study, point, place)."""
    text, words = partial(spread_text, partial(metric_value, study.measure)), _words(study)
    of = lambda side, what: lambda s, p, place: place.spread(side, what(p))
    kinds = [
        (words, lambda p: score, text, "score"),
        (TOP, lambda p: measure(TOP), values, "eigenvalue"),
        (study.points[0].keskar, lambda p: measure(p.keskar), values, "phi"),
    ]
    return [
        Column("small batch", lambda s, p, place: p.global_batch, count, "global_batch"),
        Column("epochs", "epochs", number),
        Column("step", "step", count),
        *(
            Column(f"{title}, {side}", of(side, what), form, f"{side}_{key}")
            for title, what, form, key in kinds
            for side in SIDES
        ),
        Column("seeds", lambda s, p, place: _seeds(place), str, "seeds"),
    ]


def _seeds(place):
    return f"{len(place.each('warm', score))} of {len(place.starts)}"


def table(studies: Sequence[records.Study]) -> Table:
    """A row per start."""
    return Table(_columns(studies[0]), within(studies, lambda p: p.places), "warm_starts.csv")


def sections(studies: Sequence[records.Study]) -> Iterator[Section]:
    """The page from top to bottom."""
    panels = [
        panel
        for study, point in ((s, p) for s in studies for p in s.points)
        for panel in _panels(study, point)
    ]
    caption = (
        "Large-batch training from the weights of a small-batch run (Keskar 2016, Fig. 5), against "
        "the epochs of that run, and the run itself there. Means over the seeds; bars are their "
        "range."
    )
    nothing = "every large-batch training diverged"
    first = studies[0].points[0]
    norm = "" if first.statistics == "none" else f" with {first.statistics} batch statistics"
    note = (
        f"small: the run of the small batch there. warm: after {count(first.large_steps)} steps "
        f"of batch {count(first.large_batch)} from there, with a new state of the optimizer. φ: "
        f"Keskar 2016, Metric 2.1; it and the {TOP} of the Hessian are of the first "
        f"{count(first.examples)} training examples{norm}, and change where a layer is rescaled. "
        "Means ± standard deviations over the seeds whose large-batch training came to its end."
    )
    starts = [
        (*row, start) for row in within(studies, lambda p: p.places) for start in row[-1].starts
    ]
    nets = [
        (*row, side, net) for row in starts for side in SIDES if (net := getattr(row[-1], side))
    ]
    rows = [(*row, one) for row in nets for one in row[-1].measures]
    every = [
        *csv_only(1, "global_batch", "large_batch"),
        *csv_only(2, "step", "epochs"),
        *csv_only(3, "seed"),
        Column("", lambda *row: row[4], key="net"),
        *csv_only(5, "loss", "score"),
        *csv_only(6, "name", "value", "low", "high"),
    ]
    yield Section(
        "Warm starts",
        [
            Picture("warm_start", caption, shown(panels), nothing),
            table(studies),
            Note(note),
            Table(every, rows, "warm_start_nets.csv", shown=False),
        ],
    )


def _panels(study, point) -> Iterator[Panel]:
    """The score and measures of sharpness."""
    x = Axis(f"epochs of {point.label('small')} before", "near", number)
    yield _panel(study, point, x, of_metric(study.measure, _words(study)), score)
    for name in (point.keskar, TOP):
        yield _panel(study, point, x, Axis(name), measure(name))


def _panel(study, point, x, y, of):
    marks = []
    for index, side in enumerate(SIDES):
        color, marker = style_of(index)
        found = [(place, each) for place in point.places if (each := place.each(side, of))]
        at, mean = [p.epochs for p, _ in found], [sum(each) / len(each) for _, each in found]
        label = point.label(side) + (" from there" if side == "warm" else "")
        texts = [f"{label}\n{number(e)} epochs: {y.tick(v)}" for e, v in zip(at, mean, strict=True)]
        ends = {"low": [min(each) for _, each in found], "high": [max(each) for _, each in found]}
        marks.append(Line(at, mean, color, series=label))
        look = {"marker": marker, "hollow": side == "small", "texts": texts}
        marks.append(Points(at, mean, color, label, **look, **ends))
    return Panel(x, y, marks, study.named())


def cautions(study: records.Study) -> list[str]:
    """One sentence each."""
    return about_all(
        study.points,
        (
            "some large-batch training diverged; the means are of the other seeds.",
            lambda p: any(start.warm is None for start in p.starts),
        ),
        (
            "one seed shows no difference that chance would not.",
            lambda p: len({start.seed for start in p.starts}) < 2,
        ),
        (
            "with frozen batch statistics the loss is steeper than that in training.",
            lambda p: p.statistics == "frozen",
        ),
    )


def details(study: records.Study) -> dict[str, list[str]]:
    """The seeds."""
    numbers = {len({start.seed for start in point.starts}) for point in study.points}
    return {"seeds": [f"{n} runs of the small batch" for n in sorted(numbers)]}


KIND = Kind("Warm starts", read, answer, table, sections, cautions, details)
