"""A study's points over machines: the contract, and a Ray cluster that loses one at work."""

import os
import re
import shlex
import subprocess
import sys
import time

import pytest
from program import ROOT, launch, start

from scaling import fleet

TINY = (
    "--config=quickstart",
    "--config.batch_sizes=(8,64,256)",
    "--config.search.trials=2",
    "--config.target.budget=('60 steps',)",
    "--config.target.goal=0.3",
    "--config.checkpoint.every_seconds=0.0",
)


def task(tmp_path, script, gpus=1):
    """`fleet._run` of a Python script, as the task of point `a`."""
    command = [sys.executable, "-c", script]
    return fleet._run("a", command, str(tmp_path), str(tmp_path), gpus)


def test_a_point_is_done_when_it_has_a_result(tmp_path):
    (tmp_path / "a").mkdir()
    host, error = task(tmp_path, "open('a/result.json', 'w').write('{}')")
    assert host and error is None


def test_bad_input_is_not_tried_again(tmp_path):
    _, error = task(tmp_path, "print('error: no such data'); raise SystemExit(2)")
    assert error == "error: no such data"
    _, error = task(tmp_path, "pass")  # a worker that left its point to another
    assert error.startswith("another process is at work on it")


@pytest.mark.parametrize("end", ["raise SystemExit(143)", "import os; os.kill(os.getpid(), 9)"])
def test_a_lost_point_is_tried_again(tmp_path, end):
    with pytest.raises(fleet.LostPoint, match=r"exit code .* alive"):
        task(tmp_path, f"print('alive', flush=True); {end}")


def test_what_a_share_of_a_gpu_sets(tmp_path):
    show = (
        "import os; print([f'{k}={v}' for k, v in os.environ.items() if k[:3] in ('JAX', 'XLA')])"
        "; exit(2)"
    )
    assert "JAX_PLATFORMS=cpu" in task(tmp_path, show, gpus=0)[1]
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION=0.450" in task(tmp_path, show, gpus=0.5)[1]


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--on=slurm",), "--on=slurm is no engine; write --on=ray"),
        (("--retries=2",), "--retries is about the cluster of --on=ray"),
        (("--on=ray:127.0.0.1:1",), "Cannot reach the Ray cluster at 127.0.0.1:1"),
    ],
)
def test_a_sentence_for_what_cannot_be(tmp_path, flags, message):
    if "ray:" in flags[0]:
        pytest.importorskip("ray")
    code, _, err = launch(*TINY, *flags, f"--workdir={tmp_path}")
    assert code == 2 and message in err and "Traceback" not in err


def test_a_task_of_a_scheduler_tells_what_a_worker_leaves_to_its_parent(tmp_path):
    """Records of another config in the workdir: not done, whatever is there."""
    flags = (f"--workdir={tmp_path}", "--worker", "--points=0:1")
    assert launch(*TINY, *flags)[0] == 0
    code, _, err = launch(*TINY, *flags, "--config.search.trials=3")
    assert code == 2 and "search.trials" in err and "Traceback" not in err


def test_ray_is_not_imported_without_it():
    show = "import sys; import scaling.cli; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", show], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n"


def records(workdir):
    """The lines of every point."""
    return {path.parent.name: path.read_bytes() for path in workdir.glob("*/metrics.jsonl")}


@pytest.mark.slow
def test_a_node_killed_at_work_changes_no_number(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "0")
    assert launch(*TINY, f"--workdir={tmp_path / 'whole'}")[0] == 0
    with monkeypatch.context() as own:  # conftest.py's flags round otherwise
        own.setenv("XLA_FLAGS", "")
        own.delenv("PJRT_NPROC", raising=False)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    try:
        study = start(*TINY, f"--on=ray:{cluster.address}", f"--workdir={tmp_path / 'ray'}")
        until = time.monotonic() + 240
        while not list(tmp_path.glob("ray/*/checkpoints/*")) and time.monotonic() < until:
            time.sleep(0.1)
        cluster.remove_node(nodes[0], allow_graceful=False)
        out, err = study.communicate(timeout=400)
        assert study.returncode == 0, err
    finally:
        cluster.shutdown()
    assert records(tmp_path / "ray") == records(tmp_path / "whole")
    assert set(re.findall(r"^(bs\d+): done on", out, re.MULTILINE)) == {"bs8", "bs64", "bs256"}


@pytest.mark.slow
def test_the_slurm_script_of_the_page(tmp_path):
    """Under a scheduler that runs the tasks one after another and loses the first once."""
    page = (ROOT / "docs/many_machines.md").read_text()
    scripts = re.findall(r"```bash\n(#!/bin/bash\n.*?)```", page, re.DOTALL)
    (script,) = [script for script in scripts if "SLURM_ARRAY_TASK_ID" in script]
    script = script.replace("--config=configs/resnet_sweep.py", shlex.join(TINY))
    script = script.replace("/shared/sweep", str(tmp_path / "sweep"))
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    tools = {
        "srun": f'[ -e "{tmp_path}/lost" ] && exec "$@"; touch "{tmp_path}/lost"; exit 137',
        "scontrol": f'echo "$@" >> "{tmp_path}/requeued"',
        "python": f'exec "{sys.executable}" "$@"',
    }
    for name, body in tools.items():
        (bin_folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (bin_folder / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{bin_folder}:{os.environ['PATH']}", "XLA_FLAGS": ""}
    codes = []
    for index in ("0", "0"):
        environment |= {"SLURM_ARRAY_TASK_ID": index, "SLURM_ARRAY_JOB_ID": "7"}
        command = ["bash", "-c", script]
        done = subprocess.run(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL)
        codes.append(done.returncode)
    assert codes == [137, 0]
    assert (tmp_path / "requeued").read_text() == "requeue 7_0\n"
    assert [path.parent.name for path in tmp_path.glob("sweep/*/result.json")] == ["bs8"]
