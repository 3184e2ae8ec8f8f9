"""docs/your_data.md: its files, as a reader runs them, and what goes wrong."""

import contextlib
import dataclasses
import json
import re
import shlex

import jax.numpy as jnp
import numpy as np
import pytest
from program import ROOT, launch

from scaling import tasks
from scaling.data import prepare

PAGE = (ROOT / "docs/your_data.md").read_text()
TABLE, SIGNALS, LANGUAGE, MEDIAN = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(SHELL,) = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
REGRESSION, SEQUENCES, PREPARE, TEXT = map(shlex.split, SHELL.splitlines())


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "diabetes.py").write_text(TABLE)
    (tmp_path / "signals.py").write_text(SIGNALS)
    (tmp_path / "my_lm.py").write_text(LANGUAGE)
    return tmp_path


@pytest.mark.parametrize("text", [TABLE, SIGNALS, LANGUAGE])
def test_the_files_are_short(text):
    assert len([line for line in text.splitlines() if line]) <= 40


def test_a_search_for_a_goal_that_is_crossed_upward(folder):
    tiny = ("--config.batch_sizes=16,64", "--config.search.trials=4", "--config.target.repeats=1")
    code, out, err = launch(*REGRESSION[2:], *tiny, "--workdir=study", cwd=folder)
    assert code == 0, err
    result = json.loads((folder / "study/bs16/result.json").read_text())
    assert result["status"] == "reached" and result["better"] == "higher"
    resolved = json.loads((folder / "study/bs16/resolved.json").read_text())
    assert resolved["task"]["metrics"]["r2"]["better"] == "higher"
    rows = map(json.loads, (folder / "study/bs16/metrics.jsonl").read_text().splitlines())
    rows = [row for row in rows if row["split"] == "validation"]
    above = [row["step"] for row in rows if row["r2"] is not None and row["r2"] > 0.3]
    assert result["steps_to_target"] == min(above)
    page = (folder / "study/report.html").read_text()
    assert "a validation R² above 0.3" in page and "test squared error" in page
    assert " error" not in re.sub("squared error|absolute error|standard error", "", out)


def test_a_search_on_text(folder):
    """Of this project's own pages, until more than byte frequencies is learned."""
    (folder / "notes").mkdir()
    for page in (ROOT / "docs").glob("*.md"):
        (folder / "notes" / f"{page.stem}.txt").write_text(page.read_text())
    source = ["--from=notes" if part == "--from=DIR" else part for part in PREPARE[3:]]
    with contextlib.chdir(folder):
        assert prepare.main([*source, "--data_dir=sets"]) == 0
    tiny = ("batch_sizes=8,32", "search.trials=2", "target.goal=3.4", "data.validation_size=64")
    flags = [f"--config.{text}" for text in (*tiny, "data.dir=sets")]
    code, _, err = launch(*TEXT[2:], *flags, "--workdir=w", cwd=folder)
    assert code == 0, err
    assert json.loads((folder / "w/bs32/result.json").read_text())["status"] == "reached"
    assert "sequences of 64 tokens" in (folder / "w/report.html").read_text()


def test_one_run(folder):
    code, _, err = launch(*SEQUENCES[2:], "--workdir=train", cwd=folder)
    assert code == 0, err
    result = json.loads((folder / "train/bs32/result.json").read_text())
    assert result["validation"]["error"] < 0.2


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("21 * x[ROWS[split]]", "np.log(x[ROWS[split]])", "raised NameError"),
        ("21 * x[ROWS[split]]", "(x[ROWS[split]] - x[0]) ** -1.0", "not finite, first in row"),
        ('task="regression"', 'task="regresion"', "did you mean 'regression'"),
        ('"r2", 0.3', '"error", 0.4', "Unknown target.metric 'error'"),
        ('"r2", 0.3', '"r2", -0.5', "target.goal"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(folder, old, new, words):
    assert old in TABLE
    (folder / "diabetes.py").write_text(TABLE.replace(old, new))
    code, _, err = launch(*REGRESSION[2:], "--workdir=study", cwd=folder)
    assert code == 2 and words in err, err


def test_a_task_of_ones_own(monkeypatch):
    monkeypatch.setattr(tasks, "TASKS", dict(tasks.TASKS))
    exec(MEDIAN, names := {"dataclasses": dataclasses, "jnp": jnp})
    task = tasks.TASKS["median"](None, {"x": ((2,), "float32"), "y": ((), "float32")}, 1)
    batch = {"y": jnp.asarray([1.0, 4.0])}
    sums = task.statistics(jnp.asarray([[2.0], [2.0]]), batch, jnp.ones(2))
    assert task.finish(sums) == {"loss": 1.5} and names["Median"].options() == ()
    assert np.isfinite(float(sums["weight"]))
