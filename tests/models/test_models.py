import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling import models
from scaling.errors import UserCodeError, UserError
from scaling.models import (
    build_model,
    check_statistics,
    couples_examples,
    ghost_batch_of,
    model_options,
    register,
)
from scaling.models.norm import GhostBatchNorm, GroupNorm, make_norm
from scaling.tasks import Classification
from scaling.train.point import shapes_of_variables

MNIST, CIFAR, IMAGENET = (28, 28, 1), (32, 32, 3), (224, 224, 3)


def _count(name, shape, classes, **options):
    model = build_model(name, classes, **options)
    init = lambda: model.init(jax.random.key(0), jnp.zeros((1, *shape)), train=False)["params"]
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(jax.eval_shape(init)))


@pytest.mark.parametrize(
    "name, shape, classes, options, parameters",
    [
        ("mlp", MNIST, 10, {"widths": (1024,)}, 814_090),  # Shallue's FC family
        ("mlp", MNIST, 10, {"widths": (1024,) * 3}, 2_913_290),
        ("mlp", MNIST, 10, {"widths": (64,) * 3}, 59_210),
        ("mlp", MNIST, 10, {"widths": (512,) * 5, "norm": "batch"}, 1_462_794),  # Hoffer's F1
        ("simple_cnn", MNIST, 10, {"size": "narrow"}, 821_706),
        ("simple_cnn", MNIST, 10, {"size": "base"}, 3_274_634),
        ("simple_cnn", MNIST, 10, {"size": "wide"}, 13_074_186),
        # Shallue's ResNet-8: pre-activation, no norm, no biases but the classifier's
        ("resnet", CIFAR, 10, {"depth": 8, "norm": "none", "preactivation": True}, 74_810),
        ("resnet", IMAGENET, 1000, {"depth": 50}, 25_557_032),
        ("resnet", IMAGENET, 1000, {"depth": 101}, 44_549_160),
        ("resnet", CIFAR, 10, {"depth": 28, "width": 10, "preactivation": True}, 36_479_194),
        ("vgg", IMAGENET, 1000, {"depth": 11}, 132_863_336),
        ("vgg", IMAGENET, 1000, {"depth": 16}, 138_357_544),
        ("vgg", CIFAR, 10, {"depth": 9, "norm": "batch"}, 2_789_706),  # Li 2018
        ("alexnet", IMAGENET, 1000, {}, 60_965_224),  # Caffe's, two groups
        ("alexnet", IMAGENET, 1000, {"groups": 1}, 62_378_344),
    ],
)
def test_parameter_counts_are_the_papers(name, shape, classes, options, parameters):
    assert _count(name, shape, classes, **options) == parameters


@pytest.mark.parametrize("depth, millions", [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85)])
def test_cifar_resnets_match_table_6_of_he_2015(depth, millions):
    assert round(_count("resnet", CIFAR, 10, depth=depth) / 1e6, 2) == millions


# Parameters of layers by their shapes: convolutions without bias, norms, dense layers with theirs.


def _convs(*layers):
    """Of (kernel size, channels in, channels out), each followed by a norm."""
    return sum(size * size * before * after + 2 * after for size, before, after in layers)


def _blocks(count, before, filters):
    """Basic residual blocks, each convolution with a norm of its filters."""
    return _convs((3, before, filters), *[(3, filters, filters)] * (2 * count - 1))


def _dense(before, after):
    return before * after + after


@pytest.mark.parametrize("classes", [10, 100])
def test_parameter_counts_of_the_nets_of_keskar_and_hoffer(classes):
    count = lambda name, **options: _count(name, CIFAR, classes, **options)
    # 32 pixels are 15, then 7, after pools of 3 with stride 2.
    shallow = _convs((5, 3, 64), (5, 64, 64), (1, 7 * 7 * 64, 384), (1, 384, 192))
    assert count("shallow_cnn") == shallow + _dense(192, classes)
    # Without a norm, a bias in place of scale and offset.
    assert count("shallow_cnn", norm="none") == count("shallow_cnn") - 64 - 64 - 384 - 192

    resnet = _convs((3, 3, 16)) + _blocks(7, 16, 16) + _blocks(7, 16, 32) + _blocks(7, 32, 64)
    assert count("resnet", depth=44) == resnet + _dense(64, classes)

    # Norms come before their convolutions, and one at the end: of the same channels as if each came
    # after its convolution, the stem's included. A stage's shortcut is a 1x1 convolution.
    wide = _convs((3, 3, 16)) + _blocks(2, 16, 64) + _blocks(2, 64, 128) + _blocks(2, 128, 256)
    wide += 16 * 64 + 64 * 128 + 128 * 256
    options = {"depth": 16, "width": 4, "preactivation": True}
    assert count("resnet", **options) == wide + _dense(256, classes)

    filters = [3, 64, 64, 128, 128, 256, 256, 256, *[512] * 6]
    vgg = _convs(*((3, *pair) for pair in itertools.pairwise(filters)))
    vgg += sum(filters[1:])  # its convolutions keep their biases
    vgg += _dense(512, 512) + 2 * 512 + _dense(512, classes)
    assert count("vgg", depth=16, hidden=(512,), norm="batch") == vgg


