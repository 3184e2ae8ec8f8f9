import re
import xml.etree.ElementTree as ET

from scaling.report.charts import Axis, Panel, Points
from scaling.report.drawing import SVG, draw, save


def test_numbers_on_the_axes_are_whole_and_places_short(tmp_path):
    panel = Panel(Axis("x"), Axis("y"), [Points([0.001, 0.1], [0.0123, 3.0], "#000000")])
    root = ET.fromstring(save(draw([panel]), tmp_path, "name"))
    assert {"0.001", "0.1"} <= {text.text for text in root.iter(f"{{{SVG}}}text")}
    places = [value for element in root.iter() for value in element.attrib.values()]
    assert any(re.search(r"\d\.\d\d", value) for value in places)
    assert not any(re.search(r"\d\.\d{3}", value) for value in places)
