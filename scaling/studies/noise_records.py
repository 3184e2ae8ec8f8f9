"""What a run measured of its gradient noise: in the records of any study, in words and figures.

McCandlish et al. 2018 (arXiv:1812.06162): B_simple = tr(Sigma) / |G|^2, eq. 2.9, in examples.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scaling.noise import Average, Estimate, Exact, Window, average
from scaling.report.charts import Line, Mark, Points
from scaling.report.wording import NOTHING, between, count, number

UNRESOLVED = "B_simple not resolved: at least this"
COUPLED = "batch norm couples the examples of a batch, so B_simple is a rough guide."


@dataclass(frozen=True)
class Noise:
    """The key "noise_scale" of a run that tracked it; B_simple in examples."""

    source: str  # whose gradients were compared: microbatches, devices or halves
    b_small: float  # examples in each of these
    b_big: float  # examples in the batch
    every: int  # steps from one measurement to the next
    coupled: bool  # batch norm couples examples: B_simple is of parts of this size, not of examples
    start: Estimate  # of the first window
    end: Estimate  # of the last one
    whole: Estimate  # a ratio of averages over the run, which is mostly about its beginning
    windows: list[Window]  # consecutive, longer and longer
    by_devices: Estimate | None = None  # from whole devices, where microbatches tell more
    exact: dict[str, Exact | None] | None = None  # at the "start" and "end", where it was computed

    @property
    def resolved(self) -> list[Window]:
        """Windows with a noise scale."""
        return [window for window in self.windows if window.noise_scale is not None]

    @property
    def level(self) -> Average:
        """One number for the run."""
        return average(self.windows, self.whole)

    @property
    def together(self) -> Average:
        """Of all updates together, else of the windows that are resolved: mostly of its beginning,
        so without an upper end."""
        value, steps = (
            self.whole.noise_scale,
            [w.last_step - w.first_step + 1 for w in self.resolved],
        )
        if value is None and steps:
            value = float(np.average([w.noise_scale for w in self.resolved], weights=steps))
        return Average(value, self.whole.low, None)

    def exactly(self, when: str) -> Exact | None:
        """The exact values at the "start" or "end"."""
        return (self.exact or {}).get(when)


def estimate_text(estimate: Estimate | Average) -> str:
    """31.2 (20.1 to 44.0); not resolved (at least 20.1)."""
    if estimate.noise_scale is None:
        return "not resolved" + (f" (at least {number(estimate.low)})" if estimate.low else "")
    span = between(estimate.low, estimate.high)
    return number(estimate.noise_scale) + ("" if span == NOTHING else f" ({span})")


def estimate_marks(
    x: Sequence[float],
    estimates: Sequence[Estimate | Average],
    texts: Sequence[str],
    *style: Any,
    faint: bool = False,
) -> list[Points]:
    """Resolved values with their intervals, and lower bounds of those that are not resolved.

    Args:
      texts: shown on hovering.
      style: colour, label, marker and size of the resolved ones, as in `Points`.
      faint: in the background, without intervals.
    """
    marks, color = [], style[0]
    places = list(zip(x, estimates, texts, strict=True))
    if resolved := [place for place in places if place[1].noise_scale is not None]:
        x, values, texts = map(list, zip(*resolved, strict=True))
        y = [value.noise_scale for value in values]
        ends = {end: [getattr(v, end) for v in values] for end in ("low", "high") if not faint}
        marks.append(Points(x, y, *style, faint=faint, texts=texts, **ends))
    if bounded := [p for p in places if p[1].noise_scale is None and (p[1].low or 0) > 0]:
        x, values, texts = map(list, zip(*bounded, strict=True))
        y = [value.low for value in values]
        marks.append(Points(x, y, color, UNRESOLVED, "^", 6, hollow=True, faint=faint, texts=texts))
    return marks


def window_marks(
    noise: Noise,
    place: Callable[[Window], float | None],
    color: str,
    label: str,
    name: str,
    marker: str = "o",
    faint: bool = False,
) -> list[Mark]:
    """The windows of a run. A line joins neighbours; it breaks where one is not resolved.

    Args:
      place: a window's x; None: it has no place.
      label: in the legend.
      name: of the run, first on hovering.
      faint: in the background, without intervals.
    """
    placed = [(x, window) for window in noise.windows if (x := place(window)) is not None]
    marks = []
    for known, group in itertools.groupby(placed, lambda pair: pair[1].noise_scale is not None):
        if known:
            x, y = zip(*[(x, window.noise_scale) for x, window in group], strict=True)
            marks.append(Line(x, y, color, width=0.8, faint=faint, series=label))
    x, windows = [x for x, _ in placed], [window for _, window in placed]
    texts = [
        f"{name}\nsteps {count(w.first_step)} to {count(w.last_step)}\n"
        f"B_simple {estimate_text(w)}\ntraining loss {number(w.loss)}"
        for w in windows
    ]
    return marks + estimate_marks(x, windows, texts, color, label, marker, faint=faint)
