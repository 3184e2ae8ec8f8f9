"""Noise from the gradients of all examples, against closed forms and dense matrices."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.noise import estimate, noise_scale
from scaling.noise_exact import exact_noise

KEY = jax.random.key(0)


def squared_error(weights, example):
    return 0.5 * (weights @ example["x"] - example["y"]) ** 2


@pytest.fixture(scope="module")
def regression():
    """Linear regression, and its moments in float64: gradients r_i x_i, Hessian X^T X / N."""
    rng = np.random.default_rng(12)
    x = rng.standard_normal((100, 6)) * [3, 1, 1, 0.5, 0.5, 0.1] + 0.5
    y, weights = rng.standard_normal(100), rng.standard_normal(6)
    x, y, weights = (a.astype(np.float32) for a in (x, y, weights))
    rows = (x.astype(float) @ weights - y)[:, None] * x
    mean, hessian = rows.mean(0), x.T.astype(float) @ x / 100
    sigma = (rows - mean).T @ (rows - mean) / 100
    return (weights, {"x": x, "y": y}), rows, mean, sigma, hessian


def signs(key, samples, count):
    return np.asarray(jax.random.rademacher(key, (samples, count), np.int8), float)


def hessian_noise(rows, hessian, key, samples):
    """B_noise with tr(H Sigma) by the same random combinations, from dense matrices."""
    mean = rows.mean(0)
    mixes = signs(key, samples, len(rows)) @ (rows - mean) / math.sqrt(len(rows))
    return np.mean(np.sum(mixes @ hessian * mixes, 1)) / (mean @ hessian @ mean)


@pytest.mark.parametrize("batch", [1, 7, 50, 100, 256])
def test_linear_regression(regression, batch):
    given, rows, mean, sigma, hessian = regression
    found = exact_noise(squared_error, *given, batch, 20, KEY)
    assert found.grad_sq_norm == pytest.approx(mean @ mean, rel=1e-5)
    assert found.grad_variance_trace == pytest.approx(np.trace(sigma), rel=1e-5)
    assert found.noise_scale == pytest.approx(np.trace(sigma) / (mean @ mean), rel=1e-5)
    expected = hessian_noise(rows, hessian, KEY, 20)
    assert found.hessian_noise_scale == pytest.approx(expected, rel=1e-5)


def test_random_combinations_have_the_trace_as_their_mean(regression):
    given, rows, mean, sigma, hessian = regression
    found = exact_noise(squared_error, *given, 64, 600, KEY)
    curvature = mean @ hessian @ mean
    # z^T H z = r^T M r has the variance 2 sum M_ij^2 over i != j.
    form = (rows - mean) @ hessian @ (rows - mean).T / 100
    error = math.sqrt(2 * (np.square(form).sum() - np.square(np.diag(form)).sum()) / 600)
    truth = np.trace(hessian @ sigma)
    assert abs(found.hessian_noise_scale * curvature - truth) < 3 * error < 0.3 * truth


@jax.custom_vjp
def doubled(x):
    """Twice x, with a gradient of its own; so it has no forward derivative."""
    return 2 * x


doubled.defvjp(lambda x: (2 * x, None), lambda _, g: (2 * g,))


def mlp_loss(params, example):
    image, label = example
    hidden = jnp.tanh(image @ params["first"]["kernel"] + params["first"]["bias"])
    logits = doubled(hidden) @ params["second"]
    return -jax.nn.log_softmax(logits)[label]


def mlp(rng, sizes, dtype=np.float32):
    inputs, hidden, classes = sizes
    draw = lambda *shape: (rng.standard_normal(shape) / shape[0] ** 0.5).astype(dtype)
    first = {"kernel": draw(inputs, hidden), "bias": draw(hidden)}
    return {"first": first, "second": draw(hidden, classes)}


def test_against_a_dense_hessian_and_covariance():
    """Everything materialised, in float64; and the same code in float64, to rounding."""
    rng = np.random.default_rng(13)
    examples = (rng.standard_normal((45, 4)), rng.integers(0, 3, 45))
    with jax.enable_x64(True):
        params = mlp(rng, (4, 5, 3), float)
        flat, restore = jax.flatten_util.ravel_pytree(params)
        loss = lambda flat, example: mlp_loss(restore(flat), example)
        rows = np.asarray(jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(flat, examples))
        # Reverse over reverse; the code under test goes forward over reverse.
        whole = lambda flat: jax.vmap(loss, (None, 0))(flat, examples).mean()
        hessian = np.asarray(jax.jit(jax.jacrev(jax.grad(whole)))(flat))
        exact = exact_noise(mlp_loss, params, examples, 16, 30, KEY)
        expected = hessian_noise(rows, hessian, KEY, 30)
    mean, sigma = rows.mean(0), np.cov(rows.T, bias=True)
    assert exact.grad_sq_norm == pytest.approx(mean @ mean, rel=1e-10)
    assert exact.grad_variance_trace == pytest.approx(np.trace(sigma), rel=1e-10)
    assert exact.hessian_noise_scale == pytest.approx(expected, rel=1e-10)
    # The two noise scales are not the same thing.
    assert abs(exact.hessian_noise_scale / exact.noise_scale - 1) > 0.05
    single = jax.tree.map(np.float32, params)
    found = exact_noise(mlp_loss, single, (np.float32(examples[0]), examples[1]), 16, 30, KEY)
    # The signs are others where numbers are of 32 bits.
    expected = hessian_noise(rows, hessian, KEY, 30)
    assert found.hessian_noise_scale == pytest.approx(expected, rel=1e-4)


def test_a_small_variance_beside_a_large_gradient():
    """Single precision: E|g_i|^2 - |G|^2 would be rounding only."""
    rng = np.random.default_rng(14)
    rows = (1000 + 0.01 * rng.standard_normal((300, 50))).astype(np.float32)
    found = exact_noise(jnp.vdot, np.zeros(50, np.float32), rows, 128, 1, KEY)
    assert found.grad_variance_trace == pytest.approx(rows.astype(float).var(0).sum(), rel=1e-3)
    assert found.grad_sq_norm == pytest.approx(5e7, rel=1e-4)


def test_curvature_that_is_not_positive():
    concave = lambda w, example: -example * w**2
    found = exact_noise(concave, np.float32(1.0), np.array([1, 2, 3], np.float32), 3, 4, KEY)
    # G = -4 and H = -4; the gradients are -2, -4 and -6.
    assert (found.grad_sq_norm, found.hessian_noise_scale) == (16, None)
    flat = exact_noise(lambda w, example: w * example, 1.0, np.array([-1.0, 1.0]), 2, 1, KEY)
    assert (flat.grad_sq_norm, flat.grad_variance_trace, flat.noise_scale) == (0, 1, None)


def test_the_estimator_agrees_with_the_exact_mode_on_a_trained_network():
    """Digits; batches of 8 x 16 drawn with replacement, the parameters held."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    examples = (np.float32(images / 16), labels)
    rng = np.random.default_rng(15)
    params = mlp(rng, (64, 12, 10))
    mean_loss = lambda params: jax.vmap(mlp_loss, (None, 0))(params, examples).mean()
    step = jax.jit(lambda p: jax.tree.map(lambda w, g: w - 0.1 * g, p, jax.grad(mean_loss)(p)))
    before = mean_loss(params)
    for _ in range(60):
        params = step(params)
    assert mean_loss(params) < 0.7 * before
    exact = exact_noise(mlp_loss, params, examples, 256, 1, KEY)
    rows = jax.jit(jax.vmap(jax.grad(mlp_loss), (None, 0)))(params, examples)
    rows = np.concatenate([np.reshape(r, (1797, -1)) for r in jax.tree.leaves(rows)], 1)
    products = rows.astype(float) @ rows.T  # a mean gradient's squared norm is a mean of these
    small, big = np.empty((2, 600))
    for i in range(600):
        drawn = rng.integers(1797, size=128)
        table = products[np.ix_(drawn, drawn)].reshape(8, 16, 8, 16).mean((1, 3))
        small[i], big[i] = np.trace(table) / 8, table.mean()
    found = noise_scale(*estimate(small, big, 16, 128))
    assert found.resolved and found.high < 1.5 * found.low
    assert found.low < exact.noise_scale < found.high
    assert found.noise_scale == pytest.approx(exact.noise_scale, rel=0.1)
    assert found.grad_variance_trace == pytest.approx(exact.grad_variance_trace, rel=0.03)
