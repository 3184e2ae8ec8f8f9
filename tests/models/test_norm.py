import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.models.norm import GhostBatchNorm, local_response_norm
from scaling.train.step import AXIS, on_devices

MOMENTUM, EPSILON = 0.9, 1e-5


def _written_out(x, ghost, mean, var):
    """Hoffer 2017, Algorithm 1, group by group in float64: (y, running mean, running variance)."""
    x, y = np.float64(x), np.empty(x.shape)
    axes = tuple(range(x.ndim - 1))
    for start in range(0, len(x), ghost):
        group = x[start : start + ghost]
        mu, sigma2 = group.mean(axes), group.var(axes)
        y[start : start + ghost] = (group - mu) / np.sqrt(sigma2 + EPSILON)
        mean = MOMENTUM * mean + (1 - MOMENTUM) * mu
        var = MOMENTUM * var + (1 - MOMENTUM) * sigma2
    return y, mean, var


def _update(x, ghost, devices, accum, stats):
    """One update's outputs and running statistics, laid out as the training step does."""
    module = GhostBatchNorm(ghost, AXIS)
    rows = x.reshape(accum, devices, -1, *x.shape[1:]).swapaxes(0, 1)
    params = {"scale": jnp.ones(x.shape[-1]), "bias": jnp.zeros(x.shape[-1])}

    def update(stats, rows):
        def micro(stats, x):
            variables = {"params": params, "batch_stats": stats}
            y, new = module.apply(variables, x, train=True, mutable=["batch_stats"])
            return new["batch_stats"], y

        stats, y = jax.lax.scan(micro, stats, rows)
        return jax.lax.pmean(stats, AXIS), y

    mapped = on_devices(update, jax.devices()[:devices], (None, 0), (None, 0))
    stats, y = mapped(stats, rows)
    return y.swapaxes(0, 1).reshape(x.shape), stats


@pytest.mark.parametrize(
    "ghost, devices, accum",
    [(8, 1, 1), (8, 1, 3), (8, 2, 1), (8, 3, 2), (24, 8, 1), (48, 4, 1), (12, 8, 2), (48, 3, 1)],
)
def test_ghost_batch_norm_on_any_layout(ghost, devices, accum):
    rng = np.random.RandomState(0)
    x = (rng.randn(48, 3, 5) * 2 + 3).astype(np.float32)
    mean, var = rng.randn(5), rng.rand(5) + 1
    y, stats = _update(
        x, ghost, devices, accum, {"mean": jnp.float32(mean), "var": jnp.float32(var)}
    )
    expected, mean, var = _written_out(x, ghost, mean, var)
    np.testing.assert_allclose(y, expected, atol=2e-5)
    np.testing.assert_allclose(stats["mean"], mean, rtol=2e-5)
    np.testing.assert_allclose(stats["var"], var, rtol=2e-5)


def test_one_group_is_flax_batch_norm():
    x = np.random.RandomState(0).randn(16, 4, 5).astype(np.float32)
    ours, flax = GhostBatchNorm(16), nn.BatchNorm(momentum=MOMENTUM, epsilon=EPSILON)
    variables = ours.init(jax.random.key(0), x, train=False)
    y, new = ours.apply(variables, x, train=True, mutable=["batch_stats"])
    expected, updated = flax.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
    np.testing.assert_allclose(y, expected, atol=1e-5)
    for name in ("mean", "var"):
        np.testing.assert_allclose(
            new["batch_stats"][name], updated["batch_stats"][name], rtol=1e-5
        )
    variables = {**variables, **new}
    np.testing.assert_allclose(
        ours.apply(variables, x, train=False),
        flax.apply(variables, x, use_running_average=True),
        atol=1e-5,
    )


@pytest.mark.parametrize("ghost, devices", [(6, 1), (12, 2), (24, 4), (12, 4), (3, 8)])
def test_gradient_through_statistics_across_devices(ghost, devices):
    """The sum over devices of local gradients is the gradient of the whole."""
    rng = np.random.RandomState(1)
    x, w = rng.randn(24, 5).astype(np.float32), rng.randn(5, 4).astype(np.float32)
    target = rng.randn(24, 4).astype(np.float32)

    def whole(w):
        h = (x @ w).reshape(-1, ghost, 4)
        h = (h - h.mean(1, keepdims=True)) / jnp.sqrt(h.var(1, keepdims=True) + EPSILON)
        return jnp.sum((h.reshape(24, 4) - target) ** 2)

    variables = GhostBatchNorm(ghost).init(jax.random.key(0), jnp.ones((1, 4)), train=False)

    def local(w, x, target):
        def loss(w):
            module = GhostBatchNorm(ghost, AXIS)
            h, _ = module.apply(variables, x @ w, train=True, mutable=["batch_stats"])
            return jnp.sum((h - target) ** 2)

        return jax.lax.psum(jax.grad(loss)(w), AXIS)

    mapped = on_devices(local, jax.devices()[:devices], (None, 0, 0))
    split = lambda a: a.reshape(devices, -1, a.shape[-1])
    np.testing.assert_allclose(mapped(w, split(x), split(target)), jax.grad(whole)(w), atol=2e-4)


def test_statistics_are_float32_in_bfloat16():
    x = jnp.full((64, 3), 1000.0).at[::2].add(4.0).astype(jnp.bfloat16)
    module = GhostBatchNorm(64, dtype=jnp.bfloat16)
    variables = module.init(jax.random.key(0), x, train=False)
    y, new = module.apply(variables, x, train=True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    assert new["batch_stats"]["var"].dtype == jnp.float32
    np.testing.assert_allclose(np.float32(jnp.abs(y)), 1.0, atol=1e-2)


def test_a_group_that_does_not_fit_is_refused():
    x = jnp.ones((6, 3))
    variables = GhostBatchNorm(4).init(jax.random.key(0), x, train=False)
    with pytest.raises(ValueError, match="ghost batch 4"):
        GhostBatchNorm(4).apply(variables, x, train=True, mutable=["batch_stats"])


@pytest.mark.parametrize("channels", [3, 16])
def test_local_response_norm_is_its_formula(channels):
    """Krizhevsky 2012, section 3.3, channel by channel in float64, with Caffe's alpha / n and k."""
    x = 100 * np.random.default_rng(0).normal(size=(2, 3, 4, channels))
    expected = np.empty_like(x)
    for i in range(channels):
        near = x[..., max(i - 2, 0) : i + 3]
        expected[..., i] = x[..., i] / (1 + 1e-4 / 5 * np.square(near).sum(-1)) ** 0.75
    np.testing.assert_allclose(local_response_norm(jnp.float32(x)), expected, rtol=1e-5)
    assert np.abs(expected / x - 1).max() > 0.1  # so that the norm does something here

    half = local_response_norm(jnp.bfloat16(x / 100))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_array_equal(half, jnp.bfloat16(x / 100))  # 1 part in 10^4: below its digits
