"""What large batches cost in test accuracy, and which recipe wins it back.

Goyal et al. 2017, Figure 1 and Tables 1 and 2; Hoffer et al. 2017, Figure 1 and Table 1; You et al.
2017, Tables 1 to 4.
"""

from scaling.report import provenance
from scaling.report.wording import count, headline, study_label
from scaling.studies.accuracy.cautions import cautions
from scaling.studies.accuracy.records import Study, check_together, read
from scaling.studies.accuracy.sections import FIGURES, sections
from scaling.studies.accuracy.tables import tables
from scaling.studies.accuracy.texts import tolerance_text
from scaling.studies.accuracy.words import answer

__all__ = [
    "FIGURES",
    "NAME",
    "answer",
    "cautions",
    "check_together",
    "headline",
    "origins",
    "read",
    "sections",
    "study_label",
    "tables",
]

NAME = "Accuracy"


def origins(study: Study) -> provenance.Rows:
    """What made the records: (what, its distinct values)."""
    seeds = dict.fromkeys(run.seed for point in study.points for run in point.runs)
    reference = f"batch {count(study.base_batch)}, {study.recipes[0]}"
    question = [("reference", [reference]), ("tolerance", [tolerance_text(study)])]
    return provenance.origins(
        study, question, seeds=[("seeds of the runs", [", ".join(map(str, seeds))])]
    )
