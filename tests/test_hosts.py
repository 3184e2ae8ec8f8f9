"""One run over several hosts: real processes on this machine, each with one device."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from program import launch, start

from scaling import hosts
from scaling.record import RunDir, read_metrics

CONFIG = """
from ml_collections import ConfigDict
from scaling.config import default_config

def get_config(task="short"):
    c = default_config()
    c.global_batch = 48
    c.model = ConfigDict({"name": "mlp", "widths": (16,), "norm": "ghost", "ghost_batch": 6})
    c.optim.base_lr = 0.05
    c.noise_scale = True
    c.duration = {"short": "40 steps", "long": "1500 steps"}[task]
    c.eval.every = {"short": "15 steps", "long": "400 steps"}[task]
    c.checkpoint.every_seconds = 0.5
    return c
"""
# Of the images in the folder that the task names, each process decodes those of its device.
STREAMED = """
import dataclasses
from ml_collections import ConfigDict
from scaling.config import default_config
from scaling.data import sources

sizes = {"train": 20, "validation": 6, "test": 5}
sources.INFOS["imagenet"] = dataclasses.replace(sources.INFOS["imagenet"], sizes=sizes)

def get_config(folder):
    c = default_config()
    c.data.name, c.data.dir = "imagenet", folder
    c.model = ConfigDict({"name": "mlp", "widths": (4,), "norm": "ghost", "ghost_batch": 4})
    c.global_batch, c.duration, c.eval.every, c.eval.batch = 48, "5 steps", "2 steps", 4
    c.optim.base_lr = 0.01
    return c
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "mlp.py"
    path.write_text(CONFIG)
    return str(path)


QUICK = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}  # most of the time is compilation


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Hosts:
    """Processes 0 to N - 1 of one run; those but the first have workdirs of their own."""

    def __init__(
        self,
        workdir,
        *flags,
        count=2,
        own=lambda i: (),
        process=lambda i: {},
        leader="127.0.0.1",
    ):
        self.workdir, port = workdir, free_port()
        self.metrics = workdir / "bs48" / "metrics.jsonl"
        self.processes = [
            start(
                f"--hosts={leader}:{port},{count},{i}",
                f"--workdir={workdir}{f'-{i}' * (i > 0)}",
                *flags,
                *own(i),
                **QUICK | process(i),
            )
            for i in range(count)
        ]

    def at_work(self, lines=100):
        """Wait until so many lines are recorded and a checkpoint is there."""
        end, saved = time.monotonic() + 120, self.workdir / "bs48" / "checkpoints"
        done = lambda: saved.exists() and any(path.name.isdigit() for path in saved.iterdir())
        while not (done() and len(self.metrics.read_text().splitlines()) > lines):
            assert time.monotonic() < end and all(p.poll() is None for p in self.processes)
            time.sleep(0.05)
        return self

    def ends(self, timeout=120):
        """(exit codes, standard outputs, standard errors)."""
        texts = [process.communicate(timeout=timeout) for process in self.processes]
        codes = [process.returncode for process in self.processes]
        return codes, *zip(*texts, strict=True)


def finished(workdir, *flags, **kwargs):
    """The record of a run over hosts, and what they printed."""
    codes, out, err = Hosts(workdir, *flags, **kwargs).ends()
    assert set(codes) == {0}, err
    return (workdir / "bs48" / "metrics.jsonl").read_bytes(), out


def alone(workdir, *flags, devices=2, **process):
    """The record of one process."""
    environment = QUICK | process
    code, _, err = launch(*flags, f"--devices={devices}", f"--workdir={workdir}", **environment)
    assert code == 0, err
    return (workdir / "bs48" / "metrics.jsonl").read_bytes()


def test_two_hosts_write_what_two_devices_of_one_do(config, tmp_path):
    """One of them alone; the other needs no folder."""
    # Without optimisation the bytes would be the same even without `mean_over_devices`' barrier.
    flags, optimised = f"--config={config}", {"XLA_FLAGS": ""}
    record, (out, nothing) = finished(tmp_path / "hosts", flags, process=lambda i: optimised)
    assert record == alone(tmp_path / "one", flags, **optimised)
    assert "48 = 2 devices x 1 microbatch x 24 examples" in out and "of 2 hosts" in out
    assert "The report is" in out and nothing == ""
    assert not (tmp_path / "hosts-1").exists()
    resolved = json.loads((tmp_path / "hosts" / "bs48" / "resolved.json").read_text())
    assert resolved["devices"] == {
        "kind": "cpu",
        "platform": "cpu",
        "count": 2,
        "simulated": False,
        "hosts": 2,
    }
    # Finished: read by the leader, told to the others.
    codes, (out, _), _ = Hosts(tmp_path / "hosts", f"--config={config}").ends()
    assert codes == [0, 0] and "already finished" in out


