import csv
import json
import math

import numpy as np
import pytest
from readers import read_studies, read_study
from synthetic import edit_result
from synthetic_noise import curve, noise, run_result, write_noise_workdir, write_run, write_updates

from scaling.errors import UserError
from scaling.noise import Average
from scaling.report import write_report
from scaling.report.charts import Line, Points, Rule, Span
from scaling.report.reading import from_json
from scaling.studies.noise_records import UNRESOLVED, Noise
from scaling.studies.noise_scale import charts
from scaling.studies.noise_scale.analysis import equal_loss_spread, levels, rise, slope
from scaling.studies.noise_scale.report import KIND


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return write_noise_workdir(tmp_path_factory.mktemp("noise") / "runs")


@pytest.fixture(scope="module")
def study(workdir):
    return read_study(workdir)


def one(tmp_path, **changes):
    """A study of one run."""
    write_run(tmp_path / "base", run_result(**changes), title="one")
    return read_study(tmp_path)


def points(panels, label=None):
    marks = [mark for panel in panels for mark in panel.marks if isinstance(mark, Points)]
    return [mark for mark in marks if label is None or mark.label == label]


def test_runs_are_read_base_first(study):
    assert [point.directory.name for point in study.points] == [
        "base", "rate_x0.25", "rate_x4", "bs16", "bs256", "model_wide", "temperature",
    ]  # fmt: skip
    assert study.base.noise_scale.exactly("start").noise_scale == 33.0
    assert [point.kind for point in study.variants("rate")] == ["base", "rate", "rate"]


def test_windows_are_drawn_with_intervals_and_unresolved_ones_as_lower_bounds(study, workdir):
    [panel] = charts.over_steps([study])
    record = json.loads((workdir / "base" / "result.json").read_text())["noise_scale"]
    resolved = [w for w in record["windows"] if w["noise_scale"] is not None]
    [shown] = points([panel], "B_simple over a window of steps, 95% interval")
    assert shown.x == [(w["first_step"] + w["last_step"]) / 2 for w in resolved]
    assert shown.y == [w["noise_scale"] for w in resolved]
    assert (shown.low, shown.high) == tuple([w[end] for w in resolved] for end in ("low", "high"))
    [bounds] = points([panel], UNRESOLVED)
    assert bounds.hollow and bounds.y == [90.0, 90.0] and bounds.x == [725.5, 775.5]
    lines = [mark for mark in panel.marks if isinstance(mark, Line)]
    assert [len(line.x) for line in lines] == [14, 4]  # it breaks at the two
    assert [mark.y for mark in panel.marks if isinstance(mark, Rule)] == [64]
    [exact] = points([panel], "B_simple from every example's gradient")
    assert list(zip(exact.x, exact.y, strict=True)) == [(1, 33.0), (1000, 800.0)]
    [hessian] = points([panel], "B_noise, which weighs it by the Hessian")
    assert hessian.y == [20.0]  # at the end it is not known


def test_models_are_compared_at_equal_loss(study):
    [panel] = charts.over_loss([study])
    assert panel.x.reverse
    names = {mark.label for mark in points([panel])} - {UNRESOLVED}
    assert names == {"the tuned run, 9,098 parameters", "wide, 50,000 parameters"}
    # 1.2 times as large everywhere; the gap of the base is bridged.
    assert equal_loss_spread(study.variants("model")) == pytest.approx(1.2, rel=1e-6)


def test_the_power_law_of_the_learning_rate(study):
    rates, values = levels(study.variants("rate"), "learning_rate")
    assert rates == [0.025, 0.1, 0.4]
    x, y = np.log(rates), np.log(values)
    expected = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
    assert slope(rates, values) == pytest.approx(expected) == pytest.approx(-1, abs=0.1)
    by_rate, by_batch = charts.over_variants([study])
    [guide] = [mark for mark in by_rate.marks if isinstance(mark, Line)]
    assert guide.y[1] / guide.y[0] == pytest.approx(guide.x[0] / guide.x[1])
    [flat] = [mark for mark in by_batch.marks if isinstance(mark, Line)]
    assert flat.y[0] == pytest.approx(flat.y[1])
    assert slope([1.0], [2.0]) is None


