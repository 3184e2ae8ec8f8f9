import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from scaling.errors import UserError
from scaling.models import layers
from scaling.models.layers import (
    Conv,
    ConvTranspose,
    Dropout,
    convolve,
    convolve_transposed,
    max_pool_2x2,
    max_pool_3x3,
)


def _direct(x, kernel, stride, groups=1, dilation=1):
    """SAME convolution written out in float64."""
    if groups > 1:
        pairs = zip(np.split(x, groups, -1), np.split(kernel, groups, -1), strict=True)
        return np.concatenate([_direct(*pair, stride, 1, dilation) for pair in pairs], -1)
    n, h, w, _ = x.shape
    taps, (c, f) = kernel.shape[:2], kernel.shape[2:]
    spread = np.zeros((*((size - 1) * dilation + 1 for size in taps), c, f))
    spread[::dilation, ::dilation] = kernel
    kernel = spread
    kh, kw = kernel.shape[:2]
    out_h, out_w = -(-h // stride), -(-w // stride)
    pad_h = max((out_h - 1) * stride + kh - h, 0)
    pad_w = max((out_w - 1) * stride + kw - w, 0)
    pads = [(0, 0), (pad_h // 2, pad_h - pad_h // 2), (pad_w // 2, pad_w - pad_w // 2), (0, 0)]
    padded = np.pad(np.float64(x), pads)
    y = np.zeros((n, out_h, out_w, f))
    for i in range(out_h):
        for j in range(out_w):
            window = padded[:, i * stride : i * stride + kh, j * stride : j * stride + kw]
            y[:, i, j] = np.tensordot(window, np.float64(kernel), 3)
    return y


@pytest.mark.parametrize("method", ["xla", "forward_only", "patches"])
@pytest.mark.parametrize(
    "size, kernel, stride, groups, dilation",
    [
        (8, 3, 1, 1, 1),
        (8, 3, 2, 1, 1),
        (7, 3, 2, 1, 1),
        (8, 5, 1, 1, 1),
        (9, 7, 2, 1, 1),
        (8, 1, 1, 1, 1),
        (7, 1, 2, 1, 1),
        (13, 5, 4, 1, 1),
        (8, 3, 1, 2, 1),
        (7, 3, 2, 3, 1),
        (7, 1, 1, 2, 1),
        (8, 3, 1, 1, 2),
        (7, 5, 1, 1, 3),
        (9, 3, 2, 1, 2),
        (10, 3, 2, 2, 4),
        (8, 1, 1, 1, 2),
    ],
)
def test_convolution_and_its_gradients(method, size, kernel, stride, groups, dilation):
    rng = np.random.RandomState(0)
    x = rng.randn(2, size, size + 1, 3 * groups).astype(np.float32)
    w = rng.randn(kernel, kernel, 3, 4 * groups).astype(np.float32)
    _check_convolution(x, w, method, stride, groups, dilation)


@pytest.mark.parametrize("method", ["xla", "forward_only", "patches"])
@pytest.mark.parametrize("stride, dilation", [(1, 1), (2, 1), (1, 2)])
def test_convolution_of_every_channel_alone(method, stride, dilation):
    rng = np.random.RandomState(0)
    x, w = (rng.randn(*shape).astype(np.float32) for shape in ((2, 8, 7, 5), (3, 3, 1, 5)))
    _check_convolution(x, w, method, stride, 5, dilation)
    text = jax.jit(lambda x, w: convolve(x, w, stride, method, dilation)).lower(x, w).as_text()
    assert ("stablehlo.convolution" in text) == (method == "xla")  # not one for each channel


@pytest.mark.parametrize("few", [0, 3])
def test_gradients_of_kernels_of_few_channels_or_many(few, monkeypatch):
    monkeypatch.setattr(layers, "FEW", few)
    rng = np.random.RandomState(0)
    cases = (8, 3, 1, 1), (7, 5, 1, 1), (6, 2, 1, 1), (8, 3, 2, 1), (8, 3, 1, 2)
    for size, kernel, stride, dilation in cases:
        x = rng.randn(2, size, size + 1, 3).astype(np.float32)
        w = rng.randn(kernel, kernel, 3, 4).astype(np.float32)
        _check_convolution(x, w, "forward_only", stride, 1, dilation)


def _check_convolution(x, w, method, stride, groups, dilation):
    """Against `_direct`, and its gradients against derivatives along directions."""
    direct = lambda x, w: _direct(x, w, stride, groups, dilation)
    ours = lambda x, w: convolve(x, w, stride, method, dilation)
    rng, expected = np.random.RandomState(1), direct(x, w)
    np.testing.assert_allclose(ours(x, w), expected, rtol=1e-4, atol=1e-4)

    # A convolution is linear in each argument: its derivative along a direction is exact.
    dy = rng.randn(*expected.shape).astype(np.float32)
    loss = lambda x, w: jnp.sum(ours(x, w) * dy)
    close = lambda a, b: np.testing.assert_allclose(np.sum(a), np.sum(b), rtol=1e-3, atol=1e-3)
    dx, dw = jax.jit(jax.grad(loss, (0, 1)))(x, w)
    for _ in range(3):
        u, v = rng.randn(*x.shape), rng.randn(*w.shape)
        close(dx * u, direct(u, w) * dy)
        close(dw * v, direct(x, v) * dy)


@pytest.mark.parametrize("method", ["xla", "forward_only", "patches"])
@pytest.mark.parametrize("kernel", [3, 5])
def test_transposed_convolution_and_its_gradients_against_lax(method, kernel):
    rng = np.random.RandomState(0)
    shapes = (2, 4, 5, 3), (kernel, kernel, 3, 4), (2, 8, 10, 4)
    x, w, dy = (rng.randn(*shape).astype(np.float32) for shape in shapes)
    theirs = lambda x, w: lax.conv_transpose(x, w, (2, 2), "SAME")
    ours = lambda x, w: convolve_transposed(x, w, method)
    np.testing.assert_allclose(ours(x, w), theirs(x, w), rtol=1e-4, atol=1e-4)
    gradients = (
        jax.grad(lambda x, w, f=f: jnp.sum(f(x, w) * dy), (0, 1))(x, w) for f in (ours, theirs)
    )
    for one, other in zip(*gradients, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_a_transposed_convolution_is_a_plain_one_on_a_cpu():
    """Zeros between pixels as `lhs_dilation` would take XLA's slow way."""
    x, w = jnp.ones((2, 4, 4, 3)), jnp.ones((3, 3, 3, 4))
    loss = lambda x, w: jnp.sum(convolve_transposed(x, w, "forward_only") ** 2)
    text = jax.jit(jax.grad(loss, (0, 1))).lower(x, w).as_text()
    # The gradient of a kernel of so few channels is a matrix product.
    assert text.count("stablehlo.convolution") == 2 and "lhs_dilate = [2, 2]" not in text


def test_patches_under_vmap_are_matrix_products():
    x, w = jnp.ones((3, 2, 8, 8, 3)), jnp.ones((3, 3, 3, 3, 4))
    text = jax.jit(jax.vmap(lambda x, w: convolve(x, w, 1, "patches"))).lower(x, w).as_text()
    assert "convolution" not in text and "dot_general" in text


def test_max_pool():
    x = np.random.RandomState(0).randn(2, 7, 6, 3).astype(np.float32)
    window = (1, 2, 2, 1)
    expected = lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")
    np.testing.assert_array_equal(max_pool_2x2(x), expected)


@pytest.mark.parametrize("size", [(9, 8), (3, 4), (15, 32)])
def test_overlapping_max_pool_and_its_gradient(size):
    x = np.random.RandomState(0).randn(2, *size, 3).astype(np.float32)

    def windows(x):
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "VALID")

    np.testing.assert_array_equal(max_pool_3x3(x), windows(x))
    dy = np.random.RandomState(1).randn(*windows(x).shape).astype(np.float32)
    dx, expected = (jax.grad(lambda x, f=f: jnp.sum(f(x) * dy))(x) for f in (max_pool_3x3, windows))
    np.testing.assert_allclose(dx, expected, rtol=1e-6, atol=1e-6)


def test_images_smaller_than_a_pool_are_told():
    for pool, small in ((max_pool_2x2, (1, 4)), (max_pool_3x3, (5, 2))):
        with pytest.raises(
            UserError, match=f"too small for this model: {small[0]}x{small[1]} pixels"
        ):
            pool(jnp.zeros((1, *small, 3)))


@pytest.mark.parametrize("groups", [1, 2])
def test_conv_parameters_are_flax_ones(groups):
    from flax import linen as nn

    x = jnp.ones((1, 8, 8, 6))
    shapes = lambda m: jax.tree.map(jnp.shape, m.init(jax.random.key(0), x))
    flax_one = nn.Conv(4, (3, 3), feature_group_count=groups)
    assert shapes(Conv(4, (3, 3), use_bias=True, groups=groups)) == shapes(flax_one)


def test_transposed_convolutions_have_flax_parameters_and_a_bias():
    from flax import linen as nn

    x, key = jnp.ones((1, 4, 4, 6)), jax.random.key(0)
    ours, flax_one = ConvTranspose(5, use_bias=True), nn.ConvTranspose(5, (3, 3), (2, 2))
    variables = ours.init(key, x)
    shapes = lambda variables: jax.tree.map(jnp.shape, variables)
    assert shapes(variables) == shapes(flax_one.init(key, x))
    variables["params"]["bias"] += 3.0
    np.testing.assert_allclose(ours.apply(variables, x), flax_one.apply(variables, x), rtol=1e-5)


def test_groups_that_do_not_divide_the_channels_are_told():
    with pytest.raises(UserError, match="4 groups do not divide a convolution of 6 to 8 channels"):
        Conv(8, groups=4).init(jax.random.key(0), jnp.ones((1, 8, 8, 6)))


def test_dropout_depends_on_the_example_alone():
    x = np.random.RandomState(0).randn(12, 50).astype(np.float32)
    layer = Dropout(0.4)

    def apply(rows, positions):
        rngs = {"dropout": jax.random.key(3)}
        return layer.apply({}, x[rows], train=True, positions=jnp.asarray(positions), rngs=rngs)

    whole = apply(slice(None), range(12))
    parts = [apply(slice(i, i + 4), range(i, i + 4)) for i in (0, 4, 8)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    kept = np.asarray(whole) != 0
    np.testing.assert_allclose(np.asarray(whole)[kept], (x / 0.6)[kept], rtol=1e-6)
    assert abs(kept.mean() - 0.6) < 0.06
    assert not np.array_equal(kept[0], kept[1])


def test_dropout_is_off_in_evaluation():
    x = jnp.ones((2, 5))
    np.testing.assert_array_equal(Dropout(0.9).apply({}, x, train=False, positions=None), x)
