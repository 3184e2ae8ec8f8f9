"""Columns and tables, and JSON as dataclasses."""

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from scaling.errors import UserError
from scaling.report.reading import RecordError, from_json, jsonl
from scaling.report.records import Study
from scaling.report.tables import Column, Table
from scaling.report.wording import count, number


@dataclass
class Spread:
    mean: float
    sd: float


@dataclass
class Thing:
    steps: int | None
    spread: Spread | None = None
    best: dict = field(default_factory=dict)
    seeds: tuple = ()


THINGS = [Thing(1024, Spread(0.5, 0.1), {"rate": 0.1}, (1, 2)), Thing(None, None, {})]
COLUMNS = [
    Column("steps", "steps", count),
    Column(
        "error", lambda study, thing: thing.spread, lambda spread: f"{spread.mean:.0%}", "error"
    ),
    Column("not in the CSV", lambda study, thing: 7.25),
    Column("", "best"),
    Column("", "seeds"),
    Column("never", lambda study, thing: None, str, "never"),
]


def table(*labels):
    point = SimpleNamespace(directory=SimpleNamespace(rows="rows", unit="rows", per_row=None))
    studies = [Study(Path("runs") / label, [point], [], label) for label in labels]
    return Table(COLUMNS, [(study, thing) for study in studies for thing in THINGS])


def test_cells_of_the_page_and_the_terminal_are_the_same():
    one = table("")
    assert one.cells() == [
        ["steps", "error", "not in the CSV"],
        ["1,024", "50%", "7.25"],
        ["–", "–", "7.25"],
    ]
    lines = one.terminal().splitlines()
    assert [line.split() for line in lines[1:]] == [["1,024", "50%", "7.25"], ["–", "–", "7.25"]]
    assert len({len(line) for line in lines}) == 1
    assert one.line() == "steps 1,024, error 50%, not in the CSV 7.25"
    assert [row[0] for row in table("a", "b").cells()] == ["study", "a", "a", "b", "b"]


def test_a_csv_has_every_field_of_every_row():
    rows = list(csv.DictReader(io.StringIO(table("a").csv())))
    first = {"study": "a", "workdir": "runs/a", "steps": "1024", "error_mean": "0.5"}
    first |= {"error_sd": "0.1", "best_rate": "0.1", "seeds": "1 2"}
    assert rows[0] == first
    assert rows[1] == dict.fromkeys(first, "") | {"study": "a", "workdir": "runs/a"}


@dataclass
class Inner:
    seed: int
    loss: float | None = None


@dataclass
class Outer:
    name: str
    runs: list[Inner]
    pairs: list[tuple[int, float | None]] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)


def test_json_becomes_dataclasses_by_annotation():
    value = {"name": "a", "runs": [{"seed": 1, "loss": 2}, {"seed": 3, "more": 0}]}
    value |= {"pairs": [[1, None], [2, 0.5]], "sizes": {"train": 9}, "unknown": 1}
    runs = [Inner(1, 2.0), Inner(3)]
    assert from_json(Outer, value) == Outer("a", runs, [(1, None), (2, 0.5)], {"train": 9})
    assert type(from_json(Outer, value).runs[0].loss) is float
    assert from_json(list[Inner] | None, None) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runs": [{"seed": 1}, {}]}, r"lacks runs\[1\]\.seed"),
        ({"name": 3}, "has name = 3, which is not of type str"),
        ({"runs": {"seed": 1}}, r"has runs = .*, which is not of type list\["),
        (
            {"runs": [{"seed": True, "loss": "x"}]},
            r"has runs\[0\]\.loss = x, which is not of type float",
        ),
        ({"pairs": [[1]]}, r"has pairs\[0\] = \[1\], which is not of type tuple"),
        ({"sizes": {"train": None}}, r"has sizes\.train = None, which is not of type int"),
    ],
)
def test_json_of_another_form_says_where(change, message):
    with pytest.raises(RecordError, match=message):
        from_json(Outer, {"name": "a", "runs": []} | change)


def test_lines_of_json(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert list(jsonl(path)) == []
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')  # a write that a kill cut short
    assert list(jsonl(path)) == [{"step": 1}, {"step": 2}]
    path.write_text('{"step": 1}\nno\n{"step": 2}\n')
    with pytest.raises(UserError, match=r"Line 2 of .* is not valid JSON"):
        list(jsonl(path))


def test_numbers_as_text():
    assert [number(x) for x in (0.03123, 4.4, 1234.5, None)] == ["0.0312", "4.4", "1,230", "–"]