@pytest.mark.parametrize("victim", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_killed_process_ends_the_others_and_all_resume(config, tmp_path, victim):
    flags = (f"--config={config}:long",)
    run = Hosts(tmp_path / "hosts", *flags).at_work()
    run.processes[victim].kill()
    began = time.monotonic()
    codes, _, err = run.ends()
    assert time.monotonic() - began < 5
    assert (codes[victim], codes[1 - victim]) == (-9, hosts.LOST)
    assert "Another process of this run is gone" in err[1 - victim]
    record, (out, _) = finished(tmp_path / "hosts", *flags)
    assert "resumed" in out
    assert record == alone(tmp_path / "one", *flags)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_host_that_vanishes_ends_the_others(config, tmp_path, victim):
    run = Hosts(tmp_path / "hosts", f"--config={config}:long").at_work()
    run.processes[victim].send_signal(signal.SIGSTOP)
    began = time.monotonic()
    try:
        run.processes[1 - victim].wait(60)
    finally:
        run.processes[victim].kill()
    assert time.monotonic() - began < 45
    codes, _, err = run.ends()
    assert codes[1 - victim] == hosts.LOST and "is gone" in err[1 - victim]


@pytest.fixture
def cable():
    """Two networks of this machine, joined by a cable: the first's address, their names, and
    pull()."""
    names = [f"scaling{os.getpid()}{end}" for end in "ab"]
    ip = lambda text: subprocess.run(["ip", *text.split()], check=True, capture_output=True)
    try:
        for name in names:
            ip(f"netns add {name}")
        ip(f"link add {names[0]} netns {names[0]} type veth peer name {names[1]} netns {names[1]}")
        for i, name in enumerate(names):
            ip(f"-n {name} addr add 10.99.0.{i + 1}/24 dev {name}")
            ip(f"-n {name} link set {name} up")
            ip(f"-n {name} link set lo up")
        yield "10.99.0.1", names, lambda: ip(f"-n {names[0]} link set {names[0]} down")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no network can be made here: it takes root and iproute2")
    finally:
        for name in names:
            with contextlib.suppress(OSError):
                subprocess.run(["ip", "netns", "del", name], capture_output=True)


@pytest.mark.slow
def test_a_pulled_cable_ends_both(config, tmp_path, cable):
    leader, names, pull = cable
    process = lambda i: {"within": ("ip", "netns", "exec", names[i])}
    run = Hosts(tmp_path / "w", f"--config={config}:long", process=process, leader=leader).at_work()
    pull()
    began = time.monotonic()
    codes, _, err = run.ends()
    assert codes == [hosts.LOST] * 2 and time.monotonic() - began < 45
    assert all("is gone" in text for text in err)
    record, (out, _) = finished(tmp_path / "w", f"--config={config}:long")
    assert "resumed" in out
    assert record == alone(tmp_path / "one", f"--config={config}:long")


@pytest.mark.slow
@pytest.mark.parametrize("asked", [0, 1])
def test_a_signal_to_one_saves_at_one_step_for_all(config, tmp_path, asked):
    """And any number of processes goes on from there."""
    flags = (f"--config={config}:long",)
    run = Hosts(tmp_path / "hosts", *flags).at_work(lines=20)
    run.processes[asked].send_signal(signal.SIGTERM)
    began = time.monotonic()
    codes, _, err = run.ends()
    assert codes == [143, 143] and time.monotonic() - began < 10
    assert err[0] == err[1] and "Stopped by SIGTERM after step" in err[0]
    code, out, errors = launch(*flags, f"--workdir={tmp_path / 'hosts'}", "--devices=1")
    assert code == 0 and "resumed" in out, errors
    alone(tmp_path / "one", *flags)
    for split in ("train", "validation", "test"):
        there, here = (read_metrics(tmp_path / w / "bs48", split) for w in ("hosts", "one"))
        for key in ("loss", "error") if split == "train" else ("loss",):
            values = [[row[key] for row in rows] for rows in (there, here)]
            np.testing.assert_allclose(*values, rtol=1e-4, err_msg=f"{split} {key}")


@pytest.mark.slow
def test_four_hosts_have_the_numbers_of_one(config, tmp_path):
    flags = (f"--config={config}",)
    finished(tmp_path / "hosts", *flags, count=4)
    alone(tmp_path / "one", *flags, devices=1)
    for split in ("train", "validation", "test"):
        there, here = (read_metrics(tmp_path / w / "bs48", split) for w in ("hosts", "one"))
        values = [[row["loss"] for row in rows] for rows in (there, here)]
        np.testing.assert_allclose(*values, rtol=1e-5)


@pytest.mark.slow
def test_convolutions_over_two_hosts(tmp_path):
    """Ghost batch norm over microbatches."""
    flags = (
        "--config=resnet_bs8k:digits",
        "--config.global_batch=48",
        "--config.model.ghost_batch=12",
        "--config.micro_batch=12",
        "--config.duration=3 steps",
        "--config.eval.every=3 steps",
        "--config.schedule.warmup=1 step",
    )
    assert finished(tmp_path / "hosts", *flags)[0] == alone(tmp_path / "one", *flags)


@pytest.mark.slow
def test_a_stream_over_two_hosts(imagenet, tmp_path):
    (tmp_path / "stream.py").write_text(STREAMED)
    flags = (f"--config={tmp_path / 'stream.py'}:{tmp_path / 'tfds'}",)
    assert finished(tmp_path / "hosts", *flags)[0] == alone(tmp_path / "one", *flags)


def different(i):
    return ("--config.optim.base_lr=0.1",) * i


@pytest.mark.parametrize(
    "flags, own, message",
    [
        (("--config.global_batch=47",), lambda i: (), "47"),
        ((), different, "optim.base_lr: 0.05 there, 0.1 here"),
        pytest.param((), lambda i: (f"--devices={i + 1}",), "1 x cpu", marks=pytest.mark.slow),
    ],
)
def test_what_cannot_be_is_told_by_all(config, tmp_path, flags, own, message):
    codes, _, err = Hosts(tmp_path / "w", f"--config={config}", *flags, own=own).ends()
    assert codes == [2, 2], err
    for text in err:
        assert text.startswith("error: ") and message in text and text.count("\n") == 1
    assert not (tmp_path / "w").exists()


@pytest.mark.slow
def test_a_host_with_other_code_is_refused_by_all(config, tmp_path):
    for own in ("0", "1"):  # neither has a git revision
        shutil.copytree(Path(hosts.__file__).parent, tmp_path / own / "scaling")
    with open(tmp_path / "1" / "scaling" / "batch.py", "a") as file:
        file.write("# changed\n")
    process = lambda i: {"PYTHONPATH": f"{tmp_path}/{i}", "PYTHONSAFEPATH": "1", "fresh": True}
    codes, _, err = Hosts(tmp_path / "w", f"--config={config}", process=process).ends()
    assert codes == [2, 2], err
    assert all(text.count("\n") == 1 and "error: " in text and "code: " in text for text in err)
    assert not (tmp_path / "w").exists()


def test_what_only_the_leader_finds_wrong_is_told_by_all(config, tmp_path):
    with RunDir(tmp_path / "w" / "bs48"):
        codes, _, err = Hosts(tmp_path / "w", f"--config={config}").ends()
    assert codes == [2, 2]
    assert err[0] == err[1] and "is in use by process" in err[0]


@pytest.mark.slow
@pytest.mark.parametrize("there", [0, 1])
def test_who_does_not_come_is_waited_for_a_minute(config, tmp_path, there):
    began = time.monotonic()
    place = f"--hosts=127.0.0.1:{free_port()},2,{there}"
    code, _, err = launch(f"--config={config}", place, f"--workdir={tmp_path / 'w'}")
    assert code == 2 and 40 < time.monotonic() - began < 65
    assert "Not all processes of this run came" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--hosts=127.0.0.1:8476,2,2",), "is no place among hosts"),
        (("--hosts=here",), "is no place among hosts"),
        (("--hosts=auto", "--on=ray"), "remove --on"),
        (("--hosts=auto", "--config.sharpness.track=True"), "leave one of them out"),
        (("--hosts=auto",), "finds no other processes"),
        pytest.param(
            ("--hosts=192.0.2.1:8476,2,0",),
            "Cannot listen at 192.0.2.1:8476",
            marks=pytest.mark.slow,
        ),
        (("--hosts=auto", "--config=quickstart"), "a point of the steps_to_target study"),
    ],
)
def test_a_sentence_for_what_cannot_be(config, tmp_path, flags, message):
    code, _, err = launch(f"--config={config}", *flags, f"--workdir={tmp_path / 'w'}")
    assert code == 2 and message in err and "Traceback" not in err


