"""What a config comes to on this machine, before anything is compiled."""

import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from scaling.config import default_config, model_config
from scaling.errors import UserError
from scaling.record import RunDir, read_metrics
from scaling.train.point import resolve
from scaling.train.population import Population
from scaling.train.single import train_point

# Factors like those of Hoffer 2017's wide ResNet, and one that raises the rate.
STEPS = {
    "schedule.name": "step",
    "schedule.boundaries": ("2 steps", "3 steps"),
    "schedule.decay_factors": (10, 0.025),
}


def _config(**changes):
    c = default_config()
    c.global_batch, c.duration, c.devices, c.eval.every = 32, "5 steps", 1, "5 steps"
    c.model = ConfigDict({"name": "mlp", "widths": (8,)})
    c.update_from_flattened_dict({"optim.base_lr": 0.1, **changes})
    return c


def _rates(config):
    """The learning rate of every step, the hyperparameters as the traced argument they are."""
    point = resolve(config)
    rate = lambda hparams, step: point.make_optimizer(hparams)[1](step)
    return [float(jax.jit(rate)(point.hparams, step)) for step in range(5)]


def test_a_run_of_several_processes_is_refused(monkeypatch):
    resolve(default_config())
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match=r"one of 2 JAX processes.*with --hosts"):
        resolve(default_config())


def test_every_boundary_has_its_own_factor():
    np.testing.assert_allclose(_rates(_config(**STEPS)), [0.1, 0.1, 1.0, 0.025, 0.025], rtol=1e-6)
    one_for_all = STEPS | {"schedule.decay_factors": (), "schedule.decay_factor": 0.5}
    expected = [0.1, 0.1, 0.05, 0.025, 0.025]
    np.testing.assert_allclose(_rates(_config(**one_for_all)), expected, rtol=1e-6)


def test_factors_are_in_the_record_and_in_every_trial(tmp_path, capsys):
    """A run and a trial of a population of two, each at its own peak, at the same rates."""
    config = _config(**STEPS)
    with RunDir(tmp_path) as run:
        run.begin(json.loads(config.to_json_best_effort()))
        train_point(config, run, "alone")
    resolved = json.loads((tmp_path / "resolved.json").read_text())
    assert resolved["hparams"]["decay_factor"] == [10.0, 0.025]

    population = Population(resolve(config, {"peak"}), [{"peak": 0.1}, {"peak": 0.0}], [0, 0])
    while population.step < 5:
        population.advance(5)
    metrics = population.evaluate()
    (alone,) = read_metrics(tmp_path, "validation")
    np.testing.assert_allclose(metrics["loss"][0], alone["loss"], rtol=1e-5)
    assert abs(metrics["loss"][1] - alone["loss"]) > 1e-3  # the run did learn


def test_a_constant_warmup_waits_for_its_end():
    changes = {"schedule.warmup": "3 steps", "schedule.warmup_init": 0.02}
    gradual = _rates(_config(**changes))
    constant = _rates(_config(**changes | {"schedule.warmup_shape": "constant"}))
    np.testing.assert_allclose(constant, [0.02, 0.02, 0.02, 0.1, 0.1], rtol=1e-6)
    ramp = 0.02 + 0.08 * np.arange(3) / 3
    np.testing.assert_allclose(gradual, [*ramp, 0.1, 0.1], rtol=1e-6)


@pytest.mark.parametrize(
    "changes, searched, words",
    [
        (STEPS | {"schedule.decay_factor": 0.1}, (), "decay_factor is given or searched too"),
        (STEPS, ("decay_factor",), "decay_factor is given or searched too"),
        (
            STEPS | {"schedule.decay_factors": (0.1,)},
            (),
            "schedule.decay_factors has 1 values and schedule.boundaries 2",
        ),
        (
            STEPS | {"schedule.boundaries": ()},
            (),
            "schedule.decay_factors has 2 values and schedule.boundaries 0",
        ),
        (STEPS | {"schedule.name": "cosine"}, (), "'cosine' schedule does not read"),
        (STEPS | {"schedule.name": "dip"}, (), "'dip' schedule does not read 'decay_factors'"),
        ({"schedule.warmup_shape": "linear"}, (), "Unknown schedule.warmup_shape 'linear'"),
        (
            {"schedule.warmup_shape": "constant", "schedule.warmup": "2 steps"},
            (),
            "warmup_init is 0 and a constant warmup stays there",
        ),
    ],
)
def test_schedules_that_cannot_be_are_told(changes, searched, words):
    with pytest.raises(UserError) as error:
        resolve(_config(**changes), searched)
    assert words in str(error.value)


