"""From work directories to what the page holds: studies sorted into kinds, each kind asked."""

from collections.abc import Sequence
from pathlib import Path

from scaling.report import REPORTED
from scaling.report.drawing import style_of
from scaling.report.kinds import Kind, kind_of
from scaling.report.page import Answer, Content
from scaling.report.records import Study, labelled, read_workdirs
from scaling.report.wording import listed

Kinds = list[tuple[Kind, list[Study]]]


def read_kinds(workdirs: Sequence[Path]) -> Kinds:
    """The studies in `workdirs` by kind, in the order of REPORTED.

    Raises:
      UserError: records that cannot be read or shown together.
    """
    found = read_workdirs(workdirs)
    kinds = []
    for name in REPORTED:
        kind = kind_of(name)
        studies = [kind.read(workdir) for workdir in found if workdir.study == name]
        if studies:
            kind.check_together(studies)
            kinds.append((kind, labelled(studies)))
    return kinds


def contents(kinds: Kinds) -> Content:
    """All of the page; a study is labelled where it is not alone."""
    answers, warnings, origins = [], [], []
    for kind, studies in kinds:
        for index, study in enumerate(studies):
            label = _label(kind, study, studies, alone=len(kinds) == 1)
            says = [kind.answer(study)]
            if index and hasattr(kind, "compared"):
                says.append(kind.compared(study, studies[0]))
            answers.append(Answer(" ".join(filter(None, says)), label, style_of(index)[0]))
            warnings += [(label, sentence) for sentence in kind.cautions(study)]
            origins.append((label, kind.origins(study)))
    parts = [
        (kind.NAME if len(kinds) > 1 else "", kind.sections(studies)) for kind, studies in kinds
    ]
    return Content(_title(kinds), answers, warnings, parts, origins)


def _title(kinds: Kinds) -> str:
    if len(kinds) == 1:
        kind, studies = kinds[0]
        return kind.headline(studies)
    return listed([kind.NAME for kind, _ in kinds])


def _label(kind, study, studies, alone):
    """The kind and what tells the study from the others of it, each where there are several."""
    own = kind.study_label(study, studies) if len(studies) > 1 else ""
    return own if alone else ", ".join(filter(None, [kind.NAME, own]))
