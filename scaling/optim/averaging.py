"""Exponential averages of the weights, beside an optimizer."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike


class Averaged(NamedTuple):
    """State of `averaging`.

    Attributes:
      inner: of the optimizer.
      average: of the weights; before the first update, the initial weights.
      count: float32 [], sum of the coefficients, 1 + d + ... + d^(t-1).
    """

    inner: Any
    average: Any
    count: jax.Array


def averaging(tx: optax.GradientTransformation, decay: ArrayLike) -> optax.GradientTransformation:
    """The same updates, and in the state an average of the weights w_1, ..., w_t after them:

        sum_s d^(t-s) w_s / sum_s d^(t-s)

    It is unbiased from the first update on, like Adam's moments (Kingma and Ba 2015, section 3):
    the initial weights have no share in it. At a constant rate the average has the lower loss that
    the last weights would reach after a decay of the rate (Zhang et al. 2024, arXiv:2410.21676;
    Haegele et al. 2024, arXiv:2405.18392). Parameters only: `resolve` refuses models with running
    statistics, which would have to be those of the averaged weights.

    Args:
      decay: d in [0, 1], a number or traced; 1 is the mean of all.
    """

    def init(params):
        return Averaged(tx.init(params), params, jnp.zeros(()))

    def update(grads, state, params):
        updates, inner = tx.update(grads, state.inner, params)
        count = 1.0 + decay * state.count
        closer = lambda average, w: average + (w - average) / count
        average = jax.tree.map(closer, state.average, optax.apply_updates(params, updates))
        return updates, Averaged(inner, average, count)

    return optax.GradientTransformation(init, update)
