import dataclasses
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from readers import read_studies, read_study
from synthetic import edit_result, write_json, write_workdir

from scaling.errors import UserError
from scaling.report import provenance, records
from scaling.report.reading import from_json
from scaling.studies.steps_to_target.record import Record


@pytest.fixture
def small(tmp_path):
    return write_workdir(tmp_path / "runs", (64, 8, 1024), trials=12)


def test_points_by_batch_size_with_the_numbers_of_their_records(small):
    study = read_study(small)
    assert [point.global_batch for point in study.points] == [8, 64, 1024]
    assert [point.directory.name for point in study.points] == ["bs8", "bs64", "bs1k"]
    for point in study.points:
        result = json.loads((small / point.directory.name / "result.json").read_text())
        fields = dataclasses.asdict(from_json(Record, vars(point)))
        added = {"split": "validation", "better": "lower"}
        added |= dict.fromkeys(("log", "interval", "tried"))
        assert json.loads(json.dumps(fields)) == result | added
        assert point.epochs == result["steps_to_target"] * point.global_batch / 1197
        assert point.directory.launches[0]["python"] == "3.11.2"


def test_evaluations_are_sorted_and_null_is_nan(small):
    path = small / "bs8" / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(reversed(lines)) + '{"step": 9, "spl')  # a write cut short
    evaluations = read_study(small).points[0].evaluations
    rows = [json.loads(line) for line in lines]
    rows = [row for row in rows if row["split"] == "validation"]
    assert len(evaluations) == 12 and len(rows) == np.hstack([*evaluations.values()]).shape[1]
    for trial, (steps, values) in evaluations.items():
        mine = sorted((r["step"], r["error"]) for r in rows if r["trial"] == trial)
        assert steps.tolist() == [step for step, _ in mine]
        np.testing.assert_array_equal(values, [np.nan if v is None else v for _, v in mine])
    assert np.isnan(np.hstack([*evaluations.values()])).any()


def test_unfinished_points_are_named_and_other_folders_are_not_points(small):
    for name in ("bs2", "bs128"):
        (small / name).mkdir()
        write_json(small / name / "config.json", {})
    (small / "figures").mkdir()
    (small / "notes.txt").write_text("")
    study = read_study(small)
    assert study.unfinished == ["bs128", "bs2"] and len(study.points) == 3


def test_a_point_without_metrics_or_resolved_values_is_still_read(small):
    (small / "bs8" / "metrics.jsonl").unlink()
    (small / "bs8" / "resolved.json").unlink()
    point = read_study(small).points[0]
    assert point.evaluations == {} and point.directory.launches == []


def damage(name, content):
    return lambda workdir: (workdir / "bs8" / name).write_text(content)


def remove_results(workdir):
    for path in workdir.glob("*/result.json"):
        path.unlink()


def remove_key(workdir):
    path = workdir / "bs8" / "result.json"
    result = json.loads(path.read_text())
    del result["goal"]
    write_json(path, result)


def record_of_a_run(workdir):
    write_json(workdir / "bs8" / "result.json", {"status": "complete", "global_batch": 8})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shutil.rmtree, r"There is no workdir .*runs\."),
        (remove_results, r"no finished point of a study: bs1k, bs64, bs8 not finished\."),
        (damage("result.json", '{"study": '), r"bs8/result.json is not valid JSON"),
        (damage("config.json", "\ufeffno"), r"bs8/config.json is not valid JSON"),
        (damage("result.json", "[1]"), "is not a JSON object"),
        (damage("metrics.jsonl", "no\n{}\n"), r"Line 1 of .*metrics.jsonl is not valid JSON"),
        (damage("metrics.jsonl", '{"step": 1}\n'), "lacks 'split'"),
        (remove_key, "bs8 lacks goal"),
        (lambda w: (w / "bs8" / "config.json").unlink(), r"There is no .*config.json"),
        (record_of_a_run, r"bs1k and bs8 in .* are of different studies"),
        (lambda w: edit_result(w / "bs8", study="noise"), "unknown study, 'noise'"),
        (lambda w: edit_result(w / "bs8", trials=None), "has trials = None"),
        (lambda w: edit_result(w / "bs8", goal=0.1), r"bs8 and bs64 .* differ in their goal"),
        (lambda w: edit_result(w / "bs64", global_batch=8), "are both of batch 8"),
        (lambda w: edit_result(w / "bs64", train_size=7), "differ in their training set size"),
    ],
)
def test_bad_records_give_one_sentence(small, change, message):
    change(small)
    with pytest.raises(UserError, match=message):
        read_study(small)


