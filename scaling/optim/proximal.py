"""Conservative training: a pull to the weights at which a batch was begun (Keskar 2016, App. E)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike


class Proximal(NamedTuple):
    """State of `proximal`.

    Attributes:
      inner: of the optimizer.
      centre: the weights before the first update on the present batch.
      count: int32 [], updates so far.
    """

    inner: Any
    centre: Any
    count: jax.Array


def proximal(
    tx: optax.GradientTransformation, strength: ArrayLike, updates: int
) -> optax.GradientTransformation:
    """The optimizer on the loss of the batch plus strength / 2 |w - w_k|^2, w_k its centre.

    Every batch is one sub-problem of min_w f_k(w) + strength / 2 |w - w_k|^2, of so many updates,
    whose solution is the next centre. The state of the optimizer goes on from one to the next.

    Args:
      strength: lambda, a number or traced.
      updates: in a row on every batch.
    """

    def init(params):
        return Proximal(tx.init(params), params, jnp.zeros((), jnp.int32))

    def update(grads, state, params):
        begins = state.count % updates == 0
        centre = jax.tree.map(lambda w, c: jnp.where(begins, w, c), params, state.centre)
        pulled = jax.tree.map(lambda g, w, c: g + strength * (w - c), grads, params, centre)
        steps, inner = tx.update(pulled, state.inner, params)
        return steps, Proximal(inner, centre, state.count + 1)

    return optax.GradientTransformation(init, update)
