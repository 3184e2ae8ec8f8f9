import csv
import json
import os
import subprocess
import sys

import pytest
from parsed import Parsed, check_nothing_runs
from program import launch
from readers import read_study
from synthetic import HOSTILE, edit_result, write_workdir

from scaling.errors import UserError
from scaling.report import write_report
from scaling.report.contents import contents, read_kinds
from scaling.report.page import page
from scaling.report.wording import number


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_all_files_are_written(report):
    written, said = report
    names = ["best_values", "budgets", "steps_to_target", "trials", "validation_curves"]
    for suffix in ("png", "svg"):
        found = sorted(file.stem for file in (written.parent / "figures").glob(f"*.{suffix}"))
        assert found == names
    assert (written.parent / "figures" / "trials.png").read_bytes().startswith(b"\x89PNG")
    tables = sorted(file.name for file in (written.parent / "tables").iterdir())
    assert tables == ["points.csv", "trials.csv"]
    assert said[0].splitlines()[0].split()[0] == "batch" and len(said[0].splitlines()) == 8
    assert said[1].startswith("On digits with an MLP, steps to 2.5% validation error: doubling")
    assert said[2] == f"The report is {written}"
    assert not list(written.parent.rglob("*.tmp"))


def test_tables_hold_the_numbers_of_the_records(report, workdir):
    tables = report[0].parent / "tables"
    points = {int(row["global_batch"]): row for row in read_csv(tables / "points.csv")}
    trials = read_csv(tables / "trials.csv")
    for path in workdir.glob("*/result.json"):
        result = json.loads(path.read_text())
        row = points.pop(result["global_batch"])
        flat = {key: result[key] for key in ("goal", "steps_to_target", "censored_at", "margin")}
        flat |= {key: result[key] for key in ("trial_steps", "trial_steps_saved", "budget_steps")}
        for key in ("counts", "best", "test", "seconds", "devices"):
            flat |= {f"{key}_{name}": value for name, value in (result[key] or {}).items()}
        del flat["devices_kind"], flat["devices_platform"], flat["devices_simulated"]
        for key, value in flat.items():
            assert (float(row[key]) if row[key] else None) == value, key
        mine = [row for row in trials if int(row["global_batch"]) == result["global_batch"]]
        for row, trial in zip(mine, result["trials"], strict=True):
            values = {f"values_{name}": value for name, value in trial.pop("values").items()}
            for key, value in (trial | values).items():
                assert row[key] == ("" if value is None else str(value)), key
    assert not points


def test_the_page_shows_the_numbers_of_the_records(report, workdir):
    cells = " ".join(Parsed(report[0].read_text()).texts)
    for point in read_study(workdir).points:
        if not point.reached:
            assert f"not reached in {point.censored_at:,}" in cells
            continue
        low, high = point.steps_interval
        assert f"{point.steps_to_target:,} ({low:,} to {high:,})" in cells
        assert f"{point.examples:,}" in cells
        for value in (point.epochs, *point.best.values()):
            assert number(value) in cells
        assert f"{point.counts['reached']} of {len(point.trials)}" in cells
    for origin in ("cc095f4cd5b405bd", "python launch.py", "jax 0.10.2", "1 x cpu", "train 142 s"):
        assert origin in cells


def test_the_page_is_one_file(report):
    text = report[0].read_text()
    outside = [
        attributes[name]
        for _, attributes in Parsed(text).tags
        for name in ("src", "href", "srcset", "action")
        if not attributes.get(name, "data:").startswith(("data:", "#"))
    ]
    assert outside == [] and "@import" not in text.split("</style>")[0]
    assert "default-src 'none'" in text and len(text) < 1_500_000


def test_hostile_titles_stay_text(comparison):
    text = comparison.read_text()
    check_nothing_runs(text)
    assert "<img src=x" not in text and text.count("&lt;img src=x") > 3


def test_hostile_records_of_every_kind(tmp_path):
    bad = "</script><img src=x onerror=alert(1)>"
    ranges = {"learning_rate": ["log", 0.001, 10.0], bad: ["log", 1e-3, 1.0]}
    options = {"title": HOSTILE, "optimizer": bad, "ranges": ranges}
    write_workdir(tmp_path / "w", (8, 64), trials=8, **options)
    edit_result(tmp_path / "w" / "bs8", at_edge=[[bad, "low"]])
    for path in (tmp_path / "w").glob("*/*.json"):
        text = path.read_text().replace('"digits"', json.dumps(bad)).replace("cc095f4c", bad)
        path.write_text(text)
    text = write_report([tmp_path / "w"], tmp_path, lambda _: None).read_text()
    check_nothing_runs(text)
    assert "<img src=x" not in text and "&lt;img src=x" in text


