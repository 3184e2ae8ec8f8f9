"""Reports on finished work directories: figures, tables, a page, and the answer in one sentence.

Reads records only: no jax, no accelerator. What it needs is imported when a report is made, so that
a program that may make one starts quickly.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from scaling.files import write_atomically, write_error

# Studies that a report can be made of, in the order in which one shows them.
REPORTED = (
    "advise",
    "steps_to_target",
    "accuracy",
    "generalization",
    "pareto",
    "noise_scale",
    "adaptive_batch",
)


def write_report(workdirs: Sequence[Path], out: Path, say: Callable[[str], None]) -> Path:
    """Write report.html, figures/ and tables/ into `out`; returns the page.

    Every file is written in one piece: an interrupted report leaves whole files behind, and one
    made anew replaces them.

    Args:
      workdirs: of finished studies; those of one kind are shown together, each kind in its part.
      out: of one study usually its workdir.
      say: told the answers and where the page is.

    Raises:
      UserError: records that cannot be read or shown together, or `out` cannot be written.
    """
    from scaling.report.contents import contents, read_kinds

    kinds = read_kinds(workdirs)
    content = contents(kinds)
    for answer in content.answers:
        say(f"{answer.label}: {answer.text}" if answer.label else answer.text)
    out = Path(out)
    try:
        _write(kinds, content, out)
    except OSError as error:
        raise write_error(out, error, "free some space and make the report again.") from error
    page = out / "report.html"
    say(f"The report is {page}")
    return page


def _write(kinds, content, out):
    from scaling.report.drawing import save
    from scaling.report.page import page

    for folder in ("figures", "tables"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    images = {
        picture.name: picture.figure and save(picture.figure, out / "figures", picture.name)
        for picture in content.pictures
    }
    _remove_others(out / "figures", [name for name, image in images.items() if image])
    for kind, studies in kinds:
        for name, table in kind.tables(studies).items():
            write_atomically(out / "tables" / name, table)
    write_atomically(out / "report.html", page(content, images))


def _remove_others(folder, names):
    """Figures that an earlier report made here and this one has no place for."""
    from scaling.report.kinds import kind_of

    known = [name for study in REPORTED for name in kind_of(study).FIGURES]
    ours = re.compile(rf"({'|'.join(known)})(-\d+)?")
    for path in folder.iterdir():
        if path.suffix in (".png", ".svg") and ours.fullmatch(path.stem) and path.stem not in names:
            path.unlink()
