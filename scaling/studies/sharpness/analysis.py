"""How measures of sharpness change with the batch, and how they rank nets by test error."""

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import scipy

from scaling.paired import holm, paired
from scaling.report.wording import number
from scaling.studies import recipe_records
from scaling.studies.measure_records import LEAST
from scaling.studies.recipe_records import Spread, spread_of
from scaling.studies.sharpness.record import END, Net, Record

FEWEST = 3  # nets, or batches, that are ranked
SEEDS = 4  # with fewer no measure can be told from chance
ALPHA = 0.025  # of raw and of invariant measures, so 5% for both together


@dataclass(frozen=True, eq=False, kw_only=True)
class Point(recipe_records.Point, Record):
    """One point."""

    def spread(self, place: str, of: Callable[[Net], float | None]) -> Spread | None:
        """Over the seeds that came to a place."""
        return spread_of([of(net) for net in self.nets(place).values()])

    def measured(self, place: str, name: str) -> Spread | None:
        """A measure over the seeds."""
        return self.spread(place, lambda net: net.value(name))


@dataclass(frozen=True)
class Ratio:
    """The mean of a measure over that of other nets; `low` and `high` are the extremes over
    `seeds`. p is Student's, paired, of no difference in the mean of logarithms."""

    value: float
    low: float
    high: float
    seeds: int
    p: float | None


def ratio(large: Record | None, small: Record | None, place: str, name: str) -> Ratio | None:
    """Large over small, seed by seed; None where they share no seed, or a value is not positive."""
    if large is None or small is None:
        return None
    ours, theirs = large.nets(place), small.nets(place)
    pairs = [(ours[s].value(name), theirs[s].value(name)) for s in ours if s in theirs]
    if not pairs or not all(value is not None and value > 0 for pair in pairs for value in pair):
        return None
    each = [mine / other for mine, other in pairs]
    mine, other = (statistics.mean(column) for column in zip(*pairs, strict=True))
    p = paired([0.0] * len(each), [math.log(value) for value in each]).p
    return Ratio(mine / other, min(each), max(each), len(each), p)


def tau(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Kendall's tau-b; None for fewer than `FEWEST` pairs, or where one side is constant."""
    if len(pairs) < FEWEST:
        return None
    found = float(scipy.stats.kendalltau(*zip(*pairs, strict=True)).statistic)
    return None if found != found else found


@dataclass(frozen=True)
class Agreement:
    """Kendall's tau of a measure with the test error, or what stands for it: 1 where the sharper
    of any two nets is the worse.

    Attributes:
      every: of all nets.
      between: of the means of the batch sizes.
      within: the mean over batch sizes of that of their nets.
    """

    every: float | None
    between: float | None
    within: float | None


@dataclass(frozen=True)
class Row:
    """A measure at a place.

    Attributes:
      small: its value at the small batch.
      ratios: recipe -> its value at the largest batch over that at the small batch.
    """

    place: str
    name: str
    invariant: bool
    small: Spread | None
    ratios: dict[str, Ratio | None]
    agreement: Agreement


@dataclass(frozen=True, eq=False)
class Study(recipe_records.Study):
    """All points, by batch, then in the order of the recipes."""

    points: list[Point]

    @property
    def places(self) -> list[str]:
        """Those that any net came to."""
        return [p for p in self.points[0].places if any(point.nets(p) for point in self.points)]

    @property
    def main(self) -> str:
        """The first place to which both ends of the baseline came; else the last update."""
        ends = self.small, self.large(self.baseline)
        both = [p for p in self.places if all(point and point.nets(p) for point in ends)]
        return next(iter(both), END)

    @property
    def small(self) -> Point | None:
        """The baseline at the base batch, or at its smallest."""
        points = self.points_of(self.baseline)
        base = [point for point in points if point.global_batch == self.base_batch]
        return next(iter(base or points), None)

    def large(self, recipe: str) -> Point | None:
        """The recipe's largest batch, if that is larger than the small one."""
        points, small = self.points_of(recipe), self.small
        larger = [p for p in points[-1:] if small and p.global_batch > small.global_batch]
        return next(iter(larger), None)

    def names(self) -> dict[str, bool]:
        """Measures -> whether they are invariant, in the order of the records."""
        nets = (net for point in self.points for run in point.runs for net in run.nets)
        found = {m.name: m.invariant for net in nets for m in net.measures}
        return {name: found[name] for name in found if name != LEAST}

    def rows(self, place: str) -> list[Row]:
        """Every measure at a place, raw ones first."""
        return [self._row(place, name, kind) for name, kind in self.names().items()]

    def _row(self, place, name, invariant):
        small = self.small and self.small.measured(place, name)
        ratios = {
            recipe: ratio(self.large(recipe), self.small, place, name) for recipe in self.recipes
        }
        return Row(place, name, invariant, small, ratios, self.agreement(place, name))

    def agreement(self, place: str, name: str) -> Agreement:
        """Of a measure with the score."""
        groups = [list(self._pairs(batch, place, name)) for batch in self.batches]
        every = [pair for group in groups for pair in group]
        means = [
            tuple(statistics.mean(column) for column in zip(*group, strict=True))
            for group in groups
            if group
        ]
        each = [found for group in groups if (found := tau(group)) is not None]
        return Agreement(tau(every), tau(means), statistics.mean(each) if each else None)

    def _pairs(self, batch, place, name) -> Iterator[tuple[float, float]]:
        """(measure, score such that lower is better) of the nets of a batch size."""
        for point in self.points_at(batch):
            for net in point.nets(place).values():
                if (value := net.value(name)) is not None and net.score is not None:
                    yield value, self.sign * net.score


def verdict(rows: Sequence[Row], recipe: str) -> str:
    """What measures of the rows say of the large batch at the level ALPHA for all of them together
    (Holm); "" where none has a ratio of `SEEDS` seeds."""
    found = [ratio for row in rows if (ratio := row.ratios.get(recipe)) and ratio.seeds >= SEEDS]
    sure = holm([ratio.p for ratio in found])
    said = {
        "sharper" if ratio.value > 1 else "flatter"
        for ratio, p in zip(found, sure, strict=True)
        if p is not None and p < ALPHA
    }
    words = {0: "not measurably sharper or flatter", 1: next(iter(said), "")}
    return words.get(len(said), "in part sharper, in part flatter") if found else ""


def range_text(rows: Sequence[Row], recipe: str) -> str:
    """3.4 to 12 times, the ratios of the rows; "" without any."""
    values = [ratio.value for row in rows if (ratio := row.ratios.get(recipe))]
    return f"{number(min(values))} to {number(max(values))} times" if values else ""
