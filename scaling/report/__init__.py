"""Reports on finished work directories: figures, tables, a page, and the answer in one sentence.

Reads records only: no jax, no accelerator. What it needs is imported when a report is made, so that
a program that may make one starts quickly.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from scaling.files import write_atomically, write_error

REPORTED = ("steps_to_target",)  # studies that a report can be made of
SHARED = ("steps_to_target", "best_values")  # figures of all studies together
OWN = ("trials", "validation_curves", "budgets")  # figures of each study


def write_report(workdirs: Sequence[Path], out: Path, say: Callable[[str], None]) -> Path:
    """Write report.html, figures/ and tables/ into `out`; returns the page.

    Every file is written in one piece: an interrupted report leaves whole files behind, and one
    made anew replaces them.

    Args:
      workdirs: of finished studies; several are shown together.
      out: usually the first workdir.
      say: told the answers and where the page is.

    Raises:
      UserError: records that cannot be read or shown together, or `out` cannot be written.
    """
    from scaling.report.answer import answer
    from scaling.report.records import read_studies

    studies = read_studies(workdirs)
    for study in studies:
        say(f"{study.label}: {answer(study)}" if len(studies) > 1 else answer(study))
    out = Path(out)
    try:
        _write(studies, out)
    except OSError as error:
        raise write_error(out, error, "free some space and make the report again.") from error
    page = out / "report.html"
    say(f"The report is {page}")
    return page


def _write(studies, out):
    from scaling.report import figures, tables
    from scaling.report.drawing import save
    from scaling.report.page import figure_name, page

    for folder in ("figures", "tables"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    drawn = {name: getattr(figures, name)(studies) for name in SHARED}
    for index, study in enumerate(studies):
        drawn |= {figure_name(kind, index, studies): getattr(figures, kind)(study) for kind in OWN}
    saved = {
        name: None if figure is None else save(figure, out / "figures", name)
        for name, figure in drawn.items()
    }
    _remove_others(out / "figures", [name for name, content in saved.items() if content])
    write_atomically(out / "tables" / "points.csv", tables.points_csv(studies))
    write_atomically(out / "tables" / "trials.csv", tables.trials_csv(studies))
    write_atomically(out / "report.html", page(studies, saved))


def _remove_others(folder, names):
    """Figures that an earlier report made here and this one has no place for."""
    ours = re.compile(rf"({'|'.join([*SHARED, *OWN])})(-\d+)?")
    for path in folder.iterdir():
        if path.suffix in (".png", ".svg") and ours.fullmatch(path.stem) and path.stem not in names:
            path.unlink()
