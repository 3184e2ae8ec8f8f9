"""Figures from panels, by matplotlib: PNG for papers, SVG with hover texts for the page."""

import functools
import io
import re
import textwrap
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from PIL import Image

from scaling.files import write_atomically
from scaling.report.charts import GREY, Band, Contours, Line, Mark, Panel, Points, Rule, Span
from scaling.report.wording import SYMBOL

DPI = 200  # of the PNG
WIDTH, NARROW = 50, 34  # characters of a legend column, and of a title if there are several panels
FAINT = 0.35
LARGEST = 8  # marker size in the legend
DASHES = {"solid": "-", "dash": (0, (5, 3)), "dot": ":"}
BESIDE = {"above": ((4, 4), "left"), "below": ((-4, -10), "right")}  # offset in points, alignment
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
    "text.parse_math": False,  # no math in titles with $
    "svg.hashsalt": "scaling",  # reproducible files
    "svg.fonttype": "none",  # text as text, not paths
}
LONG = re.compile(r"-?\d+\.\d{3,}")  # a number with more digits than a screen resolves
NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
ET.register_namespace("", SVG)
ET.register_namespace("xlink", XLINK)


@dataclass
class Drawing:
    """A figure, with what the page needs of its parts, by their id in the SVG.

    Attributes:
      texts: shown on hovering, one per mark.
      numbers: attributes: "data-series", of the legend entry that shows and hides the part, or
        "data-entry", of the entry that it is a part of.
    """

    figure: Figure
    texts: dict[str, Sequence[str]] = field(default_factory=dict)
    numbers: dict[str, dict[str, str]] = field(default_factory=dict)


def styled(draw: Callable) -> Callable:
    """Draw in the report's style, without changing matplotlib's global style."""

    @functools.wraps(draw)
    def wrapped(*args):
        with matplotlib.rc_context(STYLE):
            return draw(*args)

    return wrapped


