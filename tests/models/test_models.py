import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.errors import UserError
from scaling.models import build_model, ghost_batch_of

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
    ],
)
def test_parameter_counts_are_the_papers(name, shape, classes, options, parameters):
    assert _count(name, shape, classes, **options) == parameters


@pytest.mark.parametrize("depth, millions", [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85)])
def test_cifar_resnets_match_table_6_of_he_2015(depth, millions):
    assert round(_count("resnet", CIFAR, 10, depth=depth) / 1e6, 2) == millions


@pytest.mark.parametrize(
    "name, options",
    [
        ("mlp", {"widths": (8,), "norm": "ghost", "ghost_batch": 2}),
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
        ("resnet", {"depth": 9}, "depth 9 does not exist"),
        ("resnet", {"norm": "gost"}, "did you mean 'ghost'"),
        ("resnet", {"norm": "ghost"}, "set model.ghost_batch"),
        ("vgg", {"depth": 12}, "use 9, 11 or 16"),
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