def test_a_searched_first_rate_may_be_of_a_constant_warmup():
    changes = {"schedule.warmup_shape": "constant", "schedule.warmup": "2 steps"}
    assert resolve(_config(**changes), {"warmup_init"}).hparams["warmup_steps"] == 2


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"model.norm": "batch", "global_batch": 2}, "a global_batch of 3 or more, or another"),
        ({"model.norm": "group"}, "8 channels are 8 groups and a channel has 1 place"),
        ({"noise_scale": True, "global_batch": 1198}, "use batches of at most 1,197, or"),
        (
            {"noise_scale": True, "global_batch": 64, "data.train_size": 60},
            "a batch of 64 holds the 60 training examples more than once",
        ),
    ],
)
def test_what_can_teach_nothing_is_told(changes, words):
    config = _config()
    config.model = model_config("mlp", widths=(8,))
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError) as error:
        resolve(config, searched=("peak",) if "noise_scale" not in changes else ())
    assert words in str(error.value)


def test_a_batch_of_the_whole_training_set_has_a_noise_scale():
    assert resolve(_config(noise_scale=True, global_batch=1197)).global_batch == 1197


ADAM = {"optim.name": "adamw", "optim.base_batch": 8}


def test_adams_numbers_at_this_batch():
    numbers = lambda **changes: resolve(_config(**ADAM, **changes)).hparams
    same = numbers(**{"optim.scaling_rule": "sqrt"})
    assert (same["b1"], same["b2"], same["eps"], same["peak"]) == (0.9, 0.999, 1e-8, 0.2)
    moved = numbers(**{"optim.scaling_rule": "sqrt_adam"})  # four times the batch
    assert moved["peak"] == 0.2
    assert (moved["b1"], moved["b2"]) == (pytest.approx(0.6), pytest.approx(0.996))
    assert moved["eps"] == pytest.approx(5e-9)
    epochs = numbers(**{"optim.b2_half_life": "2 epochs"})  # of the 1,197 digits
    assert epochs["b2"] == pytest.approx(2 ** (-32 / (2 * 1197))) and epochs["b1"] == 0.9
    both = numbers(**{"optim.b2_half_life": "64 examples", "optim.scaling_rule": "sqrt_adam"})
    assert (both["b1"], both["b2"]) == (pytest.approx(0.6), pytest.approx(0.5**0.5))
    averaged = numbers(**{"optim.ewa_half_life": "64 examples"})
    assert averaged.pop("ewa_decay") == pytest.approx(0.5**0.5) and averaged.keys() == same.keys()


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"optim.b2_half_life": "100 steps"}, "'100 steps'; it is an amount of data"),
        ({"optim.ewa_half_life": "10 tokn"}, "optim.ewa_half_life: Unknown unit 'tokn'"),
        ({"optim.b2_half_life": "9 epochs", "optim.b2": 0.9}, "b2 is given or searched too"),
        ({"optim.b2_half_life": "9 weeks"}, "Unknown unit 'weeks'"),
        ({"optim.ewa_half_life": "9 steps"}, "optim.ewa_half_life is '9 steps'; it is an amount"),
        ({"optim.ewa_half_life": "9 epochs", "model.norm": "batch"}, "use a model without batch"),
        ({"optim.b2_half_life": "9 epochs", "optim.name": "sgd"}, "does not read 'b2'"),
        ({"optim.scaling_rule": "sqrt_adam", "optim.name": "lamb"}, "is of Adam and optim.name is"),
        ({"optim.scaling_rule": "sqrt_adam", "optim.base_batch": 1}, "moves b1 from 0.9 to -2.2"),
    ],
)
def test_adams_numbers_that_cannot_be(changes, says):
    with pytest.raises(UserError, match=says):
        resolve(_config(**(ADAM | changes)))
