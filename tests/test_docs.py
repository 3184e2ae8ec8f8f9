"""The documents quote what the committed records say, and no number comes from nowhere."""

import json
import re

import pytest
from quoted import SECTIONS
from quoted.quotes import ROOT, Section, Table, say

PAGE = """
## Walks

Run: ten seeds at rate 0.1. The slope falls from 4.2 to
1.6 (Fig. 2).

<!-- records: walks -->
| batch | slope |
|---|---|
| 128 | 4.2 |
| 8,192 | 1.6 |

## Others

The end is 7.
"""
WALKS = Section(
    "walks.md",
    "Walks",
    lambda: [
        say("slope falls from {} to {} (Fig. 2)", "4.2", "1.6"),
        Table("walks", [["batch", "slope"], ["128", "4.2"], ["8,192", "1.6"]]),
    ],
    said=("rate 0.1",),
)
each = pytest.mark.parametrize("section", SECTIONS, ids=str)


@each
def test_numbers_are_those_of_the_records(section):
    """`python tests/write_docs.py` puts them right."""
    wrong = section.wrong(section.read())
    assert not wrong, "\n\n".join(wrong)


@each
def test_every_number_has_an_origin(section):
    """Quote a new one from the records, in tests/quoted, or list it there as of no record."""
    text, _ = section.put_right(section.read())
    assert section.strays(text) == []
    assert section.stale(text) == []


@pytest.mark.parametrize("document", ["README.md", "docs/speed.md", "docs/reproduction.md"])
def test_every_part_of_a_document_is_looked_at(document):
    headings = re.findall("^## (.*)", (ROOT / document).read_text(), re.M)
    assert set(headings) <= {s.heading for s in SECTIONS if s.document == document}


def test_a_number_that_differs_is_told_and_put_right():
    text = WALKS.cut(PAGE)[1]
    assert WALKS.wrong(text) == WALKS.strays(text) == WALKS.stale(text) == []
    changed = text.replace("4.2", "4.3").replace("1.6 (", "1.66 (")
    slope, table = WALKS.wrong(changed)
    assert "says   1.66 (Fig. 2)." in slope and "should 1.6 (Fig. 2)." in slope
    assert "says   | 128 | 4.3 |\nshould | 128 | 4.2 |" in table
    assert WALKS.put_right(changed) == (text, [])


def test_a_number_of_no_origin_is_told():
    text = WALKS.cut(PAGE)[1].replace("ten seeds", "10 seeds").replace("| 1.6 |", "| 1.6 (3) |")
    numbers = [re.match("'(.*?)'", stray)[1] for stray in WALKS.strays(text)]
    assert numbers == ["10", "128", "4.2", "8,192", "1.6", "3"]  # of the table, none stands


def test_a_passage_that_is_gone_is_told():
    text = WALKS.cut(PAGE)[1].replace("slope", "power").replace("rate", "factor")
    text = text.replace("walks", "runs")
    assert WALKS.stale(text) == ["rate 0.1"]
    lost = WALKS.put_right(text)[1]
    assert lost == WALKS.wrong(text) and len(lost) == 2


def test_the_list_of_slow_tests_has_no_other_names():
    for entry in (ROOT / "tests/slow.txt").read_text().split():
        file, _, function = entry.rstrip("+").partition("::")
        assert f"def {function}" in (ROOT / file).read_text(), entry


def test_records_name_no_folder_of_the_machine():
    commands = [
        launch["command"]
        for file in (ROOT / "docs" / "results").rglob("resolved.json")
        for launch in json.loads(file.read_text()).get("launches", [])
    ]
    assert commands and not [command for command in commands if "=/" in command]
