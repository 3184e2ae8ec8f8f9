"""Lagged gradients: written out by hand, and in whole runs on any layout."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compare import StopAfter, same_runs
from ml_collections import ConfigDict

from scaling.config import default_config
from scaling.errors import UserError
from scaling.optim.lag import lagged
from scaling.record import RunDir, read_metrics
from scaling.signals import Interrupted
from scaling.train.point import resolve
from scaling.train.single import train_point

STEPS, RATE, MOMENTUM = 12, 0.1, 0.9


@pytest.mark.parametrize("lag", [0, 1, 3])
def test_update_t_applies_the_gradient_at_the_weights_of_update_t_minus_lag(lag):
    """Momentum on a quartic, in float64: the gradient is not linear in the weights."""
    gradient = lambda w: 0.2 * w**3 + np.arange(3.0)
    history, v, expected = [np.array([1.0, -2.0, 0.5])], 0.0, []
    for t in range(STEPS):
        old = gradient(history[t - lag]) if t >= lag else 0.0
        v = MOMENTUM * v + old
        history.append(history[-1] - RATE * v)
    expected = np.stack(history[1:])

    tx = lagged(optax.sgd(RATE, MOMENTUM), lag)

    def step(carry, _):
        w, state = carry
        updates, state = tx.update(gradient(w), state, w)
        w = optax.apply_updates(w, updates)
        return (w, state), w

    w = jnp.float32(history[0])
    found = jax.lax.scan(step, (w, tx.init(w)), None, STEPS)[1]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_adam_counts_the_zeros_of_the_first_updates():
    gradients = np.random.default_rng(0).normal(size=(STEPS, 4)).astype(np.float32)
    zeros = np.zeros((1, 4), np.float32)

    def run(tx, gradients):
        w = state = None
        for g in gradients:
            w = jnp.ones(4) if w is None else w
            state = tx.init(w) if state is None else state
            updates, state = tx.update(g, state, w)
            w = optax.apply_updates(w, updates)
        return w

    ours = run(lagged(optax.adam(RATE), 1), gradients)
    theirs = run(optax.adam(RATE), np.concatenate([zeros, gradients[:-1]]))
    np.testing.assert_array_equal(ours, theirs)


def _config(**changes):
    c = default_config()
    c.global_batch, c.duration, c.devices, c.eval.every = 32, "6 steps", 1, "3 steps"
    c.model = ConfigDict({"name": "mlp", "widths": (8,)})
    c.metrics.weight_distance, c.optim.name, c.optim.base_lr = True, "sgd", 0.5
    c.update_from_flattened_dict(changes)
    return c


def _rows(path, signals=None, **changes):
    config = _config(**changes)
    with RunDir(path) as run:
        run.begin(json.loads(config.to_json_best_effort()))
        run.finish(train_point(config, run, "test", signals))
    return read_metrics(path, "train")


@pytest.mark.parametrize("devices, micro_batch", [(1, None), (2, 4), (4, 8)])
def test_a_run_with_a_lag_on_any_layout(tmp_path, devices, micro_batch):
    """The first update moves nothing, the second by the first gradient; the layout is no matter."""
    layout = {"devices": devices, "micro_batch": micro_batch}
    rows = _rows(tmp_path / "lag", **layout, **{"optim.lag": 1})
    assert rows[0]["weight_distance"] == 0.0
    moved = 0.5 * rows[0]["grad_sq_norm"] ** 0.5
    assert rows[1]["weight_distance"] == pytest.approx(moved, rel=1e-5)
    # Gradients of the first two batches at the same weights, so not the run without a lag.
    plain = _rows(tmp_path / "plain")
    assert rows[0]["grad_sq_norm"] == pytest.approx(plain[0]["grad_sq_norm"], rel=1e-5)
    assert plain[0]["weight_distance"] == pytest.approx(moved, rel=1e-5)
    expected = _rows(tmp_path / "one", **{"optim.lag": 1})
    for row, other in zip(rows, expected, strict=True):
        for name in ("loss", "grad_sq_norm", "weight_distance"):
            assert row[name] == pytest.approx(other[name], rel=1e-4, abs=1e-7), name


def test_a_run_resumes_with_the_gradients_that_wait(tmp_path):
    _rows(tmp_path / "whole", **{"optim.lag": 2})
    with pytest.raises(Interrupted):
        _rows(tmp_path / "cut", StopAfter(2), **{"optim.lag": 2})
    _rows(tmp_path / "cut", **{"optim.lag": 2})
    same_runs(tmp_path / "whole", tmp_path / "cut")


def test_a_lag_that_cannot_be_is_told():
    with pytest.raises(UserError, match=r"optim\.lag is -1; it must be at least 0"):
        resolve(_config(**{"optim.lag": -1}))
