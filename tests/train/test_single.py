"""A single run, in this process: what it records, and how it is made longer."""

import json
import shutil

import numpy as np
import pytest
from compare import StopAfter, same_runs, weights
from ml_collections import ConfigDict

from scaling.config import default_config, model_config
from scaling.data import sources
from scaling.errors import UserError
from scaling.record import RunDir, read_metrics
from scaling.signals import Interrupted
from scaling.studies.running import run_study
from scaling.train import evaluate, population
from scaling.train.single import train_point

PARAMS = "trials.state.params"  # in a checkpoint


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


def test_averaged_weights_have_metrics_of_their_own_to_the_end(tmp_path):
    result = _train(tmp_path, _config(**{"optim.ewa_half_life": "1 epoch"}))
    names = {"error", "loss", "ewa_error", "ewa_loss"}
    (row,) = read_metrics(tmp_path, "test")
    assert row.keys() >= names and result["test"].keys() == names
    assert result["validation"].keys() == {"step", *names}
    assert all(row["loss"] != row["ewa_loss"] for row in read_metrics(tmp_path, "validation"))


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

    def noted(kind, name, split):
        plain = getattr(kind, name)
        noted = lambda self, *args: asked.append(split or self.split) or plain(self, *args)
        monkeypatch.setattr(kind, name, noted)

    noted(population.Population, "evaluate", "validation")
    noted(evaluate.HeldOut, "record", None)
    _train(tmp_path, _config())
    assert asked == ["validation"] * 3 + ["test"]


def test_a_validation_loss_that_is_not_finite_is_divergence(tmp_path, monkeypatch):
    values = {"loss": np.array([np.inf]), "error": np.array([0.9])}
    monkeypatch.setattr(population.Population, "evaluate", lambda self: dict(values))
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


# ---- A longer duration ----


def _study(workdir, duration, **changes):
    """The `train` study; its one point is in WORKDIR/bs32."""
    config = _config(duration=duration, **changes)
    said = []
    run_study(config, workdir, None, said.append)
    return said


def _stopped(run_path, config, looks):
    with RunDir(run_path) as run:
        run.begin(json.loads(config.to_json_best_effort()))
        with pytest.raises(Interrupted):
            train_point(config, run, "test", StopAfter(looks))


@pytest.mark.parametrize(
    "changes",
    [
        {"noise_scale": True, "metrics.weight_distance": True},
        {"schedule.name": "step", "schedule.boundaries": ("5 steps", "9 steps")},
        {"schedule.warmup": "6 steps", "optim.name": "adam", "optim.base_lr": 0.01, "optim.lag": 1},
    ],
)
def test_a_finished_run_goes_on_as_if_it_had_been_as_long_from_the_start(tmp_path, changes):
    _study(tmp_path / "short", "7 steps", **changes)  # off the grid of evaluations
    _study(tmp_path / "short", "12 steps", **changes)  # on it
    _study(tmp_path / "short", "20 steps", **changes)
    _study(tmp_path / "long", "20 steps", **changes)
    same_runs(tmp_path / "short/bs32", tmp_path / "long/bs32")
    steps = [row["step"] for row in read_metrics(tmp_path / "short/bs32", "validation")]
    assert steps == [3, 6, 9, 12, 15, 18, 20]
    assert not (tmp_path / "short/bs32/shorter.json").exists()
    config = json.loads((tmp_path / "short/bs32/config.json").read_text())
    assert config["duration"] == "20 steps"


def test_a_stopped_run_goes_on_longer_and_the_shorter_result_is_kept_until_then(tmp_path):
    run = tmp_path / "short/bs32"
    _stopped(run, _config(duration="7 steps"), 2)
    _study(tmp_path / "short", "8 steps")
    result = (run / "result.json").read_bytes()
    longer = _config(duration="20 steps")
    asked = json.loads(longer.to_json_best_effort())
    with RunDir(run) as held, pytest.raises(Interrupted):
        held.begin(asked, lambda run, duration: True)
        train_point(longer, held, "test", StopAfter(2))
    assert (run / "shorter.json").read_bytes() == result and not (run / "result.json").exists()
    with pytest.raises(UserError, match="can be made longer, not shorter"):
        _study(tmp_path / "short", "8 steps")
    _study(tmp_path / "short", "20 steps")
    assert not (run / "shorter.json").exists()
    _study(tmp_path / "long", "20 steps")
    same_runs(run, tmp_path / "long/bs32")