def test_a_wide_resnet_16_4_has_its_published_size():
    options = {"depth": 16, "width": 4, "preactivation": True}
    assert round(_count("resnet", CIFAR, 10, **options) / 1e6, 2) == 2.75


def test_hidden_layers_of_a_vgg_replace_those_of_its_depth():
    dense = lambda **options: _count("vgg", CIFAR, 10, depth=11, **options) - convs
    convs = _count("vgg", CIFAR, 10, depth=11) - _dense(512, 4096) - _dense(4096, 4096) - 40_970
    assert dense(hidden=(64, 32)) == _dense(512, 64) + _dense(64, 32) + _dense(32, 10)
    assert dense(hidden=()) == dense()


@pytest.mark.parametrize("name", ["vgg", "alexnet"])
def test_images_that_pooling_leaves_nothing_of_are_told(name):
    options = {"vgg": {"depth": 16}, "alexnet": {}}[name]
    with pytest.raises(UserError, match="images are too small for this model"):
        _count(name, (24, 24, 3), 10, **options)


@pytest.mark.parametrize(
    "name, options",
    [
        ("mlp", {"widths": (8,), "norm": "ghost", "ghost_batch": 2}),
        ("shallow_cnn", {}),
        ("simple_cnn", {"size": "narrow", "dropout": 0.4, "norm": "group"}),
        ("resnet", {"depth": 8, "norm": "batch"}),
        ("resnet", {"depth": 10, "width": 2, "preactivation": True, "dropout": 0.1}),
        ("vgg", {"depth": 9, "norm": "batch"}),
    ],
)
def test_bfloat16_computes_in_bfloat16_and_keeps_the_rest_in_float32(name, options):
    x = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
    full, half = (build_model(name, 10, dtype=d, **options) for d in ("float32", "bfloat16"))
    variables = jax.jit(lambda: full.init(jax.random.key(1), x, train=False))()

    def forward(model):
        kwargs = {"train": True, "positions": jnp.arange(4), "mutable": ["batch_stats"]}
        return model.apply(variables, x, rngs={"dropout": jax.random.key(2)}, **kwargs)

    exact, _ = jax.jit(lambda: forward(full))()
    rounded, stats = jax.jit(lambda: forward(half))()
    assert rounded.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((variables, stats)))
    error = jnp.abs(exact - rounded).max() / jnp.abs(exact).max()
    assert 0 < error < 0.1  # different, so it did compute in bfloat16


def test_zero_init_residual_makes_blocks_the_identity():
    x = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    model = build_model("resnet", 10, depth=8, zero_init_residual=True)
    params = model.init(jax.random.key(1), x, train=False)["params"]
    assert not jnp.any(params["stage1_block1"]["GhostBatchNorm_1"]["scale"])
    assert jnp.all(params["stage1_block1"]["GhostBatchNorm_0"]["scale"] == 1)


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("resnett", {}, "did you mean 'resnet'"),
        ("resnet", {"dept": 8}, "did you mean 'depth'"),
        ("resnet", {"depth": 9}, "model.depth is 9; use 6n+2"),
        ("resnet", {"norm": "gost"}, "did you mean 'ghost'"),
        ("resnet", {"norm": "ghost"}, "set model.ghost_batch"),
        ("vgg", {"depth": 12}, "use 9, 11 or 16"),
        ("vgg", {"depth": 12, "hidden": (512,)}, "use 9, 11 or 16"),
        ("alexnet", {"groups": 3}, "model.groups is 3: Known: 1, 2"),
        ("shallow_cnn", {"size": "base"}, "does not read 'size'"),
        ("simple_cnn", {"size": "bas"}, "did you mean 'base'"),
        ("mlp", {"dtype": "float64"}, "float32"),
        ("mlp", {"axis": "batch"}, "does not read 'axis'"),
    ],
)
def test_wrong_options_are_told(name, options, words):
    with pytest.raises(UserError) as error:
        build_model(name, 10, **options)
    assert words in str(error.value)


