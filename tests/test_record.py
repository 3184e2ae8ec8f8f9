import errno
import json
import subprocess
import sys

import numpy as np
import pytest

from scaling import record
from scaling.config import default_config
from scaling.errors import UserError
from scaling.record import RunDir, metric_lines, read_metrics


def test_floats_come_back_exactly():
    values = np.float32(np.random.RandomState(0).randn(50) * 10.0 ** np.arange(-25, 25))
    rows = {"loss": values, "norms": np.stack([values, -values], 1)}
    lines = [json.loads(line) for line in metric_lines("train", 7, rows).splitlines()]
    assert [line["step"] for line in lines] == list(range(7, 57))
    np.testing.assert_array_equal(np.float32([line["loss"] for line in lines]), values)
    np.testing.assert_array_equal(np.float32([line["norms"] for line in lines]), rows["norms"])


def test_what_is_not_finite_is_null_and_valid_json():
    text = metric_lines("train", 1, {"loss": np.float32([1.0, np.nan]), "norm": [np.inf, -np.inf]})
    strict = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
    assert [row["loss"] for row in strict] == [1.0, None]
    assert [row["norm"] for row in strict] == [None, None]
    assert strict[1]["split"] == "train"


def test_lines_after_a_checkpoint_are_dropped(tmp_path):
    with RunDir(tmp_path / "run") as run:
        run.truncate(0)
        run.append(metric_lines("train", 1, {"loss": np.arange(5.0)}))
        run.append('{"step":6,"spl')  # what a kill leaves
    with RunDir(tmp_path / "run") as run:
        run.truncate(3)
        run.append(metric_lines("train", 4, {"loss": np.arange(2.0)}))
        run.append(metric_lines("test", 5, {"loss": np.arange(1.0)}))
        assert [row["step"] for row in read_metrics(run.path, "train")] == [1, 2, 3, 4, 5]
        assert run.rows("train", 1, 4) == read_metrics(run.path, "train")[1:4]
        assert run.rows("test", 2) == read_metrics(run.path, "test") != []


def test_a_curve_with_a_gap_is_not_resumed(tmp_path):
    with RunDir(tmp_path) as run:
        run.truncate(0)
        run.append(metric_lines("train", 1, {"loss": np.arange(5.0)}))
    with RunDir(tmp_path) as run, pytest.raises(UserError, match="5 of the 8 lines"):
        run.truncate(8)
    with RunDir(tmp_path) as run:
        run.truncate(5)


def test_another_config_is_refused(tmp_path):
    with RunDir(tmp_path) as run:
        run.begin({"optim": {"lr": 0.1}, "sizes": (1, 2)})
        run.begin({"optim": {"lr": 0.1}, "sizes": (1, 2)})
        with pytest.raises(UserError, match=r"optim.lr: 0.1 there, 0.2 here.*another --workdir"):
            run.begin({"optim": {"lr": 0.2}, "sizes": (1, 2)})


def test_a_record_from_before_a_key_came_goes_on(tmp_path):
    """Keys that it lacks have their defaults, those of a study and of a model too."""
    config = json.loads(default_config("steps_to_target").to_json_best_effort())
    config["model"] = {"name": "mlp", "widths": [8], "norm": "none"}
    older = json.loads(json.dumps(config))
    del older["data"]["streamed"], older["search"]["sampler"], older["model"]["norm"], older["loss"]
    with RunDir(tmp_path) as run:
        run.begin(older)
        run.begin(config)
        assert json.loads((tmp_path / "config.json").read_text()) == config
    (tmp_path / "config.json").write_text(json.dumps(older))
    with RunDir(tmp_path) as run:
        config["search"]["sampler"] = "uniform"
        with pytest.raises(UserError, match=r"search.sampler: 'sobol' there, 'uniform' here"):
            run.begin(config)


def test_where_and_how_may_change(tmp_path):
    config = {"title": "a", "data": {"dir": None, "name": "x"}, "checkpoint": {"keep": 2}}
    with RunDir(tmp_path) as run:
        run.begin(config)
        run.begin(config | {"title": "b", "checkpoint": {"keep": 9}})
        run.begin(config | {"data": {"dir": "elsewhere", "name": "x"}})
        with pytest.raises(UserError, match=r"data.name"):
            run.begin(config | {"data": {"dir": None, "name": "y"}})


def test_a_disk_that_fills_while_metrics_are_written(tmp_path):
    """A real limit on file sizes, in a process of its own: one sentence, nothing on top of it."""
    program = (
        "import resource, signal, sys\n"
        "from scaling.record import RunDir\n"
        "from scaling.errors import UserError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "try:\n"
        f"    with RunDir({str(tmp_path)!r}) as run:\n"
        "        run.truncate(0)\n"
        "        for _ in range(100): run.append('x' * 999 + chr(10))\n"
        "except UserError as error: print(error); sys.exit(2)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2 and "Cannot write to" in done.stdout and not done.stderr


def test_the_second_process_is_refused_and_the_lock_dies_with_the_first(tmp_path):
    hold = (
        "import sys, time; from scaling.record import RunDir\n"
        f"with RunDir({str(tmp_path)!r}): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=f"in use by process {process.pid}"), RunDir(tmp_path):
            pass
        process.kill()
        process.wait()
    with RunDir(tmp_path):
        pass


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "run", "/proc/run"):
        with pytest.raises(UserError, match="choose another --workdir"), RunDir(path):
            pass


def test_a_full_disk_is_told_and_leaves_no_half_result(tmp_path, monkeypatch):
    with RunDir(tmp_path) as run:
        run.begin({})
        run.truncate(0)

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(record.os, "fsync", full)
        with pytest.raises(UserError, match=r"disk .* is full.*same command again to resume"):
            run.finish({"status": "complete"})
        assert run.result is None
        monkeypatch.undo()
        run.finish({"status": "complete"})
        assert run.result == {"status": "complete"}
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "result.json",
        "lock",
    }


def test_a_damaged_record_is_told(tmp_path):
    (tmp_path / "result.json").write_text('{"status": ')
    with RunDir(tmp_path) as run, pytest.raises(UserError, match="not valid JSON"):
        _ = run.result


@pytest.mark.parametrize("more, recorded", [
    (["--points=0:1"], ["--points=0:1"]),
    (["--points=0:1", "--worker"], ["--points=0:1"]),
    (["--workdir=w", "--worker"], ["--workdir=w"]),
])  # fmt: skip
def test_the_command_is_the_users_even_where_a_worker_records_it(monkeypatch, more, recorded):
    given = ["launch.py", "--config=a.py"]
    monkeypatch.setattr("sys.argv", [*given, *more])
    assert record.provenance()["command"] == " ".join(["python", *given, *recorded])


def test_provenance_names_code_and_packages():
    origin = record.provenance()
    assert set(origin["packages"]) == set(record.PACKAGES)
    assert origin["command"].startswith("python ")