@styled
def draw(panels: Sequence[Panel]) -> Drawing:
    """Panels side by side, with one legend below."""
    alone, many = len(panels) == 1, len(panels) > 6
    columns = 4 if many else 2 if len(panels) in (2, 4) else min(len(panels), 3)
    rows = -(-len(panels) // columns)
    size = (6.5, 4.4) if alone else (0.4 + 3.3 * columns, 0.8 + 3.1 * rows)
    names = max((len(panel.y.names) for panel in panels), default=0)
    size = (size[0], max(size[1], rows * (1.0 + 0.2 * names)))
    scale = 0.75 if many else 1.0
    drawing = Drawing(Figure(figsize=(size[0] * scale, size[1] * scale), layout="constrained"))
    FigureCanvasAgg(drawing.figure)
    marks = [mark for panel in panels for mark in panel.marks]
    labels = list(dict.fromkeys(mark.label for mark in marks if mark.label))
    places = drawing.figure.subplots(rows, columns, squeeze=False).ravel()
    for number, (axes, panel) in enumerate(zip(places, panels, strict=False)):
        for name in ("x", "y"):
            _set_axis(axes, name, panel, narrow=not alone)
        for index, mark in enumerate(panel.marks):
            part = f"part{number}-{index}"
            for artist in _draw_mark(axes, mark):
                artist.set_gid(part)
            _register(drawing, part, axes, mark, labels)
        if panel.title:
            typeset(axes.set_title(panel.title), WIDTH if alone else NARROW)
    for axes in places[len(panels) :]:
        axes.remove()
    if labels:
        handles = {mark.label: _handle(mark) for mark in reversed(marks)}
        _legend(drawing, [handles[label] for label in labels], 2 if alone else columns)
    return drawing


def _register(drawing, part, axes, mark, labels):
    """Series and hover texts of a mark, for the page."""
    label = mark.series or mark.label
    if label in labels:
        drawing.numbers[part] = {"data-series": str(labels.index(label))}
    if isinstance(mark, Points) and mark.texts:
        pairs = zip(mark.texts, _inside(axes, mark), strict=True)
        drawing.texts[part] = [text for text, inside in pairs if inside]
    elif isinstance(mark, Line) and mark.text:
        drawing.texts[part] = [mark.text]


def _inside(axes, mark):
    """Which points are inside the axes."""
    (left, right), (bottom, top) = sorted(axes.get_xlim()), sorted(axes.get_ylim())
    return [left <= x <= right and bottom <= y <= top for x, y in zip(mark.x, mark.y, strict=True)]


def _set_axis(axes, name, panel, narrow):
    spec, scale = getattr(panel, name), panel.scale(name, narrow)
    axis = getattr(axes, f"{name}axis")
    if spec.scale in ("decimal", "binary"):
        base = 2 if spec.scale == "binary" else 10
        getattr(axes, f"set_{name}scale")("log", base=base, nonpositive="clip")
    linear = MaxNLocator(4 if narrow else 6)
    axis.set_major_locator(FixedLocator(scale.ticks) if scale.ticks else linear)
    tick = spec.tick
    if spec.scale == "names":
        tick = lambda place: spec.names[round(place)]
        axis.grid(False)
    axis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    axis.set_minor_locator(NullLocator())
    limits = (scale.high, scale.low) if spec.reverse else (scale.low, scale.high)
    getattr(axes, f"set_{name}lim")(*limits)
    typeset(getattr(axes, f"set_{name}label")(spec.label))


def _draw_mark(axes: Axes, mark: Mark) -> Sequence[Artist]:
    match mark:
        case Line():
            look = {"ls": DASHES[mark.dash], "lw": mark.width, "color": mark.color}
            return axes.plot(mark.x, mark.y, alpha=FAINT if mark.faint else 1, **look)
        case Band():
            return [
                axes.fill_between(mark.x, mark.low, mark.high, color=mark.color, alpha=0.15, lw=0)
            ]
        case Rule():
            across = axes.axhline if mark.x is None else axes.axvline
            place = mark.y if mark.x is None else mark.x
            return [across(place, ls=DASHES[mark.dash], lw=1, color=mark.color)]
        case Span():
            across = mark.axis == "x"
            shade, limits = (
                (axes.axvspan, axes.get_xlim()) if across else (axes.axhspan, axes.get_ylim())
            )
            ends = np.clip([mark.low, mark.high], *sorted(limits))
            return [shade(*ends, color=mark.color, lw=0, zorder=-1)]
        case Contours():
            return list(_draw_contours(axes, mark))
        case Points():
            return list(_draw_points(axes, mark))


def _draw_contours(axes, mark):
    """Shades as far apart as the levels' numbers, and lines."""
    z = np.where(np.isfinite(mark.z), mark.z, np.finfo(np.float32).max)
    shades = matplotlib.colormaps["YlGnBu"](np.linspace(0, 0.75, len(mark.levels) + 1))
    yield axes.contourf(mark.x, mark.y, z, mark.levels, colors=shades, extend="both")
    lines = axes.contour(mark.x, mark.y, z, mark.levels, colors="k", linewidths=0.5)
    yield lines
    axes.clabel(lines, fmt=mark.tick, fontsize=6, inline_spacing=2)
    axes.set(xlim=(mark.x[0], mark.x[-1]), ylim=(mark.y[0], mark.y[-1]))
    axes.grid(False)


def _draw_points(axes, mark):
    """The points inside the axes as one artist, all intervals and names."""
    triples = zip(mark.x, mark.y, _inside(axes, mark), strict=True)
    places = [(x, y) for x, y, inside in triples if inside]
    if mark.low:
        bottom, top = sorted(axes.get_ylim())
        low = [bottom if end is None else max(end, bottom) for end in mark.low]
        high = [top if end is None else min(end, top) for end in mark.high]
        look = {"lw": 1, "color": mark.color, "alpha": FAINT if mark.faint else 0.7}
        yield axes.vlines(mark.x, low, high, **look)
    yield from axes.plot(*zip(*places, strict=True), **_marker(mark)) if places else ()
    for x, y, name in zip(mark.x, mark.y, mark.names, strict=False):
        offset, side = BESIDE[mark.names_at]
        look = {"textcoords": "offset points", "size": 7, "color": GREY}
        yield typeset(axes.annotate(name, (x, y), offset, ha=side, **look))


def _marker(mark):
    look = {"ls": "", "marker": mark.marker, "ms": mark.size, "c": mark.color}
    face, edge = ("none", mark.color) if mark.hollow else (mark.color, "w")
    look |= {"mfc": face, "mec": edge}
    thin = 1.1 if mark.hollow else 0.4
    if mark.marker == "x":
        look, thin = look | {"mec": mark.color}, 1.4
    return look | {"mew": thin, "alpha": FAINT if mark.faint else 1}


def _handle(mark: Mark) -> Line2D | Patch:
    """The legend handle of a mark."""
    match mark:
        case Span():
            return Patch(color=mark.color, label=mark.label)
        case Band():
            return Patch(color=mark.color, alpha=0.15, label=mark.label)
        case Points():
            look = _marker(mark) | {"ms": min(mark.size, LARGEST)}
            return Line2D([], [], label=mark.label, **look)
    width = mark.width if isinstance(mark, Line) else 1
    return Line2D([], [], label=mark.label, ls=DASHES[mark.dash], lw=width, c=mark.color)


def _legend(drawing, handles, columns):
    """One legend below all panels, in as many columns as fit the figure."""
    figure = drawing.figure
    for ncols in range(min(columns, len(handles)), 0, -1):
        legend = figure.legend(handles=handles, loc="outside lower center", ncols=ncols)
        for text in legend.get_texts():
            typeset(text)
        if ncols == 1 or legend.get_window_extent().width <= figure.bbox.width:
            break
        legend.remove()
    entries = zip(legend.legend_handles, legend.get_texts(), strict=True)
    for number, artists in enumerate(entries):
        for artist, what in zip(artists, "ht", strict=True):
            artist.set_gid(f"entry{number}{what}")
            drawing.numbers[f"entry{number}{what}"] = {"data-entry": str(number)}


def typeset(text: Text, width: int = WIDTH) -> Text:
    """Wrap the text, and typeset symbols such as B_crit, unless it contains a $."""
    words = textwrap.fill(text.get_text(), width, max_lines=3, placeholder=" …")
    text.set_text(words)
    if "$" not in words:
        text.set_text(SYMBOL.sub(r"$\1_{\\mathrm{\2}}$", words))
        text.set_parse_math(True)
    return text


@styled
def save(drawing: Drawing, folder: Path, name: str) -> str:
    """Write NAME.png and NAME.svg; returns the SVG, for the page."""
    content = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # titles with glyphs missing in the font
        for suffix, options in (("png", {"dpi": DPI}), ("svg", {"metadata": NO_METADATA})):
            buffer = io.BytesIO()
            drawing.figure.savefig(buffer, format=suffix, **options)
            content[suffix] = buffer.getvalue()
    svg = _with_texts(content["svg"], drawing, name)
    write_atomically(folder / f"{name}.png", _with_palette(content["png"]))
    write_atomically(folder / f"{name}.svg", svg)
    return svg


def _with_palette(png: bytes) -> bytes:
    """The picture in 256 colours, at a third of the size."""
    picture, buffer = Image.open(io.BytesIO(png)).convert("RGB"), io.BytesIO()
    picture.quantize(256).save(buffer, "png", optimize=True, dpi=(DPI, DPI))
    return buffer.getvalue()


def _with_texts(svg: bytes, drawing: Drawing, name: str) -> str:
    """The SVG with texts and numbers of its parts, and ids of its own on the page."""
    root = ET.fromstring(svg)
    for element in root.iter():
        part = element.get("id")
        element.tail = None if element.tag != f"{{{SVG}}}tspan" else element.tail
        _share_style(element)
        if part in drawing.texts:
            _add_titles(element, drawing.texts[part])
        element.attrib.update(drawing.numbers.get(part, {}))
        for key, value in element.attrib.items():
            value = LONG.sub(lambda n: f"{float(n[0]):.2f}", value)
            element.set(key, value)
            if key == "id":
                element.set(key, f"{name}-{value}")
            elif key == f"{{{XLINK}}}href" or value.startswith("url(#"):
                element.set(key, value.replace("#", f"#{name}-", 1))
    return ET.tostring(root, encoding="unicode")


def _share_style(element):
    """Move the common style of marks to their group."""
    uses = element.findall(f"{{{SVG}}}use")
    styles = {use.get("style") for use in uses}
    if len(styles) == 1 and None not in styles:
        element.set("style", styles.pop())
        for use in uses:
            del use.attrib["style"]


def _add_titles(element, texts):
    """Texts of the marks, for the page's script and the browser."""
    marks = element.findall(f".//{{{SVG}}}use") or element.findall(f"{{{SVG}}}path")
    if len(marks) == len(texts):  # else it is another artist of the part
        for mark, text in zip(marks, texts, strict=True):
            ET.SubElement(mark, f"{{{SVG}}}title").text = text
