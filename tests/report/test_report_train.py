import csv
import json

import pytest
from readers import read_study
from synthetic_noise import noise
from synthetic_train import STEPS, write_train_run

from scaling.report import point_line, write_report
from scaling.report.charts import Line
from scaling.studies.train.report import KIND, MOST


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("train") / "runs"
    write_train_run(workdir / "bs64", 64, 0.03, noise_scale=noise([30.0, 90.0], [1.0, 0.1]))
    write_train_run(workdir / "bs1k", 1024, 0.02)
    failed = {"status": "diverged", "validation": None, "test": None}
    write_train_run(workdir / "bs8k", 8192, 0.5, lambda s: None if s == STEPS else 5.0, **failed)
    return workdir


def test_the_page_of_single_runs(workdir, tmp_path):
    study = read_study(workdir)
    text = KIND.answer(study)
    assert "batch 1,024 has a validation error of 2%, the lowest of 3 runs" in text
    assert "128,000 examples per second" in text
    [sentence] = KIND.cautions(study)
    assert sentence.startswith("bs8k: ")
    title, *rows = KIND.table([study]).cells()
    place = title.index("test error")
    assert [row[place] for row in rows] == ["6%", "4%", "–"]
    assert "validation error 3%" in point_line(workdir / "bs64")
    write_report([workdir], tmp_path, lambda _: None)
    with open(tmp_path / "tables" / "runs.csv", newline="") as file:
        rows = {row["point"]: row for row in csv.DictReader(file)}
    assert float(rows["bs64"]["noise_noise_scale"]) == 60
    assert float(rows["bs1k"]["validation_error"]) == 0.02


def test_a_tracked_noise_scale_is_told(tmp_path):
    scale = noise([30.0, 90.0], [1.0, 0.1])
    write_train_run(tmp_path / "w" / "bs64", 64, 0.03, noise_scale=scale)
    text = KIND.answer(read_study(tmp_path / "w"))
    assert "B_simple, which predicts the critical batch size, is on average 60" in text
    assert text.endswith(" examples.")


def test_curves_are_those_of_the_metrics_thinned(workdir):
    study = read_study(workdir)
    curves, _ = KIND.sections([study])
    loss, error, scale = curves.blocks[0].panels
    lines = [mark for mark in loss.marks if isinstance(mark, Line)]
    assert [line.label for line in lines] == ["bs64", "bs1k", "bs8k"]
    assert MOST / 2 < len(lines[0].x) <= MOST
    assert all(y == 1 / x for x, y in zip(lines[0].x, lines[0].y, strict=True))
    assert set(lines[2].y) == {5.0}  # the last has no loss
    line = next(mark for mark in error.marks if isinstance(mark, Line))
    assert line.x == list(range(100, 1001, 100)) and line.y[0] == 0.001
    assert next(iter(scale.marks)).y == (30.0, 90.0)


def test_batch_sharpness_between_the_levels(tmp_path):
    write_train_run(tmp_path / "w" / "bs64", 64, 0.03)
    with (tmp_path / "w" / "bs64" / "metrics.jsonl").open("a") as file:
        for step in (100, 200):
            row = {"step": step, "split": "validation", "batch_sharpness": step / 20}
            row |= {"batch_sharpness_error": 1.0, "edge_small_batch": 20.0}
            file.write(json.dumps(row | {"edge_large_batch": 40.0 * step / 100}) + "\n")
    write_train_run(tmp_path / "w" / "bs128", 128, 0.03)
    _, section, _ = KIND.sections([read_study(tmp_path / "w")])
    picture, note = section.blocks
    (panel,) = picture.panels
    small, large, curve, points = panel.marks
    assert (small.y, large.y, curve.y) == ([20, 20], [40, 80], [5, 10])
    assert (points.low, points.high) == ([4, 9], [6, 11])
    assert note.text.endswith("batch sharpness is 10 in bs64 (levels 20 and 80).")


def test_nothing_to_show(tmp_path):
    write_train_run(tmp_path / "w" / "bs8", 8, 0.1, validation=None)
    (tmp_path / "w" / "bs8" / "metrics.jsonl").unlink()
    said = []
    page = write_report([tmp_path / "w"], tmp_path / "out", said.append)
    assert "There is no figure to show" in page.read_text()
    assert any("no run has a validation error" in text for text in said)
