"""What the figures have in common: colours, axes, files."""

import functools
import io
import textwrap
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import matplotlib
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from scaling.files import write_atomically
from scaling.fits import DIMINISHING, MAX_USEFUL, MAXIMAL, PERFECT, PERFECT_END
from scaling.report.ticks import decades, powers_of_two
from scaling.report.wording import SYMBOL, batch_label, metric_value, steps_label

# Told apart by the colour-blind too (Okabe and Ito 2008); black is for what all studies share.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osDv^P"
# matplotlib's markers and their names in Plotly.
SYMBOLS = {
    "o": "circle",
    "s": "square",
    "D": "diamond",
    "v": "triangle-down",
    "^": "triangle-up",
    "P": "cross",
    "*": "star",
    "x": "x",
    "|": "line-ns",
    "d": "diamond-tall",
}
GREY = "#595959"
WIDTH = 50  # characters of a legend's column or a panel's title
BATCH = "global batch (examples)"
# Outcome of a trial -> colour and marker.
OUTCOMES = {
    "infeasible": ("#999999", "x"),
    "missed": ("#E69F00", "s"),
    "reached": ("#0072B2", "o"),
}
BEST = ("#D55E00", "*")
TURNS = {PERFECT_END: "|", MAX_USEFUL: "d"}
REGIMES = {PERFECT: "#e3f1e8", DIMINISHING: "#fbf2d9", MAXIMAL: "#f6e3df"}

STYLE = {
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "text.parse_math": False,  # a $ in a title is a $
    "svg.hashsalt": "scaling",  # the same figure, the same bytes
}


def styled(draw: Callable) -> Callable:
    """Draw in the report's style, and leave matplotlib's own as it was."""

    @functools.wraps(draw)
    def wrapped(*args):
        with matplotlib.rc_context(STYLE):
            return draw(*args)

    return wrapped


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that no window and no global state knows of."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


@styled
def save(figure: Figure, folder: Path, name: str) -> bytes:
    """Write NAME.png and NAME.svg; returns the SVG."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a title in a script without a font
        for suffix, options in (("png", {"dpi": 200}), ("svg", {"metadata": {"Date": None}})):
            content = io.BytesIO()
            figure.savefig(content, format=suffix, **options)
            write_atomically(folder / f"{name}.{suffix}", content.getvalue())
    return content.getvalue()


def legend(figure: Figure, handles: list, columns: int, side: str = "lower", **options) -> None:
    """One for all panels, below or above them, in as many columns as fit the figure's width."""
    for ncols in range(min(columns, len(handles)), 0, -1):
        drawn = figure.legend(handles=handles, loc=f"outside {side} center", ncols=ncols, **options)
        for text in drawn.get_texts():
            typeset(text)
        if ncols == 1 or drawn.get_window_extent().width <= figure.bbox.width:
            return
        drawn.remove()


def typeset(text: Text) -> None:
    """Broken into lines, the symbols of the papers as they write them; a $ of a title stays one."""
    words = textwrap.fill(text.get_text(), WIDTH, max_lines=3, placeholder=" …")
    text.set_text(words)
    if "$" not in words:
        text.set_text(SYMBOL.sub(r"$\1_{\\mathrm{\2}}$", words))
        text.set_parse_math(True)


def style_of(index: int) -> tuple[str, str]:
    """Colour and marker of the study of that number."""
    return COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)]


def shades(number: int) -> list[str]:
    """Colours for an ordered series, dark to light."""
    places = [0.9 * i / max(number - 1, 1) for i in range(number)]
    return [to_hex(matplotlib.colormaps["viridis"](place)) for place in places]


def batch_axis(axis: Axis, batches: Iterable[float], most: int = 14) -> None:
    """A log2 axis of global batches."""
    _log_axis(axis, 2, powers_of_two(batches, most), batch_label)


def steps_axis(axis: Axis, steps: Iterable[float]) -> None:
    """A log2 axis of steps."""
    _log_axis(axis, 2, powers_of_two(steps, most=12), steps_label)


def value_axis(axis: Axis, values: Iterable[float], log: bool = True, most: int = 8) -> None:
    """An axis of metaparameters."""
    values = list(values)
    if log:
        _log_axis(axis, 10, decades(values, most), "{:g}".format)
        return
    pad = 0.06 * (max(values) - min(values) or 1)
    _set_limits(axis, min(values) - pad, max(values) + pad)


def metric_axis(axis: Axis, metric: str, values: Iterable[float]) -> None:
    """A log axis of the validation metric, errors as percentages; zeros lie below its end."""
    values = [value for value in values if value > 0] or [1.0]
    _log_axis(axis, 10, decades(values, most=12), lambda value: metric_value(metric, value))


def _log_axis(axis, base, scale, label):
    getattr(axis.axes, f"set_{axis.axis_name}scale")("log", base=base, nonpositive="clip")
    axis.set_major_locator(FixedLocator(scale.ticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: label(value)))
    axis.set_minor_locator(NullLocator())
    _set_limits(axis, scale.low, scale.high)


def _set_limits(axis, low, high):
    getattr(axis.axes, f"set_{axis.axis_name}lim")(low, high)
