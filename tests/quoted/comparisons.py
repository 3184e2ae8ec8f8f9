"""Studies compared by B_crit, a table of the documents."""

from collections.abc import Callable, Iterable, Sequence

from quoted.quotes import Table
from scaling.fits import Breakpoint, StepsFit, rounded
from scaling.ratios import critical_batch_ratio

HEAD = ["changed", "perfect scaling to", "largest useful batch", "B_crit", "over the first"]
Group = Sequence[tuple[str, str, str]]  # what was changed, the study, and what the paper says


def in_words(found: Breakpoint) -> str:
    """105 (75 to 148)"""
    return f"{rounded(found.batch)} ({found.interval_text.removeprefix('95%: ')})"


def comparisons(name: str, groups: Iterable[Group], fit: Callable[[str], StepsFit]) -> Table:
    """The first study of each group is what its others are compared with."""
    rows = [[*HEAD, "paper"]]
    for group in groups:
        for title, study, paper in group:
            found, ratio = fit(study), ""
            if study != group[0][1]:
                over = critical_batch_ratio(found, fit(group[0][1]))
                ratio = f"{over.value:.2g} ({over.interval_text.removeprefix('95%: ')})"
                ratio = f"**{ratio}**" if over.differs else ratio
                paper = paper or ("" if over.differs else "indistinguishable")
            ends = map(in_words, (found.perfect_scaling_end, found.max_useful_batch))
            rows.append([title, *ends, rounded(found.b_crit), ratio, paper])
    return Table(name, rows)
