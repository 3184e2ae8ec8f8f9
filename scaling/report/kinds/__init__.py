"""The kinds of studies that a report is made of, one module each, named as the study is."""

import importlib
from collections.abc import Sequence
from typing import Protocol

from scaling.report.blocks import Section
from scaling.report.records import Study, Workdir


class Kind(Protocol):
    """What every module here has.

    Attributes:
      NAME: as a heading.
      FIGURES: names of its figures; of several studies, some are numbered.
      compared: where studies of the kind can be held against each other, a function of a study and
        the first of those shown together: a sentence, or nothing.
    """

    NAME: str
    FIGURES: tuple[str, ...]

    def read(self, workdir: Workdir) -> Study:
        """The study, its points in the order to be shown; UserError for bad records."""

    def check_together(self, studies: Sequence[Study]) -> None:
        """UserError for studies that cannot share a figure."""

    def headline(self, studies: Sequence[Study]) -> str:
        """The title of a page of these studies alone."""

    def study_label(self, study: Study, studies: Sequence[Study]) -> str:
        """What tells a study from the others."""

    def answer(self, study: Study) -> str:
        """What the study says, in a sentence or two."""

    def cautions(self, study: Study) -> list[str]:
        """What a reader must know before believing the numbers, one sentence each."""

    def sections(self, studies: Sequence[Study]) -> list[Section]:
        """Its part of the page."""

    def tables(self, studies: Sequence[Study]) -> dict[str, str]:
        """File name -> CSV."""

    def origins(self, study: Study) -> list[tuple[str, list[str]]]:
        """What made the records: (what, its distinct values)."""


def kind_of(study: str) -> Kind:
    """The module of a study that is in REPORTED."""
    return importlib.import_module(f"scaling.report.kinds.{study}")
