import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.models import build_model
from scaling.tasks import Classification


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_error_written_out(smoothing):
    """Shallue's smoothing: 1 - s on the true class, s / (K - 1) on each other."""
    rng = np.random.RandomState(0)
    images = rng.randn(20, 3, 3, 1).astype(np.float32)
    labels = rng.randint(0, 5, 20)
    task = Classification(build_model("mlp", 5, widths=()), (3, 3, 1))
    params, stats = task.init(jax.random.key(0))
    kernel = np.float64(params["Dense_0"]["kernel"])
    logits = images.reshape(20, -1) @ kernel
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    target = np.full((20, 5), smoothing / 4)
    target[np.arange(20), labels] = 1 - smoothing
    batch = {"image": images, "label": jnp.asarray(labels)}
    positions, key = jnp.arange(20), jax.random.key(1)
    metrics, _ = task.train_metrics(
        params, stats, batch, positions, key, {"label_smoothing": smoothing}
    )
    np.testing.assert_allclose(metrics["loss"], -(target * log_p).sum(1), rtol=1e-5)
    np.testing.assert_array_equal(metrics["error"], logits.argmax(1) != labels)
    evaluated = task.eval_metrics(params, stats, batch)  # never smoothed
    np.testing.assert_allclose(evaluated["loss"], -log_p[np.arange(20), labels], rtol=1e-5)


def test_smoothing_may_be_traced():
    task = Classification(build_model("mlp", 5, widths=()), (3, 3, 1))
    params, stats = task.init(jax.random.key(0))
    batch = {"image": jnp.ones((2, 3, 3, 1)), "label": jnp.array([0, 1])}

    def loss(smoothing):
        hparams = {"label_smoothing": smoothing}
        key = jax.random.key(0)
        return task.train_metrics(params, stats, batch, jnp.arange(2), key, hparams)[0]["loss"]

    stacked = jax.vmap(loss)(jnp.array([0.0, 0.3]))
    np.testing.assert_allclose(stacked, [loss(0.0), loss(0.3)], rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_wrong_whatever_the_label(bad):
    class Spoiled(nn.Module):
        @nn.compact
        def __call__(self, x, *, train, positions=None):
            return x.reshape(len(x), -1)

    rows = np.float32([[2, 1, 0], [2, 1, 0], [bad, 1, 0], [bad, 1, 0], [2, 1, bad], [bad] * 3])
    batch = {"image": rows[:, None, None], "label": jnp.array([0, 1, 0, 1, 0, 0])}
    task = Classification(Spoiled(), (1, 1, 3))
    trained, _ = task.train_metrics(
        {}, {}, batch, jnp.arange(6), jax.random.key(0), {"label_smoothing": 0.0}
    )
    for metrics in (trained, task.eval_metrics({}, {}, batch)):
        np.testing.assert_array_equal(metrics["error"], [0, 1, 1, 1, 1, 1])
        np.testing.assert_array_equal(np.isfinite(metrics["loss"]), [True] * 2 + [False] * 4)
