"""The interface of a study's report.py."""

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
      name: the heading.
      read: the study in a workdir, with its points in display order.
      answer: the result, in at most three sentences.
      table: a row per point, for the terminal.
      sections: the page from top to bottom.
      cautions: limitations of the numbers, one sentence each; unfinished and simulated points are
        reported for all studies.
      details: provenance beyond that of all studies: "goal", "search", "seeds".
      shared: what must be equal in studies shown together, as text.
      compared: a sentence or "" about a study relative to the first of those shown together.
      together: a sentence or "" about all of them.
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
    together: Callable[[Sequence[Study]], str] = lambda studies: ""


def kind_of(study: str) -> Kind:
    """The kind of a study in STUDIES."""
    return part(study, "report").KIND


def about_all(points: Iterable[Any], *checks: tuple[str, Callable[[Any], bool]]) -> list[str]:
    """For each (sentence, condition), the names of the points that meet it, and the sentence."""
    points, cautions = list(points), []
    for sentence, condition in checks:
        names = [point.directory.name for point in points if condition(point)]
        if len(names) > MOST + 1:
            names[MOST:] = [f"{len(names) - MOST} others"]
        if names:
            cautions.append(f"{listed(names)}: {sentence}")
    return cautions
