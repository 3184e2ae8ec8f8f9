"""Steps to a goal against the batch size: Shallue et al. 2018, Figure 1."""

from collections.abc import Sequence

from scaling.report.wording import listed
from scaling.studies.steps_to_target import tables as csv_tables
from scaling.studies.steps_to_target.answer import answer, compared
from scaling.studies.steps_to_target.cautions import cautions
from scaling.studies.steps_to_target.provenance import origins
from scaling.studies.steps_to_target.records import Study, check_together, read
from scaling.studies.steps_to_target.sections import OWN, SHARED, sections
from scaling.studies.steps_to_target.wording import shared_goal, study_label

__all__ = [
    "FIGURES",
    "NAME",
    "answer",
    "cautions",
    "check_together",
    "compared",
    "headline",
    "origins",
    "read",
    "sections",
    "study_label",
    "tables",
]

NAME = "Steps to target"
FIGURES = (*SHARED, *OWN)


def headline(studies: Sequence[Study]) -> str:
    """The title of a study alone, or what is compared."""
    if len(studies) == 1:
        return studies[0].title or studies[0].label
    labels = [study.label for study in studies]
    together = "; ".join(labels) if any(", " in label for label in labels) else listed(labels)
    return f"Steps to {shared_goal(studies)}: {together}"


def tables(studies: Sequence[Study]) -> dict[str, str]:
    """File name -> CSV."""
    return {
        "points.csv": csv_tables.points_csv(studies),
        "trials.csv": csv_tables.trials_csv(studies),
    }
