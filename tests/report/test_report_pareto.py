import csv
import json
import re

import numpy as np
import pytest
from readers import read_studies, read_study
from synthetic import edit_result
from synthetic_noise import critical, noise, write_pareto_workdir

from scaling.errors import UserError
from scaling.fits import fit_steps
from scaling.report import write_report
from scaling.report.charts import Line, Points
from scaling.report.contents import contents, read_kinds
from scaling.report.page import page
from scaling.studies.pareto.report import KIND, critical_batch, trade_off


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return write_pareto_workdir(tmp_path_factory.mktemp("pareto") / "runs")


@pytest.fixture(scope="module")
def study(workdir):
    return read_study(workdir)


def results(workdir):
    records = [json.loads(path.read_text()) for path in workdir.glob("*/result.json")]
    return sorted(records, key=lambda record: record["global_batch"])


def test_every_goal_has_the_hyperbola_of_its_steps(study, workdir):
    assert [front.goal for front in study.fronts] == [1.0, 0.5, 0.2, 0.1, 0.05]
    assert study.split == "train"
    for index, front in enumerate(study.fronts):
        pairs = [(r["global_batch"], r["goals"][index]["steps"]) for r in results(workdir)]
        expected = fit_steps(*zip(*pairs, strict=True))
        assert front.fit.b_crit == expected.b_crit
        low, high = expected.b_crit_interval
        assert low < critical(front.goal) < high
        assert list(zip(front.batches, front.steps, strict=True)) == pairs


def test_curves_obey_the_paper_s_equation(study):
    [panel] = trade_off([study])
    lines = [mark for mark in panel.marks if isinstance(mark, Line)]
    for line, front in zip(lines, study.fronts, strict=True):
        excess = np.array(line.y) / front.fit.s_min - 1, np.array(line.x) / front.fit.e_min - 1
        np.testing.assert_allclose(excess[0] * excess[1], 1)
    marks = [mark for mark in panel.marks if isinstance(mark, Points)]
    assert [mark.names for mark in marks[:-1]] == [[]] * 4
    for mark, front in zip(marks, study.fronts, strict=True):
        assert mark.y == front.steps
        assert mark.x == [b * s for b, s in zip(front.batches, front.steps, strict=True)]
    assert marks[-1].names == ["1", "4", "16", "64", "256", "1k"]


def test_the_noise_scale_at_a_goal_is_that_at_its_loss(study):
    assert study.run.global_batch == 64  # B_crit is 85 in the geometric mean
    for front in study.fronts:
        # The synthetic noise is a power law of the loss, which is linear in logs.
        noise_scale = study.noise_at(front.goal)
        assert noise_scale == pytest.approx(4 * critical(front.goal), rel=1e-6)
        assert study.ratio_at(front) == pytest.approx(noise_scale / front.fit.b_crit)
    assert study.critical_average == pytest.approx(
        np.mean([front.fit.b_crit for front in study.fronts])
    )
    windows = study.run.tracked.windows
    assert study.noise_start == windows[0].noise_scale
    assert study.noise_average == pytest.approx(np.mean([w.noise_scale for w in windows]))


def test_critical_batches_and_noise_scales_share_their_axes(study):
    [panel] = critical_batch([study])
    marks = {mark.label: mark for mark in panel.marks if isinstance(mark, Points)}
    crit = marks["B_crit of a goal, 95% interval"]
    assert crit.x == [front.goal for front in study.fronts]
    assert crit.y == [front.fit.b_crit for front in study.fronts]
    assert not marks["B_simple at batch 64"].faint
    assert marks["B_simple at other batch sizes"].faint


def test_an_error_s_windows_are_found_by_step(tmp_path):
    write_pareto_workdir(tmp_path)
    for path in tmp_path.iterdir():
        config = json.loads((path / "config.json").read_text())
        config["target"]["metric"] = "error"
        (path / "config.json").write_text(json.dumps(config))
        edit_result(path, metric="error")
        lines = (path / "metrics.jsonl").read_text()
        (path / "metrics.jsonl").write_text(lines.replace('"loss"', '"error"'))
    study = read_study(tmp_path)
    run = study.run
    for front in study.fronts:
        step = run.crossing(front.goal).steps
        inside = [w for w in run.tracked.windows if w.first_step <= step <= w.last_step]
        assert study.noise_at(front.goal) == (inside[0].noise_scale if inside else None)
    assert any(study.noise_at(front.goal) for front in study.fronts)
    assert critical_batch([study])


def test_answer(study):
    assert KIND.answer(study) == (
        "On digits with an MLP, steps to target give a critical batch size of 92.6 on average over "
        "goals (20 at a training loss of 1 to 211 at a training loss of 0.05). The noise scale "
        "B_simple is 311 on average over training, 3.4 times as large; the paper's own agreement "
        "is 2 to 8 times."
    )
    assert study.ratio == pytest.approx(311 / 92.6, rel=0.01)


def change_all(workdir, **changes):
    for path in workdir.iterdir():
        edit_result(path, **changes)


def test_a_goal_whose_steps_reject_the_hyperbola_is_named(study, tmp_path):
    against = "the steps do not follow a hyperbola"
    assert not any(against in text for text in KIND.cautions(study))
    write_pareto_workdir(tmp_path)
    for path in tmp_path.iterdir():
        result = json.loads((path / "result.json").read_text())
        goals, batch = result["goals"], result["global_batch"]
        steps = round(500 * (1 + (64 / batch) ** 4) ** 0.25)  # a sharper bend
        goals[-1] |= {"steps": steps, "before": steps - 1}
        edit_result(path, goals=goals)
    bent = read_study(tmp_path)
    [said] = [text for text in KIND.cautions(bent) if against in text]
    assert said.startswith("a training loss of 0.05: ")


