"""Operations of programs whose numbers can be written down, and of published nets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from scaling import flops
from scaling.models import build_model
from scaling.models.layers import convolve


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def conv(x, kernel, **options):
    strides = options.pop("window_strides", (1, 1))
    return lax.conv_general_dilated(
        x, kernel, strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
    )


IMAGE, KERNEL = shape(2, 8, 12, 6), shape(3, 3, 6, 10)


@pytest.mark.parametrize(
    "function, args, terms",
    [
        (jnp.matmul, (shape(5, 7), shape(7, 11)), 5 * 7 * 11),
        (jnp.matmul, (shape(3, 5, 7), shape(3, 7, 11)), 3 * 5 * 7 * 11),
        (lambda a, b: jnp.einsum("bij,bkj->bik", a, b), (shape(3, 5, 7), shape(3, 2, 7)), 210),
        (conv, (IMAGE, KERNEL), 2 * 96 * 9 * 60),
        (lambda x, w: conv(x, w, window_strides=(2, 2)), (IMAGE, KERNEL), 2 * 24 * 9 * 60),
        (lambda x, w: conv(x, w, rhs_dilation=(4, 4)), (IMAGE, KERNEL), 2 * 96 * 9 * 60),
        (lambda x, w: conv(x, w, feature_group_count=6), (IMAGE, shape(3, 3, 1, 6)), 2 * 96 * 54),
        # Every pixel of the input with every weight, whatever the zeros between.
        (
            lambda x, w: lax.conv_transpose(x, w, (2, 2), "SAME"),
            (IMAGE, KERNEL),
            2 * 96 * 9 * 60,
        ),
        (lambda x, w: convolve(x, w, method="forward_only"), (IMAGE, KERNEL), 2 * 96 * 9 * 60),
        (lambda x, w: convolve(x, w, method="patches"), (IMAGE, KERNEL), 2 * 96 * 9 * 60),
        (jax.jit(jax.checkpoint(jnp.matmul)), (shape(5, 7), shape(7, 11)), 5 * 7 * 11),
        (
            lambda a, b: lax.scan(lambda c, _: (c @ b, c @ b @ b), a, None, 13),
            (shape(5, 7), shape(7, 7)),
            3 * 13 * 5 * 7 * 7,
        ),
        (
            lambda a, b: lax.cond(a[0, 0] > 0, lambda: a @ b, lambda: a @ b @ b),
            (shape(5, 7), shape(7, 7)),
            2 * 5 * 7 * 7,
        ),
        (lambda a: jnp.tanh(a).sum(), (shape(5, 7),), 0),
    ],
)
def test_operations_written_down(function, args, terms):
    assert flops.operations(function, *args) == 2 * terms


def test_operations_run_nothing_and_take_arrays_too():
    assert flops.operations(lambda a, b: a @ b, np.ones((2, 3)), np.ones((3, 4))) == 48


@pytest.mark.parametrize(
    "name, options, image, gigamacs",
    [  # of the torchvision models' documentation, one forward pass
        ("resnet", {"depth": 50}, 224, 4.089),
        ("resnet", {"depth": 101}, 224, 7.801),
        ("vgg", {"depth": 11}, 224, 7.609),
        ("vgg", {"depth": 16}, 224, 15.470),
    ],
)
def test_forward_passes_of_published_nets(name, options, image, gigamacs):
    model = build_model(name, 1000, **options)
    found = flops.forward(model, shape(1, image, image, 3))
    assert found / 2e9 == pytest.approx(gigamacs, abs=1e-3)
    assert flops.forward(model, shape(3, image, image, 3)) == 3 * found


def test_the_way_to_compute_does_not_change_the_count():
    inputs = shape(1, 32, 32, 3)
    ways = ("xla", "forward_only", "patches")
    counts = {flops.forward(build_model("resnet", 10, conv_method=way), inputs) for way in ways}
    assert len(counts) == 1
