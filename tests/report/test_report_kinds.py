"""What holds for every kind of study, and for several on one page."""

import json

import pytest
from parsed import check_nothing_runs
from readers import read_study
from synthetic_noise import write_pareto_workdir

from scaling.report import write_report
from scaling.report.blocks import Picture
from scaling.report.contents import contents, read_kinds
from scaling.report.kind import kind_of
from scaling.report.tables import Table
from scaling.studies import STUDIES


@pytest.fixture(scope="module")
def kinds(every_kind):
    return read_kinds(every_kind)


@pytest.fixture(scope="module")
def content(kinds):
    return contents(kinds)


def test_no_two_kinds_write_the_same_file(kinds, content):
    assert [kind for kind, _ in kinds] == [kind_of(name) for name in STUDIES]
    figures = [picture.name for picture in content.blocks(Picture)]
    assert len(figures) == len(set(figures)) > 15
    tables = [table.file for table in content.blocks(Table) if table.file]
    assert len(tables) == len(set(tables)) > 10


def test_the_columns_of_the_terminal_are_columns_of_the_page(content, mixed):
    for part in content.parts:
        shown = [b for section in part.sections for b in section.blocks if isinstance(b, Table)]
        page = {column.title for table in shown for column in table.columns}
        assert {column.title for column in part.table.columns} <= page, part.heading
        assert part.table.terminal() in mixed[1]


def test_a_page_of_every_kind_runs_nothing_hostile(mixed, every_kind):
    page, said = mixed
    text = page.read_text()
    check_nothing_runs(text)
    assert text.count('<h1 class="kind">') == len(STUDIES)
    assert any(text.startswith("Advice: On digits") for text in said)
    assert said[-1] == f"The report is {page}"
    for workdir in every_kind:
        assert str(workdir) in text


def test_one_kind_has_no_kind_s_heading(every_kind, tmp_path):
    text = write_report(every_kind[:1], tmp_path, lambda _: None).read_text()
    assert '<h1 class="kind">' not in text and "Batch size over training" in text


def test_a_goal_on_the_training_split_reads_its_lines(tmp_path):
    write_pareto_workdir(tmp_path, (8, 64))
    number = lambda: sum(
        rows.shape[1] for rows in read_study(tmp_path).points[0].evaluations.values()
    )
    path = tmp_path / "bs8" / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    before = number()
    assert before == sum(row["split"] == "train" for row in rows) > 0
    path.write_text(path.read_text().replace('"train"', '"validation"', 3))
    assert number() == before - 3
