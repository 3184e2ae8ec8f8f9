"""Warm starts on a tiny net in this process."""

import json
import re

import jax
import numpy as np
import pytest
from compare import killed_at

from configs.warm_start import TASKS, get_config
from scaling.config import default_config, model_config
from scaling.errors import UserError
from scaling.studies import gauge
from scaling.studies.running import points_of, run_study
from scaling.studies.warm_start import measure
from scaling.train.point import resolve
from scaling.train.population import Population

QUIET = lambda text: None


def _config(**changes):
    c = default_config("warm_start")
    c.devices, c.global_batch, c.duration, c.data.train_size = 1, 16, "2 epochs", 128
    c.model = model_config("mlp", widths=(6,), norm="batch")
    c.optim.name, c.optim.base_lr = "momentum", 0.05
    w = c.warm_start
    w.batch, w.duration, w.every, w.seeds = 64, "3 steps", "6 steps", 2
    w.examples, w.steps = 64, 6
    c.update_from_flattened_dict(changes)
    return c


def result_of(config, workdir):
    run_study(config, workdir, None, QUIET)
    return json.loads((workdir / "bs16" / "result.json").read_text())


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return result_of(_config(), tmp_path_factory.mktemp("study"))


def test_every_start_is_the_large_batchs_run_from_those_weights(result):
    """Each alone, from weights that are trained again here; the optimizer begins anew."""
    config = _config()
    small, large = measure._resolved(config)
    assert [(s["step"], s["seed"]) for s in result["starts"]] == [
        (step, seed) for step in (0, 5, 11, 16) for seed in (0, 1)
    ]
    for seed in (0, 1):
        run = Population(small, [{}], [seed])
        for start in (s for s in result["starts"] if s["seed"] == seed):
            while run.step < start["step"]:
                run.advance(start["step"])
            assert start["small"]["score"] == pytest.approx(run.evaluate()["error"][0], abs=1e-6)
            packed = run.packed().state
            warm = Population(large, [{}], [seed])
            tx = large.make_optimizer(large.hparams)[0]
            opt_state = tx.init(jax.tree.map(lambda leaf: leaf[0], packed.params))
            fresh = warm.packed()
            state = fresh.state.replace(
                params=packed.params,
                batch_stats=packed.batch_stats,
                opt_state=jax.tree.map(lambda leaf: np.asarray(leaf)[None], opt_state),
            )
            warm.restore(0, fresh.replace(state=state))
            while warm.step < 3:
                warm.advance(3)
            assert start["warm"]["score"] == pytest.approx(warm.evaluate()["error"][0], abs=1e-6)


def test_losses_are_of_the_first_examples_and_measures_are_there(result):
    assert (result["examples"], result["statistics"], result["split"]) == (
        64,
        "recomputed",
        "validation",
    )
    names = ["largest eigenvalue", "smallest eigenvalue", "φ, ε 0.001"]
    for start in result["starts"]:
        for net in (start["small"], start["warm"]):
            assert [m["name"] for m in net["measures"]] == names
            assert net["measures"][2]["value"] > 0 and 0 < net["loss"] < 4
    assert result["large_steps"] == 3 and result["steps"] == 16


def test_a_study_that_was_killed_has_the_same_bits(result, tmp_path, monkeypatch):
    """While the small batch trains, while the large one does, and between two nets."""
    config = _config(**{"checkpoint.every_seconds": 0.0})

    again = lambda: run_study(config, tmp_path, None, QUIET)
    killed_at(monkeypatch, 2, measure._Keep, "columns", again)
    killed_at(monkeypatch, 4, measure._Keep, "columns", again)
    killed_at(monkeypatch, 3, gauge.Gauge, "measure", again)
    found = result_of(config, tmp_path)
    assert found["starts"] == result["starts"]
    assert not list((tmp_path / "bs16").glob("*.npz"))


def test_starts_after_a_divergence_are_left_out(tmp_path):
    changes = {"optim.name": "sgd", "optim.base_lr": 1e4, "optim.weight_decay": 1e6}
    found = result_of(_config(**changes, **{"model.norm": "none"}), tmp_path)
    assert found["status"] == "diverged" and found["statistics"] == "none"
    assert all(start["step"] == 0 and start["warm"] is None for start in found["starts"])


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"warm_start.batch": 16}, "global_batch, the small one, 16; make it larger"),
        ({"warm_start.every": "3 epochs"}, "24 steps of the 16 of 2 epochs"),
        ({"warm_start.every": "0 steps"}, "make it at least 1 step"),
        ({"warm_start.eps": ()}, "warm_start.eps is ()"),
        ({"warm_start.statistics": "running"}, "warm_start.statistics"),
        ({"sharpness.track": True}, "sharpness.track is of single runs"),
        ({"data.name": "imagenet", "data.train_size": None}, "imagenet is streamed"),
    ],
)
def test_wrong_values_are_one_sentence_before_anything_starts(tmp_path, changes, words):
    with pytest.raises(UserError, match=re.escape(words)):
        run_study(_config(**changes), tmp_path / "runs", None, QUIET)
    assert not (tmp_path / "runs").exists()


def test_the_dry_run_prices_both_trainings():
    """Two seeds of 16 updates of 16, and eight starts of 3 updates of 64."""
    text = measure.dry_run(points_of(_config()))
    assert f"{2 * 256 + 8 * 192:.3g} examples" in text.replace(",", "") and "8 starts" in text


@pytest.mark.parametrize("task", TASKS)
def test_the_configs_can_be_used(task):
    for config in points_of(get_config(task)).values():
        small, large = measure._resolved(config)
        assert large.global_batch > small.global_batch and len(measure.places_of(config)) == 11
        assert resolve(small.config).total_steps == measure.places_of(config)[-1]
