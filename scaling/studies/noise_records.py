"""Noise scales in the records of any study, and how they are drawn and written.

McCandlish et al. 2018 (arXiv:1812.06162): B_simple = tr(Sigma) / |G|^2, eq. 2.9, in examples.
"""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scaling import noise as estimators
from scaling.report.charts import Line, Mark, Points
from scaling.report.plots import plain
from scaling.report.records import from_keys
from scaling.report.wording import NOTHING, between, count, number

UNRESOLVED = "B_simple not resolved: at least this"


@dataclass(frozen=True)
class Estimate:
    """B_simple over some measurements, with its 95% interval."""

    noise_scale: float | None  # None: not resolved
    low: float | None
    high: float | None  # None: unbounded
    grad_sq_norm: float | None
    grad_variance_trace: float | None
    resolved: bool
    measurements: int


@dataclass(frozen=True)
class Window(Estimate):
    """A part of a run."""

    first_step: int
    last_step: int
    loss: float | None  # mean training loss

    @property
    def middle(self) -> float:
        """Its place among the steps."""
        return (self.first_step + self.last_step) / 2


@dataclass(frozen=True)
class Exact:
    """From the gradients of all examples, one by one; B_noise is `hessian_noise_scale`."""

    grad_sq_norm: float
    grad_variance_trace: float
    noise_scale: float | None
    hessian_noise_scale: float | None


@dataclass(frozen=True)
class Noise:
    """What a run measured of its gradient noise."""

    source: str  # microbatches, devices or halves
    b_small: float
    b_big: float
    every: int  # steps from one measurement to the next
    coupled: bool  # batch norm: an example's gradient depends on the others
    start: Estimate
    end: Estimate
    whole: Estimate
    average: float | None
    average_low: float | None  # older records have no interval of it
    average_high: float | None
    windows: list[Window]
    by_devices: Estimate | None
    exact: dict[str, Exact]  # at "start" and "end", where it was computed

    @property
    def resolved(self) -> list[Window]:
        """Windows with a noise scale."""
        return [window for window in self.windows if window.noise_scale is not None]


@dataclass(frozen=True, eq=False)
class Updates:
    """What every measured update of a run says by itself, [n] each."""

    step: np.ndarray
    grad_sq_norm: np.ndarray
    grad_variance_trace: np.ndarray

    def within(self, first: float, last: float) -> Estimate:
        """B_simple over the updates from step `first` to `last`."""
        inside = (first <= self.step) & (self.step <= last)
        found = estimators.noise_scale(self.grad_sq_norm[inside], self.grad_variance_trace[inside])
        return Estimate(**found.as_dict())


def read_updates(path: Path, global_batch: int) -> Updates:
    """The updates in a metrics.jsonl; none where there is no such file or it measured nothing."""
    columns = [], [], [], []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break  # a write cut short
        values = [row.get(f"{part}grad_sq_norm") for part in ("part_", "")]
        if row["split"] == "train" and None not in values:
            for column, value in zip(
                columns, (row["step"], *values, row["part_batch"]), strict=True
            ):
                column.append(value)
    step, small, big, part = (np.array(column, float) for column in columns)
    return Updates(step, *estimators.estimate(small, big, part, global_batch))


def read_noise(record: dict[str, Any] | None) -> Noise | None:
    """A record's "noise_scale"; None where nothing was measured."""
    if record is None:
        return None
    estimates = {key: from_keys(Estimate, record[key]) for key in ("start", "end", "whole")}
    by_devices = record.get("by_devices")
    exact = record.get("exact") or {}
    return from_keys(
        Noise,
        {"average_low": None, "average_high": None}
        | record
        | estimates
        | {
            "windows": [from_keys(Window, window) for window in record["windows"]],
            "by_devices": by_devices and from_keys(Estimate, by_devices),
            "exact": {when: from_keys(Exact, values) for when, values in exact.items() if values},
        },
    )


def estimate_text(estimate: Estimate) -> str:
    """31.2 (20.1 to 44.0); not resolved (at least 20.1)."""
    span = between(estimate.low, estimate.high)
    if estimate.noise_scale is None:
        known = "" if estimate.low is None else f" (at least {number(estimate.low)})"
        return f"not resolved{known}"
    return number(estimate.noise_scale) + ("" if span == NOTHING else f" ({span})")


def window_marks(
    noise: Noise,
    place: Callable[[Window], float | None],
    color: str,
    label: str,
    name: str,
    marker: str = "o",
    faint: bool = False,
) -> list[Mark]:
    """Resolved windows with their intervals, and lower bounds of those that are not resolved.

    A line joins windows that follow each other; it breaks where one is not resolved.

    Args:
      place: a window's x; None: it has no place.
      label: in the legend.
      faint: in the background, without intervals.
      name: of the run, first when hovering; it is made safe here.
    """
    placed = [(place(window), window) for window in noise.windows]
    placed = [(x, window) for x, window in placed if x is not None]
    resolved = [(x, w) for x, w in placed if w.noise_scale is not None]
    bounded = [(x, w) for x, w in placed if w.noise_scale is None and (w.low or 0) > 0]
    texts = lambda pairs: [window_text(window, name) for _, window in pairs]
    marks = []
    for known, group in itertools.groupby(placed, lambda pair: pair[1].noise_scale is not None):
        if known:
            x, y = zip(*[(x, window.noise_scale) for x, window in group], strict=True)
            marks.append(Line(x, y, color, width=0.8, faint=faint))
    if resolved:
        marks.append(
            Points(
                [x for x, _ in resolved],
                [w.noise_scale for _, w in resolved],
                color,
                label,
                marker,
                low=[] if faint else [w.low for _, w in resolved],
                high=[] if faint else [w.high for _, w in resolved],
                texts=texts(resolved),
                faint=faint,
            )
        )
    if bounded:
        x, y = [x for x, _ in bounded], [w.low for _, w in bounded]
        told = texts(bounded)
        bound = Points(x, y, color, UNRESOLVED, "^", 6, hollow=True, faint=faint, texts=told)
        marks.append(bound)
    return marks


def window_text(window: Window, name: str) -> str:
    """What hovering over a window tells."""
    lines = [f"<b>{plain(name)}</b>"] * bool(name)
    lines += [
        f"steps {count(window.first_step)} to {count(window.last_step)}",
        plain(f"B_simple {estimate_text(window)}"),
        f"training loss {number(window.loss)}",
        f"{count(window.measurements)} measurements",
    ]
    return "<br>".join(lines)


def exact_marks(noises: Sequence[Noise], colors: Sequence[str]) -> list[Points]:
    """B_simple and B_noise from every example, before the first step and after the last."""
    marks = []
    for key, marker, label in (
        ("noise_scale", "D", "B_simple from every example's gradient"),
        ("hessian_noise_scale", "P", "B_noise, which weighs it by the Hessian"),
    ):
        for noise, color in zip(noises, colors, strict=True):
            last = max((window.last_step for window in noise.windows), default=0)
            steps = {"start": 1, "end": last}  # an axis of logs has no 0
            found = [(steps[when], getattr(x, key)) for when, x in noise.exact.items()]
            found = [(step, value) for step, value in found if value and value > 0]
            if found:
                x, y = zip(*found, strict=True)
                texts = [plain(f"{label}: {number(value)}") for value in y]
                look = {"hollow": True, "texts": texts}
                marks.append(Points(x, y, color, label, marker, 7, **look))
    return marks