def test_a_report_needs_no_jax(workdir, tmp_path):
    program = (
        "import sys; sys.modules['jax'] = None\n"
        "from pathlib import Path; from scaling.report import write_report\n"
        "from scaling.report.kind import kind_of; from scaling.studies import STUDIES\n"
        "[kind_of(name) for name in STUDIES]\n"
        f"write_report([Path({str(workdir)!r})], Path({str(tmp_path)!r}), print)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report.html").exists() and not done.stderr


@pytest.fixture
def small(tmp_path):
    return write_workdir(tmp_path / "runs", (8, 64), trials=6)


def test_an_interrupted_report_leaves_whole_files_and_can_be_made_again(small, monkeypatch):
    made = write_report([small], small, lambda _: None)
    before = {path: path.read_bytes() for path in small.rglob("*.*")}
    replace, calls = os.replace, []

    def interrupt(source, target):
        calls.append(target)
        if len(calls) == 4:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_report([small], small, lambda _: None)
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in small.rglob("*.*")} == before
    assert write_report([small], small, lambda _: None) == made
    assert {path: path.read_bytes() for path in small.rglob("*.*")} == before


def test_figures_of_an_earlier_report_do_not_stay(small, tmp_path):
    other = write_workdir(tmp_path / "other", (8, 64), trials=6, title="other")
    write_report([small, other], tmp_path, lambda _: None)
    mine = tmp_path / "figures" / "mine.png"
    mine.write_bytes(b"")
    assert (tmp_path / "figures" / "trials-2.svg").exists()
    write_report([small], tmp_path, lambda _: None)
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"mine.png", "trials.svg"} <= names and not any("-" in name for name in names)


def test_places_that_cannot_be_written(small, tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "out", "/proc/report"):
        with pytest.raises(UserError, match=r"Cannot write to .*choose another --workdir"):
            write_report([small], out, lambda _: None)


def test_the_page_says_what_is_missing_and_why(small, tmp_path):
    for name in ("bs8", "bs64"):
        (small / name / "metrics.jsonl").unlink()
        gone = {"best": None, "best_trial": None, "repeats": []}
        edit_result(small / name, status="all_diverged", steps_to_target=None, ranges={}, **gone)
    (small / "bs2").mkdir()
    (small / "bs2" / "config.json").write_text("{}")
    made = write_report([small], tmp_path / "out", lambda _: None)
    text = made.read_text()
    assert text.count("There is no figure to show: ") == 5
    assert "Unfinished points are left out: bs2." in text
    assert "No curve is fitted. 0 batch sizes reached the goal" in text
    assert not list((made.parent / "figures").iterdir())


NOTHING = {"steps_to_target": None, "best": None, "best_trial": None, "resolution": None}
NOTHING |= {"repeats": [], "test": None}


@pytest.mark.parametrize("change", [
    NOTHING | {"status": "all_diverged"},
    NOTHING | {"status": "met_at_start", "steps_to_target": 0},
    NOTHING | {"status": "target_not_reached", "censored_at": 6000},
    {},
])  # fmt: skip
def test_a_study_without_a_curve_is_shown_with_others(tmp_path, change):
    whole = write_workdir(tmp_path / "whole", (4, 16, 64), trials=12)
    other = write_workdir(tmp_path / "other", (16,), trials=12)
    edit_result(other / "bs16", **change)
    for order in ([whole, other], [other, whole]):
        content = contents(read_kinds(order))
        assert len(content.parts[0].answers) == 2
        first = content.parts[0].sections[0]
        assert any(getattr(block, "text", "").startswith("Fit: S = ") for block in first.blocks)
        assert page(content, {})


def test_a_report_over_several_workdirs_leaves_their_own_alone(tmp_path):
    for name in "ab":
        write_workdir(tmp_path / name, (8, 64, 512), trials=8)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    code, out, _ = launch(f"--report={tmp_path / 'a'},{tmp_path / 'b'}")
    assert code == 0 and f"The report is {tmp_path / 'a+b' / 'report.html'}" in out
    assert all(path.read_bytes() == content for path, content in before.items())
    made = [path for path in tmp_path.rglob("*") if path.is_file() and path not in before]
    assert made and all(path.is_relative_to(tmp_path / "a+b") for path in made)
