"""Noise from the gradients of all examples, against closed forms and dense matrices."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling import noise, noise_exact
from scaling.errors import UserError
from scaling.noise import estimate, noise_scale


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


@pytest.mark.parametrize("batch", [1, 7, 50, 100, 256])
def test_moments_of_linear_regression(regression, batch):
    given, _, mean, sigma, _ = regression
    found = noise_exact.per_example_moments(squared_error, *given, batch=batch)
    assert found.grad_sq_norm == pytest.approx(mean @ mean, rel=1e-5)
    assert found.grad_variance_trace == pytest.approx(np.trace(sigma), rel=1e-5)
    assert found.noise_scale == pytest.approx(np.trace(sigma) / (mean @ mean), rel=1e-5)


@pytest.mark.parametrize("batch", [7, 256])
def test_hessian_noise_scale_of_linear_regression(regression, batch):
    given, _, mean, sigma, hessian = regression
    found = noise_exact.hessian_noise_scale(squared_error, *given, batch=batch)
    curvature, trace = mean @ hessian @ mean, np.trace(hessian @ sigma)
    assert found.gradient_curvature == pytest.approx(curvature, rel=1e-5)
    assert found.hessian_variance_trace == pytest.approx(trace, rel=1e-5)
    assert found.noise_scale == pytest.approx(trace / curvature, rel=1e-5)
    assert found.standard_error is None
    # On a quadratic the step of eq. 2.6 gains exactly what eq. 2.7 says.
    (weights, data), rate = given, found.rate_max
    loss = lambda w: 0.5 * np.mean((data["x"].astype(float) @ w - data["y"]) ** 2)
    assert loss(weights) - loss(weights - rate * mean) == pytest.approx(
        found.improvement_max, rel=1e-4
    )
    assert loss(weights - 1.1 * rate * mean) > loss(weights - rate * mean)
    # And the best rate for a batch of 5, by the expected gain over rates.
    rates = np.linspace(0, 2 * rate, 20_001)
    gains = rates * (mean @ mean) - rates**2 / 2 * (curvature + trace / 5)
    assert noise.optimal_rate(5, found.noise_scale, rate) == pytest.approx(
        rates[gains.argmax()], rel=1e-3
    )


def test_sampled_trace_and_its_error(regression):
    given, rows, mean, sigma, hessian = regression
    found = noise_exact.hessian_noise_scale(
        squared_error, *given, batch=64, samples=600, key=jax.random.key(0)
    )
    curvature = mean @ hessian @ mean
    truth = np.trace(hessian @ sigma) / curvature
    # z^T H z = r^T M r has the variance 2 sum M_ij^2 over i != j.
    form = (rows - mean) @ hessian @ (rows - mean).T / 100
    error = math.sqrt(2 * (np.square(form).sum() - np.square(np.diag(form)).sum()) / 600)
    assert found.standard_error == pytest.approx(error / curvature, rel=0.2)
    assert abs(found.noise_scale - truth) < 3 * found.standard_error
    again = noise_exact.hessian_noise_scale(
        squared_error, *given, batch=100, samples=600, key=jax.random.key(0)
    )
    assert again.noise_scale == pytest.approx(found.noise_scale, rel=1e-5)


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
        exact = noise_exact.hessian_noise_scale(mlp_loss, params, examples, batch=16)
        moments = noise_exact.per_example_moments(mlp_loss, params, examples, batch=16)
    mean, sigma = rows.mean(0), np.cov(rows.T, bias=True)
    curvature, trace = mean @ hessian @ mean, np.trace(hessian @ sigma)
    assert curvature > 0 and trace > 0
    assert moments.grad_sq_norm == pytest.approx(mean @ mean, rel=1e-10)
    assert moments.grad_variance_trace == pytest.approx(np.trace(sigma), rel=1e-10)
    assert exact.noise_scale == pytest.approx(trace / curvature, rel=1e-10)
    assert exact.rate_max == pytest.approx(mean @ mean / curvature, rel=1e-10)
    assert exact.improvement_max == pytest.approx((mean @ mean) ** 2 / 2 / curvature, rel=1e-10)
    # The two noise scales are not the same thing.
    assert abs(exact.noise_scale / moments.noise_scale - 1) > 0.05
    single = jax.tree.map(np.float32, params)
    found = noise_exact.hessian_noise_scale(
        mlp_loss, single, (np.float32(examples[0]), examples[1]), 16
    )
    assert found.noise_scale == pytest.approx(exact.noise_scale, rel=1e-4)


def test_a_small_variance_beside_a_large_gradient():
    """Single precision: E|g_i|^2 - |G|^2 would be rounding only."""
    rng = np.random.default_rng(14)
    rows = (1000 + 0.01 * rng.standard_normal((300, 50))).astype(np.float32)
    found = noise_exact.per_example_moments(jnp.vdot, np.zeros(50, np.float32), rows, batch=128)
    assert found.grad_variance_trace == pytest.approx(rows.astype(float).var(0).sum(), rel=1e-3)
    assert found.grad_sq_norm == pytest.approx(5e7, rel=1e-4)


def test_curvature_that_is_not_positive():
    found = noise_exact.hessian_noise_scale(
        lambda w, example: -example * w**2, np.float32(1.0), np.array([1, 2, 3], np.float32)
    )
    # G = -4 and H = -4; the gradients are -2, -4 and -6.
    assert found.gradient_curvature == pytest.approx(-64)
    assert found.hessian_variance_trace == pytest.approx(-4 * 8 / 3)
    assert (found.noise_scale, found.rate_max, found.improvement_max) == (None, None, None)
    flat = noise_exact.per_example_moments(
        lambda w, example: w * example, 1.0, np.array([-1.0, 1.0])
    )
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
    exact = noise_exact.per_example_moments(mlp_loss, params, examples)
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


def test_bad_examples_are_refused():
    loss, weights = squared_error, np.ones(2, np.float32)
    data = {"x": np.ones((3, 2)), "y": np.ones(3)}
    with pytest.raises(UserError, match=r"have the lengths \[2, 3\]"):
        noise_exact.per_example_moments(loss, weights, data | {"y": np.ones(2)})
    with pytest.raises(UserError, match=r"have the lengths \[0\]"):
        noise_exact.per_example_moments(loss, weights, {"x": np.ones((0, 2)), "y": np.ones(0)})
    with pytest.raises(UserError, match="batch is 0"):
        noise_exact.hessian_noise_scale(loss, weights, data, batch=0)
    for samples, key in [(1, jax.random.key(0)), (10, None)]:
        with pytest.raises(UserError, match="at least 2 samples and a key"):
            noise_exact.hessian_noise_scale(loss, weights, data, samples=samples, key=key)
