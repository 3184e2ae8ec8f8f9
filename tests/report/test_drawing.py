"""What the SVG of a figure says."""

from scaling.report.charts import Axis, Panel, Points
from scaling.report.drawing import draw, save


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
