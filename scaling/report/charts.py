"""A figure as panels and marks, which `drawing.py` renders as PNG and SVG."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from scaling.crossings import Metric
from scaling.report.ticks import Scale, decades, powers_of_two
from scaling.report.wording import axis_text, batch_label, decimal_label, metric_value

FAR = 6.0  # intervals extend an axis up to this factor beyond the values
Values = Sequence[float]
# Distinguishable with colour blindness (Okabe and Ito 2008); black is for marks of all studies.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osDv^P"
GREY = "#595959"


def style_of(index: int) -> tuple[str, str]:
    """Colour and marker of the study with that index."""
    return COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)]


def shades(number: int) -> list[str]:
    """Colours for an ordered series, dark to light."""
    import matplotlib
    from matplotlib.colors import to_hex

    places = [0.9 * i / max(number - 1, 1) for i in range(number)]
    return [to_hex(matplotlib.colormaps["viridis"](place)) for place in places]


@dataclass(frozen=True)
class Axis:
    """An axis of a panel.

    Attributes:
      scale: "decimal" or "binary", logarithmic with such ticks; "near", linear around the values;
        or "names", where the values 0, 1, ... have `names`.
      tick: value -> label of a tick.
      include: values that must be on the axis.
      reverse: high values first.
    """

    label: str
    scale: str = "decimal"
    tick: Callable[[float], str] = decimal_label
    include: tuple[float, ...] = ()
    reverse: bool = False
    names: tuple[str, ...] = ()


def batches(rows: str = "examples", what: str = "global batch") -> Axis:
    """An axis of batch sizes, in rows as `Study.rows` names them."""
    return Axis(f"{what} ({rows})", "binary", batch_label)


def of_metric(metric: Metric, words: str, **options: Any) -> Axis:
    """An axis of a metric, with its unit. Errors and losses fall by factors; nats per token and
    what rises do not, and may be 0 or below."""
    near = metric.unit or metric.better == "higher"
    look = {"scale": "near" if near else "decimal", "tick": partial(metric_value, metric)}
    return Axis(axis_text(metric, words), **look | options)


# All marks: `label` is the legend entry, "" for none; `series` the label of the entry that shows
# and hides the mark, if it has none of its own.


@dataclass(frozen=True)
class Line:
    """A line; a guide does not extend the axes. `text` is shown on hovering."""

    x: Values
    y: Values
    color: str
    label: str = ""
    dash: str = "solid"  # or dash, dot
    width: float = 1.4
    guide: bool = False
    faint: bool = False
    series: str = ""
    text: str = ""


@dataclass(frozen=True)
class Band:
    """The area between two lines; it does not extend the axes."""

    x: Values
    low: Values
    high: Values
    color: str
    label: str = ""
    series: str = ""


@dataclass(frozen=True)
class Points:
    """Points with optional intervals.

    Attributes:
      low, high: ends of the intervals, empty or one per point; None for unbounded.
      names: labels, empty or one per point.
      names_at: "above" (to the right) or "below" (to the left) of the points.
      texts: shown on hovering, lines of plain text, empty or one per point.
    """

    x: Values
    y: Values
    color: str
    label: str = ""
    marker: str = "o"
    size: float = 5.0
    hollow: bool = False
    faint: bool = False
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    names: Sequence[str] = ()
    names_at: str = "above"
    texts: Sequence[str] = ()
    series: str = ""


@dataclass(frozen=True)
class Rule:
    """A line across the panel, at x or y."""

    color: str
    label: str = ""
    x: float | None = None
    y: float | None = None
    dash: str = "dash"
    series: str = ""


@dataclass(frozen=True)
class Span:
    """A shaded range of x, or of y; an infinite end, or 0 on an axis of logs, runs out of the
    figure."""

    low: float
    high: float
    color: str
    label: str = ""
    axis: str = "x"
    series: str = ""


@dataclass(frozen=True)
class Contours:
    """A function of two variables, z [len(y), len(x)]: shaded between level lines that have their
    value on them. Panels with the same levels have the same shades."""

    x: Values
    y: Values
    z: Any
    levels: Values
    tick: Callable[[float], str] = decimal_label
    label: str = ""
    series: str = ""


Mark = Line | Band | Points | Rule | Span | Contours


@dataclass(frozen=True)
class Panel:
    """Axes and marks, from back to front."""

    x: Axis
    y: Axis
    marks: list[Mark] = field(default_factory=list)
    title: str = ""

    @property
    def empty(self) -> bool:
        """Whether it has no data points."""
        return not any(len(mark.x) for mark in self.marks if isinstance(mark, Points))

    def scale(self, name: str, narrow: bool = False) -> Scale:
        """Limits and ticks of axis "x" or "y"; matplotlib chooses those of a linear axis."""
        axis = getattr(self, name)
        crowded = narrow and name == "x"  # labels are side by side
        values = [*axis.include, *(v for mark in self.marks for v in _extent(mark, name))]
        values = [value for value in values if math.isfinite(value)]
        if axis.scale == "names":
            return Scale(-0.6, len(axis.names) - 0.4, list(range(len(axis.names))))
        ends = [end for mark in self.marks for end in _ends(mark, name)]
        if axis.scale == "near":
            return Scale(*near(values, ends), [])
        values = [value for value in values if value > 0] or [1.0]
        least, most = min(values) / FAR, max(values) * FAR
        values += [min(max(end, least), most) for end in ends]
        if axis.scale == "binary":
            return powers_of_two(values, most=6 if crowded else 10)
        return decades(values, most=4 if crowded else 8)


def _extent(mark: Mark, name: str) -> Iterable[float]:
    if isinstance(mark, Span):
        return (mark.low, mark.high) if name == mark.axis else ()
    if isinstance(mark, Rule):
        place = getattr(mark, name)
        return () if place is None else (place,)
    if isinstance(mark, Band) or (isinstance(mark, Line) and mark.guide):
        return ()
    return getattr(mark, name)


def _ends(mark, name):
    """Ends of intervals."""
    if name == "x" or not isinstance(mark, Points):
        return []
    return [end for end in (*mark.low, *mark.high) if end is not None and not math.isnan(end)]


def near(values: Values, ends: Values = ()) -> tuple[float, float]:
    """Limits of a linear axis around `values`.

    Args:
      ends: of intervals; they extend the axis by at most the range of the values on each side.
    """
    values = list(values) or [0.0, 1.0]
    low, high = min(values), max(values)
    span = (high - low) or math.inf
    inside = [min(max(end, low - span), high + span) for end in ends]
    low, high = min([low, *inside]), max([high, *inside])
    pad = 0.06 * (high - low) or 0.1 * abs(high) or 0.1
    return low - pad, high + pad


def shown(panels: Iterable[Panel]) -> list[Panel]:
    """The panels with data."""
    return [panel for panel in panels if not panel.empty]