@pytest.mark.slow
def test_one_of_one(config, tmp_path):
    flags = (f"--config={config}",)
    record, (out,) = finished(tmp_path / "hosts", *flags, count=1)
    assert record == alone(tmp_path / "one", *flags, devices=1) and "hosts\n" not in out


def test_alone_everything_is_what_it_was(monkeypatch):
    tree = {"a": np.float32([-0.0, 1])}
    assert hosts.everyones(3) == [3] and hosts.from_leader((1, 2)) == (1, 2)
    assert hosts.before_call(None, 1.5, True) == [None, 1.5, True]
    np.testing.assert_array_equal(hosts.arrays_from_leader(tree)["a"], tree["a"])
    assert hosts.by_leader(lambda x: (x,))(1) == (1,) and hosts.leader_only(abs)(-1) == 1


class Store:
    """The coordinator's key-value store; what is not there is never waited for."""

    def __init__(self):
        self.values = {}

    def key_value_set(self, key, value, allow_overwrite=False):
        assert allow_overwrite or key not in self.values
        self.values[key] = value

    def blocking_key_value_get(self, key, timeout):
        return self.values[key]

    def key_value_try_get(self, key):
        if key not in self.values:
            raise RuntimeError("NOT_FOUND")
        return self.values[key]

    def key_value_delete(self, key):
        del self.values[key]


