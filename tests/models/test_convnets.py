"""ShallowCNN and AlexNet against their layers, one after the other in NumPy float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from scaling.models import build_model
from scaling.models.layers import Dropout
from scaling.models.norm import local_response_norm


def _conv(x, layer, stride=1, groups=1):
    """SAME convolution by the windows of every pixel."""
    kernel = layer["kernel"]
    size = len(kernel)
    total = [max((-(-n // stride) - 1) * stride + size - n, 0) for n in x.shape[1:3]]
    padded = np.pad(x, ((0, 0), *((t // 2, t - t // 2) for t in total), (0, 0)))
    windows = sliding_window_view(padded, (size, size), (1, 2))[:, ::stride, ::stride]
    parts = zip(np.split(windows, groups, 3), np.split(kernel, groups, 3), strict=True)
    y = np.concatenate([np.einsum("nhwcij,ijcf->nhwf", *part, optimize=True) for part in parts], -1)
    return y + layer.get("bias", 0.0)


def _dense(x, layer):
    return x @ layer["kernel"] + layer.get("bias", 0.0)


def _pool(x):
    return sliding_window_view(x, (3, 3), (1, 2))[:, ::2, ::2].max((-2, -1))


def _relu(x):
    return np.maximum(x, 0.0)


def _shallow(x, p, norm):
    for i in range(2):
        x = _relu(norm(i)(_pool(_conv(x, p[f"Conv_{i}"]))))
    x = x.reshape(len(x), -1)
    for i in range(2):
        x = _relu(norm(2 + i)(_dense(x, p[f"Dense_{i}"])))
    return _dense(x, p["Dense_2"])


def _alexnet(x, p, norm, groups):
    response = lambda x: np.float64(local_response_norm(jnp.float32(x)))
    plain = not norm
    norm = norm or (lambda i: lambda x: x)
    x = _relu(norm(0)(_conv(x, p["Conv_0"], 4)))
    x = _pool(response(x) if plain else x)
    x = _relu(norm(1)(_conv(x, p["Conv_1"], 1, groups)))
    x = _pool(response(x) if plain else x)
    x = _relu(norm(2)(_conv(x, p["Conv_2"])))
    x = _relu(norm(3)(_conv(x, p["Conv_3"], 1, groups)))
    x = _pool(_relu(norm(4)(_conv(x, p["Conv_4"], 1, groups))))
    x = x.reshape(len(x), -1)
    for i in range(2):
        x = _relu(norm(5 + i)(_dense(x, p[f"Dense_{i}"])))
    return _dense(x, p["Dense_2"])


def _batch_norm(params, stats):
    def norm(i):
        p, s = params[f"GhostBatchNorm_{i}"], stats[f"GhostBatchNorm_{i}"]
        mean, var = (s[key] / s["weight"] for key in ("mean", "var"))
        return lambda x: (x - mean) / np.sqrt(var + 1e-5) * p["scale"] + p["bias"]

    return norm


def _random(name, shape, **options):
    """(model, its variables, images), every tensor drawn, so that scales are negative too."""
    rng = np.random.default_rng(0)
    model = build_model(name, 7, **options)
    # Bright, so that responses are large enough for their normalisation to be seen.
    x = 50 * rng.normal(size=(2, *shape))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False))

    def draw(path, leaf):
        values = rng.normal(size=leaf.shape)
        if path[-1].key == "var":
            return np.square(values) + 0.5
        if path[-1].key == "weight":  # of running statistics
            return np.float64(0.75)
        return values * (2 / np.prod(leaf.shape[:-1])) ** 0.5 if values.ndim > 1 else values

    return model, jax.tree.map_with_path(draw, shapes), x


def _assert_gives(model, variables, x, expected):
    apply = jax.jit(lambda variables, x: model.apply(variables, x, train=False))
    logits = apply(*jax.tree.map(jnp.float32, (variables, x)))
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_shallow_cnn_is_its_layers():
    model, variables, x = _random("shallow_cnn", (18, 17, 3))
    params, stats = variables["params"], variables["batch_stats"]
    _assert_gives(model, variables, x, _shallow(x, params, _batch_norm(params, stats)))


@pytest.mark.parametrize("groups, norm", [(2, "none"), (1, "none"), (2, "batch")])
def test_alexnet_is_its_layers(groups, norm):
    """On the smallest images that it takes."""
    model, variables, x = _random("alexnet", (57, 60, 3), groups=groups, norm=norm)
    params, stats = variables["params"], variables.get("batch_stats")
    expected = _alexnet(x, params, stats and _batch_norm(params, stats), groups)
    _assert_gives(model, variables, x, expected)


@pytest.mark.parametrize(
    "name, size, widths", [("shallow_cnn", 8, (384, 192)), ("alexnet", 57, (4096, 4096))]
)
def test_half_of_both_hidden_layers_is_dropped_in_training(name, size, widths):
    model, variables, x = _random(name, (size, size, 3), norm="none")
    variables, x = jax.tree.map(jnp.float32, (variables, x))

    @functools.partial(jax.jit, static_argnums=2)
    def hidden(variables, x, train):
        _, seen = model.apply(
            variables,
            x,
            train=train,
            positions=jnp.arange(len(x)),
            rngs={"dropout": jax.random.key(0)},
            capture_intermediates=lambda module, _: isinstance(module, Dropout),
            mutable=["intermediates"],
        )
        return [seen["intermediates"][f"Dropout_{i}"]["__call__"][0] for i in range(2)]

    trained, evaluated = (hidden(variables, x, train) for train in (True, False))
    assert tuple(layer.shape[-1] for layer in trained) == widths
    for dropped, whole in zip(trained, evaluated, strict=True):
        alive = [np.mean(np.asarray(layer) > 0) for layer in (dropped, whole)]
        assert 0.4 < alive[0] / alive[1] < 0.6
