"""The content of a study's page, independent of HTML."""

from collections.abc import Sequence
from dataclasses import dataclass

from scaling.report.charts import Panel
from scaling.report.tables import Table


@dataclass(frozen=True)
class Note:
    """A paragraph in small print."""

    text: str


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
      name: of its files.
      panels: side by side; empty if there is no data.
      nothing: the reason, if there is no data.
    """

    name: str
    caption: str
    panels: Sequence[Panel]
    nothing: str


@dataclass(frozen=True)
class Reliefs:
    """Surfaces over squares, side by side, to turn with the pointer; on the page alone.

    Attributes:
      titles: of each.
      heights: of each, [n][n] from 0 to 1, rows from left to right.
    """

    caption: str
    titles: Sequence[str]
    heights: Sequence[Sequence[Sequence[float]]]


Block = Note | Table | Picture | Reliefs


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    title: str
    blocks: Sequence[Block]
