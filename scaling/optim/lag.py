"""Gradients that are applied some updates after they were computed."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class Lagged(NamedTuple):
    """State of `lagged`.

    Attributes:
      inner: of the optimizer.
      waiting: gradients of the latest updates, the oldest first; before the first update zeros.
    """

    inner: Any
    waiting: tuple[Any, ...]


def lagged(tx: optax.GradientTransformation, lag: int) -> optax.GradientTransformation:
    """Update t applies the gradient that was computed at the weights of update t - lag.

    Kurth 2018 has a lag of 1, so that the all-reduce of a gradient may take as long as the whole
    next gradient. The optimizer sees lagged gradients only, also where it clips them or takes their
    norms, and the first `lag` updates are with a gradient of 0, which counts in Adam's averages. A
    study of what the lag costs in convergence: the devices still wait for each other.

    Args:
      lag: 0 or more, in updates.
    """
    if not lag:
        return tx

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return Lagged(tx.init(params), (zeros,) * lag)

    def update(grads, state, params):
        oldest, *others = *state.waiting, grads
        updates, inner = tx.update(oldest, state.inner, params)
        return updates, Lagged(inner, tuple(others))

    return optax.GradientTransformation(init, update)
