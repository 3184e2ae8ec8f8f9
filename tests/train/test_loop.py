"""One point, in this process: what the loop records."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from scaling.config import default_config
from scaling.record import RunDir, read_metrics
from scaling.train import loop
from scaling.train.loop import train_point


def _config(**changes):
    c = default_config()
    c.global_batch, c.duration, c.devices, c.eval.every = 32, "7 steps", 1, "3 steps"
    c.model = ConfigDict({"name": "mlp", "widths": (8,)})
    c.update_from_flattened_dict(changes)
    return c


def _train(path, config):
    with RunDir(path) as run:
        run.begin(json.loads(config.to_json_best_effort()))
        result = train_point(config, run, "test")
        run.finish(result)
    return result


def test_curves_and_result(tmp_path):
    result = _train(tmp_path, _config())
    train = read_metrics(tmp_path, "train")
    assert [row["step"] for row in train] == list(range(1, 8))
    assert [row["step"] for row in read_metrics(tmp_path, "validation")] == [3, 6, 7]
    assert result["train"]["loss"] == pytest.approx(train[-1]["loss"])
    assert result["validation"]["step"] == 7
    assert set(result["seconds"]) == {"compile", "train", "eval", "input_wait"}
    assert result["examples_per_second"] == pytest.approx(7 * 32 / result["seconds"]["train"])


def test_weight_distance_of_one_sgd_step_is_the_learning_rate_times_the_gradient(tmp_path):
    changes = {"optim.name": "sgd", "optim.base_lr": 0.5, "metrics.weight_distance": True}
    _train(tmp_path, _config(**changes))
    rows = read_metrics(tmp_path, "train")
    assert rows[0]["weight_distance"] == pytest.approx(
        0.5 * rows[0]["grad_sq_norm"] ** 0.5, rel=1e-5
    )
    assert rows[-1]["weight_distance"] > rows[0]["weight_distance"]


def test_warmup_and_decay_are_what_is_recorded(tmp_path):
    changes = {"schedule.name": "polynomial", "schedule.warmup": "2 steps", "optim.base_lr": 0.8}
    _train(tmp_path, _config(**changes))
    rates = [row["learning_rate"] for row in read_metrics(tmp_path, "train")]
    expected = [0.0, 0.4] + [0.8 * (1 - t / 5) ** 2 for t in range(5)]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


def test_step_boundaries_are_durations(tmp_path):
    changes = {"schedule.name": "step", "schedule.boundaries": ("64 examples", "4 steps")}
    _train(tmp_path, _config(**changes))
    rates = [row["learning_rate"] for row in read_metrics(tmp_path, "train")]
    np.testing.assert_allclose(rates, [0.1] * 2 + [0.01] * 2 + [0.001] * 3, rtol=1e-6)


def test_the_test_split_is_read_once_and_last(tmp_path, monkeypatch):
    asked = []
    plain = loop._Training._evaluate
    monkeypatch.setattr(
        loop._Training, "_evaluate", lambda self, split: asked.append(split) or plain(self, split)
    )
    _train(tmp_path, _config())
    assert asked == ["validation"] * 3 + ["test"]


def test_a_validation_loss_that_is_not_finite_is_divergence(tmp_path, monkeypatch):
    values = {"loss": float("inf"), "error": 0.9}
    monkeypatch.setattr(loop._Training, "_evaluate", lambda self, split: values)
    result = _train(tmp_path, _config())
    assert result["status"] == "diverged" and result["steps"] == 3
    assert result["validation"]["loss"] is None and result["test"] is None


def test_synthetic_images_of_any_shape(tmp_path):
    changes = {
        "data.name": "synthetic",
        "data.image_shape": (5, 6, 2),
        "data.num_classes": 4,
        "data.train_size": 100,
    }
    result = _train(tmp_path, _config(**changes))
    assert result["status"] == "complete"
    resolved = json.loads((tmp_path / "resolved.json").read_text())
    assert resolved["data"]["sizes"] == {"train": 100, "validation": 10, "test": 10}
    assert resolved["model"]["parameters"] == 60 * 8 + 8 + 8 * 4 + 4
