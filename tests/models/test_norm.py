import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.models.norm import GhostBatchNorm, local_response_norm
from scaling.train.step import AXIS, on_devices

MOMENTUM, EPSILON = 0.9, 1e-5


def _written_out(x, ghost, mean, var, weight):
    """Hoffer 2017, Algorithm 1, group by group in float64: (y, running mean, variance, weight)."""
    x, y = np.float64(x), np.empty(x.shape)
    axes = tuple(range(x.ndim - 1))
    for start in range(0, len(x), ghost):
        group = x[start : start + ghost]
        mu, sigma2 = group.mean(axes), group.var(axes)
        y[start : start + ghost] = (group - mu) / np.sqrt(sigma2 + EPSILON)
        mean = MOMENTUM * mean + (1 - MOMENTUM) * mu
        var = MOMENTUM * var + (1 - MOMENTUM) * sigma2
        weight = MOMENTUM * weight + (1 - MOMENTUM)
    return y, mean, var, weight


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


LAYOUTS = pytest.mark.parametrize(
    "ghost, devices, accum",
    [(8, 1, 1), (8, 1, 3), (8, 2, 1), (8, 3, 2), (24, 8, 1), (48, 4, 1), (12, 8, 2), (48, 3, 1)],
)


@LAYOUTS
def test_ghost_batch_norm_on_any_layout(ghost, devices, accum):
    rng = np.random.RandomState(0)
    x = (rng.randn(48, 3, 5) * 2 + 3).astype(np.float32)
    before = {"mean": rng.randn(5), "var": rng.rand(5) + 1, "weight": np.float64(0.4)}
    y, stats = _update(x, ghost, devices, accum, jax.tree.map(jnp.float32, before))
    expected, *after = _written_out(x, ghost, **before)
    np.testing.assert_allclose(y, expected, atol=2e-5)
    for name, value in zip(before, after, strict=True):
        np.testing.assert_allclose(stats[name], value, rtol=2e-5, err_msg=name)


def _variables(channels, stats):
    params = {"scale": jnp.ones(channels), "bias": jnp.zeros(channels)}
    return {"params": params, "batch_stats": stats}


@LAYOUTS
def test_evaluation_after_few_updates_is_on_the_statistics_seen(ghost, devices, accum):
    """Their weighted mean, weights (1 - m) m^(k - i) / (1 - m^k) of k groups, in float64: none is
    left for where the averages started."""
    rng = np.random.RandomState(0)
    module = GhostBatchNorm(ghost)
    x = (rng.randn(2, 48, 3, 5) * 2 + 3).astype(np.float32)
    stats = module.init(jax.random.key(0), x[0], train=False)["batch_stats"]
    untouched = module.apply(_variables(5, stats), x[0], train=False)
    np.testing.assert_allclose(untouched, x[0] / np.sqrt(1 + EPSILON), rtol=1e-6)

    groups = np.float64(x).reshape(-1, ghost * 3, 5)
    for update, rows in enumerate(x, 1):
        _, stats = _update(rows, ghost, devices, accum, stats)
        seen = groups[: update * 48 // ghost]
        weights = (1 - MOMENTUM) * MOMENTUM ** np.arange(len(seen))[::-1]
        weights /= 1 - MOMENTUM ** len(seen)
        mean, var = weights @ seen.mean(1), weights @ seen.var(1)
        np.testing.assert_allclose(
            module.apply(_variables(5, stats), rows, train=False),
            (rows - mean) / np.sqrt(var + EPSILON),
            atol=2e-5,
        )


def test_one_group_is_flax_batch_norm():
    x = np.random.RandomState(0).randn(16, 4, 5).astype(np.float32)
    ours, flax = GhostBatchNorm(16), nn.BatchNorm(momentum=MOMENTUM, epsilon=EPSILON)
    variables = ours.init(jax.random.key(0), x, train=False)
    y, new = ours.apply(variables, x, train=True, mutable=["batch_stats"])
    start = {**variables, "batch_stats": {"mean": jnp.zeros(5), "var": jnp.ones(5)}}
    expected, updated = flax.apply(start, x, use_running_average=False, mutable=["batch_stats"])
    np.testing.assert_allclose(y, expected, atol=1e-5)
    stats, theirs = new["batch_stats"], updated["batch_stats"]
    weight = float(stats["weight"])
    assert weight == pytest.approx(1 - MOMENTUM)
    np.testing.assert_allclose(stats["mean"], theirs["mean"], rtol=1e-5)
    # Flax starts its variance at 1 and keeps that start.
    np.testing.assert_allclose(stats["var"] + MOMENTUM, theirs["var"], rtol=1e-5)
    theirs = {"mean": stats["mean"] / weight, "var": stats["var"] / weight}
    np.testing.assert_allclose(
        ours.apply({**variables, **new}, x, train=False),
        flax.apply({**variables, "batch_stats": theirs}, x, use_running_average=True),
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