def test_which_examples_interact():
    assert ghost_batch_of(build_model("mlp", 10), 64) is None
    assert ghost_batch_of(build_model("resnet", 10, norm="batch"), 64) == 64
    assert ghost_batch_of(build_model("resnet", 10, norm="ghost", ghost_batch=8), 64) == 8
    assert ghost_batch_of(build_model("resnet", 10, norm="group"), 64) is None


@pytest.mark.parametrize(
    "name, options, batch, shape, words",
    [
        ("mlp", {"widths": (64, 32), "norm": "group"}, 64, CIFAR, "GroupNorm_0 64 channels are 32"),
        ("mlp", {"widths": (96, 31), "norm": "group"}, 64, CIFAR, "statistics of 1 value, which"),
        ("resnet", {"norm": "group"}, 64, (4, 4, 3), "stage3_block1/GroupNorm_0"),
        ("alexnet", {"norm": "group"}, 64, (57, 57, 3), None),
        ("mlp", {"norm": "batch"}, 1, CIFAR, "a global_batch of 3 or more"),
        ("mlp", {"norm": "batch"}, 2, CIFAR, "2 examples share statistics"),
        ("mlp", {"norm": "ghost", "ghost_batch": 2}, 64, CIFAR, "a model.ghost_batch of 3 or more"),
        ("shallow_cnn", {"norm": "ghost", "ghost_batch": 1}, 8, CIFAR, "1 example share"),
        ("simple_cnn", {"norm": "ghost", "ghost_batch": 1}, 8, (4, 4, 3), None),  # 2 x 2 at last
        ("shallow_cnn", {}, 2, CIFAR, "GhostBatchNorm_2 2 examples"),  # its dense layers
        ("alexnet", {"norm": "batch"}, 1, (224, 224, 3), "GhostBatchNorm_5 1 example"),
        ("resnet", {}, 1, (4, 4, 3), "stage3_block1/GhostBatchNorm_0"),  # maps of 1 x 1
        ("vgg", {"norm": "batch"}, 2, (8, 8, 1), "GhostBatchNorm_7 2 examples"),
        ("mlp", {"norm": "batch"}, 3, CIFAR, None),
        ("mlp", {"widths": (96, 128), "norm": "group"}, 1, CIFAR, None),
        ("simple_cnn", {"norm": "batch"}, 1, (8, 8, 1), None),
        ("simple_cnn", {"norm": "group"}, 1, (8, 8, 1), None),
        ("resnet", {"depth": 50, "norm": "batch"}, 1, (224, 224, 3), None),
        ("resnet", {}, 3, (4, 4, 3), None),
        ("mlp", {}, 1, CIFAR, None),
    ],
)
def test_statistics_over_too_few_values_are_refused(name, options, batch, shape, words):
    model, images = build_model(name, 10, **options), jax.ShapeDtypeStruct((1, *shape), np.float32)
    if words is None:
        check_statistics(model, images, batch)
        return
    with pytest.raises(UserError) as error:
        check_statistics(model, images, batch)
    assert words in str(error.value)


@pytest.mark.parametrize("values, passes", [(1, False), (2, False), (3, True)])
def test_why_fewer_than_three_values_are_too_few(values, passes):
    """The gradient of the norm's input, of a batch and of a group."""
    x = jnp.arange(values)[:, None] ** 2 * jnp.array([0.5, -2.0, 1.0, 1.5])
    target = jax.random.normal(jax.random.key(0), x.shape)
    per_channel = GhostBatchNorm(values)
    per_group = GroupNorm()  # 32 groups

    def batch(x):
        y, _ = per_channel.apply(
            per_channel.init(jax.random.key(0), x, train=False),
            x,
            train=True,
            mutable="batch_stats",
        )
        return jnp.sum(y * target)

    def group(x):
        x, weights = (jnp.tile(a.T.reshape(1, -1), 8) for a in (x, target))
        variables = per_group.init(jax.random.key(0), x, train=True)
        return jnp.sum(per_group.apply(variables, x, train=True) * weights)

    for loss in (batch, group):
        gradient = jax.grad(loss)(x)
        assert (float(jnp.abs(gradient).max()) > 0.05) == passes, gradient


# ---- Models of the user's own ----


