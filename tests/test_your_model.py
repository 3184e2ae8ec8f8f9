"""docs/your_model.md, as a reader follows it: its file, its commands, and what goes wrong."""

import json
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from program import ROOT, launch

PAGE = (ROOT / "docs/your_model.md").read_text()
(CONFIG,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(SHELL,) = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
DRY_RUN, STUDY, TRAIN, ACCURACY, ADVISE = (shlex.split(line)[2:] for line in SHELL.splitlines())
PARAMETERS = 3 * 3 * 8 + 4 * 4 * 8 * 10 + 10


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "my_task.py").write_text(CONFIG)
    return tmp_path


def test_the_file_is_short():
    assert len([line for line in CONFIG.splitlines() if line]) < 40


def test_dry_run(folder):
    code, out, err = launch(*DRY_RUN, cwd=folder)
    assert code == 0, err
    assert f"my_cnn(features=8), {PARAMETERS:,} parameters" in out
    assert "my_digits: 1,397 train, 200 validation, 200 test" in out
    assert not (folder / "runs").exists()


@pytest.mark.slow
def test_study_by_two_workers(folder):
    tiny = (
        "--config.batch_sizes=32,128",
        "--config.search.trials=2",
        "--config.target.goal=0.5",
        "--config.target.repeats=0",
        "--config.model.features=4",
    )
    code, _, err = launch(*STUDY, *tiny, "--workers=2", "--workdir=study", cwd=folder)
    assert code == 0, err
    for name in ("bs32", "bs128"):
        run = folder / "study" / name
        assert json.loads((run / "result.json").read_text())["status"] == "reached"
        resolved = json.loads((run / "resolved.json").read_text())
        parameters = 3 * 3 * 4 + 4 * 4 * 4 * 10 + 10
        assert resolved["model"] == {"name": "my_cnn", "parameters": parameters}
    page = (folder / "study/report.html").read_text()
    assert "my_digits" in page and "my_cnn" in page


@pytest.mark.slow
def test_landscape_on_one_and_two_devices(folder):
    for batch in (64, 128):
        size = f"--config.global_batch={batch}", "--workdir=runs", "--config.duration=1 epoch"
        code, _, err = launch("--config=my_task.py:train", *size, cwd=folder)
        assert code == 0, err
    of = "--config=my_task.py:landscape", "--config.landscape.of=runs/bs64,runs/bs128"
    tiny = [f"--config.landscape.{key}" for key in ("plane=3", "line=3", "path=7", "map=0")]
    for devices in (1, 2):
        where = f"--workdir=l{devices}", f"--devices={devices}"
        code, _, err = launch(*of, *tiny, *where, cwd=folder)
        assert code == 0, err
    page = (folder / "l1/report.html").read_text()
    assert "my_cnn" in page and "runs/bs128" in page
    files = sorted(path.name for path in (folder / "l1/runs").glob("*.npz"))
    assert len(files) == 2 * 2 + 2 * 2
    for name in files:
        with np.load(folder / "l1/runs" / name) as a, np.load(folder / "l2/runs" / name) as b:
            for key in a.files:
                np.testing.assert_allclose(a[key], b[key], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_accuracy(folder):
    tiny = ("--config.recipes.seeds=2", "--config.duration=6 epochs", "--config.model.features=4")
    code, out, err = launch(*ACCURACY, *tiny, "--workdir=accuracy", cwd=folder)
    assert code == 0, err
    points = sorted(path.parent.name for path in (folder / "accuracy").glob("*/result.json"))
    assert points == ["bs16_naive", "bs256_linear+warmup", "bs256_naive", "bs256_sqrt"]
    assert "validation picks naive" in out and (folder / "accuracy/report.html").exists()


def test_single_training(folder):
    code, _, err = launch(*TRAIN, "--workdir=train", cwd=folder)
    assert code == 0, err
    result = json.loads((folder / "train/bs64/result.json").read_text())
    assert result["status"] == "complete" and result["validation"]["error"] < 0.2
    resolved = json.loads((folder / "train/bs64/resolved.json").read_text())
    assert resolved["model"] == {"name": "my_cnn", "parameters": PARAMETERS}


@pytest.mark.slow
def test_advice(folder):
    quick = ("--config.advise.largest=64", "--config.advise.seconds=0.01", "--workdir=advice")
    code, out, err = launch(*ADVISE, *quick, cwd=folder)
    assert code == 0, err
    result = json.loads((folder / "advice/advice/result.json").read_text())
    assert result["gradient_bytes"] == 4 * PARAMETERS
    assert result["price_per_device_hour"] == 2.5
    assert result["options"] and "The critical batch size is" in out


@pytest.mark.parametrize(
    "old, new, arguments, words",
    [
        ("[..., None]", "", (), "(1397, 8, 8), and (1397, 8, 8, 1) is registered"),
        (
            '"train": 1397',
            '"train": 1400',
            (),
            "(1397, 8, 8, 1), and (1400, 8, 8, 1) is registered",
        ),
        (
            "images[ROWS[split]], digits",
            "None, None, digits",
            (),
            "load returns a tuple of 3; return",
        ),
        ("num_classes: int", "classes: int = 10", (), "no field `num_classes: int`"),
        ("features=8)\n", "feature=8)\n", (), "did you mean 'features'"),
        ("", "", ("--config.model.feature=16",), "did you mean 'features'"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(folder, old, new, arguments, words):
    assert old in CONFIG
    (folder / "my_task.py").write_text(CONFIG.replace(old, new))
    code, _, err = launch(*TRAIN, *arguments, "--workdir=train", cwd=folder)
    assert code == 2, err
    assert err.startswith("error: ") and err.count("\n") == 1 and words in err


def test_the_file_starts_no_device_however_often_it_is_loaded(folder):
    code = """
import runpy
from jax._src import xla_bridge
for _ in range(2):
    runpy.run_path("my_task.py")["get_config"]()
print(xla_bridge.backends_are_initialized())
"""
    command = [sys.executable, "-c", code]
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    out = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    assert out.stdout.strip() == "False", out.stderr
