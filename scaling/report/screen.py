"""Charts drawn for the screen, by Plotly."""

from collections.abc import Sequence

from scaling.report.blocks import Plot
from scaling.report.charts import Line, Mark, Panel, Points, Rule, Span
from scaling.report.drawing import GREY, SYMBOLS
from scaling.report.plots import layout, line, linear_axis, log_axis, marks, plain, ticked_axis

FAINT = 0.35
BESIDE = {
    "above": "top right",
    "below": "bottom left",
    "left": "middle left",
    "right": "middle right",
}
ENTRIES = 5  # of a legend, below a narrow figure; a longer one takes no room from the data
ENTRY = 19  # pixels
NOWHERE = {"x": [None], "y": [None]}  # Plotly's legend leaves out a trace without any place


def plots(panels: Sequence[Panel]) -> list[Plot]:
    """One figure per panel."""
    return [_plot(panel, narrow=len(panels) > 1) for panel in panels]


def _plot(panel: Panel, narrow: bool) -> Plot:
    axes = (_axis(panel, name, narrow) for name in ("x", "y"))
    entries = len({mark.label for mark in panel.marks if mark.label})
    more = ENTRY * max(entries - ENTRIES, 0)
    frame = layout(*axes, 430 + more if narrow else 500)
    if panel.title:
        title = {"text": plain(panel.title), "font": {"size": 13}, "x": 0.5, "yanchor": "top"}
        frame |= {"title": title, "margin": frame["margin"] | {"t": 40}}
    shapes = [_shape(mark) for mark in panel.marks if isinstance(mark, Rule | Span)]
    data, named = [], set()
    for mark in panel.marks:
        trace = _trace(mark, panel)
        if mark.label and mark.label not in named:
            trace |= {"showlegend": True}
            named.add(mark.label)
        data.append(trace)
    return {"data": data, "layout": frame | {"shapes": shapes}}


def _axis(panel, name, narrow):
    wanted, scale = getattr(panel, name), panel.scale(name, narrow)
    if wanted.scale == "linear":
        axis = linear_axis(wanted.label, scale.low, scale.high) | {"tickformat": ",~g"}
    elif wanted.scale == "near":
        axis = ticked_axis(wanted.label, scale, wanted.tick)
    else:
        axis = log_axis(wanted.label, scale, wanted.tick)
    return axis | {"range": axis["range"][::-1]} if wanted.reverse else axis


def _trace(mark: Mark, panel: Panel) -> Plot:
    name = plain(mark.label)
    match mark:
        case Line():
            style = {"color": mark.color, "width": mark.width, "dash": mark.dash}
            trace = line(mark.x, mark.y, name, style) | {"opacity": FAINT if mark.faint else 1}
        case Points():
            trace = _points(mark, name, panel)
        case Rule():
            trace = _nowhere("lines", name) | {"line": {"color": mark.color, "dash": mark.dash}}
        case Span():
            square = {"symbol": "square", "size": 11, "color": mark.color}
            trace = _nowhere("markers", name) | {"marker": square}
    if not trace["x"]:
        trace |= NOWHERE
    return trace | {"showlegend": False}


def _nowhere(mode, name):
    """A trace for the legend alone."""
    return {"type": "scatter", "mode": mode, "name": name} | NOWHERE


def _points(mark: Points, name: str, panel: Panel) -> Plot:
    symbol = SYMBOLS[mark.marker] + "-open" * mark.hollow
    style = {"color": mark.color, "symbol": symbol, "size": 1.5 * mark.size}
    trace = marks(mark.x, mark.y, name, style | {"opacity": FAINT if mark.faint else 1})
    mode = ["markers"]
    if mark.names:
        mode.append("text")
        trace["text"] = [plain(name) for name in mark.names]
        trace["textposition"] = BESIDE[mark.names_at]
        trace["textfont"] = {"size": 10, "color": GREY}
    if mark.low:
        trace["error_y"] = _error_bars(mark, panel)
    told = {"hovertext": list(mark.texts), "hoverinfo": "text"} if mark.texts else {}
    return trace | {"mode": "+".join(mode)} | (told or {"hoverinfo": "skip"})


def _error_bars(mark, panel):
    """An end that is not known lies on the figure's edge."""
    bottom, top, _ = panel.scale("y")
    low = [bottom if end is None else max(end, bottom) for end in mark.low]
    high = [top if end is None else min(end, top) for end in mark.high]
    return {
        "type": "data",
        "symmetric": False,
        "array": [max(end - y, 0) for end, y in zip(high, mark.y, strict=True)],
        "arrayminus": [max(y - end, 0) for end, y in zip(low, mark.y, strict=True)],
        "color": mark.color,
        "thickness": 1,
        "width": 0,
    }


def _shape(mark: Rule | Span) -> Plot:
    if isinstance(mark, Span):
        along, across = ("x", "y") if mark.axis == "x" else ("y", "x")
        box = {"type": "rect", "layer": "below", f"{across}ref": "paper"}
        ends = {f"{across}0": 0, f"{across}1": 1, f"{along}0": mark.low, f"{along}1": mark.high}
        return box | ends | {"fillcolor": mark.color, "line": {"width": 0}}
    style = {"type": "line", "line": {"color": mark.color, "width": 1, "dash": mark.dash}}
    if mark.x is None:
        return style | {"xref": "paper", "x0": 0, "x1": 1, "y0": mark.y, "y1": mark.y}
    return style | {"yref": "paper", "y0": 0, "y1": 1, "x0": mark.x, "x1": mark.x}
