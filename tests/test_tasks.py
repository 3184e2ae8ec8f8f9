import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.errors import UserError
from scaling.models import build_model
from scaling.tasks import Classification


class Given(nn.Module):
    """Its input is its output."""

    num_classes: int = 3

    @nn.compact
    def __call__(self, x, *, train, positions=None):
        return x


def classification(model, shape, classes):
    return Classification(model, {"image": (shape, "float32"), "label": ((), "int32")}, classes)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_error_written_out(smoothing):
    """Shallue's smoothing: 1 - s on the true class, s / (K - 1) on each other."""
    rng = np.random.RandomState(0)
    images = rng.randn(20, 3, 3, 1).astype(np.float32)
    labels = rng.randint(0, 5, 20)
    task = classification(build_model("mlp", 5, widths=()), (3, 3, 1), 5)
    params, stats = task.init(jax.random.key(0))
    kernel = np.float64(params["Dense_0"]["kernel"])
    logits = images.reshape(20, -1) @ kernel
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    target = np.full((20, 5), smoothing / 4)
    target[np.arange(20), labels] = 1 - smoothing
    batch = {"image": images, "label": jnp.asarray(labels)}
    positions, key = jnp.arange(20), jax.random.key(1)
    hparams = {"label_smoothing": smoothing}
    sums, weights, _ = task.losses(params, stats, batch, positions, key, hparams)
    assert weights is None  # each counts 1
    np.testing.assert_allclose(sums["loss"], -(target * log_p).sum(1), rtol=1e-5)
    np.testing.assert_array_equal(sums["error"], logits.argmax(1) != labels)
    # Never smoothed in an evaluation; and only of rows in the mask.
    evaluated = task.finish(task.sums(params, stats, batch, np.arange(20) < 15))
    assert evaluated["loss"] == pytest.approx(-log_p[np.arange(15), labels[:15]].mean(), rel=1e-5)
    assert evaluated["error"] == pytest.approx((logits.argmax(1) != labels)[:15].mean())


def test_smoothing_may_be_traced():
    task = classification(build_model("mlp", 5, widths=()), (3, 3, 1), 5)
    params, stats = task.init(jax.random.key(0))
    batch = {"image": jnp.ones((2, 3, 3, 1)), "label": jnp.array([0, 1])}

    def loss(smoothing):
        hparams = {"label_smoothing": smoothing}
        return task.losses(params, stats, batch, jnp.arange(2), jax.random.key(0), hparams)[0]

    stacked = jax.vmap(loss)(jnp.array([0.0, 0.3]))["loss"]
    np.testing.assert_allclose(stacked, [loss(0.0)["loss"], loss(0.3)["loss"]], rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_wrong_whatever_the_label(bad):
    logits = np.float32([[2, 1, 0], [2, 1, 0], [bad, 1, 0], [bad, 1, 0], [2, 1, bad], [bad] * 3])
    batch = {"label": jnp.array([0, 1, 0, 1, 0, 0])}
    scores, _ = classification(Given(), (3,), 3).score(logits, batch)
    np.testing.assert_array_equal(scores["error"], [0, 1, 1, 1, 1, 1])
    np.testing.assert_array_equal(np.isfinite(scores["loss"]), [True] * 2 + [False] * 4)


def test_a_model_of_another_shape_is_refused():
    with pytest.raises(UserError, match=r"'Given' returns \(1, 4\) for 1 example.*needs \(1, 3\)"):
        classification(Given(), (4,), 3).init(jax.random.key(0))