@pytest.fixture
def table(monkeypatch):
    """The table of names, put back afterwards."""
    monkeypatch.setattr(models, "MODELS", dict(models.MODELS))


class Linear(nn.Module):
    """No more than it must have."""

    num_classes: int
    scale: float = 2.0

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.num_classes)(self.scale * x.reshape(len(x), -1))


class Broken(Linear):
    how: str = "raises"

    def __call__(self, x):
        return None if self.how == "none" else [][len(x)]


class Everything(nn.Module):
    num_classes: int
    widths: tuple[int, ...] = (4,)
    kernel_init: Any = nn.initializers.ones
    norm: str = "none"
    ghost_batch: int | None = None
    axis_name: str | None = None
    dtype: Any = None

    @nn.compact
    def __call__(self, x, *, train: bool, positions=None):
        x = x.reshape(len(x), -1).astype(self.dtype or jnp.float32)
        x = nn.Dense(self.widths[0], kernel_init=self.kernel_init, dtype=self.dtype)(x)
        x = make_norm(self.norm, self.ghost_batch, self.axis_name, self.dtype)()(x, train=train)
        if train:
            x = x + positions[:, None]
        return nn.Dense(self.num_classes, dtype=self.dtype)(x)


X = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4, 4, 1)), jnp.float32)


def test_a_bare_class_is_adapted_and_keeps_its_parameters(table):
    register("linear", Linear)
    assert model_options("linear") == {"scale": 2.0}
    model, bare = build_model("linear", 3, "batch", scale=0.5), Linear(3, 0.5)
    variables = model.init(jax.random.key(0), X, train=False)
    expected = bare.init(jax.random.key(0), X)
    assert jax.tree.structure(variables) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, variables, expected)
    logits = model.apply(variables, X, train=True, positions=jnp.arange(6))
    np.testing.assert_array_equal(logits, bare.apply(variables, X))
    assert model.axis_name == "batch" and model.clone(axis_name=None).axis_name is None
    assert not couples_examples(model) and ghost_batch_of(model, 6) is None
    assert type(model).__name__ == "Linear"  # what repr shows


def test_what_a_model_raises_keeps_its_traceback(table):
    register("broken", Broken)
    with pytest.raises(UserCodeError, match="Your model 'broken' raised IndexError: ") as caught:
        build_model("broken", 3).init(jax.random.key(0), X, train=False)
    assert f'File "{__file__}"' in caught.value.traceback
    with pytest.raises(UserError, match="returns NoneType; return an array"):
        build_model("broken", 3, how="none").init(jax.random.key(0), X, train=False)


def test_a_class_that_takes_everything_gets_it(table):
    register("everything", Everything)
    assert model_options("everything") == {
        "widths": (4,),
        "norm": "none",
        "ghost_batch": None,
        "dtype": "float32",
    }
    model = build_model("everything", 3)
    variables = model.init(jax.random.key(0), X, train=False)
    evaluated = model.apply(variables, X, train=False)
    trained = model.apply(variables, X, train=True, positions=jnp.arange(6))
    moved = trained - evaluated
    by_one = variables["params"]["Dense_1"]["kernel"].sum(0)
    np.testing.assert_allclose(moved, np.outer(np.arange(6), by_one), atol=1e-5)

    half = build_model("everything", 3, dtype="bfloat16").apply(variables, X, train=False)
    assert half.dtype == jnp.float32
    assert 0 < jnp.abs(half - evaluated).max() < 0.1 * jnp.abs(evaluated).max()

    coupled = build_model("everything", 3, norm="ghost", ghost_batch=2, dtype="float32")
    assert couples_examples(coupled) and ghost_batch_of(coupled, 6) == 2
    assert "batch_stats" in coupled.init(jax.random.key(0), X, train=False)


def _variant(**members):
    """A class of its own whose call returns what `call` does."""
    call = members.pop("call", lambda self, x: nn.Dense(self.num_classes)(x.reshape(len(x), -1)))
    return type("Variant", (nn.Module,), {"__call__": nn.compact(call), **members})


def _with_batch_norm(self, x, train):
    return nn.Dense(3)(nn.BatchNorm(use_running_average=not train)(x.reshape(len(x), -1)))


