"""What the interactive figures have in common: Plotly's data and layout as plain dicts.

Plotly reads a part of HTML in its texts, so every text from a record goes through `plain`.
"""

import html
import math
from collections.abc import Callable, Iterable

from scaling.report.blocks import Plot
from scaling.report.ticks import Scale, decades
from scaling.report.wording import subscripts


def plain(text: str) -> str:
    """Text that Plotly shows as it is, but for the subscripts of the papers' symbols."""
    return subscripts(html.escape(text, quote=False))


def line(x: Iterable[float], y: Iterable[float], name: str, style: Plot) -> Plot:
    """A trace of lines."""
    trace = {"type": "scatter", "mode": "lines", "name": name, "line": style, "hoverinfo": "skip"}
    return trace | {"x": _numbers(x), "y": _numbers(y)}


def marks(x: Iterable[float], y: Iterable[float], name: str, style: Plot) -> Plot:
    """A trace of markers."""
    trace = {"type": "scatter", "mode": "markers", "name": name, "marker": style}
    return trace | {"x": _numbers(x), "y": _numbers(y)}


def _numbers(values: Iterable[float]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


def layout(x_axis: Plot, y_axis: Plot, height: int) -> Plot:
    """A white figure with its legend below."""
    return {
        "xaxis": x_axis,
        "yaxis": y_axis,
        "height": height,
        "margin": {"l": 70, "r": 12, "t": 16, "b": 50},
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": "#222"},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "hovermode": "closest",
        "hoverlabel": {"bgcolor": "white", "align": "left", "namelength": -1},
        # Below everything, however many lines it takes on a narrow screen.
        "legend": {"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"},
    }


def linear_axis(title: str, low: float, high: float) -> Plot:
    """An axis from `low` to `high`."""
    line = {"showline": True, "linecolor": "#444", "gridcolor": "#e4e4e4", "zeroline": False}
    return line | {"title": {"text": plain(title)}, "automargin": True, "range": [low, high]}


def value_axis(title: str, values: Iterable[float], log: bool = True) -> Plot:
    """An axis of metaparameters."""
    if log:
        return log_axis(title, decades(values), "{:g}".format)
    low, high = min(values), max(values)
    pad = 0.06 * (high - low or 1)
    return linear_axis(title, low - pad, high + pad)


def log_axis(title: str, scale: Scale, label: Callable[[float], str]) -> Plot:
    """Plotly's limits are powers of ten, its ticks are not."""
    logs = Scale(math.log10(scale.low), math.log10(scale.high), scale.ticks)
    return ticked_axis(title, logs, label) | {"type": "log"}


def ticked_axis(title: str, scale: Scale, label: Callable[[float], str]) -> Plot:
    """A linear axis with ticks of its own."""
    return linear_axis(title, scale.low, scale.high) | {
        "tickmode": "array",
        "tickvals": scale.ticks,
        "ticktext": [label(tick) for tick in scale.ticks],
    }
