"""Throughput of this machine, in this process, on digits: what is measured, not how fast."""

import statistics

import jax
import pytest

from scaling.config import default_config, model_config
from scaling.errors import UserError
from scaling.record import RunDir
from scaling.report.records import read_workdir
from scaling.signals import Interrupted, Signals
from scaling.studies.running import run_study
from scaling.studies.throughput import measure as throughput_measure
from scaling.studies.throughput.report import KIND, read
from scaling.train.step import make_update


def _config(**changes):
    c = default_config("throughput")
    c.model = model_config("mlp", widths=(8,))
    c.throughput.per_device_batches, c.throughput.devices = (4, 16), (1, 2)
    c.throughput.rounds, c.throughput.seconds, c.throughput.microbatches = 3, 0.001, (1, 4)
    c.update_from_flattened_dict(changes)
    return c


def _measured(workdir, **changes):
    run_study(_config(**changes), workdir, None, lambda text: None)
    return read(read_workdir(workdir))


@pytest.fixture(scope="module")
def point(tmp_path_factory):
    return _measured(tmp_path_factory.mktemp("throughput")).points[0]


def test_every_batch_on_every_number_of_devices(point):
    sizes = [(row.devices, row.per_device_batch) for row in point.rows]
    assert sizes == [(1, 4), (1, 16), (2, 4), (2, 16)]
    for row in point.rows:
        times = row.device, row.input, row.both
        assert [len(each) for each in times] == [2, 2, 2]  # three rounds, the first dropped
        assert min(map(min, times)) > 0
        assert row.rate() == row.global_batch / statistics.median(row.device)
    assert point.devices["simulated"] and point.devices["count"] == 2


def test_operations_and_bytes_by_hand(point):
    # 64 x 8 and 8 x 10 products, two operations each, three times for training.
    assert point.flops_per_example == 3 * 2 * (64 * 8 + 8 * 10)
    assert point.gradient_bytes == 4 * (64 * 8 + 8 + 8 * 10 + 10)
    assert point.peak_flops is None


def test_microbatches_have_a_price_and_no_efficiency_is_claimed(point):
    assert [(v.accum_steps, v.remat) for v in point.variants] == [(1, False), (4, False)]
    assert point.variant_batch == 16
    assert point.weak(point.rows[2]) is None and point.hidden is None
    assert (point.overlap.devices, point.overlap.per_device_batch) == (2, 16)


def test_without_the_mean_devices_train_apart(monkeypatch):
    """What the overlap is measured against is the same update without any exchange."""
    from scaling.train import program, throughput

    plans = []

    def noted(task, make_optimizer, plan, *args):
        plans.append((plan.devices, plan.micro_batch))
        return make_update(task, make_optimizer, plan, *args)

    monkeypatch.setattr(program, "make_update", noted)
    times = throughput.overlap_of(_config(), 8, 2, 0.001, 3)
    assert set(plans) == {(2, 8), (1, 8)}
    assert {len(each) for each in times.values()} == {2}


def test_batch_norm_over_the_batch_is_not_split(tmp_path):
    changes = {"model.norm": "batch", "throughput.devices": (1,)}
    point = _measured(tmp_path, **changes).points[0]
    assert [v.accum_steps for v in point.variants] == [1] and point.overlap is None


def test_a_signal_ends_the_timing(tmp_path, monkeypatch):
    monkeypatch.setattr(Signals, "received", 15)
    with pytest.raises(Interrupted, match="SIGTERM before throughput"):
        _measured(tmp_path)
    with RunDir(tmp_path / "one") as run:
        run.begin({})
        run.truncate(0)
        with pytest.raises(Interrupted, match="then starts anew"):
            throughput_measure._noted(run, Signals(), "throughput")(((1, 8), "both"), 0.5)
    assert '"of": [1, 8, "both"], "seconds": 0.5}' in (run.path / "metrics.jsonl").read_text()


def test_the_dry_run_states_what_it_would_cost():
    text = throughput_measure.dry_run({"throughput": _config()})
    assert "610 parameters" in text and "3552 FLOPs per example" in text
    assert "GiB" in text and "4, 16 on each of 1, 2 device(s)" in text


def test_all_devices_here_where_none_are_named():
    assert throughput_measure._devices(_config(**{"throughput.devices": ()})) == [1, 2, 4, 8]
    assert jax.local_device_count() == 8


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"throughput.network": "nvlink44"}, "nvlink4"),
        ({"throughput.devices": (64,)}, "this machine has"),
        ({"throughput.per_device_batches": ()}, "is empty"),
        ({"throughput.per_device_batches": (0,)}, "at least 1"),
        ({"throughput.rounds": 2}, "at least 3"),
        ({"batch_sizes": (1, 2)}, "per_device_batches"),
        ({"model.norm": "ghost", "model.ghost_batch": 8}, "Ghost batch 8 does not divide"),
    ],
)
def test_bad_configs_are_one_sentence(tmp_path, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        _measured(tmp_path, **changes)
    assert not any(tmp_path.iterdir())


def test_the_answer_is_of_one_device_where_all_are_one_cpu(point):
    study = read(read_workdir(point.directory.path.parent))
    assert "1 device alone makes" in KIND.answer(study)