def test_nothing_to_compare_with(tmp_path):
    write_pareto_workdir(tmp_path / "none")
    change_all(tmp_path / "none", tracked=None)
    text = KIND.answer(read_study(tmp_path / "none"))
    assert text.endswith("(20 at a training loss of 1 to 211 at a training loss of 0.05). No noise "
                         "scale is resolved.")  # fmt: skip
    write_pareto_workdir(tmp_path / "few", (16, 64))
    text = KIND.answer(read_study(tmp_path / "few"))
    assert "no critical batch size is measured. 2 batch sizes reached" in text
    assert re.search(r"B_simple is \d+ on average over training\.$", text)


def test_a_goal_that_was_not_reached_is_censored(tmp_path):
    write_pareto_workdir(tmp_path)
    result = json.loads((tmp_path / "bs1" / "result.json").read_text())
    missed = {"steps": None, "before": None, "examples": None}
    goals = [*result["goals"][:-1], result["goals"][-1] | missed]
    edit_result(
        tmp_path / "bs1", goals=goals, status="target_not_reached", steps_to_target=None,
        censored_at=30_000, best=None, best_trial=None, repeats=[],
    )  # fmt: skip
    study = read_study(tmp_path)
    last = study.fronts[-1]
    assert last.batches == [4, 16, 64, 256, 1024]
    rows = [(r["global_batch"], r["goals"][-1]["steps"]) for r in results(tmp_path)]
    batches, steps = zip(*rows, strict=True)
    expected = fit_steps(batches, steps, censored_at=[30_000, *[None] * 5])
    assert last.fit.b_crit == expected.b_crit


def test_unresolved_everywhere_and_one_point(tmp_path):
    write_pareto_workdir(tmp_path / "w", (16, 64, 256))
    unresolved = noise([None] * 5, [1.0, 0.8, 0.5, 0.2, None], coupled=True)
    change_all(tmp_path / "w", tracked=unresolved)
    study = read_study(tmp_path / "w")
    for part in ("B_simple is not known: not resolved", "batch norm couples"):
        assert any(f"bs16, bs64 and bs256: {part}" in text for text in KIND.cautions(study))
    assert all(study.noise_at(front.goal) is None for front in study.fronts)
    assert page(contents(read_kinds([tmp_path / "w"])), {})
    write_pareto_workdir(tmp_path / "one", (16,))
    assert "measure at least 3" in page(contents(read_kinds([tmp_path / "one"])), {})


def test_goals_that_differ_are_refused(tmp_path):
    write_pareto_workdir(tmp_path, (16, 64, 256))
    goals = json.loads((tmp_path / "bs16" / "result.json").read_text())["goals"]
    edit_result(tmp_path / "bs16", goals=goals[1:])
    with pytest.raises(UserError, match=r"bs16 and bs64 .* differ in their goals"):
        read_study(tmp_path)


def test_tables_hold_the_numbers_of_the_records(workdir, study, tmp_path):
    write_report([workdir], tmp_path, lambda _: None)

    def read(name):
        with open(tmp_path / "tables" / name, newline="") as file:
            return list(csv.DictReader(file))

    goals = read("pareto_goals.csv")
    for row, front in zip(goals, study.fronts, strict=True):
        low, high = front.fit.b_crit_interval
        ends = [float(row[f"b_crit_{name}"]) for name in ("value", "low", "high")]
        assert ends == [front.fit.b_crit, low, high]
        assert float(row["noise_scale"]) == study.noise_at(front.goal)
    crossings = {
        (r["point"], float(r["goal"])): int(r["steps"]) for r in read("pareto_crossings.csv")
    }
    for path in workdir.iterdir():
        for goal in json.loads((path / "result.json").read_text())["goals"]:
            assert crossings[path.name, goal["goal"]] == goal["steps"]
    assert len(read("pareto_points.csv")) == 6 and len(read("pareto_windows.csv")) == 100
    assert (tmp_path / "figures" / "pareto_validation_curves.png").exists()
    assert "training loss" in (tmp_path / "report.html").read_text()


def test_several_studies_overlay_and_must_share_the_metric(workdir, tmp_path):
    other = write_pareto_workdir(tmp_path / "b", goals=(1.0, 0.3, 0.1), title="other")
    studies = read_studies([workdir, other])
    titles = ["a training loss of 0.05", "a training loss of 0.1"]
    assert [panel.title for panel in trade_off(studies)] == titles
    header, *rows = KIND.table(studies).cells()
    assert len(rows) == 12 and [t for t in header if t.startswith("steps to")] == [
        f"steps to {goal:g}" for goal in (1, 0.5, 0.3, 0.2, 0.1, 0.05)
    ]
    [panel] = critical_batch(studies)
    assert len({mark.color for mark in panel.marks}) == 2
    for path in other.iterdir():
        edit_result(path, metric="error")
        lines = (path / "metrics.jsonl").read_text()
        (path / "metrics.jsonl").write_text(lines.replace('"loss"', '"error"'))
    with pytest.raises(UserError, match=r"a training loss and .* a training error"):
        read_studies([workdir, other])
