import csv

import pytest
from readers import read_study
from synthetic_throughput import (
    EACH,
    EXCHANGE,
    FIXED,
    GPUS,
    row,
    throughput_result,
    write_throughput_workdir,
)

from scaling.comms import NETWORKS, all_reduce_seconds, expected_maximum
from scaling.errors import UserError
from scaling.report import write_report
from scaling.studies.throughput.report import KIND, projections


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return write_throughput_workdir(tmp_path_factory.mktemp("throughput") / "runs")


@pytest.fixture(scope="module")
def point(workdir):
    return read_study(workdir).points[0]


def seconds(devices, batch):
    return FIXED + batch * EACH + EXCHANGE * (devices > 1)


def test_the_line_of_one_device_and_its_batches(point):
    assert point.fit.device.fixed_seconds == pytest.approx(FIXED)
    assert point.fit.device.half_rate_batch == pytest.approx(FIXED / EACH)
    text = KIND.answer(read_study(point.directory.path.parent))
    rate = 4 * 512 / seconds(4, 512)
    assert f"4 devices alone make {round(rate, -2):,.0f} examples per second" in text
    assert "2 ms and 100 us for every example: half the peak rate at batch 20" in text
    assert "90% of it at 180." in text and "bound by the examples" in text


def test_batches_that_were_not_measured_are_marked(point):
    assert [point.batch_text(batch) for batch in (2, 20, 600)] == [
        "8 or less",
        "20",
        "600, beyond the 512 measured",
    ]


def test_weak_and_strong_efficiency_are_told_apart(point):
    four = point.row(4, 128)
    weak, strong = point.weak(four)[0], point.strong(four)[0]
    assert weak == pytest.approx(seconds(1, 128) / seconds(4, 128))
    assert strong == pytest.approx(seconds(1, 512) / (4 * seconds(4, 128)))
    # They differ by R(1, B / n) / R(1, B), which one device gives.
    alone = lambda batch: batch / seconds(1, batch)
    assert strong / weak == pytest.approx(alone(128) / alone(512))
    assert point.weak(point.row(1, 128)) is None
    assert point.strong(point.row(4, 512)) is None  # 2,048 on one device was not measured


def test_the_binding_term(tmp_path, point):
    assert point.bound(point.row(1, 8)) == "fixed"
    assert point.bound(point.row(1, 512)) == "examples"
    starved = [row(1, 8, input_seconds=1.0), row(1, 512)]
    study = read_study(write_throughput_workdir(tmp_path, rows=starved, overlap=None))
    assert study.points[0].bound(study.points[0].rows[0]) == "input"
    exchange = [row(1, 8), row(2, 8) | {"device": [0.5] * 5}]
    study = read_study(write_throughput_workdir(tmp_path / "two", rows=exchange, overlap=None))
    assert study.points[0].bound(study.points[0].rows[1]) == "exchange"
    # Parts of one CPU wait for its cores, not for one another.
    shared = {"devices": {"kind": "cpu", "platform": "cpu", "count": 2, "simulated": True}}
    written = write_throughput_workdir(tmp_path / "cpu", rows=exchange, overlap=None, **shared)
    (alone,) = read_study(written).points
    assert alone.bound(alone.rows[1]) != "exchange"


def test_the_share_of_the_peak_and_none_where_it_is_not_known(tmp_path, point):
    one = point.row(1, 512)
    assert point.mfu(one) == pytest.approx(512 / seconds(1, 512) * 1e9 / 1e14)
    assert point.mfu(point.row(4, 512)) == pytest.approx(512 / seconds(4, 512) * 1e9 / 1e14)
    unknown = read_study(write_throughput_workdir(tmp_path, peak_flops=None)).points[0]
    assert unknown.mfu(one) is None


def test_what_is_hidden_of_the_all_reduce(point):
    assert point.hidden == pytest.approx((0.5, 0.5, 0.5))  # 2 of 4 ms are exposed


def test_forecasts_written_out(point):
    compute = seconds(1, 512)
    for found, devices in zip(projections(point), (8, 64), strict=True):
        exposed = all_reduce_seconds(1e8, devices, NETWORKS["dgx-h100"], "best") / 2
        for end, jitter in ((found.high, 0.03), (found.low, 0.10)):
            step = compute * (1 + jitter * expected_maximum(devices)) + exposed
            assert end == pytest.approx(devices * 512 / step)
        assert found.share(found.ideal) == 1
        assert found.ideal == pytest.approx(devices * 512 / compute)


def test_devices_that_are_one_cpu_have_no_efficiency(tmp_path):
    cores = GPUS | {"platform": "cpu", "kind": "cpu"}
    study = read_study(write_throughput_workdir(tmp_path, devices=cores, load_average=3.0))
    point = study.points[0]
    assert point.weak(point.row(4, 128)) is point.strong(point.row(4, 128)) is None
    assert point.hidden is None and "1 device alone makes" in KIND.answer(study)
    parts, busy = KIND.cautions(study)
    assert "say nothing of several real devices" in parts and "other programs" in busy


def test_times_off_the_line_are_told(tmp_path):
    bent = [row(1, b) for b in (8, 32, 128)] + [row(1, 512) | {"device": [0.2] * 5}]
    study = read_study(write_throughput_workdir(tmp_path, rows=bent, overlap=None))
    assert any("off the line" in sentence for sentence in KIND.cautions(study))


def test_the_page_and_its_tables(workdir, tmp_path):
    text = write_report([workdir], tmp_path, lambda _: None).read_text()
    with open(tmp_path / "tables" / "throughput.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12 and float(rows[0]["device_rate"]) == pytest.approx(8 / seconds(1, 8))
    assert "<td>90.7%</td>" in text and "71% to 89%" in text  # Kurth 2018, and the model
    assert "TPU v4" in text and "computed again" in text and "so 50% of it is hidden" in text
    with open(tmp_path / "tables" / "throughput_variants.csv", newline="") as file:
        prices = [each["price"] for each in csv.DictReader(file)]
    assert prices[1].startswith("1.2") and prices[2].startswith("1.4")


def test_two_records_in_one_place(workdir, tmp_path):
    other = write_throughput_workdir(tmp_path)
    (other / "throughput").rename(other / "first")
    write_throughput_workdir(other)
    with pytest.raises(UserError, match=r"both hold throughput"):
        read_study(other)
    assert throughput_result()["rows"]
