"""From work directories to the content of the page."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scaling.errors import UserError
from scaling.report.blocks import Section
from scaling.report.kind import Kind, kind_of
from scaling.report.provenance import Rows, origins
from scaling.report.records import Study, labelled, read_workdirs
from scaling.report.tables import Table
from scaling.report.wording import listed
from scaling.studies import STUDIES

Kinds = list[tuple[Kind, list[Study]]]


@dataclass(frozen=True)
class Part:
    """The studies of one kind.

    Attributes:
      answers: (label or "", text), one per study, then what is to be said of all, if anything.
      table: of the points, for the terminal.
    """

    heading: str
    answers: list[tuple[str, str]]
    table: Table
    sections: list[Section]


@dataclass(frozen=True)
class Content:
    """The content of the page.

    Attributes:
      warnings: (label or "", sentence).
      origins: (label or "", provenance), one per study.
    """

    title: str
    parts: list[Part]
    warnings: list[tuple[str, str]]
    origins: list[tuple[str, Rows]]

    def blocks(self, kind: type) -> Iterator:
        """All blocks of one type."""
        for part in self.parts:
            for section in part.sections:
                yield from (block for block in section.blocks if isinstance(block, kind))


def read_kinds(workdirs: Sequence[Path]) -> Kinds:
    """The studies in `workdirs` by kind, in the order of STUDIES.

    Raises:
      UserError: records that cannot be read or shown together.
    """
    read = read_workdirs(workdirs)
    kinds = []
    for name in STUDIES:
        same_kind = [workdir for workdir in read if workdir.study == name]
        if same_kind:
            kind = kind_of(name)
            studies = [kind.read(workdir) for workdir in same_kind]
            _check_shared(kind, studies)
            kinds.append((kind, labelled(studies)))
    return kinds


def _check_shared(kind, studies):
    first, *others = [(study.workdir, kind.shared(study)) for study in studies]
    for workdir, shared in others:
        if shared != first[1]:
            raise UserError(
                f"{first[0]} is about {first[1]} and {workdir} about {shared}; report them "
                "separately."
            )


def contents(kinds: Kinds) -> Content:
    """The content of the page; studies are labelled if there are several."""
    parts, warnings, details = [], [], []
    for kind, studies in kinds:
        heading = kind.name if len(kinds) > 1 else ""
        labels = [", ".join(filter(None, [heading, study.label])) for study in studies]
        answers = [kind.answer(study) for study in studies]
        answers[1:] = [
            " ".join(filter(None, [text, kind.compared(study, studies[0])]))
            for text, study in zip(answers[1:], studies[1:], strict=True)
        ]
        told = list(zip(labels, answers, strict=True))
        if text := kind.together(studies):
            told.append((", ".join(filter(None, [heading, "all"])), text))
        parts.append(
            Part(
                heading,
                told,
                kind.table(studies),
                list(kind.sections(studies)),
            )
        )
        for label, study in zip(labels, studies, strict=True):
            warnings += [(label, text) for text in (*_cautions(study), *kind.cautions(study))]
            details.append((label, origins(study, kind.details(study))))
    return Content(_title(kinds), parts, warnings, details)


def _cautions(study: Study) -> Iterator[str]:
    """The cautions common to all kinds of studies."""
    if study.unfinished:
        yield f"Unfinished points are left out: {listed(study.unfinished)}."
    results = {point.directory.name: point.directory.result for point in study.points}
    names = [name for name, r in results.items() if (r.get("devices") or {}).get("simulated")]
    if names:
        yield (
            f"Measured on simulated devices: {listed(names)}. Steps and metrics are valid, "
            "times are not those of real devices."
        )


def _title(kinds: Kinds) -> str:
    (kind, studies), *others = kinds
    if others:
        return listed([kind.name for kind, _ in kinds])
    if len(studies) == 1:
        return studies[0].title or studies[0].workdir.resolve().name
    return f"{kind.name}: {listed([study.label for study in studies])}"
