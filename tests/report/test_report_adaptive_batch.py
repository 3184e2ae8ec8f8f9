import csv
import json
import statistics

import numpy as np
import pytest
from readers import read_study
from synthetic_noise import write_run
from synthetic_plans import adaptive_result, missed_run, write_adaptive_workdir

from scaling.report import write_report
from scaling.report.charts import Line, Points
from scaling.studies.adaptive_batch.report import KIND, saving_text
from scaling.studies.adaptive_batch.savings import allowed


def panels(study, name):
    """Of a figure of the page."""
    blocks = [block for section in KIND.sections([study]) for block in section.blocks]
    return next(block.panels for block in blocks if getattr(block, "name", "") == name)


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


def test_without_noise_adaptive_runs_save_what_gamma_predicts(tmp_path):
    # At r = B_crit both ratios are 1 + sqrt(gamma) = 1.8, where the fixed batch B_crit has 2.
    study = read_study(write_adaptive_workdir(tmp_path, gamma=0.64, noise=0.0, s_min=5000.0))
    point = next(point for point in study.points if point.r == 64)
    saved = study.saving(point)
    assert (saved.share, saved.low, saved.high) == pytest.approx((0.1, 0.1, 0.1), abs=0.002)
    text = KIND.answer(study)
    assert f"an adaptive batch (r = 64) saves {saving_text(saved)} of the steps" in text
    assert study.gamma == 0.64 and allowed(0.64) == pytest.approx(0.1)
    assert text.endswith("The paper's gamma, 0.64, predicts 10.0%.")


def test_the_terminal_has_what_the_page_has(study):
    title, *rows = KIND.table([study]).cells()
    saved = [row[title.index("saved (95%)")] for row in rows]
    assert saved[:5] == ["–"] * 5
    assert saved[5:] == [saving_text(study.saving(point)) for point in study.points[5:]]


def test_predicted_front(study):
    [panel] = panels(study, "adaptive_batch")
    fixed, predicted = (mark for mark in panel.marks if isinstance(mark, Line))
    fit = study.fit
    for line, gamma in ((fixed, 1.0), (predicted, 0.8)):
        examples, steps = np.array(line.x), np.array(line.y)
        batch = examples / steps
        if gamma == 1:
            np.testing.assert_allclose(steps, fit.steps(batch))
        steps = steps * fit.hyperbola.steps(batch) / fit.steps(batch)
        excess = steps / fit.s_min - 1, batch * steps / fit.e_min - 1
        np.testing.assert_allclose(excess[0] * excess[1], gamma)
    shown = [mark for mark in panel.marks if isinstance(mark, Points) and mark.names]
    assert [mark.names for mark in shown] == [
        ["4", "16", "64", "256", "1k"],
        ["r = 16", "r = 64", "r = 256"],
    ]
    faint = [mark for mark in panel.marks if isinstance(mark, Points) and mark.faint]
    assert [len(mark.x) for mark in faint] == [15, 9]


def test_schedules_show_the_batch_and_the_noise_scale(study):
    found = panels(study, "adaptive_batch_schedules")
    assert [panel.title for panel in found] == ["r = 16", "r = 64", "r = 256"]
    point = study.points_of("adaptive")[0]
    lines = [mark for mark in found[0].marks if isinstance(mark, Line)]
    for line, run in zip(lines, point.runs, strict=True):
        assert list(line.y[::2]) == [batch for _, batch in run.schedule]
        assert list(line.x[::2]) == [step for step, _ in run.schedule]
        assert line.x[-1] == max(step for step, _ in run.noise_scale)
    diamonds = [mark for mark in found[0].marks if isinstance(mark, Points) and mark.hollow]
    assert [len(mark.x) for mark in diamonds] == [9] * 3  # the first was not resolved


def test_runs_that_miss_the_goal(tmp_path):
    write_adaptive_workdir(tmp_path, (16, 64), prices=(64.0,))
    runs = [missed_run(0, "diverged"), missed_run(1, "target_not_reached")]
    result = adaptive_result("adaptive", runs, r=1024.0) | {"status": "diverged"}
    write_run(tmp_path / "adaptive_r1024", result, title="Adaptive batch on digits")
    study = read_study(tmp_path)
    missed, unresolved = KIND.cautions(study)
    assert missed.startswith("adaptive_r1024: some seeds did not reach a training loss of 0.1")
    assert unresolved.startswith("adaptive_r1024: B_simple was never resolved")
    assert study.fit is None and "do not give a curve" in KIND.answer(study)
    text = write_report([tmp_path], tmp_path / "out", lambda _: None).read_text()
    assert "0 of 2, 1 diverged" in text


@pytest.mark.parametrize("kind", ["fixed", "adaptive"])
def test_one_point_that_missed(tmp_path, kind):
    about = {"global_batch": 64} if kind == "fixed" else {"r": 8.0}
    result = adaptive_result(kind, [missed_run(0, "target_not_reached")], **about)
    write_run(tmp_path / "w" / "only", result, title="one")
    text = KIND.answer(read_study(tmp_path / "w"))
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
