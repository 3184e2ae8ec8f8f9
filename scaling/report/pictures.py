"""A chart on the page, drawn for paper and for the screen."""

from collections.abc import Sequence

from scaling.report import paper, screen
from scaling.report.blocks import Picture
from scaling.report.charts import Panel


def picture(name: str, caption: str, panels: Sequence[Panel], nothing: str) -> Picture:
    """The panels as one figure; `nothing` says why there are none."""
    return Picture(name, caption, paper.draw(panels), screen.plots(panels), nothing)
