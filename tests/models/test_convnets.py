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


@pytest.mark.parametrize(
    "options",
    [{}, {"preactivation": True}, {"depth": 10, "width": 2, "preactivation": True}, {"depth": 50}],
    ids=["He 2015", "He 2016", "wide", "bottleneck"],
)
def test_a_resnet_is_its_layers(options):
    """Without norm; in NumPy, every convolution and every ReLU in its place."""
    model, variables, x = _random("resnet", (16, 16, 3), norm="none", **options)
    before, wide = options.get("preactivation"), options.get("width", 1) > 1
    bottleneck, first_relu = options.get("depth") == 50, lambda x: _relu(x) if before else x
    p = variables["params"]
    y = _conv(x, p["stem"], 2 if bottleneck else 1)
    y = y if before else _relu(y)
    if bottleneck:
        y = _pool(np.pad(y, ((0, 0), (0, 1), (0, 1), (0, 0))))
    for name in sorted(k for k in p if k.startswith("stage")):
        block, first = p[name], name.endswith("block1")
        stride = 2 if first and not name.startswith("stage1") else 1
        into = first_relu(y)
        out = _conv(into, block["Conv_0"], 1 if bottleneck else stride)
        out = _conv(_relu(out), block["Conv_1"], stride if bottleneck else 1)
        if bottleneck:
            out = _conv(_relu(out), block["Conv_2"])
        if out.shape == y.shape:
            short = y
        elif wide or bottleneck:
            short = _conv(into, block["projection"], stride)
        else:
            short = y[:, ::stride, ::stride]
            short = np.pad(short, ((0, 0),) * 3 + ((0, out.shape[-1] - short.shape[-1]),))
        y = out + short if before else _relu(out + short)
    y = first_relu(y).mean((1, 2))
    _assert_gives(model, variables, x, _dense(y, p["head"]))


@pytest.mark.parametrize(
    "name, options",
    [
        ("resnet", {"depth": 10, "width": 2, "preactivation": True}),
        ("simple_cnn", {"size": "narrow"}),
        ("vgg", {"hidden": (64,)}),
    ],
)
def test_dropout_is_in_the_nets_that_have_it(name, options):
    """Its share of the values of every layer that it is after."""
    model, variables, x = _random(name, (32, 32, 3), norm="none", dropout=0.5, **options)
    variables, x = jax.tree.map(jnp.float32, (variables, x))
    _, seen = model.apply(
        variables,
        x,
        train=True,
        positions=jnp.arange(len(x)),
        rngs={"dropout": jax.random.key(0)},
        capture_intermediates=lambda module, _: isinstance(module, Dropout),
        mutable=["intermediates"],
    )
    dropped = jax.tree.leaves(seen)
    assert len(dropped) == {"resnet": 3, "simple_cnn": 1, "vgg": 1}[name]
    assert all(np.mean(np.asarray(layer) == 0) >= 0.45 for layer in dropped)


@pytest.mark.parametrize("name, stages", [("simple_cnn", (1, 1)), ("vgg", (2, 2, 3))])
def test_stages_of_convolutions_are_their_layers(name, stages):
    """A ReLU after each convolution, a 2x2 pool after each stage, one hidden dense layer."""
    model, variables, x = _random(name, (32, 32, 3), norm="none")
    p, y, place = variables["params"], x, 0
    for convolutions in stages:
        for _ in range(convolutions):
            y, place = _relu(_conv(y, p[f"Conv_{place}"])), place + 1
        n, h, w, c = y.shape
        y = y.reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))
    hidden = _relu(_dense(y.reshape(len(y), -1), p["Dense_0"]))
    _assert_gives(model, variables, x, _dense(hidden, p["Dense_1"]))
