import csv
import json
import re
import statistics

import numpy as np
import pytest
from readers import read_study
from synthetic_noise import write_run
from synthetic_plans import adaptive_result, missed_run, write_adaptive_workdir

from scaling.report import write_report
from scaling.report.charts import Line, Points
from scaling.report.kind import adaptive_batch
from scaling.studies.adaptive_batch import charts
from scaling.studies.adaptive_batch.records import fit_of, natural, saving


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return write_adaptive_workdir(tmp_path_factory.mktemp("adaptive") / "runs")


@pytest.fixture(scope="module")
def study(workdir):
    return read_study(workdir)


def test_fixed_points_come_first_with_medians_over_seeds(study, workdir):
    names = [point.directory.name for point in study.points]
    assert names[:5] == ["fixed_bs4", "fixed_bs16", "fixed_bs64", "fixed_bs256", "fixed_bs1024"]
    assert names[5:] == ["adaptive_r16", "adaptive_r64", "adaptive_r256"]
    for point in study.points:
        runs = json.loads((workdir / point.directory.name / "result.json").read_text())["runs"]
        assert point.steps == statistics.median(run["goals"][-1]["steps"] for run in runs)
        assert point.examples == statistics.median(run["goals"][-1]["examples"] for run in runs)


def test_without_noise_adaptive_runs_save_what_gamma_says(tmp_path):
    # At r = B_crit both ratios are 1 + sqrt(gamma), where a fixed batch has 1 + 1 / sqrt(gamma).
    study = read_study(write_adaptive_workdir(tmp_path, gamma=0.64, noise=0.0, s_min=5000.0))
    point = natural(study)
    assert point.r == 64
    found = saving(study, point)
    expected = 1 - 1.8 / 2.25
    assert found.steps == pytest.approx([expected] * 3, abs=0.002)
    assert found.examples == pytest.approx([expected] * 3, abs=0.002)
    text = adaptive_batch.answer(study)
    assert "takes 20% fewer steps (20% to 20% over 3 seeds) than a fixed one" in text
    assert text.endswith("scatter around their fit (gamma 0.64).")
    assert "more than the spread of seeds" in text


def test_a_saving_within_the_spread_is_told(tmp_path):
    study = read_study(write_adaptive_workdir(tmp_path, gamma=0.99, noise=0.05))
    text = adaptive_batch.answer(study)
    assert re.search(r"that is within (the spread of seeds|the \d+% by which fixed)", text), text
    assert text.endswith("(gamma 0.99, close to 1: nothing to gain).")


def test_predicted_front(study):
    [panel] = charts.trade_off([study])
    fixed, predicted = (mark for mark in panel.marks if isinstance(mark, Line))
    fit, _ = fit_of(study)
    for line, gamma in ((fixed, 1.0), (predicted, 0.8)):
        excess = np.array(line.y) / fit.s_min - 1, np.array(line.x) / fit.e_min - 1
        np.testing.assert_allclose(excess[0] * excess[1], gamma)
    shown = [mark for mark in panel.marks if isinstance(mark, Points) and mark.names]
    assert [mark.names for mark in shown] == [
        ["4", "16", "64", "256", "1k"],
        ["r = 16", "r = 64", "r = 256"],
    ]
    faint = [mark for mark in panel.marks if isinstance(mark, Points) and mark.faint]
    assert [len(mark.x) for mark in faint] == [15, 9]


def test_schedules_show_the_batch_and_the_noise_scale(study):
    panels = charts.schedules([study])
    assert [panel.title for panel in panels] == ["r = 16", "r = 64", "r = 256"]
    point = study.of_kind("adaptive")[0]
    lines = [mark for mark in panels[0].marks if isinstance(mark, Line)]
    for line, run in zip(lines, point.runs, strict=True):
        assert list(line.y[::2]) == [batch for _, batch in run.schedule]
        assert list(line.x[::2]) == [step for step, _ in run.schedule]
        assert line.x[-1] == max(step for step, _ in run.noise_scale)
    diamonds = [mark for mark in panels[0].marks if isinstance(mark, Points) and mark.hollow]
    assert [len(mark.x) for mark in diamonds] == [9] * 3  # the first was not resolved


def test_runs_that_miss_the_goal(tmp_path):
    write_adaptive_workdir(tmp_path, (16, 64), prices=(64.0,))
    runs = [missed_run(0, "diverged"), missed_run(1, "target_not_reached")]
    result = adaptive_result("adaptive", runs, r=1024.0) | {"status": "diverged"}
    write_run(tmp_path / "adaptive_r1024", result, title="Adaptive batch on digits")
    study = read_study(tmp_path)
    found = adaptive_batch.cautions(study)
    assert any(
        "adaptive_r1024: 2 of 2 seeds did not reach a training loss of 0.1, 1 of them" in sentence
        for sentence in found
    )
    assert any("adaptive_r1024: B_simple was never resolved" in sentence for sentence in found)
    assert "fixed batch sizes give nothing to compare with: 2 batch" in adaptive_batch.answer(study)
    text = write_report([tmp_path], tmp_path / "out", lambda _: None).read_text()
    assert "0 of 2, 1 diverged" in text


@pytest.mark.parametrize("kind", ["fixed", "adaptive"])
def test_one_point_that_missed(tmp_path, kind):
    about = {"global_batch": 64} if kind == "fixed" else {"r": 8.0}
    result = adaptive_result(kind, [missed_run(0, "target_not_reached")], **about)
    write_run(tmp_path / "w" / "only", result, title="one")
    text = adaptive_batch.answer(read_study(tmp_path / "w"))
    assert "no run with an adaptive batch reached" in text
    text = write_report([tmp_path / "w"], tmp_path / "out", lambda _: None).read_text()
    assert "There is no figure to show: no run reached the goal" in text


def test_tables_hold_the_numbers_of_the_records(workdir, tmp_path):
    write_report([workdir], tmp_path, lambda _: None)
    with open(tmp_path / "tables" / "adaptive_batch.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 * 3 * 3
    for row in rows:
        result = json.loads((workdir / row["point"] / "result.json").read_text())
        [run] = [run for run in result["runs"] if run["seed"] == int(row["seed"])]
        [goal] = [goal for goal in run["goals"] if goal["goal"] == float(row["goal"])]
        assert (int(row["steps"]), int(row["examples"])) == (goal["steps"], goal["examples"])
    with open(tmp_path / "tables" / "adaptive_batch_schedules.csv", newline="") as file:
        changes = [
            r for r in csv.DictReader(file) if (r["point"], r["seed"]) == ("adaptive_r64", "1")
        ]
    expected = json.loads((workdir / "adaptive_r64" / "result.json").read_text())["runs"][1]
    assert [[int(r["first_step"]), int(r["batch"])] for r in changes] == expected["schedule"]
