"""From work directories to what the page holds."""

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
    """What one kind of study says.

    Attributes:
      answers: (label or "", text), one per study.
      table: of the points, for the terminal.
    """

    heading: str
    answers: list[tuple[str, str]]
    table: Table
    sections: list[Section]


@dataclass(frozen=True)
class Content:
    """All of the page.

    Attributes:
      warnings: (label or "", sentence).
      origins: (label or "", what made the records), one per study.
    """

    title: str
    parts: list[Part]
    warnings: list[tuple[str, str]]
    origins: list[tuple[str, Rows]]

    def blocks(self, kind: type) -> Iterator:
        """All pictures, or all tables."""
        for part in self.parts:
            for section in part.sections:
                yield from (block for block in section.blocks if isinstance(block, kind))


def read_kinds(workdirs: Sequence[Path]) -> Kinds:
    """The studies in `workdirs` by kind, in the order of STUDIES.

    Raises:
      UserError: records that cannot be read or shown together.
    """
    found = read_workdirs(workdirs)
    kinds = []
    for name in STUDIES:
        mine = [workdir for workdir in found if workdir.study == name]
        if mine:
            kind = kind_of(name)
            studies = [kind.read(workdir) for workdir in mine]
            _check_together(kind, studies)
            kinds.append((kind, labelled(studies)))
    return kinds


def _check_together(kind, studies):
    first, *others = [(study.workdir, kind.shared(study)) for study in studies]
    for workdir, shared in others:
        if shared != first[1]:
            raise UserError(
                f"{first[0]} is about {first[1]} and {workdir} about {shared}; report them apart."
            )


def contents(kinds: Kinds) -> Content:
    """All of the page; a study is labelled where it is not alone."""
    parts, warnings, details = [], [], []
    for kind, studies in kinds:
        heading = kind.name if len(kinds) > 1 else ""
        labels = [", ".join(filter(None, [heading, study.label])) for study in studies]
        answers = [kind.answer(study) for study in studies]
        answers[1:] = [
            " ".join(filter(None, [text, kind.compared(study, studies[0])]))
            for text, study in zip(answers[1:], studies[1:], strict=True)
        ]
        parts.append(
            Part(
                heading,
                list(zip(labels, answers, strict=True)),
                kind.table(studies),
                list(kind.sections(studies)),
            )
        )
        for label, study in zip(labels, studies, strict=True):
            warnings += [(label, text) for text in (*_of_every(study), *kind.cautions(study))]
            details.append((label, origins(study, kind.details(study))))
    return Content(_title(kinds), parts, warnings, details)


def _of_every(study: Study) -> Iterator[str]:
    """What a reader must know of any study."""
    if study.unfinished:
        yield f"Unfinished points are left out: {listed(study.unfinished)}."
    results = {point.directory.name: point.directory.result for point in study.points}
    names = [name for name, r in results.items() if (r.get("devices") or {}).get("simulated")]
    if names:
        yield (
            f"Measured on simulated devices: {listed(names)}. Steps and errors are as on real "
            "devices, times are not."
        )


def _title(kinds: Kinds) -> str:
    (kind, studies), *others = kinds
    if others:
        return listed([kind.name for kind, _ in kinds])
    if len(studies) == 1:
        return studies[0].title or studies[0].workdir.resolve().name
    return f"{kind.name}: {listed([study.label for study in studies])}"
