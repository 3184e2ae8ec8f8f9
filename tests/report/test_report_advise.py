import csv

import pytest
from readers import read_studies, read_study
from synthetic_noise import noise
from synthetic_plans import advice_result, option, write_advice_workdir

from scaling.errors import UserError
from scaling.report import write_report
from scaling.report.charts import Points, Rule
from scaling.studies.advise.report import KIND, throughput, time_text, trade_off

# Of the records here: what the devices are, how far their times are off a line, the least time.
USUAL = [
    "advice: a measured time is more than 5% off the line t0 + b / r, by which all times are told; "
    "their intervals do not hold that.",
    "advice: a device is this CPU: times and costs are of as many machines like it.",
    "advice: the least time is at the most devices considered; more may be faster.",
]
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


def test_the_answer_names_what_is_recommended(study):
    text = KIND.answer(study)
    record = advice_result()
    best, cheap = (record["recommended"][name] for name in ("least_time", "least_cost"))
    assert f"least time and knee: batch {best['global_batch']:,} on 8 devices in " in text
    assert f"{60 * best['hours']:.3g} ({48 * best['hours']:.3g} to " in text
    assert f"minutes, for {best['cost']:.3g} EUR, at learning rate" in text
    assert f"least cost: batch {cheap['global_batch']:,} on 1 device in " in text
    assert "900 (above 600) by the noise scale and 512 (400 to 700) by the fit" in text
    assert text.count("Extrapolated: several devices: efficiency 90% to 97%.") == 1
    assert list(KIND.cautions(study)) == USUAL
    assert len(KIND.table([study]).cells()) == 1 + len(study.point.front)


def test_no_option_within_the_limits(tmp_path):
    study = read_study(write_advice_workdir(tmp_path, recommended=NOTHING["recommended"]))
    assert "no option keeps within the limits" in KIND.answer(study)


def test_what_to_know_of_the_noise(tmp_path):
    measured = noise([None, 30.0, 60.0, None], [1.0] * 4, coupled=True)
    changes = {"noise_scale": measured, "tracked_status": "diverged"}
    study = read_study(write_advice_workdir(tmp_path, **changes))
    said = [text for text in KIND.cautions(study) if text not in USUAL]
    diverged, coupled, resolved = said
    assert "diverged" in diverged and "couples" in coupled and "not resolved in every" in resolved


def test_what_speaks_against_the_fit_is_said(tmp_path):
    doubts = ["The curve bends more sharply than the hyperbola."]
    assert (
        KIND.cautions(read_study(write_advice_workdir(tmp_path, doubts=doubts))) == doubts + USUAL
    )


def test_an_interval_of_one_run_is_told_to_lack_its_scatter(tmp_path, study):
    text = "the steps are those of one run: intervals of time leave out"
    assert not any(text in sentence for sentence in KIND.cautions(study))
    critical = advice_result()["critical"] | {"fit": None}
    (one,) = advice_result()["options"][:1]
    exact = one | {"hours_low": one["hours"], "hours_high": one["hours"]}
    changes = {"critical": critical, "options": [one, exact]}
    single = read_study(write_advice_workdir(tmp_path, **changes))
    assert any(text in sentence for sentence in KIND.cautions(single))
    wide, alone = (time_text(single, single.point, o) for o in single.point.options)
    assert wide.startswith(alone.split()[0]) and "(" in wide and "(" not in alone


def test_critical_batches_are_compared(tmp_path, study):
    _, critical, _ = KIND.sections([study])
    table, _ = critical.blocks
    assert table.cells()[1:] == [
        ["the noise scale", "900 (above 600)", "64"],
        ["the fit of S(B)", "512 (400 to 700)", "8 to 1,024"],
    ]


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
    panel = trade_off(study)
    marks = [mark for mark in panel.marks if isinstance(mark, Points)]
    drawn = {
        (x, y, mark.hollow) for mark in marks[:-3] for x, y in zip(mark.x, mark.y, strict=True)
    }
    options = advice_result()["options"]
    assert drawn == {(o["cost"], 60 * o["hours"], o["devices"] > 1) for o in options}
    assert [mark.label for mark in marks[:-3]] == [f"devices: {2**k}" for k in range(4)]
    least_time, least_cost, knee = marks[-3:]
    assert least_time.y == [min(60 * o["hours"] for o in options)]
    assert least_cost.x == [min(o["cost"] for o in options)]
    least = min(o["hours"] * o["cost"] for o in options)
    assert knee.x[0] * knee.y[0] == pytest.approx(60 * least)
    assert panel.x.label == "cost (EUR)" and panel.y.label == "time to the goal (minutes)"


def test_without_a_price_or_s_min_the_axes_say_so(tmp_path):
    free = [option(n, 64, price=0.0) for n in (1, 2)]
    best = dict.fromkeys(("least_time", "least_cost", "knee"), free[0])
    changes = {
        "options": free,
        "recommended": best,
        "price_per_device_hour": 0.0,
        "unit_hours": False,
    }
    study = read_study(write_advice_workdir(tmp_path, **changes))
    panel = trade_off(study)
    assert panel.x.label == "device-hours for each step of S_min"
    marks = [mark for mark in panel.marks if isinstance(mark, Points)]
    assert [mark.x[0] for mark in marks[:2]] == [o["hours"] * o["devices"] for o in free]
    assert any("S_min is not known" in sentence for sentence in KIND.cautions(study))
    assert "device-hours for each step of S_min" in KIND.answer(study)


def test_throughput_with_the_knee_and_the_end_of_memory(study):
    [panel] = throughput([study])
    rules = {mark.label: mark.x for mark in panel.marks if isinstance(mark, Rule)}
    assert list(rules.values()) == [64, 512]
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
    assert "nothing is recommended. The critical batch size is not measured." in text


def test_tables(workdir, tmp_path):
    text = write_report([workdir], tmp_path, lambda _: None).read_text()
    with open(tmp_path / "tables" / "advise_options.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row, expected in zip(rows, advice_result()["options"], strict=True):
        assert row.pop("extrapolated") == "; ".join(expected["extrapolated"])
        for key in row.keys() & expected.keys():
            assert float(row[key]) == expected[key]
    with open(tmp_path / "tables" / "advise_devices.csv", newline="") as file:
        fits = {int(row["per_device_batch"]): row["fits"] for row in csv.DictReader(file)}
    assert fits[512] == "True" and fits[1024] == "False"
    assert "several devices: efficiency 90% to 97%" in text
    assert "<td>least time and knee</td>" in text and "over pcie4" in text


def test_currencies_that_differ_and_two_records(workdir, tmp_path):
    other = write_advice_workdir(tmp_path / "usd", currency="USD")
    with pytest.raises(UserError, match=r"costs in EUR and .* about costs in USD"):
        read_studies([workdir, other])
    (other / "advice").rename(other / "first")
    write_advice_workdir(other)
    with pytest.raises(UserError, match=r"advice and first in .* both hold advice"):
        read_study(other)
