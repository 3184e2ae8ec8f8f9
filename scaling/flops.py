"""Floating-point operations of convolutions and matrix products, from the shapes alone.

A multiplication with its addition are two. Training takes three times the forward pass, by the
usual convention: the gradients of the inputs and of the weights take as much as the outputs.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax

TRAINING = 3  # times the forward pass


def forward(model: nn.Module, inputs: Any) -> int:
    """Of the model on `inputs`, without running it.

    Args:
      inputs: arrays or their shapes, as the model is called with them; of one example, [1, ...],
        for a number per example.
    """
    if hasattr(model, "conv_method"):  # the operations of the model, not of a way to compute it
        model = model.clone(conv_method="xla")
    init = functools.partial(model.init, train=False)
    variables = jax.eval_shape(init, jax.eval_shape(jax.random.key, 0), inputs)
    return operations(functools.partial(model.apply, train=False), variables, inputs)


def operations(function: Callable, *args: Any) -> int:
    """Of `function(*args)`, whose arguments may be shapes."""
    return sum(count for _, count in products(function, *args))


def products(function: Callable, *args: Any) -> list[tuple[Any, int]]:
    """(equation of the jaxpr, its operations) of every convolution and matrix product.

    The body of a scan counts as often as it runs, of a conditional the longest branch. Zeros that
    pad an image count, those between the pixels of a transposed convolution do not.
    """
    return list(_products(jax.make_jaxpr(function)(*args).jaxpr, 1))


def _products(jaxpr, times) -> Iterator[tuple[Any, int]]:
    for equation in jaxpr.eqns:
        inner = list(_jaxprs(equation.params))
        if equation.primitive.name == "cond":
            branches = [list(_products(branch, times)) for branch in inner]
            yield from max(branches, key=lambda found: sum(count for _, count in found))
            continue
        repeats = equation.params["length"] if equation.primitive.name == "scan" else 1
        for body in inner:
            yield from _products(body, times * repeats)
        if count := _count(equation):
            yield equation, 2 * times * count


def _count(equation) -> int:
    """Multiplications of a convolution or a matrix product; 0 of other operations."""
    params, shapes = equation.params, [each.aval.shape for each in equation.invars]
    results = math.prod(equation.outvars[0].aval.shape)
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        return results * math.prod(shapes[0][axis] for axis in contracted)
    if equation.primitive.name == "conv_general_dilated":
        _, channels, *window = params["dimension_numbers"].rhs_spec
        taps = math.prod(shapes[1][axis] for axis in (channels, *window))
        return results * taps // math.prod(params["lhs_dilation"])
    return 0


def _jaxprs(params) -> Iterator[Any]:
    for leaf in jax.tree.leaves(list(params.values())):
        leaf = getattr(leaf, "jaxpr", leaf)
        if hasattr(leaf, "eqns"):
            yield leaf
