"""Tables as CSV."""

import csv
import io
from typing import Any

from scaling.report.records import Study

Row = dict[str, Any]


def head(study: Study, point: Any) -> Row:
    """The first columns of every row."""
    return {
        "study": study.label,
        "workdir": str(study.workdir),
        "point": point.directory.name,
    }


def to_csv(rows: list[Row]) -> str:
    """All columns that any row has, in the order of the longest; what a row lacks is empty."""
    longest_first = sorted(rows, key=len, reverse=True)
    columns = list(dict.fromkeys(column for row in longest_first for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
