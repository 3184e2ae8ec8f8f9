"""The noise scale of a run, from its own record."""

import json

import numpy as np
import pytest
from compare import StopAfter

from scaling.config import default_config, model_config
from scaling.errors import UserError
from scaling.record import RunDir, read_metrics
from scaling.signals import Interrupted
from scaling.train.single import train_point

BATCH, STEPS = 48, 60


def _config(**changes):
    c = default_config()
    c.global_batch, c.duration, c.devices = BATCH, f"{STEPS} steps", 1
    c.eval.every, c.eval.test = "30 steps", False
    c.model = model_config("mlp", widths=(8,))
    c.optim.base_lr, c.noise_scale, c.noise_every = 0.02, True, 1
    c.update_from_flattened_dict(changes)
    return c


def _train(path, config, signals=None):
    with RunDir(path) as run:
        run.begin(json.loads(config.to_json_best_effort()))
        result = train_point(config, run, "test", signals)
        run.finish(result)
    return result["noise_scale"]


def _by_hand(path, parts):
    """Means of eq. A.2 over the record, written out."""
    rows = read_metrics(path, "train")
    small = np.array([row["part_grad_sq_norm"] for row in rows])
    big = np.array([row["grad_sq_norm"] for row in rows])
    part = BATCH / parts
    squares = (BATCH * big - part * small) / (BATCH - part)
    traces = (small - big) / (1 / part - 1 / BATCH)
    return squares.mean(), traces.mean()


def test_it_follows_from_the_record(tmp_path):
    found = _train(tmp_path, _config(micro_batch=8))
    squares, traces = _by_hand(tmp_path, 6)
    assert found["source"] == "microbatches" and found["every"] == 1 and not found["coupled"]
    assert (found["b_small"], found["b_big"]) == (8, BATCH)
    assert found["whole"]["grad_sq_norm"] == pytest.approx(squares)
    assert found["whole"]["grad_variance_trace"] == pytest.approx(traces)
    assert found["whole"]["noise_scale"] == pytest.approx(traces / squares)
    assert found["whole"]["measurements"] == STEPS
    assert found["windows"][0] == found["start"] and found["windows"][-1] == found["end"]
    assert found["windows"][-1]["last_step"] == STEPS
    json.dumps(found, allow_nan=False)


def test_devices_and_microbatches_agree_where_parts_are_the_same_examples(tmp_path):
    """Six parts of 8 consecutive examples, whoever computes them."""
    found = {
        devices: _train(tmp_path / str(devices), _config(micro_batch=8, devices=devices))
        for devices in (1, 2, 6)
    }
    assert [f["source"] for f in found.values()] == ["microbatches", "microbatches", "devices"]
    for other in (2, 6):
        for window, theirs in zip(found[1]["windows"], found[other]["windows"], strict=True):
            assert theirs["grad_variance_trace"] == pytest.approx(
                window["grad_variance_trace"], rel=1e-3
            )
    assert found[1]["by_devices"] is None and found[6]["by_devices"] is None
    both = found[2]["by_devices"]  # from 2 parts of 24: the same expectation, more spread
    assert both["grad_variance_trace"] == pytest.approx(
        found[2]["whole"]["grad_variance_trace"], rel=0.2
    )


def test_halves_are_measured_now_and_then(tmp_path):
    found = _train(tmp_path, _config(noise_every=4))
    assert found["source"] == "halves" and found["b_small"] == BATCH / 2
    assert found["whole"]["measurements"] == STEPS / 4
    default = _config(noise_every=None)  # every 64th: too few here
    assert _train(tmp_path / "few", default)["whole"]["measurements"] == 1
    default.micro_batch = 8
    assert _train(tmp_path / "parts", default)["whole"]["measurements"] == STEPS // 32 + 1
    rows = read_metrics(tmp_path, "train")
    assert [r["step"] for r in rows if r["part_grad_sq_norm"] is not None][:3] == [1, 5, 9]


@pytest.mark.parametrize("micro_batch", [8, None])
def test_tracking_changes_no_number_of_the_run(tmp_path, micro_batch):
    """By norms of microbatches, and of halves."""
    _train(tmp_path / "with", _config(micro_batch=micro_batch))
    _train(tmp_path / "without", _config(micro_batch=micro_batch, noise_scale=False))
    for a, b in zip(
        *(read_metrics(tmp_path / n, "train") for n in ("with", "without")), strict=True
    ):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert "part_grad_sq_norm" not in b


def test_a_resumed_run_knows_the_same(tmp_path):
    whole = _train(tmp_path / "whole", _config(micro_batch=8))
    with pytest.raises(Interrupted):
        _train(tmp_path / "cut", _config(micro_batch=8), StopAfter(2))
    assert _train(tmp_path / "cut", _config(micro_batch=8)) == whole


def test_a_run_resumed_on_other_devices(tmp_path):
    with pytest.raises(Interrupted):
        _train(tmp_path, _config(micro_batch=8), StopAfter(2))
    found = _train(tmp_path, _config(micro_batch=8, devices=3))
    whole = _train(tmp_path / "whole", _config(micro_batch=8))
    assert found["by_devices"] is None
    assert found["whole"]["noise_scale"] == pytest.approx(whole["whole"]["noise_scale"], rel=1e-3)


def test_coupled_examples_are_said_to_be(tmp_path):
    changes = {"model.norm": "ghost", "model.ghost_batch": 8, "micro_batch": 8}
    assert _train(tmp_path, _config(**changes))["coupled"]


def test_not_tracked_is_none(tmp_path):
    assert _train(tmp_path, _config(noise_scale=False)) is None


def test_a_run_that_diverges_at_once_has_no_noise_scale(tmp_path):
    found = _train(
        tmp_path, _config(micro_batch=8, **{"optim.base_lr": 1e4, "optim.weight_decay": 1e6})
    )
    assert not found["whole"]["resolved"]
    json.dumps(found, allow_nan=False)


def test_a_batch_of_one_has_no_parts(tmp_path):
    with pytest.raises(UserError, match="global_batch is 1; set it to 2 or more"):
        _train(tmp_path, _config(global_batch=1))
