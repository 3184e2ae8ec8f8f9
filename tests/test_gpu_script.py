"""benchmarks/gpu.sh: what it does without a GPU."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A part that fails, one that never ends, with a child, and one that does its work.
STAND_IN = """
import pathlib, subprocess, sys, time
part = sys.argv[-2].removeprefix("--part=")
if part == "throughput_resnet50":
    sys.exit(3)
if part == "throughput_deeplab":
    pathlib.Path("OUT/throughput_deeplab.json").write_text('{"machine": {}, "first": 1}')
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    pathlib.Path("OUT/child").write_text(str(child.pid))
    time.sleep(600)
pathlib.Path(f"OUT/{part}.json").write_text('{"rate": 2}')
"""


@pytest.fixture
def gpu(monkeypatch):
    """The driver as a module."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import gpu

    return gpu


def test_bash_can_read_it_and_an_unknown_part_is_refused(tmp_path):
    script = ROOT / "benchmarks" / "gpu.sh"
    subprocess.run(["bash", "-n", script], check=True)
    command = ["bash", script, f"--out={tmp_path}", "--parts=resnet5"]
    run = subprocess.run(
        command, env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True
    )
    assert run.returncode == 2 and "no part resnet5; choose from resnet50" in run.stderr


def test_a_part_that_fails_or_does_not_end_stops_no_other(gpu, monkeypatch, tmp_path):
    stand_in = tmp_path / "part.py"
    stand_in.write_text(STAND_IN.replace("OUT", str(tmp_path)))
    monkeypatch.setattr(gpu, "__file__", str(stand_in))
    parts = ["throughput_resnet50", "throughput_deeplab", "populations"]
    (tmp_path / "throughput_resnet50.json").write_text("{}")  # of an earlier run
    gpu.conduct(argparse.Namespace(out=tmp_path, toy=True, seconds=30, parts=parts))
    summary = json.loads((tmp_path / "summary.json").read_text())
    told = {part: (d["status"], d["result"]) for part, d in summary["parts"].items()}
    assert told == {
        "throughput_resnet50": ("exit code 3", {}),
        "throughput_deeplab": ("stopped at its limit", {"first": 1}),
        "populations": ("done", {"rate": 2}),
    }
    status = Path(f"/proc/{(tmp_path / 'child').read_text()}/status")
    assert not status.exists() or "\nState:\tZ" in status.read_text()


class Fake:
    """A contestant whose rate is known."""

    def __init__(self, command, **environment):
        self.ours = "--serve=ours" in command

    def answer(self):
        if not self.ours:
            return {"device": "NVIDIA H200"}
        return {"device": "NVIDIA H200", "flops_per_image": 24e9}

    def rate(self):
        return 3000.0 if self.ours else 2500.0


def test_images_per_second_as_a_share_of_the_peak(gpu, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "Contestant", Fake)
    options = argparse.Namespace(out=tmp_path, toy=False, batch=256, peak=None)
    gpu.resnet50(gpu.Results(options, "resnet50"), options)
    found = json.loads((tmp_path / "resnet50.json").read_text())
    assert found["device"] == "NVIDIA H200" and found["ratio"] == 1.2
    # 3,000 images/s of 24 GFLOP are 72 TFLOP/s, of 989.4 dense.
    assert found["share_of_peak"]["ours"] == pytest.approx(72 / 989.4)
    assert found["share_of_peak"]["torch"] == pytest.approx(60 / 989.4)
    assert found["ours"]["images_per_second_alone"] == 3000


def test_ours_stays_where_pytorch_fails(gpu, monkeypatch, tmp_path):
    class Fails(Fake):
        def answer(self):
            if not self.ours:
                raise RuntimeError("it ended with exit code 1")
            return super().answer()

    monkeypatch.setattr(gpu, "Contestant", Fails)
    options = argparse.Namespace(out=tmp_path, toy=False, batch=256, peak=None)
    with pytest.raises(RuntimeError):
        gpu.resnet50(gpu.Results(options, "resnet50"), options)
    found = json.loads((tmp_path / "resnet50.json").read_text())
    assert found["ours"]["share_of_peak_alone"] == pytest.approx(72 / 989.4)


def test_trials_of_panel_b_fill_their_share_of_the_time(gpu, tmp_path):
    options = argparse.Namespace(toy=False, limit=200)
    case = lambda batch, rate, method: {
        "batch": batch,
        "trial_steps_per_second": rate,
        "placement": {"conv_method": method},
    }
    rates = [case(8, 2000.0, "patches"), case(512, 1000.0, "xla")]
    choices = {batch: gpu._choice(batch, rates, options) for batch in gpu.PANEL}
    # 0.6 x 200 s over nine sizes; 267 steps of 1 ms, half as many again after the crossing.
    assert choices[512] == {"search.trials": 33, "model.conv_method": "xla"}
    assert choices[55000]["search.trials"] == gpu.FEWEST
    assert choices[8]["model.conv_method"] == "patches"
    # A point that was begun keeps what was chosen for it.
    (tmp_path / "bs512").mkdir()
    config = {
        "global_batch": 512,
        "search": {"trials": 7},
        "model": {"conv_method": "auto"},
    }
    (tmp_path / "bs512" / "config.json").write_text(json.dumps(config))
    begun = {"search.trials": 7, "model.conv_method": "auto"}
    assert gpu._begun(tmp_path, 512) == begun and gpu._begun(tmp_path, 8) is None


@pytest.mark.slow
def test_parts_at_toy_size(tmp_path):
    parts = "--parts=populations,throughput_resnet50"
    command = [sys.executable, ROOT / "benchmarks" / "gpu.py", "--toy", parts]
    places = [f"--out={tmp_path}", f"--work={tmp_path}", "--seconds=500"]
    subprocess.run([*command, *places], check=True, stdout=subprocess.DEVNULL)
    parts = json.loads((tmp_path / "summary.json").read_text())["parts"]
    assert {part: told["status"] for part, told in parts.items()} == dict.fromkeys(parts, "done")
    populations, throughput = (part["result"] for part in parts.values())
    assert populations["device"] == throughput["device"] == "cpu"
    assert set(populations["cases"]) == {"digits MLP, batch 64", "Simple CNN, batch 64"}
    assert all(case["trial_steps_per_second"] > 0 for case in populations["cases"].values())
    assert throughput["task"] == "resnet8"
