"""Reports on finished work directories: figures, tables, a page, and the answer in a few sentences.

Reads only records and does not need JAX. Imports are inside functions for a quick program start.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from scaling.files import write_atomically, write_error


def write_report(workdirs: Sequence[Path], out: Path, say: Callable[[str], None]) -> Path:
    """Write report.html, figures/ and tables/ into `out`; returns the page.

    Every file is written atomically and replaces that of an earlier report.

    Args:
      workdirs: of finished studies; those of one kind are shown together in one part.
      out: for one study usually its workdir.
      say: prints the points, the answers and the path of the page.

    Raises:
      UserError: records that cannot be read or shown together, or `out` cannot be written.
    """
    from scaling.report.contents import contents, read_kinds

    content = contents(read_kinds(workdirs))
    for part in content.parts:
        if part.table.rows:
            say(part.table.terminal())
        for label, text in part.answers:
            say(f"{label}: {text}" if label else text)
    out = Path(out)
    try:
        _write(content, out)
    except OSError as error:
        raise write_error(out, error, "free some space and make the report again.") from error
    page = out / "report.html"
    say(f"The report is {page}")
    return page


def point_line(directory: Path) -> str:
    """A finished point in one line, with the columns of its study's table."""
    from scaling.report.kind import kind_of
    from scaling.report.records import Workdir, read_directory

    read = read_directory(directory)
    workdir = Workdir(directory.parent, read.study, [read], [])
    kind = kind_of(workdir.study)
    return kind.table([kind.read(workdir)]).line()


def _write(content, out):
    from scaling.report.blocks import Picture
    from scaling.report.drawing import draw, save
    from scaling.report.page import page
    from scaling.report.tables import Table

    for folder in ("figures", "tables"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    pictures, images = list(content.blocks(Picture)), {}
    for picture in pictures:
        if picture.panels:
            images[picture.name] = save(draw(picture.panels), out / "figures", picture.name)
    _remove_others(out / "figures", [picture.name for picture in pictures], images)
    for table in content.blocks(Table):
        if table.file:
            write_atomically(out / "tables" / table.file, table.csv())
    write_atomically(out / "report.html", page(content, images))


def _remove_others(folder, names, drawn):
    """Remove figures of an earlier report of such studies that are not in this one."""
    bases = {re.escape(re.sub(r"-\d+$", "", name)) for name in names}
    ours = re.compile(rf"({'|'.join(bases)})(-\d+)?")
    for path in folder.iterdir():
        if path.suffix in (".png", ".svg") and ours.fullmatch(path.stem) and path.stem not in drawn:
            path.unlink()
