"""What a kind of study puts on the page, without a word of HTML."""

from dataclasses import dataclass, field
from typing import Any

from matplotlib.figure import Figure

Plot = dict[str, Any]  # Plotly's data and layout


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    text: str


@dataclass(frozen=True)
class Note:
    """A paragraph in small print."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows under a header, all of them texts."""

    header: list[str]
    rows: list[list[str]]
    wrap: bool = False  # long cells over several lines


@dataclass(frozen=True)
class Legend:
    """The colour of each study, for figures that have no legend."""

    entries: list[tuple[str, str]]  # colour, text


@dataclass(frozen=True)
class Picture:
    """A figure: for paper, and for the screen where there are plots.

    Attributes:
      name: of its files.
      figure: None where there is nothing to show.
      nothing: why there is nothing to show.
    """

    name: str
    caption: str
    figure: Figure | None
    plots: list[Plot]
    nothing: str


Block = Heading | Note | Table | Legend | Picture


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    title: str
    blocks: list[Block] = field(default_factory=list)
