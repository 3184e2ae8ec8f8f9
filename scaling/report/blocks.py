"""What a study puts on the page, without a word of HTML."""

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
      panels: side by side; none where there is nothing to show.
      nothing: why there is nothing to show.
    """

    name: str
    caption: str
    panels: Sequence[Panel]
    nothing: str


Block = Note | Table | Picture


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    title: str
    blocks: Sequence[Block]
