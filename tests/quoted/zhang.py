"""Zhang 2024 in docs/reproduction.md."""

import functools
import tempfile
from pathlib import Path

from quoted.quotes import ROOT, Section, Table, say
from scaling.fits import interval_text, rounded
from scaling.report.contents import read_kinds
from scaling.studies.steps_to_target.growth import growths
from scaling.studies.steps_to_target.logs import Asked, record_logs

REFERENCE = 256


@functools.cache
def studies():
    """The studies in the log, as the command in the document records them."""
    log = ROOT / "docs/results/zhang2024.csv"
    with tempfile.TemporaryDirectory() as folder:
        asked = Asked(unit="sequences", reference=REFERENCE)
        [(_, found)] = read_kinds(record_logs([log], Path(folder), asked))
    return found


def _of(value, ends):
    """2,235 (1,891 to 2,650)"""
    return f"{rounded(value)} ({interval_text(ends, 0.95, 'any').removeprefix('95%: ')})"


def quotes():
    """Critical batch sizes by model, and their laws."""
    rows = [["model", "tokens", "B_crit, sequences", "20% more than at 256", "P, bend 1"]]
    for study in studies():
        fit, tokens = study.fit, study.sizes["tokens"]
        critical = _of(fit.b_crit, fit.b_crit_interval), _of(*fit.overhead_batch(REFERENCE))
        rows.append([study.label, f"{tokens / 1e9:.3g} billion", *critical, f"{fit.bend_p:.2g}"])
    yield Table("zhang_curves", rows)
    hyperbola, overhead = (growth.law for growth in growths(studies()))
    yield say(
        "to the power {}; B_crit of the hyperbola to the power {} | same",
        *(_of(law.exponents["tokens"], law.intervals["tokens"]) for law in (overhead, hyperbola)),
    )
    doubted = [study.label for study in studies() if study.fit.doubts]
    yield say("Of the five curves {} rejects the hyperbola: {} bends", "one", *doubted)


SECTIONS = [
    Section(
        "docs/reproduction.md",
        "Zhang 2024, How does critical batch size scale in pre-training?",
        quotes,
        said=(
            "(C4, 512 tokens a sequence, batch 64 to 16,384)",
            "takes 20% more sequences than linear scaling from batch 256 would",
            "grows as a power 0.47 of the data",
            "the paper's rule to batch 256",
            "plus 307 sequences",
        ),
    )
]