def test_what_was_expected_and_what_was_measured(study):
    [section] = [s for s in KIND.sections([study]) if s.title == "What it depends on"]
    titles, *rows = section.blocks[0].cells()
    assert titles == ["test", "expected", "measured"]
    averages = [point.noise_scale.level.noise_scale for point in study.variants("batch")]
    assert [row[1:] for row in rows[:3]] == [
        ["1", "1.2"],
        ["−1", f"−{-slope(*levels(study.variants('rate'), 'learning_rate')):.2f}"],
        ["1", f"{max(averages) / min(averages):.3g}"],
    ]
    _, expected, measured = rows[3]
    assert expected == "16 times" and measured.startswith("12 times: ")


DIP = {"factor": 16.0, "first_step": 401, "last_step": 600}


def test_the_temperature_test_compares_with_the_base_at_the_same_steps(study):
    found = rise(study, study.variants("temperature")[-1])
    assert found.inside.measurements == 200
    assert found.outside.noise_scale == pytest.approx(100, rel=0.02)
    assert found.inside.low < 1200 < found.inside.high
    assert found.ratio == pytest.approx(12, rel=0.02) and "base run" in found.against
    [panel] = charts.temperature([study])
    [span] = [mark for mark in panel.marks if isinstance(mark, Span)]
    assert (span.low, span.high) == (401, 600)
    [level] = [mark for mark in panel.marks if isinstance(mark, Line) and mark.dash == "dash"]
    assert level.y == [16 * found.outside.noise_scale] * 2
    [inside] = points([panel], "all updates inside the cut, 95% interval")
    assert inside.y == [found.inside.noise_scale]


def test_a_temperature_test_alone_compares_with_itself_before(tmp_path):
    def alone(values):
        if values is not None:
            write_updates(tmp_path / "base" / "metrics.jsonl", values)
        study = read_study(tmp_path)
        return rise(study, study.base)

    write_run(tmp_path / "base", run_result(kind="temperature", dip=DIP), title="one")
    assert alone(None) is None  # no metrics.jsonl
    found = alone([50.0] * 200 + [100.0] * 200 + [800.0] * 600)
    assert "just before" in found.against and found.outside.measurements == 200
    assert found.ratio == pytest.approx(8, rel=0.02)
    assert alone([50.0] * 405).ratio is None  # too few updates inside the cut


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        (curve()[0], ("is 30 (23.1 to 42) at the start", ", 900 (692 to 1,260) at the end",
                      "267 (248 to 300) on average", "size above the 64 trained with")),
        ([5.0] * 20, ("5 (4.74 to 5.45) on average", "size below the 64 trained with")),
        ([None] + [50.0] * 19, ("is not resolved (at least 90) at the start", ", 50 (")),
        ([None] * 20, ("not resolved (at least 90) on average (examples, 95% intervals).",)),
    ],
)  # fmt: skip
def test_answers(tmp_path, values, parts):
    text = KIND.answer(one(tmp_path, measured=noise(values, curve()[1])))
    assert text.startswith("On digits with an MLP, the noise scale B_simple ")
    assert all(part in text for part in parts), text


def test_of_a_language_model_it_is_in_sequences_and_tokens(tmp_path):
    study = one(tmp_path, measured=noise(*curve()))
    [folder] = [path.parent for path in tmp_path.rglob("resolved.json")]
    resolved = json.loads((folder / "resolved.json").read_text())
    loss = {"words": "loss", "better": "lower", "form": "number", "unit": "nats per token"}
    resolved["task"] = {"unit": "tokens", "rows": "sequences", "per_row": 32}
    resolved["task"]["metrics"] = {"loss": loss}
    (folder / "resolved.json").write_text(json.dumps(resolved))
    study = read_study(study.workdir)
    text = KIND.answer(study)
    assert "267 (248 to 300) on average (sequences of 32 tokens, 95% intervals)." in text
    assert "The average is 8,540 tokens." in text and "the 64 trained with" in text
    [over_steps], [over_loss] = charts.over_steps([study]), charts.over_loss([study])
    assert over_steps.y.label == "noise scale B_simple (sequences of 32 tokens)"
    assert over_loss.x.label == "training loss, falling to the right (nats per token)"
    assert over_loss.x.scale == "near" and over_loss.x.reverse
    assert "average in tokens" in KIND.table([study]).cells()[0]


