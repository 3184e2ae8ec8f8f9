"""What holds for every kind of study, and for several on one page."""

import inspect
import json

import pytest
from parsed import check_nothing_runs
from readers import read_study
from synthetic import HOSTILE
from synthetic_noise import write_pareto_workdir

from scaling.report import REPORTED, write_report
from scaling.report.blocks import Picture
from scaling.report.charts import Axis, Line, Panel, Points, Rule, batches
from scaling.report.contents import contents, read_kinds
from scaling.report.kind import Kind, kind_of
from scaling.report.paper import draw
from scaling.report.screen import plots
from scaling.report.wording import between, subscripts


@pytest.mark.parametrize("name", REPORTED)
def test_every_kind_has_the_same_shape(name):
    kind = kind_of(name)
    for function, value in vars(Kind).items():
        if inspect.isfunction(value) and not function.startswith("_"):
            wanted = list(inspect.signature(value).parameters)[1:]
            given = inspect.signature(getattr(kind, function)).parameters.values()
            assert [one.name for one in given if one.default is one.empty] == wanted, function
    assert kind.NAME and kind.FIGURES


@pytest.fixture(scope="module")
def kinds(every_kind):
    return read_kinds(every_kind)


@pytest.fixture(scope="module")
def content(kinds):
    return contents(kinds)


def test_no_two_kinds_write_the_same_file(kinds, content):
    assert [kind for kind, _ in kinds] == [kind_of(name) for name in REPORTED]
    figures = [name for kind, _ in kinds for name in kind.FIGURES]
    assert len(figures) == len(set(figures))
    tables = [name for kind, studies in kinds for name in kind.tables(studies)]
    assert len(tables) == len(set(tables))
    for (kind, _), (_, sections) in zip(kinds, content.parts, strict=True):
        blocks = [block for section in sections for block in section.blocks]
        drawn = {block.name.split("-")[0] for block in blocks if isinstance(block, Picture)}
        assert drawn == set(kind.FIGURES)


def test_a_page_of_every_kind_runs_nothing_hostile(mixed, every_kind):
    page, said = mixed
    text = page.read_text()
    check_nothing_runs(text)
    assert "<img src=x" not in text and text.count('<h1 class="kind">') == 7
    assert said[0] == f"Advice: {HOSTILE}" and len(said) == 9
    assert said[5].startswith("Noise scale, ") and said[-1] == f"The report is {page}"
    stems = {path.stem for path in (page.parent / "figures").glob("*.png")}
    assert stems == {name for study in REPORTED for name in kind_of(study).FIGURES}
    for workdir in every_kind:
        assert str(workdir) in text


def test_plotly_knows_every_key(content):
    graph_objects = pytest.importorskip("plotly.graph_objects")
    for picture in content.pictures:
        for plot in picture.plots:
            graph_objects.Figure(plot)  # raises for a key that it does not know
            json.dumps(plot, allow_nan=False)


def test_one_kind_has_no_kind_s_heading(every_kind, tmp_path):
    text = write_report(every_kind[:1], tmp_path, lambda _: None).read_text()
    assert '<h1 class="kind">' not in text and "Batch size over training" in text
    write_report(every_kind[-1:], tmp_path, lambda _: None)
    stems = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert stems == {"advise_options", "advise_throughput"}  # none of the first report's


def test_a_goal_on_the_training_split_reads_its_lines(tmp_path):
    write_pareto_workdir(tmp_path, (8, 64))
    point = read_study(tmp_path).points[0]
    path = tmp_path / "bs8" / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(point.evaluations.step) == sum(row["split"] == "train" for row in rows) > 0
    path.write_text(path.read_text().replace('"train"', '"validation"', 3))
    fewer = read_study(tmp_path).points[0].evaluations
    assert len(fewer.step) == len(point.evaluations.step) - 3


def panel(**changes):
    points = Points(
        [4.0, 64.0], [10.0, 100.0], "#000000", "data", low=[9.0, None], high=[11.0, 1e9]
    )
    return Panel(batches("batch"), Axis("value"), [points], **changes)


def test_axes_hold_the_data_and_not_every_interval():
    scale = panel().scale("y")
    assert scale.low < 9 and 100 < scale.high < 1000
    across = panel().scale("x")
    assert across.low < 4 and across.high > 64 and set(across.ticks) <= {2.0**k for k in range(9)}
    far = Line([1.0, 1e6], [1.0, 1e6], "#000000", guide=True)
    assert Panel(Axis("x"), Axis("y"), [*panel().marks, far]).scale("y") == scale
    near = Rule("#000000", y=5000.0)
    assert Panel(Axis("x"), Axis("y"), [*panel().marks, near]).scale("y").high > 5000


def test_intervals_without_an_end_run_out_of_both_figures():
    [axes] = draw([panel()]).axes
    [bars] = [c.get_segments() for c in axes.collections]
    low, high = axes.get_ylim()
    assert bars[0][:, 1].tolist() == [9, 11] and bars[1][:, 1].tolist() == [low, high]
    [plot] = plots([panel()])
    error = plot["data"][0]["error_y"]
    assert error["array"] == [1.0, high - 100] and error["arrayminus"] == [1.0, 100 - low]
    assert (low, high) == tuple(panel().scale("y")[:2])


def test_titles_with_dollars_and_symbols_of_the_papers():
    figure = draw([panel(title="costs $5 and $x_1$"), panel(title="B_simple and 5_000")])
    figure.draw_without_rendering()
    assert [axes.get_title() for axes in figure.axes] == [
        "costs $5 and $x_1$",
        r"$B_{\mathrm{simple}}$ and 5_000",
    ]
    assert subscripts("B_simple, SB_crit") == "B<sub>simple</sub>, SB_crit"


def test_nothing_to_draw():
    assert draw([]) is None and plots([]) == []
    assert Panel(Axis("x"), Axis("y"), [Line([1], [1], "#000000")]).empty


@pytest.mark.parametrize(
    ("ends", "text"),
    [((None, None), "–"), ((None, 3), "at most 3"), ((2, None), "2 or more"), ((2, 3), "2 to 3")],
)
def test_intervals_in_words(ends, text):
    assert between(*ends) == text
