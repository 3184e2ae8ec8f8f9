"""What a run measured of its gradient noise: in the records of any study, in words and figures.

McCandlish et al. 2018 (arXiv:1812.06162): B_simple = tr(Sigma) / |G|^2, eq. 2.9, in examples.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scaling.noise import Average, Estimate, Window
from scaling.report.charts import Line, Mark, Points
from scaling.report.wording import NOTHING, between, count, number

UNRESOLVED = "B_simple not resolved: at least this"


@dataclass(frozen=True)
class Exact:
    """From the gradients of all examples, one by one; None: not positive."""

    grad_sq_norm: float
    grad_variance_trace: float
    noise_scale: float | None  # B_simple
    hessian_noise_scale: float | None  # B_noise = tr(H Sigma) / (G^T H G), eq. 2.8


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
    average: float | None  # mean of the resolved windows, weighted by their steps
    windows: list[Window]  # consecutive, longer and longer
    average_low: float | None = None
    average_high: float | None = None
    by_devices: Estimate | None = None  # from whole devices, where microbatches tell more
    exact: dict[str, Exact | None] | None = None  # at the "start" and "end", where it was computed

    @property
    def resolved(self) -> list[Window]:
        """Windows with a noise scale."""
        return [window for window in self.windows if window.noise_scale is not None]

    @property
    def level(self) -> Average:
        """One number for the run: the average, else that of all measurements together."""
        if self.average is None:
            return Average(self.whole.noise_scale, self.whole.low, self.whole.high)
        return Average(self.average, self.average_low, self.average_high)

    def exactly(self, when: str) -> Exact | None:
        """The exact values at the "start" or "end"."""
        return (self.exact or {}).get(when)


def estimate_text(estimate: Estimate | Average) -> str:
    """31.2 (20.1 to 44.0); not resolved (at least 20.1)."""
    if estimate.noise_scale is None:
        return "not resolved" + (f" (at least {number(estimate.low)})" if estimate.low else "")
    span = between(estimate.low, estimate.high)
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
      name: of the run, first on hovering.
      faint: in the background, without intervals.
    """
    placed = [(x, window) for window in noise.windows if (x := place(window)) is not None]
    resolved = [(x, w) for x, w in placed if w.noise_scale is not None]
    bounded = [(x, w) for x, w in placed if w.noise_scale is None and (w.low or 0) > 0]
    texts = lambda pairs: [window_text(window, name) for _, window in pairs]
    marks = []
    for known, group in itertools.groupby(placed, lambda pair: pair[1].noise_scale is not None):
        if known:
            x, y = zip(*[(x, window.noise_scale) for x, window in group], strict=True)
            marks.append(Line(x, y, color, width=0.8, faint=faint, series=label))
    if resolved:
        x, y = [x for x, _ in resolved], [w.noise_scale for _, w in resolved]
        ends = [[] if faint else [getattr(w, end) for _, w in resolved] for end in ("low", "high")]
        look = {"low": ends[0], "high": ends[1], "faint": faint, "texts": texts(resolved)}
        marks.append(Points(x, y, color, label, marker, **look))
    if bounded:
        x, y = [x for x, _ in bounded], [w.low for _, w in bounded]
        look = {"hollow": True, "faint": faint, "texts": texts(bounded)}
        marks.append(Points(x, y, color, UNRESOLVED, "^", 6, **look))
    return marks


def window_text(window: Window, name: str) -> str:
    """What hovering over a window shows."""
    lines = [
        name,
        f"steps {count(window.first_step)} to {count(window.last_step)}",
        f"B_simple {estimate_text(window)}",
        f"training loss {number(window.loss)}",
        f"{count(window.measurements)} measurements",
    ]
    return "\n".join(filter(None, lines))


def exact_marks(noises: Sequence[Noise], colors: Sequence[str]) -> list[Points]:
    """B_simple and B_noise from every example, before the first step and after the last."""
    marks = []
    for key, marker, label in (
        ("noise_scale", "D", "B_simple from every example's gradient"),
        ("hessian_noise_scale", "P", "B_noise, which weighs it by the Hessian"),
    ):
        for noise, color in zip(noises, colors, strict=True):
            last = max((window.last_step for window in noise.windows), default=0)
            values = {}
            for when, step in (("start", 1), ("end", last)):  # an axis of logs has no 0
                value = getattr(noise.exactly(when), key, None)
                if value and value > 0:
                    values[step] = value
            if values:
                look = {"hollow": True, "texts": [f"{label}: {number(v)}" for v in values.values()]}
                marks.append(Points([*values], [*values.values()], color, label, marker, 7, **look))
    return marks