def test_a_diverged_run_made_longer_diverges_at_the_same_step(tmp_path):
    changes = {"optim.base_lr": 1e4, "optim.weight_decay": 1e6}
    _study(tmp_path / "short", "7 steps", **changes)
    _study(tmp_path / "short", "20 steps", **changes)
    _study(tmp_path / "long", "20 steps", **changes)
    runs = tmp_path / "short/bs32", tmp_path / "long/bs32"
    first, second = (read_metrics(run, "train") for run in runs)
    assert first == second and len(first) < 7
    first, second = (json.loads((run / "result.json").read_text()) for run in runs)
    assert first["status"] == second["status"] == "diverged" and first["steps"] == second["steps"]


def test_as_many_steps_in_other_words_are_the_same_run(tmp_path):
    for duration in ("7 steps", "224 examples"):
        *_, last = _study(tmp_path, duration, **{"schedule.name": "cosine"})
    assert "already finished" in last


@pytest.mark.parametrize("name", ["linear", "cosine", "polynomial"])
def test_a_schedule_with_an_end_is_not_made_longer(tmp_path, name):
    changes = {"schedule.name": name}
    _study(tmp_path, "7 steps", **changes)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(UserError, match=rf"7 steps.*20 steps.*schedule.name='{name}'.*--workdir"):
        _study(tmp_path, "20 steps", **changes)
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}


def test_what_cannot_go_on_is_told_before_anything_is_trained(tmp_path):
    sizes = {"batch_sizes": (32, 64)}
    _study(tmp_path, "7 steps", **sizes)
    with pytest.raises(UserError, match=r"7 steps.*5 steps.*longer, not shorter.*--workdir"):
        _study(tmp_path, "5 steps", **sizes)
    with pytest.raises(UserError, match=r"duration: .*; seed: 0 there, 1 here"):
        _study(tmp_path, "20 steps", seed=1, **sizes)
    shutil.rmtree(tmp_path / "bs32/checkpoints")
    with pytest.raises(UserError, match=r"bs32 holds .* its last checkpoint, but that is gone"):
        _study(tmp_path, "20 steps", **sizes)
    for name in ("bs32", "bs64"):
        assert json.loads((tmp_path / name / "result.json").read_text())["steps"] == 7
        assert len(read_metrics(tmp_path / name, "test")) == 1


def test_after_few_updates_batch_norm_validates_as_with_exact_statistics(tmp_path):
    """Those of the whole training set at the last weights, in float64."""
    changes = {"global_batch": 1024, "duration": "5 steps", "optim.base_lr": 0.05}
    config = _config(**changes, **{"optim.name": "momentum"})
    config.model = model_config("mlp", widths=(64, 64), norm="batch")
    validation = _train(tmp_path, config)["validation"]

    state, info = weights(tmp_path), sources.INFOS["digits"]
    state = {name: leaf[0] for name, leaf in state.items()}
    splits = [sources.load("digits", split, None) for split in ("train", "validation")]
    x, held_out = ((s["image"] / 255.0 - info.mean) / info.std for s in splits)
    x, held_out = (a.reshape(len(a), -1) for a in (x, held_out))
    dense = lambda layer, a: (
        a @ np.float64(state[f"{PARAMS}.Dense_{layer}.kernel"])
        + state[f"{PARAMS}.Dense_{layer}.bias"]
    )
    for layer in range(2):
        x, held_out = dense(layer, x), dense(layer, held_out)
        mean, deviation = x.mean(0), np.sqrt(x.var(0) + 1e-5)
        scale, bias = (state[f"{PARAMS}.GhostBatchNorm_{layer}.{k}"] for k in ("scale", "bias"))
        x, held_out = (np.maximum((a - mean) / deviation * scale + bias, 0) for a in (x, held_out))
    logits, labels = dense(2, held_out), splits[1]["label"]
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert validation["error"] == pytest.approx((logits.argmax(1) != labels).mean(), abs=0.02)
    loss = -log_p[np.arange(len(labels)), labels].mean()
    assert validation["loss"] == pytest.approx(loss, rel=0.02)
