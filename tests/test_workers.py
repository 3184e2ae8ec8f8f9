"""Several processes on one study, as a user runs it."""

import json
import shlex
import signal
import time

import pytest
from program import launch, start

from scaling.record import InUse, RunDir

CONFIG = """
from scaling.config import default_config, model_config

def get_config(task="short"):
    c = default_config("steps_to_target")
    c.batch_sizes = (8, 32, 128)
    c.model = model_config("mlp", widths=(8,))
    c.search.trials = 4
    c.search.space = {"learning_rate": ("log", 0.05, 0.5)}
    c.target.repeats = 1
    # Nobody is that good: a long race without an end before its budget.
    c.target.goal = {"short": 0.2, "long": 0.001}[task]
    c.target.budget = {"short": ("300 steps",), "long": ("20000 steps",)}[task]
    c.checkpoint.every_seconds = 0.5
    return c
"""
NAMES = ("bs8", "bs32", "bs128")
TIMES = ("seconds", "trial_steps_per_second")


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "mlp.py"
    path.write_text(CONFIG)
    return str(path)


def same_points(a, b):
    """Equal results and curves, but for the times."""
    for name in NAMES:
        ours, theirs = (json.loads((run / name / "result.json").read_text()) for run in (a, b))
        for result in (ours, theirs):
            for key in TIMES:
                del result[key]
        assert ours == theirs
        first, second = ((run / name / "metrics.jsonl").read_bytes() for run in (a, b))
        assert first == second


def wait_for_work(workdir, count):
    """Until `count` points are being measured at once."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        started = [path.parent for path in workdir.glob("*/metrics.jsonl") if path.stat().st_size]
        if sum(map(in_use, started)) >= count:
            return
        time.sleep(0.05)
    pytest.fail(f"{count} points were never measured at once")


def in_use(run):
    try:
        with RunDir(run):
            return False
    except InUse:
        return True


def unfinished(workdir):
    return [name for name in NAMES if not (workdir / name / "result.json").exists()]


def test_two_workers_give_what_one_gives(config, tmp_path):
    outputs = []
    for workers in (1, 2):
        workdir = f"--workdir={tmp_path / str(workers)}"
        arguments = f"--config={config}", workdir, f"--workers={workers}"
        code, out, err = launch(*arguments)
        assert code == 0 and "Traceback" not in err, err
        outputs.append(out)
        resolved = json.loads((tmp_path / str(workers) / "bs8/resolved.json").read_text())
        assert resolved["launches"][0]["command"].endswith(shlex.join(arguments))
    same_points(tmp_path / "1", tmp_path / "2")
    for out in outputs:  # every point is told of once, and the table comes last
        assert [sum(f"{n}: " in line for line in out.splitlines()) for n in NAMES] == [2, 2, 2]


def test_a_worker_started_by_hand(config, tmp_path):
    """On another machine, by a scheduler: it leaves out what others hold, and ends by itself."""
    with RunDir(tmp_path / "w" / "bs32"):
        code, _, err = launch(f"--config={config}", f"--workdir={tmp_path / 'w'}", "--worker")
        assert code == 0, err
        assert unfinished(tmp_path / "w") == ["bs32"]


@pytest.mark.slow
def test_workers_killed_stopped_and_resumed_give_the_same(config, tmp_path):
    cut, arguments = tmp_path / "cut", (f"--config={config}:long", "--workers=2")
    process = start(*arguments, f"--workdir={cut}")
    wait_for_work(cut, 2)
    process.kill()
    _, err = process.communicate(timeout=60)  # until the workers, too, have closed it
    assert len(unfinished(cut)) >= 2 and "Traceback" not in err

    process = start(*arguments, f"--workdir={cut}")
    wait_for_work(cut, 2)
    process.send_signal(signal.SIGUSR1)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 138, err
    assert "saved. Run the same command again to resume." in err and "Traceback" not in err
    assert unfinished(cut) and not any(in_use(cut / name) for name in NAMES)

    code, _, err = launch(*arguments, f"--workdir={cut}")
    assert code == 0, err
    code, _, err = launch(f"--config={config}:long", "--workers=1", f"--workdir={tmp_path / 'one'}")
    assert code == 0, err
    same_points(cut, tmp_path / "one")


def test_errors_are_one_sentence_and_exit_code_2(config, tmp_path):
    workdir = f"--workdir={tmp_path / 'w'}"
    missing = "--config.data.name=mnist"
    arguments = f"--config={config}", workdir, "--workers=2"
    code, _, err = launch(*arguments, missing, TFDS_DATA_DIR=str(tmp_path))
    assert code == 2 and "python -m scaling.data.prepare mnist" in err
    assert err.startswith("error: ") and err.count("\n") == 1
    # One that only a worker can find: a point of another study is in the way.
    (tmp_path / "w" / "bs32").mkdir(parents=True)
    (tmp_path / "w" / "bs32" / "config.json").write_text('{"study": "train"}')
    code, _, err = launch(*arguments)
    assert code == 2 and "holds a run of another config" in err and "Traceback" not in err
    assert err.startswith("error: ") and err.count("\n") == 1
