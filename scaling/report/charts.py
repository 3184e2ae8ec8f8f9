"""A figure as panels and marks, which `drawing.py` draws for paper and for the page."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from scaling.report.ticks import Scale, decades, powers_of_two
from scaling.report.wording import batch_label, decimal_label

FAR = 6.0  # an interval's end widens an axis no further than this multiple of the values
Values = Sequence[float]
# Distinct also to the colour-blind (Okabe and Ito 2008); black is for what all studies share.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osDv^P"
GREY = "#595959"


def style_of(index: int) -> tuple[str, str]:
    """Colour and marker of the study of that number."""
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
      scale: "decimal" or "binary", logarithmic with such ticks; "linear", from 0 on; "near",
        linear just around the values; or "names", where the values 0, 1, ... have `names`.
      tick: the text at a tick; of a "near" axis, those without one are left out.
      include: values that must lie on it.
      reverse: high values first.
    """

    label: str
    scale: str = "decimal"
    tick: Callable[[float], str] = decimal_label
    include: tuple[float, ...] = ()
    reverse: bool = False
    names: tuple[str, ...] = ()


def batches(label: str = "global batch (examples)") -> Axis:
    """An axis of batch sizes."""
    return Axis(label, "binary", batch_label)


# All marks: `label` is their entry in the legend, "" for none; `series` the label of the entry that
# shows and hides them, where it is not their own.


@dataclass(frozen=True)
class Line:
    """A line; a guide does not widen the axes. `text` is shown on hovering over it."""

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
    """The range between two lines; it does not widen the axes."""

    x: Values
    low: Values
    high: Values
    color: str
    label: str = ""
    series: str = ""


@dataclass(frozen=True)
class Points:
    """Marks, with intervals where there are any.

    Attributes:
      low, high: ends of the intervals, empty or one per point; a None runs out of the figure.
      names: beside the points, empty or one per point.
      names_at: "above", to the right; "below", to the left; or level with it, "left" or "right".
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
    """A line across the panel, at one x or one y."""

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


Mark = Line | Band | Points | Rule | Span


@dataclass(frozen=True)
class Panel:
    """Axes and what is drawn on them, from back to front."""

    x: Axis
    y: Axis
    marks: list[Mark] = field(default_factory=list)
    title: str = ""

    @property
    def empty(self) -> bool:
        """Whether it holds no data."""
        return not any(len(mark.x) for mark in self.marks if isinstance(mark, Points))

    def scale(self, name: str, narrow: bool = False) -> Scale:
        """Limits and ticks of axis "x" or "y"; a linear one has no ticks of its own."""
        axis = getattr(self, name)
        crowded = narrow and name == "x"  # labels stand side by side
        values = [*axis.include, *(v for mark in self.marks for v in _extent(mark, name))]
        values = [value for value in values if math.isfinite(value)]
        if axis.scale == "names":
            return Scale(-0.6, len(axis.names) - 0.4, list(range(len(axis.names))))
        if axis.scale == "linear":
            most = max([*values, 1e-9])
            return Scale(-0.03 * most, 1.03 * most, [])
        if axis.scale == "near":
            ends = [end for mark in self.marks for end in _ends(mark, name)]
            low, high, ticks = near(values, ends, most=4 if crowded else 7)
            return Scale(low, high, [tick for tick in ticks if axis.tick(tick)])
        values = [value for value in values if value > 0] or [1.0]
        least, most = min(values) / FAR, max(values) * FAR
        ends = [end for mark in self.marks for end in _ends(mark, name)]
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


def near(values: Values, ends: Values = (), most: int = 7) -> Scale:
    """A linear axis around `values`, with at most `most` round ticks.

    Args:
      ends: of intervals; they widen the axis by no more than the values span.
    """
    values = list(values) or [0.0, 1.0]
    low, high = min(values), max(values)
    reach = (high - low) or math.inf
    inside = [min(max(end, low - reach), high + reach) for end in ends]
    low, high = min([low, *inside]), max([high, *inside])
    pad = 0.06 * (high - low) or 0.1 * abs(high) or 0.1
    floor = 0.0 if low >= 0 else -math.inf  # what cannot be negative has no negative ticks
    low, high = low - pad, high + pad
    unit = 10.0 ** math.floor(math.log10((high - low) / most))
    for step in (unit, 2 * unit, 5 * unit, 10 * unit):
        first, last = math.ceil(max(low, floor) / step), math.floor(high / step)
        if last - first < most:
            break
    return Scale(low, high, [index * step for index in range(first, last + 1)])


def shown(panels: Iterable[Panel]) -> list[Panel]:
    """The panels that hold data."""
    return [panel for panel in panels if not panel.empty]
