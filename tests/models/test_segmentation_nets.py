"""Tiramisu, DeepLabv3+ and DeepCAM: sizes and operations, and the nets written out in NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from scaling import flops
from scaling.errors import UserError
from scaling.models import build_model

SUMMIT, DAINT = {}, {"filters": 48}
SMALL = {"growth": 8, "blocks": (2, 2, 2), "filters": 16, "kernel": 3}
CASES = [  # parameters and operations of an example in training at 768x1152, in 10^12
    ("tiramisu", SUMMIT, 16, 7_801_315, 4.1878),
    ("tiramisu", DAINT, 4, 7_413_523, 3.7026),
    ("tiramisu", SMALL, 16, 47_635, 0.0966),
    ("deeplab", {}, 16, 43_718_883, 13.0242),
    ("deeplab", {"norm": "none"}, 16, 43_669_251, 13.0242),
    ("deepcam", {}, 16, 56_454_720, 1.9660),
]


def images(channels, height=768, width=1152):
    return jax.ShapeDtypeStruct((1, height, width, channels), jnp.float32)


def parameters(model, x):
    init = lambda key, x: model.init(key, x, train=False)["params"]
    return jax.eval_shape(init, jax.eval_shape(jax.random.key, 0), x)


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name, options, channels, size, tera", CASES)
def test_parameters_and_operations_are_those_of_the_authors_nets(
    name, options, channels, size, tera
):
    model, x = build_model(name, 3, **options), images(channels)
    assert count(parameters(model, x)) == size
    assert flops.TRAINING * flops.forward(model, x) / 1e12 == pytest.approx(tera, abs=5e-5)


@pytest.mark.parametrize(
    "options, channels, read", [(SUMMIT, 16, 7_504_835), (DAINT, 4, 7_134_211)]
)
def test_parameters_of_tiramisu_that_are_read(options, channels, read):
    params = parameters(build_model("tiramisu", 3, **options), images(channels))
    assert count(params) - count(params["transition4"]) == read


def test_published_operations_of_deeplab_count_the_zeros_around_atrous_convolutions():
    """TensorFlow cuts an image with a dilation r into r x r smaller ones, each padded with zeros,
    so a count of its plain convolutions is larger: 14.41 in Kurth 2018, of 13.02."""

    def padded(equation):
        dilation = equation.params.get("rhs_dilation", (1, 1))[0]
        _, height, width, _ = equation.invars[0].aval.shape
        sides = [math.ceil((n + 2 * dilation) / dilation) * dilation for n in (height, width)]
        return math.prod(sides) / (height * width) if dilation > 1 else 1.0

    model, x = build_model("deeplab", 3, conv_method="xla"), images(16)
    variables = jax.eval_shape(
        lambda key, x: model.init(key, x, train=False), jax.eval_shape(jax.random.key, 0), x
    )
    found = flops.products(lambda v, x: model.apply(v, x, train=False), variables, x)
    total = flops.TRAINING * sum(operations * padded(each) for each, operations in found)
    assert total / 1e12 == pytest.approx(14.4095, abs=5e-4)


def test_a_deeplab_of_another_width_is_in_proportion():
    x = images(16)
    whole, half = (flops.forward(build_model("deeplab", 3, width=w), x) for w in (64, 32))
    assert 3.8 < whole / half < 4.0


@pytest.mark.parametrize(
    "name, factor, options",
    [("tiramisu", 16, {}), ("tiramisu", 4, SMALL), ("deeplab", 8, {}), ("deepcam", 16, {})],
)
def test_images_that_cannot_be_halved_are_told(name, factor, options):
    x = images(4, 3 * factor, 3 * factor + factor // 2)
    with pytest.raises(UserError, match=f"a height and a width that {factor} divides"):
        parameters(build_model(name, 3, **options), x)


# ---- The same nets in NumPy, float64 ----


def conv(x, layer, stride=1, dilation=1):
    """SAME convolution by the windows of every pixel, and its bias."""
    kernel = layer["kernel"]
    spread = (len(kernel) - 1) * dilation + 1
    total = [max((-(-n // stride) - 1) * stride + spread - n, 0) for n in x.shape[1:3]]
    padded = np.pad(x, ((0, 0), *((t // 2, t - t // 2) for t in total), (0, 0)))
    windows = sliding_window_view(padded, (spread, spread), (1, 2))
    windows = windows[:, ::stride, ::stride, :, ::dilation, ::dilation]
    if kernel.shape[2] == 1 < x.shape[3]:  # every channel alone
        return np.einsum("nhwcij,ijc->nhwc", windows, kernel[:, :, 0])
    return np.einsum("nhwcij,ijcf->nhwf", windows, kernel, optimize=True) + layer.get("bias", 0.0)


def double(x, layer):
    """Each pixel spreads its window, which starts one before twice its place."""
    n, h, w, _ = x.shape
    y = np.zeros((n, 2 * h + 1, 2 * w + 1, layer["kernel"].shape[3]))
    # lax.conv_transpose does not turn the kernel, hence the window runs backwards.
    for i, j in np.ndindex(3, 3):
        y[:, i : i + 2 * h : 2, j : j + 2 * w : 2] += x @ layer["kernel"][2 - i, 2 - j]
    return y[:, : 2 * h, : 2 * w] + layer.get("bias", 0.0)


def relu(x):
    return np.maximum(x, 0.0)


def pool(x):
    """3x3 maximum of stride 2, SAME: of an even size, one pixel after the last."""
    padded = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=-np.inf)
    return sliding_window_view(padded, (3, 3), (1, 2))[:, ::2, ::2].max((-2, -1))


def join(*parts):
    return np.concatenate(parts, -1)


class Norms:
    """Batch norms on their running statistics; without any, half of the input or the input."""

    def __init__(self, variables, none):
        self.stats, self.none = variables.get("batch_stats"), none

    def __call__(self, x, params, *path):
        if self.stats is None:
            return self.none * x
        stats = self.stats
        for name in path:
            params, stats = params[name], stats[name]
        mean, var = (stats[key] / stats["weight"] for key in ("mean", "var"))
        return (x - mean) / np.sqrt(var + 1e-5) * params["scale"] + params["bias"]


def tiramisu(x, params, norms):
    def layer(x, p, where, stride=1):
        return relu(norms(conv(x, p["Conv_0"], stride), params, *where, "GhostBatchNorm_0"))

    def block(x, name):
        new = []
        for i in range(2):
            p = params[name][f"Layer_{i}"]
            new.append(layer(join(x, *new), p, (name, f"Layer_{i}")))
        return join(x, *new), join(*new)

    x = layer(x, params["stem"], ("stem",))
    skips = []
    for i in range(3):
        x, new = block(x, f"down{i}")
        skips.append(x)
        x = layer(x, params[f"transition{i}"], (f"transition{i}",), stride=2)
    for i in (1, 0):
        x, new = block(join(double(new, params[f"larger{i}"]), skips[i]), f"up{i}")
    return conv(x, params["head"])


def deeplab(x, params, norms):
    normal = norms.stats is not None

    def layer(x, name, dilation=1):
        return relu(norms(conv(x, params[name], 1, dilation), params, f"{name}_norm"))

    def unit(x, name, stride, dilation):
        p = params[name]
        y = norms(x, params, name, "GhostBatchNorm_0")
        y = relu(y) if normal else y
        shortcut = (
            conv(y, p["projection"], stride) if "projection" in p else x[:, ::stride, ::stride]
        )
        first = relu(norms(conv(y, p["Conv_0"]), params, name, "GhostBatchNorm_1"))
        y = conv(first, p["Conv_1"], stride, dilation)
        y = relu(norms(y, params, name, "GhostBatchNorm_2"))
        return conv(y, p["Conv_2"]) + shortcut, first

    y, low = pool(conv(x, params["stem"], 2)), None
    for block, units, dilation in ((1, 3, 1), (2, 4, 1), (3, 6, 2), (4, 3, 4)):
        for i in range(1, units + 1):
            stride = 2 if (block, i) == (1, 3) else 1
            y, first = unit(y, f"block{block}_unit{i}", stride, dilation)
            low = first if stride == 2 else low
    mean = layer(y.mean((1, 2), keepdims=True), "aspp_mean")
    rates = [layer(y, f"aspp{rate}", rate) for rate in (12, 24, 36)]
    y = join(layer(y, "aspp"), *rates, np.broadcast_to(mean, (*y.shape[:3], mean.shape[3])))
    y = join(double(layer(y, "aspp_out"), params["double1"]), layer(low, "low"))
    y = layer(layer(y, "decoder1"), "decoder2")
    y = double(double(y, params["double2"]), params["double3"])
    y = join(y, conv(conv(x, params["skip1"]), params["skip2"]))
    return conv(conv(conv(y, params["full1"]), params["full2"]), params["head"])


def deepcam(x, params, norms):
    def separable(x, p, stride=1, dilation=1):
        return conv(conv(x, p["Conv_0"], stride, dilation), p["Conv_1"])

    def layer(x, name, way=conv, *args):
        return relu(norms(way(x, params[name], *args), params, f"{name}_norm"))

    def block(x, name, convs, stride=1, last=True, after=True):
        p, y = params[name], x
        for i in range(convs):
            y = separable(relu(y) if i else y, p[f"Separable_{i}"])
            y = norms(y, params, name, f"GhostBatchNorm_{i}")
        y = separable(y, p[f"Separable_{convs}"], stride) if last else y
        if "projection" in p:
            x = norms(conv(x, p["projection"], stride), params, name, "projection_norm")
        return relu(x + y) if after else x + y

    y = layer(layer(x, "stem1", conv, 2), "stem2")
    low = relu(block(y, "entry1", 2, 2, after=False))
    y = block(block(low, "entry2", 2, 2), "entry3", 2, 2)
    y = block(y, "middle1", 3, last=False)
    y = block(y, "exit", 2, after=False)
    for i in (1, 2, 3):
        y = layer(y, f"exit{i}", separable, 1, 2)
    mean = conv(y.mean((1, 2), keepdims=True), params["aspp_mean"])
    mean = relu(params["aspp_mean_scale"] * mean + params["aspp_mean_bias"])
    rates = [layer(y, f"aspp{rate}", conv, 1, rate) for rate in (6, 12, 18)]
    y = join(layer(y, "aspp"), *rates, np.broadcast_to(mean, (*y.shape[:3], 256)))
    y = layer(layer(layer(y, "aspp_out"), "double1", double), "double2", double)
    y = layer(layer(join(y, layer(low, "low")), "decoder1"), "decoder2")
    return double(layer(conv(y, params["decoder3"]), "double3", double), params["head"])


NETS = {
    "tiramisu": (tiramisu, ("tiramisu", SMALL), 1.0),
    "tiramisu, batch norm": (tiramisu, ("tiramisu", SMALL | {"norm": "batch"}), 1.0),
    "deeplab": (deeplab, ("deeplab", {"width": 4}), 0.5),
    "deeplab, no norm": (deeplab, ("deeplab", {"width": 4, "norm": "none"}), 0.5),
    "deepcam": (deepcam, ("deepcam", {"middle": 1}), 1.0),
}


def built(name, options, rows=2, height=16, width=32):
    """(model, every tensor drawn at a size that keeps activations, images)."""
    rng = np.random.default_rng(0)
    model = build_model(name, 3, **options)
    x = rng.normal(size=(rows, height, width, 4))
    init = lambda: model.init(jax.random.key(0), jnp.float32(x), train=False)

    def draw(path, leaf):
        values = rng.normal(size=leaf.shape)
        kinds = {"var": np.square(values) + 0.5, "weight": np.float64(0.75)}
        kinds["kernel"] = values * (2 / max(np.prod(leaf.shape[:-1]), 1)) ** 0.5
        return kinds.get(path[-1].key, values)

    return model, jax.tree.map_with_path(draw, jax.eval_shape(init)), x


@pytest.mark.parametrize("case", NETS)
def test_nets_written_out(case):
    written, (name, options), none = NETS[case]
    model, variables, x = built(name, options)
    expected = written(x, variables["params"], Norms(variables, none))
    apply = jax.jit(lambda variables, x: model.apply(variables, x, train=False))
    found = apply(*jax.tree.map(jnp.float32, (variables, x)))
    assert found.shape == (2, 16, 32, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def gradient(name, options):
    """(what a backward pass is made from: the gradient and the new statistics as a function of the
    parameters, the parameters), in training with dropout."""
    model, variables, x = built(name, options, rows=4, height=32)
    variables, x = jax.tree.map(jnp.float32, (variables, x))

    def loss(params):
        y, new = model.apply(
            variables | {"params": params},
            x,
            train=True,
            positions=jnp.arange(4),
            rngs={"dropout": jax.random.key(0)},
            mutable=["batch_stats"],
        )
        return jnp.mean(jnp.square(y)), new.get("batch_stats")

    return loss, variables["params"]


@pytest.mark.parametrize(
    "name, options",
    [
        ("tiramisu", SMALL | {"norm": "batch", "blocks": (2, 1), "dropout": 0.2}),
        ("resnet", {"depth": 8, "norm": "ghost", "ghost_batch": 2, "dropout": 0.2}),
    ],
)
def test_blocks_computed_again_change_no_number(name, options):
    """Gradient and new running statistics."""
    found = []
    for remat in (False, True):
        loss, params = gradient(name, options | {"remat": remat})
        found.append(jax.jit(jax.grad(loss, has_aux=True))(params))
    assert jax.tree.structure(found[0]) == jax.tree.structure(found[1])
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * np.abs(one).max())


@pytest.mark.parametrize(
    "name, options",
    [
        ("tiramisu", SMALL),
        ("deeplab", {"width": 4}),
        ("deepcam", {"middle": 1}),
        ("resnet", {"depth": 14}),
    ],
)
def test_blocks_computed_again_keep_fewer_numbers_for_the_backward_pass(name, options):
    def kept(remat):
        loss, params = gradient(name, options | {"remat": remat})
        pull_back = jax.eval_shape(lambda p: jax.vjp(loss, p, has_aux=True)[1], params)
        return count(pull_back)

    parameters = count(gradient(name, options)[1])
    assert kept(True) - parameters < 0.6 * (kept(False) - parameters)


def test_statistics_that_nothing_reads_are_kept():
    loss, params = gradient("deeplab", {"width": 4})
    assert "unread_norm" in params and "unread_norm" in jax.eval_shape(loss, params)[1]
