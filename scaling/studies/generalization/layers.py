"""||w|| / ||g|| by layer: You, Gitman and Ginsburg 2017 (LARS), Table 2."""

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter
from scaling.report.plots import plain

from scaling.report import paper, screen
from scaling.report.blocks import Block, Heading, Note, Picture, Plot, Table
from scaling.report.charts import Axis, Mark, Panel, Points, shown
from scaling.report.drawing import MARKERS
from scaling.report.wording import NOTHING, count, decimal_label, number
from scaling.studies.generalization.analysis import main_recipe, spread
from scaling.studies.generalization.charts import batch_text, colors
from scaling.studies.generalization.records import Layer, Point, Study

WHEN = {"start": "after the first update", "end": "after the last update"}
GROUPS = {True: "kernels", False: "biases and scales"}
# What a layer takes on paper, in inches; all else there, the legend included; the former on the
# screen, in pixels.
ROW, FRAME, ROW_PIXELS = 0.26, 1.5, 24
SPREAD = 0.5  # of the batches within a row


def points_of(study: Study) -> list[Point]:
    """The points shown: the main recipe's batch sizes that have norms by layer."""
    return [point for point in study.of_recipe(main_recipe(study)) if point.layers]


def of_group(point: Point, kernels: bool) -> list[Layer]:
    """Kernels or all else."""
    return [layer for layer in point.layers if layer.kernel == kernels]


def picture(name: str, caption: str, study: Study, kernels: bool) -> Picture:
    """The figure; axes of names are not among those of `charts`, so they are put on here."""
    points = points_of(study)
    rows = list(dict.fromkeys(layer.name for p in points for layer in of_group(p, kernels)))
    panels = shown(_panel(study, kernels, when, rows) for when in WHEN)
    figure, plots = paper.draw(panels), screen.plots(panels)
    if figure:
        _name_on_paper(figure, rows)
    for plot in plots:
        _name_on_screen(plot, rows)
    nothing = f"the record holds no norms of {GROUPS[kernels]}, or all of them are zero"
    return Picture(name, caption, figure, plots, nothing)


def _panel(study: Study, kernels: bool, when: str, names: list[str]) -> Panel:
    points = points_of(study)
    ratios = [
        value
        for point in points
        for layer in of_group(point, kernels)
        for time in WHEN
        if (value := getattr(layer, time).ratio)
    ]
    marks: list[Mark] = []
    for index, point in enumerate(points):
        layers = [layer for layer in of_group(point, kernels) if getattr(layer, when).ratio]
        x = [getattr(layer, when).ratio for layer in layers]
        beside = SPREAD * (index / max(len(points) - 1, 1) - 0.5)
        y = [names.index(layer.name) + beside for layer in layers]
        look = {"marker": MARKERS[index % len(MARKERS)], "size": 5.5}
        texts = [_told(point, layer, when) for layer in layers]
        color = colors(study)[point.global_batch]
        marks.append(Points(x, y, color, batch_text(point), texts=texts, **look))
    # Both times on one range, to be compared.
    across = Axis("‖w‖ / ‖g‖", tick=decimal_label, include=tuple(ratios))
    return Panel(across, Axis("", "linear"), marks, WHEN[when])


def _told(point: Point, layer: Layer, when: str) -> str:
    norms = getattr(layer, when)
    lines = [
        f"<b>{plain(layer.name)}</b>, {batch_text(point)}",
        f"‖w‖ {number(norms.weight_norm)}, ‖g‖ {number(norms.grad_norm)}",
        f"‖w‖ / ‖g‖ {number(norms.ratio)}",
    ]
    return "<br>".join(lines)


def _name_on_paper(figure: Figure, names: list[str]) -> None:
    figure.set_size_inches(figure.get_size_inches()[0], FRAME + ROW * (len(names) + 1))
    for axes in figure.axes:
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.yaxis.set_major_locator(FixedLocator(range(len(names))))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda place, _: names[round(place)]))


def _name_on_screen(plot: Plot, names: list[str]) -> None:
    ticks = {"tickmode": "array", "tickvals": list(range(len(names)))}
    ticks |= {"ticktext": [plain(name) for name in names], "range": [len(names) - 0.5, -0.5]}
    layout = plot["layout"]
    layout["yaxis"] |= ticks
    layout["height"] = max(layout["height"], 150 + ROW_PIXELS * len(names))


def notes(study: Study) -> list[Block]:
    """By how much layers differ, in words, at the smallest and the largest batch."""
    found = []
    for kernels, group in GROUPS.items():
        told = []
        for point in _ends(points_of(study)):
            factors = [spread(of_group(point, kernels), when) for when in WHEN]
            if any(factors):
                both = " and ".join(map(number, factors))
                told.append(f"{both} at batch {count(point.global_batch)}")
        if told:
            head = (
                f"Largest over smallest ‖w‖ / ‖g‖ of {group}, after the first and the last update"
            )
            found.append(Note(f"{head}: {'; '.join(told)}."))
    return found


def _ends(points):
    """The smallest batch and the largest."""
    return points[:1] + points[1:][-1:]


def tables(study: Study) -> list[Block]:
    """As the paper's Table 2, at the smallest and the largest batch."""
    blocks: list[Block] = []
    for point in _ends(points_of(study)):
        header = ["layer", "parameters"]
        header += [f"{what}, {when}" for when in WHEN for what in ("‖w‖", "‖g‖", "‖w‖ / ‖g‖")]
        rows = [
            [layer.name, count(layer.size), *_norms(layer)]
            for kernels in GROUPS
            for layer in of_group(point, kernels)
        ]
        blocks += [Heading(f"Batch {count(point.global_batch)}"), Table(header, rows)]
    return blocks


def _norms(layer: Layer) -> list[str]:
    return [
        NOTHING if value is None else number(value)
        for norms in (layer.start, layer.end)
        for value in (norms.weight_norm, norms.grad_norm, norms.ratio)
    ]
