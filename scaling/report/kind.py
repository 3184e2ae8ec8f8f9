"""What a study's report.py gives to the page."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from scaling.report.blocks import Section
from scaling.report.records import Study, Workdir
from scaling.report.tables import Table
from scaling.report.wording import listed
from scaling.studies import part

MOST = 8  # points that a caution names
Details = dict[str, list[str]]  # what -> its distinct values


def _nothing(*_: Any) -> Any:
    return ()


@dataclass(frozen=True)
class Kind:
    """How the records of a study become a page.

    Attributes:
      name: as a heading.
      read: the study in a workdir, its points in the order to be shown.
      answer: what it found, in at most three sentences.
      table: a row per point, for the terminal.
      sections: the page from top to bottom.
      cautions: what a reader must know before believing the numbers, one sentence each. That points
        are unfinished or simulated is said of every study.
      details: what made the records, beyond what is known of every study: "goal", "search",
        "seeds".
      shared: what studies must agree in to be shown together, as text.
      compared: of a study and the first of those shown together: a sentence, or "".
    """

    name: str
    read: Callable[[Workdir], Study]
    answer: Callable[[Study], str]
    table: Callable[[Sequence[Study]], Table]
    sections: Callable[[Sequence[Study]], Iterable[Section]]
    cautions: Callable[[Study], Iterable[str]] = _nothing
    details: Callable[[Study], Details] = lambda study: {}
    shared: Callable[[Study], str] = lambda study: ""
    compared: Callable[[Study, Study], str] = lambda study, first: ""


def kind_of(study: str) -> Kind:
    """Of a study that is in STUDIES."""
    return part(study, "report").KIND


def about_all(points: Iterable[Any], *checks: tuple[str, Callable[[Any], bool]]) -> list[str]:
    """For each (sentence, whether it is true of a point): the points that it is true of, and the
    sentence."""
    points, found = list(points), []
    for sentence, wrong in checks:
        names = [point.directory.name for point in points if wrong(point)]
        if len(names) > MOST + 1:
            names[MOST:] = [f"{len(names) - MOST} others"]
        if names:
            found.append(f"{listed(names)}: {sentence}")
    return found
