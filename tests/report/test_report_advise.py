import csv

import pytest
from readers import read_studies, read_study
from synthetic_plans import advice_result, option, write_advice_workdir

from scaling.errors import UserError
from scaling.report import write_report
from scaling.report.charts import Points, Rule
from scaling.report.kind import advise
from scaling.studies.advise import charts

NOTHING = {
    "options": [],
    "recommended": {"least_time": None, "least_cost": None, "knee": None},
    "critical": {"noise_scale": None, "fit": None},
    "unit_hours": False,
}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return write_advice_workdir(tmp_path_factory.mktemp("advise") / "runs")


@pytest.fixture(scope="module")
def study(workdir):
    return read_study(workdir)


def test_the_paragraph_is_the_answer(study):
    assert advise.answer(study) == advice_result()["paragraph"]
    assert advise.cautions(study) == []


def test_the_front_is_what_no_option_beats(study):
    options = advice_result()["options"]
    beaten = lambda o: any(
        p is not o
        and p["hours"] <= o["hours"]
        and p["cost"] <= o["cost"]
        and (p["hours"], p["cost"]) != (o["hours"], o["cost"])
        for p in options
    )
    expected = {(o["devices"], o["global_batch"]) for o in options if not beaten(o)}
    assert {(o.devices, o.global_batch) for o in study.point.front} == expected


def test_every_option_is_drawn_open_where_it_is_extrapolated(study):
    [panel] = charts.trade_off([study])
    marks = [mark for mark in panel.marks if isinstance(mark, Points)]
    drawn = {
        (x, y, mark.hollow) for mark in marks[:-3] for x, y in zip(mark.x, mark.y, strict=True)
    }
    options = advice_result()["options"]
    assert drawn == {(o["cost"], 60 * o["hours"], o["devices"] > 1) for o in options}
    assert [mark.label for mark in marks[:-3]] == [
        "1 device",
        "2 devices, extrapolated",
        "4 devices, extrapolated",
        "8 devices, extrapolated",
    ]
    least_time, least_cost, knee = marks[-3:]
    assert least_time.y == [min(60 * o["hours"] for o in options)]
    assert least_cost.x == [min(o["cost"] for o in options)]
    least = min(o["hours"] * o["cost"] for o in options)
    assert knee.x[0] * knee.y[0] == pytest.approx(60 * least)
    assert panel.x.label == "cost (EUR)" and panel.y.label == "time to the goal (minutes)"


def test_without_a_price_or_s_min_the_axes_say_so(tmp_path):
    free = [option(n, 64, price=0.0) for n in (1, 2)]
    changes = {"options": free, "price_per_device_hour": 0.0, "unit_hours": False}
    study = read_study(write_advice_workdir(tmp_path, **changes))
    [panel] = charts.trade_off([study])
    assert panel.x.label == "device-hours for each step of S_min"
    marks = [mark for mark in panel.marks if isinstance(mark, Points)]
    assert [mark.x[0] for mark in marks[:2]] == [o["hours"] * o["devices"] for o in free]
    assert any("S_min is not known" in sentence for sentence in advise.cautions(study))


def test_throughput_with_the_knee_and_the_end_of_memory(study):
    [panel] = charts.throughput([study])
    rules = {mark.label: mark.x for mark in panel.marks if isinstance(mark, Rule)}
    assert rules == {
        "knee: 90% of the most examples per second": 64,
        "largest batch that fits in 3 GiB": 512,
    }
    [marks] = [mark for mark in panel.marks if isinstance(mark, Points)]
    speeds = advice_result()["throughput"]
    assert marks.y == [speed["examples_per_second"] for speed in speeds]
    for low, y, high in zip(marks.low, marks.y, marks.high, strict=True):
        assert low < y < high and high - low == pytest.approx(0.03 * y, rel=0.01)


def test_nothing_resolved(tmp_path):
    changes = NOTHING | {"throughput": [], "memory": [], "throughput_knee": None}
    made = write_report(
        [write_advice_workdir(tmp_path / "w", limit_bytes=None, **changes)],
        tmp_path / "out",
        lambda _: None,
    )
    text = made.read_text()
    assert text.count("There is no figure to show") == 2
    assert "there is nothing to choose from yet" in text and text.count("not measured") == 2


def test_tables(workdir, tmp_path):
    text = write_report([workdir], tmp_path, lambda _: None).read_text()
    with open(tmp_path / "tables" / "advise_options.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row, expected in zip(rows, advice_result()["options"], strict=True):
        for key, value in expected.items():
            assert (
                row[key] == "; ".join(value) if key == "extrapolated" else float(row[key]) == value
            )
    with open(tmp_path / "tables" / "advise_devices.csv", newline="") as file:
        fits = {int(row["per_device_batch"]): row["fits"] for row in csv.DictReader(file)}
    assert fits[512] == "True" and fits[1024] == "False"
    assert "modelled (256 GPUs: about 90% measured, 88 to 100% modelled)" in text
    assert "least time and knee" in text and "600 or more" in text and "batches 8 to 1,024" in text


def test_currencies_that_differ_and_two_records(workdir, tmp_path):
    other = write_advice_workdir(tmp_path / "usd", currency="USD")
    with pytest.raises(UserError, match="Costs are in EUR and USD"):
        read_studies([workdir, other])
    (other / "advice").rename(other / "first")
    write_advice_workdir(other)
    with pytest.raises(UserError, match=r"advice and first in .* both hold advice"):
        read_study(other)
