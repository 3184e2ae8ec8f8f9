"""A table for the page, the terminal and a CSV file."""

import csv
import dataclasses
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from scaling.report.records import Study
from scaling.report.wording import NOTHING, number

Row = tuple[Any, ...]  # a study, then the subject of the row: a point, or a point and a run, ...


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
      title: on the page and the terminal, where {rows} is what examples are called and {unit} what
        counts, such as tokens; "" for the CSV only.
      of: the value: an attribute of the row's last part, or a function of all parts.
      text: format of a value; None is always "–".
      key: in the CSV; "": the name of the attribute, or not in the CSV if there is none. A
        dataclass or a dict becomes columns key_field, a list its values separated by spaces.
    """

    title: str
    of: str | Callable[..., Any]
    text: Callable[[Any], str] = number
    key: str = ""

    def value(self, row: Row) -> Any:
        """The value in one row."""
        return getattr(row[-1], self.of) if isinstance(self.of, str) else self.of(*row)

    def cell(self, row: Row) -> str:
        """The value as text."""
        value = self.value(row)
        return NOTHING if value is None else self.text(value)

    def fields(self, row: Row) -> Iterator[tuple[str, Any]]:
        """Its columns in the CSV."""
        key = self.key or (self.of if isinstance(self.of, str) else "")
        yield from _flat(key, self.value(row)) if key else ()


def _flat(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A value as columns."""
    if dataclasses.is_dataclass(value):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _flat(f"{key}_{name}", part)
    elif isinstance(value, list | tuple):
        yield key, " ".join(map(str, value))
    elif value is not None:
        yield key, value


@dataclass(frozen=True)
class Table:
    """Rows and columns; with several studies, the first column is the study.

    Attributes:
      file: of the CSV, "" for none.
      shown: whether it is on the page.
      wrap: whether to wrap long cells.
    """

    columns: Sequence[Column]
    rows: Sequence[Row]
    file: str = ""
    shown: bool = True
    wrap: bool = False

    def cells(self) -> list[list[str]]:
        """The titles, then the rows as text, without empty columns."""
        study, columns = self.rows[0][0], [column for column in self.columns if column.title]
        if any(row[0].label for row in self.rows):
            columns.insert(0, Column("study", lambda study, *_: study.label, str))
        texts = [[column.cell(row) for row in self.rows] for column in columns]
        kept = [
            [column.title.replace("{rows}", study.called).replace("{unit}", study.holds), *text]
            for column, text in zip(columns, texts, strict=True)
            if any(cell not in ("", NOTHING) for cell in text)
        ]
        return [list(line) for line in zip(*kept, strict=True)]

    def terminal(self) -> str:
        """Aligned columns."""
        cells = self.cells()
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join(
            "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
            for line in cells
        )

    def line(self) -> str:
        """The first row in one line: title value, title value."""
        titles, first = self.cells()[:2] if self.rows else ([], [])
        return ", ".join(
            f"{title} {cell}" for title, cell in zip(titles, first, strict=True) if cell != NOTHING
        )

    def csv(self) -> str:
        """All columns that any row has; what a row lacks is empty."""
        parts = [[_head(row) for row in self.rows]]
        parts += [[dict(column.fields(row)) for row in self.rows] for column in self.columns]
        names = dict.fromkeys(name for part in parts for fields in part for name in fields)
        rows = [
            {k: v for fields in row for k, v in fields.items()} for row in zip(*parts, strict=True)
        ]
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


def _head(row: Row) -> dict[str, str]:
    """The first columns of every CSV."""
    study, *parts = row
    head = {"study": study.label or study.title, "workdir": str(study.workdir)}
    directory = next((part.directory for part in parts if hasattr(part, "directory")), None)
    return head | ({"point": directory.name} if directory else {})


def csv_only(part: int, *keys: str) -> list[Column]:
    """Columns of the CSV: attributes of a part of the row."""
    return [Column("", lambda *row, key=key: getattr(row[part], key), key=key) for key in keys]


def of_points(studies: Sequence[Study]) -> list[Row]:
    """Rows (study, point)."""
    return [(study, point) for study in studies for point in study.points]


def within(studies: Sequence[Study], of: Callable[[Any], Sequence]) -> list[Row]:
    """Rows (study, point, x), for every x in of(point)."""
    return [(study, point, x) for study, point in of_points(studies) for x in of(point)]


def hover(columns: Sequence[Column], row: Row) -> str:
    """The titled columns of one row, a line each."""
    return "\n".join(map(" ".join, zip(*Table(columns, [row]).cells(), strict=True)))