def test_how_convolutions_are_computed_is_not_part_of_the_question(small):
    path = small / "bs8" / "config.json"
    config = json.loads(path.read_text())
    write_json(path, config | {"model": config["model"] | {"conv_method": "patches"}})
    study = read_study(small)
    assert [point.global_batch for point in study.points] == [8, 64, 1024]
    (models,) = (values for what, values in provenance.origins(study, {}) if what == "model")
    assert ["conv_method" in model for model in models] == [True, False]
    write_json(path, config | {"model": config["model"] | {"dtype": "bfloat16"}})
    with pytest.raises(UserError, match="differ in their model"):
        read_study(small)


def test_an_empty_folder_and_a_file_are_no_workdirs(tmp_path):
    with pytest.raises(UserError, match=r"has no finished point of a study\."):
        read_study(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="There is no workdir"):
        read_study(tmp_path / "file")


def test_metrics_that_differ_cannot_be_shown_together(small, tmp_path):
    other = write_workdir(tmp_path / "loss", (8,), trials=4, metric="loss", goal=0.3)
    with pytest.raises(
        UserError, match=r"steps to a validation error and .* steps to a validation loss"
    ):
        read_studies([small, other])
    write_json(small / "bs8" / "result.json", {"study": "noise_scale"})
    with pytest.raises(UserError, match=r"bs1k and bs8 in .* are of different studies"):
        read_study(small)
    with pytest.raises(UserError, match="named twice"):
        read_studies([small, small / ".." / "runs"])


def labels(tmp_path, *options):
    workdirs = [
        write_workdir(tmp_path / f"w{i}", (8,), **{"trials": 4} | kept)
        for i, kept in enumerate(options)
    ]
    return [study.label for study in read_studies(workdirs)]


def test_labels_of_studies_are_what_differs(tmp_path):
    assert labels(tmp_path / "1", {"optimizer": "sgd"}, {"optimizer": "nesterov"}) == [
        "sgd",
        "nesterov",
    ]
    assert labels(tmp_path / "2", {"title": "one"}, {"title": " two\nlines "}) == [
        "one",
        "two lines",
    ]
    assert labels(tmp_path / "3", {}, {"trials": 5}) == ["w0", "w1"]
    a, b = (write_workdir(tmp_path / "4" / x / "same", (8,), trials=4) for x in "ab")
    assert [study.label for study in read_studies([a, b])] == [str(a), str(b)]


def test_label_smoothing_is_a_label_unless_it_is_searched(tmp_path):
    values = {"none": {}, "some": {"loss": {"label_smoothing": 0.1}}, "own": {}}
    values["own"] = {"search": {"space": {"label_smoothing": ["discrete", 0.0, 0.1]}}}
    workdirs = []
    for name, changes in values.items():
        workdirs.append(write_workdir(tmp_path / name, (8,), trials=4))
        path = workdirs[-1] / "bs8" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert [study.label for study in read_studies(workdirs)] == [
        "label smoothing 0",
        "label smoothing 0.1",
        "label smoothing searched",
    ]


def test_models_of_one_name_are_labelled_by_what_differs():
    def of(*models):
        recipes = [{"model": {"name": "mlp"} | model} for model in models]
        return records._differing([SimpleNamespace(recipe=recipe) for recipe in recipes])

    wide, deep = {"widths": [9], "norm": "none"}, {"widths": [9, 9], "norm": "none"}
    assert of(wide, deep) == ["widths=[9]", "widths=[9, 9]"]
    assert of(wide, {"name": "simple_cnn", "size": "base"}) == ["mlp", "simple_cnn"]
    lstm = {"name": "lstm", "cells": 8}  # its options are of no other model
    recipes = [
        {"model": {"name": "mlp"} | model, "optimizer": optimizer}
        for model, optimizer in ((wide, "adam"), (wide, "sgd"), (lstm, "adam"))
    ]
    found = records._differing([SimpleNamespace(recipe=recipe) for recipe in recipes])
    assert found == ["mlp, adam", "mlp, sgd", "lstm, adam"]
    half = wide | {"dtype": "bfloat16"}
    assert of(wide, half, deep) == ["widths=[9]", "widths=[9], dtype=bfloat16", "widths=[9, 9]"]
