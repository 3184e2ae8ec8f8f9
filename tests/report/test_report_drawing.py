"""Axes, and what is drawn on them."""

import re
import xml.etree.ElementTree as ET

import pytest

from scaling.report import drawing
from scaling.report.charts import Axis, Band, Contours, Line, Panel, Points, Rule, Span, batches
from scaling.report.drawing import SVG, draw, save
from scaling.report.wording import between, subscripts

HOSTILE = '</script><img src=x onerror=alert(1)> & "q"'


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    monkeypatch.setattr(drawing, "DPI", 40)


def panel(*more, **changes):
    points = Points(
        [4.0, 64.0],
        [10.0, 100.0],
        "#000000",
        "data",
        low=[9.0, None],
        high=[11.0, 1e9],
        texts=["first\nof two", HOSTILE],
    )
    return Panel(batches("batch"), Axis("value"), [points, *more], **changes)


def test_axes_hold_the_data_and_not_every_interval():
    scale = panel().scale("y")
    assert scale.low < 9 and 100 < scale.high < 1000
    across = panel().scale("x")
    assert across.low < 4 and across.high > 64 and set(across.ticks) <= {2.0**k for k in range(9)}
    far = Line([1.0, 1e6], [1.0, 1e6], "#000000", guide=True)
    band = Band([1.0, 1e6], [1.0, 1.0], [1e6, 1e6], "#000000")
    assert panel(far, band).scale("y") == scale
    assert panel(Rule("#000000", y=5000.0)).scale("y").high > 5000


def test_contours_on_the_same_levels_have_the_same_shades():
    x, levels = [-1.0, 0.0, 1.0], [0.5, 1.0, 2.0]
    panels = []
    for height in (1.0, 3.0):
        z = [[height * (a * a + b * b) for a in x] for b in x]
        z[0][0] = float("inf")  # a loss that is not finite is above all levels
        marks = [Contours(x, x, z, levels), Points([0.0], [0.0], "#000000")]
        panels.append(Panel(Axis("a", "near"), Axis("b", "near"), marks))
    figure = draw(panels).figure
    shades = [axes.collections[0].get_facecolors().tolist() for axes in figure.axes[:2]]
    assert shades[0] == shades[1] and len(shades[0]) == len(levels) + 1
    figure.draw_without_rendering()
    assert [axes.get_xlim() for axes in figure.axes] == [(-1, 1)] * 2
    assert {text.get_text() for text in figure.axes[0].texts} <= {"0.5", "1", "2"}


def test_intervals_without_an_end_run_out_of_the_figure():
    [axes] = draw([panel()]).figure.axes
    [bars] = [c.get_segments() for c in axes.collections]
    low, high = axes.get_ylim()
    assert bars[0][:, 1].tolist() == [9, 11] and bars[1][:, 1].tolist() == [low, high]
    assert (low, high) == tuple(panel().scale("y")[:2])


def test_an_axis_of_names():
    points = Points([0.5, 2.0], [0, 1], "#000000")
    figure = draw([Panel(Axis("value"), Axis("layer", "names", names=("a", "b")), [points])]).figure
    figure.draw_without_rendering()
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["a", "b"]


def test_titles_with_dollars_and_symbols_of_the_papers():
    figure = draw([panel(title="costs $5 and $x_1$"), panel(title="B_simple and 5_000")]).figure
    figure.draw_without_rendering()
    assert [axes.get_title() for axes in figure.axes] == [
        "costs $5 and $x_1$",
        r"$B_{\mathrm{simple}}$ and 5_000",
    ]
    assert subscripts("B_simple, SB_crit") == "B<sub>simple</sub>, SB_crit"


def svg_of(tmp_path, *panels, name="figure"):
    return save(draw(panels), tmp_path, name)


def tagged(root, key):
    return [element for element in root.iter() if key in element.attrib]


def test_every_mark_of_the_svg_has_its_text_and_is_of_its_series(tmp_path):
    outside = Points([4.0, -1.0], [20.0, 30.0], "#D55E00", "more", texts=["inside", "no log"])
    line = Line([4.0, 64.0], [10.0, 90.0], "#0072B2", series="data", text="a line")
    span = Span(4.0, 16.0, "#e3f1e8", "a regime")
    svg = svg_of(tmp_path, panel(outside, line, span))
    root = ET.fromstring(svg)
    titles = [element.text for element in root.iter() if element.tag.endswith("title")]
    both = ["first\nof two", HOSTILE]
    assert titles == [*both, *both, "inside", "a line"]  # of intervals, of points
    numbers = {"data": 0, "more": 1, "a regime": 2}
    series = [int(element.get("data-series")) for element in tagged(root, "data-series")]
    assert sorted(set(series)) == sorted(numbers.values())
    assert series.count(0) == 3  # marks, intervals, the line
    entries = [int(element.get("data-entry")) for element in tagged(root, "data-entry")]
    assert sorted(entries) == [0, 0, 1, 1, 2, 2]
    assert (tmp_path / "figure.svg").read_text() == svg and "<img" not in svg
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_figures_on_one_page_share_no_id(tmp_path):
    one, other = (svg_of(tmp_path, panel(), name=name) for name in ("a", "b"))
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in (one, other)]
    assert ids[0] and not ids[0] & ids[1]
    for svg, own in zip((one, other), ids, strict=True):
        assert set(re.findall(r'"url\(#([^)]+)\)"|href="#([^"]+)"', svg)) <= {
            pair for name in own for pair in ((name, ""), ("", name))
        }


def test_the_same_panels_give_the_same_bytes(tmp_path):
    assert svg_of(tmp_path, panel()) == svg_of(tmp_path, panel())


def test_a_panel_without_points_is_empty():
    assert Panel(Axis("x"), Axis("y"), [Line([1], [1], "#000000")]).empty
    assert not panel().empty


@pytest.mark.parametrize(
    ("ends", "text"),
    [((None, None), "–"), ((None, 3), "at most 3"), ((2, None), "2 or more"), ((2, 3), "2 to 3")],
)
def test_intervals_in_words(ends, text):
    assert between(*ends) == text


def test_numbers_on_the_axes_are_whole_and_places_short(tmp_path):
    panel = Panel(Axis("x"), Axis("y"), [Points([0.001, 0.1], [0.0123, 3.0], "#000000")])
    root = ET.fromstring(save(draw([panel]), tmp_path, "name"))
    assert {"0.001", "0.1"} <= {text.text for text in root.iter(f"{{{SVG}}}text")}
    places = [value for element in root.iter() for value in element.attrib.values()]
    assert any(re.search(r"\d\.\d\d", value) for value in places)
    assert not any(re.search(r"\d\.\d{3}", value) for value in places)


def test_numbers_in_texts_keep_their_digits(tmp_path):
    points = Points([0.0011, 0.0998], [1.23456, 2.0], "#000000", texts=["1.23456", "2"])
    svg = save(draw([Panel(Axis("rate"), Axis("error"), [points])]), tmp_path, "rates")
    assert ">0.001<" in svg and "<title>1.23456</title>" in svg


def test_many_names_on_an_axis_have_room():
    def height(count):
        names = tuple(f"layer {i}" for i in range(count))
        points = Points([1.0] * count, list(range(count)), "#000000")
        panel = Panel(Axis("ratio"), Axis("", "names", reverse=True, names=names), [points])
        figure = draw([panel, panel]).figure
        labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
        assert labels == [*names] and figure.axes[0].yaxis_inverted()
        return figure.get_figheight()

    assert height(4) < height(30) > 30 * 0.2
