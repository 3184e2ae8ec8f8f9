"""What the surfaces of a record show: lines, planes, paths and widths."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from scaling.report.records import Directory
from scaling.studies.landscape.record import EIGENVALUES, Net, Record

RISE = 0.5  # of the loss above that at the weights: how far away that is, is the half-width


@dataclass(frozen=True, eq=False, kw_only=True)
class Point(Record):
    """Nets that are compared, with the arrays of their surfaces."""

    directory: Directory
    arrays: dict[str, Any]  # name of the file -> places [P, D], then metrics [P]

    @property
    def views(self) -> list["View"]:
        """One per net that did not diverge."""
        alive = [net for net in self.nets if not net.diverged]
        return [View(self, index, net) for index, net in enumerate(alive)]

    @property
    def label(self) -> str:
        """What distinguishes it from other points."""
        return "" if self.weight_decay is None else f"weight decay {self.weight_decay:g}"

    def values(self, file: str, metric: str) -> np.ndarray:
        """A metric at all places [P]."""
        return self.arrays[file][1 + self.metrics.index(metric)]

    def path(self, kind: str, split: str, metric: str) -> tuple[np.ndarray, np.ndarray] | None:
        """(shares of the way, values) of "line" or "arc"; None where there are no two nets."""
        file = f"{kind}_{split}"
        if file not in self.arrays:
            return None
        return self.arrays[file][0][:, 0], self.values(file, metric)

    def at(self, share: float) -> float | None:
        """The training loss at a share of the line between the nets."""
        path = self.path("line", "train", "loss")
        if path is None or not path[0][0] <= share <= path[0][-1]:
            return None
        value = float(np.interp(share, *path))
        return value if np.isfinite(value) else None

    @property
    def barrier(self) -> float | None:
        """How far the training loss between the nets, on the line, rises above that of both; 0
        where it does not; None: not known, or a loss is no number."""
        path = self.path("line", "train", "loss")
        if path is None:
            return None
        losses = path[1][(path[0] > -1e-6) & (path[0] < 1 + 1e-6)]
        value = float(losses.max() - max(losses[0], losses[-1]))
        return None if math.isnan(value) else value


@dataclass(frozen=True)
class Width:
    """Half-width of a minimum.

    Attributes:
      mean: over directions and their two sides; where the rise lies beyond the line, its end.
      deviation: sample standard deviation of the directions.
      reached: whether all sides rise so far.
    """

    mean: float
    deviation: float
    reached: bool


@dataclass(frozen=True, eq=False)
class View:
    """A net and what is around it."""

    point: Point
    index: int  # among the nets that did not diverge
    net: Net

    @property
    def name(self) -> str:
        """Of the net: batch 8,192."""
        return self.net.name

    def lines(self, split: str, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """(alpha [line], values [directions, line])."""
        point, file = self.point, f"net{self.index}_{split}"
        number, count = point.line, len(point.seeds)
        values = point.values(file, metric)[: count * number].reshape(count, number)
        return point.arrays[file][0][:number, 0], values

    def plane(self, metric: str) -> tuple[np.ndarray, np.ndarray] | None:
        """(alpha [n], values [n, n], the first direction first) on training examples."""
        skipped, file = self.point.line * len(self.point.seeds), f"net{self.index}_train"
        if self.point.plane == 1:
            return None
        places, values = self.point.arrays[file][0][skipped:], self.point.values(file, metric)
        alpha, _, values = on_grid(places, values[skipped:], self.point.plane)
        return alpha, values

    def track(self, metric: str) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """(x, y, values [len(x), len(y)]) on the plane in which the weights moved the most."""
        file = f"track{self.index}"
        if file not in self.point.arrays:
            return None
        places = self.point.arrays[file][0]
        return on_grid(places, self.point.values(file, metric), self.point.plane)

    def map(self) -> tuple[np.ndarray, dict[str, np.ndarray]] | None:
        """(alpha [n], name -> values [n, n], of `EIGENVALUES`, the first direction first)."""
        file, side = f"map{self.index}", self.point.map
        if file not in self.point.arrays:
            return None
        places, *columns = self.point.arrays[file]
        values = {
            name: on_grid(places, column, side)[2]
            for name, column in zip(EIGENVALUES, columns, strict=True)
        }
        return places[::side, 0], values

    @property
    def convexity(self) -> tuple[np.ndarray, np.ndarray] | None:
        """(alpha [n], |least / largest eigenvalue| [n, n]), 0 where the least is not negative."""
        found = self.map()
        if found is None:
            return None
        alpha, values = found
        return alpha, np.maximum(-values["least"], 0) / values["largest"]

    def centre(self, split: str, metric: str) -> float:
        """A metric at the weights."""
        _, values = self.lines(split, metric)
        return float(values[0, values.shape[1] // 2])

    @property
    def width(self) -> Width:
        """How far from the weights the training loss has risen by `RISE`."""
        alpha, values = self.lines("train", "loss")
        middle = len(alpha) // 2
        sides = np.concatenate([values[:, middle::-1], values[:, middle:]], 1)
        sides = sides.reshape(len(values), 2, middle + 1)
        found = [[_crossing(alpha[middle:], side) for side in pair] for pair in sides]
        places = np.array([[place or alpha[-1] for place in pair] for pair in found])
        reached = all(place is not None for pair in found for place in pair)
        return Width(float(places.mean()), float(places.mean(1).std(ddof=1)), reached)

    @property
    def beyond(self) -> float | None:
        """The training loss half-way beyond the net, on the line from the other one; None of nets
        in between."""
        ends = {0: -0.5, len(self.point.views) - 1: 1.5}
        return self.point.at(ends[self.index]) if self.index in ends else None


def _crossing(alpha, losses):
    """Where the losses of one side have first risen, by linear interpolation; None: nowhere."""
    risen = np.where(np.isfinite(losses), losses, np.inf) - losses[0] - RISE
    above = np.flatnonzero(risen > 0)
    if not above.size:
        return None
    k = int(above[0])
    share = -risen[k - 1] / (risen[k] - risen[k - 1]) if np.isfinite(risen[k]) else 1.0
    return float(alpha[k - 1] + share * (alpha[k] - alpha[k - 1]))


def on_grid(places, values, side):
    """(x, y, values [len(x), len(y)]) of places whose first coordinate varies slowest."""
    return places[::side, 0], places[:side, 1], values.reshape(-1, side)