@pytest.fixture
def as_process(monkeypatch):
    """as_process(i, function): what process i of two gets, on one store."""
    store, counters = Store(), {}

    def as_process(index, function):
        answers, calls = counters.setdefault(index, (iter(range(99)), iter(range(99))))
        for name, value in (
            ("client", store),
            ("count", 2),
            ("index", index),
            ("answers", answers),
            ("calls", calls),
        ):
            monkeypatch.setattr(hosts._Run, name, value)
        return function()

    as_process.store = store
    return as_process


@pytest.mark.parametrize("address", ["127.0.0.1:80", "localhost:80"])
def test_collectives_listen_where_the_coordinator_is_reached(address):
    assert hosts._own_address(address) in ("127.0.0.1", "::1")


def test_clocks_are_the_leaders_and_signals_anyones(as_process):
    for leader, follower, expected in (
        ((None, 0.1), (None, 0.7), [None, 0.1]),
        ((None, 0.2), (15, 0.8), [None, 0.2]),  # told when the leader has already answered
        ((None, 0.3), (15, 0.9), [15, 0.3]),
        ((2, 0.4), (15, 1.0), [2, 0.4]),
    ):
        assert as_process(0, lambda given=leader: hosts.before_call(*given)) == expected
        assert as_process(1, lambda given=follower: hosts.before_call(*given)) == expected
    assert sum(key.startswith("call/") for key in as_process.store.values) == 2  # it stays small


def test_what_the_leader_does_for_all_is_done_once(as_process):
    done = []

    @hosts.leader_only
    def write(x):
        done.append(x)

    @hosts.by_leader
    def read():
        write("inside")
        return inner(), len(done)

    inner = hosts.by_leader(lambda: (1, 2))
    assert as_process(0, lambda: (write("first"), read())) == (None, [[1, 2], 2])
    assert as_process(1, lambda: (write("first"), read())) == (None, [[1, 2], 2])
    assert done == ["first", "inside"]


def test_every_process_is_asked(as_process):
    as_process.store.values["answer/0/1"] = "0.5"
    assert as_process(0, lambda: hosts.everyones(0.25)) == [0.25, 0.5]
