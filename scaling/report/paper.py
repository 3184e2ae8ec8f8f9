"""Charts drawn for paper, by matplotlib."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from scaling.report.charts import Line, Mark, Panel, Points, Rule, Span
from scaling.report.drawing import GREY, legend, new_figure, styled, typeset

DASHES = {"solid": "-", "dash": (0, (5, 3)), "dot": ":"}
FAINT = 0.35
LARGEST = 8  # of a mark in the legend
# Offset of a name in points, and which of its sides and levels is there.
BESIDE = {
    "above": ((4, 4), "left", "baseline"),
    "below": ((-4, -10), "right", "baseline"),
    "left": ((-6, 0), "right", "center"),
    "right": ((6, 0), "left", "center"),
}


@styled
def draw(panels: Sequence[Panel]) -> Figure | None:
    """Panels side by side, with one legend below; None where there are none."""
    if not panels:
        return None
    alone = len(panels) == 1
    columns = 2 if len(panels) in (2, 4) else min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = new_figure(6.5 if alone else 0.4 + 3.3 * columns, 4.4 if alone else 0.8 + 3.1 * rows)
    places = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, panel in zip(places, panels, strict=False):
        _draw_panel(axes, panel, narrow=not alone)
    for axes in places[len(panels) :]:
        axes.remove()
    marks = [mark for panel in panels for mark in panel.marks if mark.label]
    handles = {mark.label: _handle(mark) for mark in reversed(marks)}
    if handles:
        entries = [handles[label] for label in dict.fromkeys(mark.label for mark in marks)]
        legend(figure, entries, columns=2 if alone else columns)
    return figure


def _draw_panel(axes: Axes, panel: Panel, narrow: bool) -> None:
    for name in ("x", "y"):
        _set_axis(axes, name, panel, narrow)
    for mark in panel.marks:
        _draw_mark(axes, mark)
    if panel.title:
        typeset(axes.set_title(panel.title))


def _set_axis(axes, name, panel, narrow):
    wanted, scale = getattr(panel, name), panel.scale(name, narrow)
    axis = getattr(axes, f"{name}axis")
    if wanted.scale == "linear":
        axis.set_major_locator(MaxNLocator(4 if narrow else 6))
    elif wanted.scale == "near":
        axis.set_major_locator(FixedLocator(scale.ticks))
    else:
        base = 2 if wanted.scale == "binary" else 10
        getattr(axes, f"set_{name}scale")("log", base=base, nonpositive="clip")
        axis.set_major_locator(FixedLocator(scale.ticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: wanted.tick(value)))
    axis.set_minor_locator(NullLocator())
    limits = (scale.high, scale.low) if wanted.reverse else (scale.low, scale.high)
    getattr(axes, f"set_{name}lim")(*limits)
    typeset(getattr(axes, f"set_{name}label")(wanted.label))


def _draw_mark(axes: Axes, mark: Mark) -> None:
    match mark:
        case Line():
            look = {"ls": DASHES[mark.dash], "lw": mark.width, "color": mark.color}
            axes.plot(mark.x, mark.y, alpha=FAINT if mark.faint else 1, **look)
        case Rule(x=None):
            axes.axhline(mark.y, ls=DASHES[mark.dash], lw=1, color=mark.color)
        case Rule():
            axes.axvline(mark.x, ls=DASHES[mark.dash], lw=1, color=mark.color)
        case Span():
            shade = axes.axvspan if mark.axis == "x" else axes.axhspan
            shade(mark.low, mark.high, color=mark.color, lw=0, zorder=-1)
        case Points():
            _draw_points(axes, mark)


def _draw_points(axes, mark):
    if mark.low:
        bottom, top = sorted(axes.get_ylim())
        low = [bottom if end is None else max(end, bottom) for end in mark.low]
        high = [top if end is None else min(end, top) for end in mark.high]
        axes.vlines(mark.x, low, high, lw=1, color=mark.color, alpha=FAINT if mark.faint else 0.7)
    axes.plot(mark.x, mark.y, **_marker(mark))
    for x, y, name in zip(mark.x, mark.y, mark.names, strict=False):
        offset, side, level = BESIDE[mark.names_at]
        look = {"textcoords": "offset points", "size": 7, "color": GREY}
        typeset(axes.annotate(name, (x, y), offset, ha=side, va=level, **look))


def _marker(mark):
    look = {"ls": "", "marker": mark.marker, "ms": mark.size, "c": mark.color}
    face, edge = ("none", mark.color) if mark.hollow else (mark.color, "w")
    look |= {"mfc": face, "mec": edge}
    thin = 1.1 if mark.hollow else 0.4
    if mark.marker == "x":
        look, thin = look | {"mec": mark.color}, 1.4
    return look | {"mew": thin, "alpha": FAINT if mark.faint else 1}


def _handle(mark: Mark) -> Line2D | Patch:
    """The mark in the legend."""
    if isinstance(mark, Span):
        return Patch(color=mark.color, label=mark.label)
    if isinstance(mark, Points):
        look = _marker(mark) | {"ms": min(mark.size, LARGEST)}
        return Line2D([], [], label=mark.label, **look)
    width = mark.width if isinstance(mark, Line) else 1
    return Line2D([], [], label=mark.label, ls=DASHES[mark.dash], lw=width, c=mark.color)