def test_cautions(tmp_path):
    write_noise_workdir(tmp_path)
    unresolved = noise([None] * 20, curve()[1], coupled=True)
    edit_result(tmp_path / "rate_x4", status="diverged", noise_scale=None, train=None)
    edit_result(tmp_path / "bs16", noise_scale=unresolved)
    study = read_study(tmp_path)
    assert [sentence.split(";")[0][:20] for sentence in KIND.cautions(study)] == [
        "rate_x4: diverged",
        "rate_x4: no gradient",
        "bs16: B_simple is no",
        "bs16: batch norm cou",
    ]
    (tmp_path / "base" / "result.json").unlink()
    assert any("base run is missing" in text for text in KIND.cautions(read_study(tmp_path)))


@pytest.mark.parametrize("case", ["nothing", "unresolved", "no bound", "one"])
def test_a_page_of_one_run_with_little_to_show(tmp_path, case):
    measured = noise([None] * 4, [2.0, None, 0.5, 0.1])
    if case == "no bound":
        for window in measured["windows"]:
            window |= {"low": None, "grad_sq_norm": None, "grad_variance_trace": None}
    if case == "one":
        measured = noise([30.0], [2.0])
    one(tmp_path / "w", noise_scale=None if case == "nothing" else measured)
    made = write_report([tmp_path / "w"], tmp_path / "out", lambda _: None)
    text = made.read_text()
    shown = 2 if case in ("unresolved", "one") else 0
    assert text.count("There is no figure to show") == 2 - shown
    assert len(list((made.parent / "figures").glob("*.png"))) == shown


def test_tables_hold_the_numbers_of_the_records(workdir, tmp_path):
    write_report([workdir], tmp_path, lambda _: None)
    with open(tmp_path / "tables" / "noise_scale.csv", newline="") as file:
        rows = {row["point"]: row for row in csv.DictReader(file)}
    with open(tmp_path / "tables" / "noise_scale_windows.csv", newline="") as file:
        windows = list(csv.DictReader(file))
    assert "33 / 20" in (tmp_path / "report.html").read_text()
    for path in workdir.glob("*/result.json"):
        result = json.loads(path.read_text())
        row, measured = rows.pop(path.parent.name), result["noise_scale"]
        for key in ("learning_rate", "global_batch", "parameters"):
            assert float(row[key]) == result[key]
        for when in ("start", "end", "whole"):
            for key in ("noise_scale", "low", "high"):
                assert float(row[f"{when}_{key}"]) == measured[when][key]
        level = from_json(Noise, measured).level
        assert float(row["average_noise_scale"]) == level.noise_scale
        mine = [float(w["noise_scale"] or "nan") for w in windows if w["point"] == path.parent.name]
        expected = [w["noise_scale"] for w in measured["windows"]]
        np.testing.assert_array_equal(mine, [math.nan if v is None else v for v in expected])
    assert not rows


def test_several_studies_overlay(tmp_path):
    ways = [write_noise_workdir(tmp_path / n, title=n, level=k) for n, k in (("a", 1), ("b", 3))]
    studies = read_studies(ways)
    [panel] = charts.over_steps(studies)
    assert {"a", "b"} <= {mark.label for mark in points([panel])}
    assert [panel.title for panel in charts.temperature(studies)] == ["a", "b"]


def test_bad_records(tmp_path):
    write_noise_workdir(tmp_path)
    edit_result(tmp_path / "bs16", noise_scale={"windows": []})
    with pytest.raises(UserError, match=r"bs16 lacks noise_scale.source"):
        read_study(tmp_path)


def test_of_all_updates_together_no_upper_end_is_known():
    measured = noise([None, 30.0, 60.0, None], [1.0] * 4)
    found = from_json(Noise, measured)
    assert found.level == Average(None, found.whole.low, None)
    assert found.together == Average(found.whole.noise_scale, found.whole.low, None)
    measured["whole"] = measured["windows"][0] | {"low": 7.0}  # not resolved
    alone = from_json(Noise, measured)
    assert alone.level == Average(None, 7.0, None)
    assert alone.together == Average(45.0, 7.0, None)