@pytest.mark.parametrize(
    "name, module_class, words",
    [
        ("mlp", Linear, "'mlp' is already MLP; register Linear under another name"),
        ("mlp", type("MLP", (Linear,), {}), "'mlp' is already MLP"),
        ("taken", Everything, "'taken' is already Linear"),
        ("own", Linear(3), "register a flax.linen.Module class"),
        ("own", dict, "register a flax.linen.Module class"),
        ("own", _variant(), "no field `num_classes: int`; add it to Variant"),
        (
            "own",
            _variant(__annotations__={"num_classes": int, "width": int}),
            "no default for 'width'",
        ),
        (
            "own",
            _variant(
                __annotations__={"num_classes": int}, call=lambda self, x, *, deterministic: x
            ),
            "missing a required .*argument: 'deterministic'",
        ),
    ],
)
def test_classes_that_can_not_be_used_are_told(table, name, module_class, words):
    register("taken", Linear)
    with pytest.raises(UserError, match=words):
        register(name, module_class)


def test_keywords_of_any_name_are_passed(table):
    seen = {}

    def call(self, x, **keywords):
        seen.update(keywords)
        return nn.Dense(self.num_classes)(x.reshape(len(x), -1))

    register("own", _variant(__annotations__={"num_classes": int}, call=call))
    build_model("own", 3).init(jax.random.key(0), X, train=False)
    assert seen == {"train": False, "positions": None}


@pytest.mark.parametrize(
    "call, words",
    [
        (
            lambda self, x: nn.Dense(7)(x.reshape(len(x), -1)),
            r"'Variant' returns \(1, 7\) for 1 example.*needs \(1, 3\)",
        ),
        (lambda self, x: nn.Dense(3)(x), r"needs \(1, 3\)"),
    ],
)
def test_results_that_can_not_be_used_are_told(table, call, words):
    register("own", _variant(__annotations__={"num_classes": int}, call=call))
    example = {"x": (X.shape[1:], "float32"), "label": ((), "int32")}
    with pytest.raises(UserError, match=words):
        shapes_of_variables(Classification(build_model("own", 3), example, 3))


@pytest.mark.parametrize(
    "call, train, words",
    [
        (lambda self, x, train: nn.Dropout(0.5, deterministic=not train)(x), False, ""),
        (lambda self, x, train: nn.Dropout(0.0)(x, deterministic=not train), True, ""),
        (lambda self, x, train: nn.Dropout(0.5)(x, not train), True, "layers.Dropout"),
        (lambda self, x, train: nn.BatchNorm(use_running_average=True)(x), True, ""),
        (lambda self, x, train: nn.BatchNorm()(x, use_running_average=not train), False, ""),
        (
            lambda self, x, train: nn.BatchNorm()(x, use_running_average=not train),
            True,
            "make_norm",
        ),
    ],
)
def test_flax_layers_are_used_where_the_layout_changes_nothing(table, call, train, words):
    def whole(self, x, train):
        return nn.Dense(3)(call(self, x.reshape(len(x), -1), train))

    register("own", _variant(__annotations__={"num_classes": int}, call=whole))
    model = build_model("own", 3)
    variables = model.init(jax.random.key(0), X, train=False)
    run = lambda: model.apply(variables, X, train=train, rngs={"dropout": jax.random.key(1)})
    if words:
        with pytest.raises(UserError, match=words):
            run()
    else:
        assert run().shape == (6, 3)


def test_batch_norm_that_can_not_see_other_devices_is_refused(table):
    fields = {"num_classes": int, "norm": str}
    register("own", _variant(__annotations__=fields, norm="batch", call=_with_batch_norm))
    model = build_model("own", 3)
    variables = model.init(jax.random.key(0), X, train=False)
    with pytest.raises(UserError, match="axis_name"):
        jax.eval_shape(lambda: model.apply(variables, X, train=True, mutable=["batch_stats"]))


def test_a_class_of_the_same_name_takes_the_place_of_the_one_before(table):
    register("own", _variant(__annotations__={"num_classes": int}, size="small", depth=1))
    register("own", _variant(__annotations__={"num_classes": int, "size": int}, size=3))
    assert model_options("own") == {"size": 3}
    assert build_model("own", 3, size=5).size == 5  # no family's words are imposed on it


def test_the_kernels_of_a_resnet_begin_as_he_2015_has_them():
    """Normal, of variance 2 over what goes out of a pixel."""
    model = build_model("resnet", 10, depth=8, width=4)
    x = jnp.zeros((1, 8, 8, 3))
    params = model.init(jax.random.key(0), x, train=False)["params"]
    kernel = params["stage3_block1"]["Conv_1"]["kernel"]  # 3 x 3, of 256 to 256
    assert np.std(kernel) == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.01)
