"""Lines, arcs and planes through weights, and the directions that they take.

Params are trees as Flax has them: the last axis of a kernel is that of its filters or units.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

COLUMNS = 2**16  # of weights that are float64 at once


def random_direction(key: jax.Array, params: Any, normalise: str | None = "filter") -> Any:
    """A direction of N(0, 1), a tree like `params`, normalised as in Li 2018, section 4.

    Normalised, tensors of one dimension (biases, the scales of batch norm) are 0, and each filter,
    or each tensor ("layer"), has the norm of the weights' own: a loss along the direction does not
    change where a layer in front of batch norm is rescaled. The same key and shapes give the same
    raw numbers, so that nets can be compared.

    Args:
      normalise: "filter", "layer", or None: as drawn.
    """
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    drawn = [
        _normalised(jax.random.normal(one, jnp.shape(leaf), jnp.result_type(leaf)), leaf, normalise)
        for one, leaf in zip(keys, leaves, strict=True)
    ]
    return structure.unflatten(drawn)


def _normalised(direction, weights, normalise):
    if normalise is None:
        return direction
    if direction.ndim < 2:
        return jnp.zeros_like(direction)
    axes = {"filter": tuple(range(direction.ndim - 1)), "layer": None}[normalise]
    norm = lambda values: jnp.sqrt(jnp.square(values).sum(axes, keepdims=True))
    return direction * norm(weights) / (norm(direction) + 1e-10)


def shifted(params: Any, directions: Sequence[Any], steps: Sequence[ArrayLike]) -> Any:
    """params + steps[0] directions[0] + ..., a point of a line or a plane."""
    for direction, step in zip(directions, steps, strict=True):
        params = jax.tree.map(lambda w, d: w + step * d, params, direction)  # noqa: B023
    return params


def line(start: Any, end: Any, share: ArrayLike) -> Any:
    """(1 - share) start + share end (Goodfellow 2015; Keskar 2016, Fig. 3): `start` at 0."""
    return jax.tree.map(lambda a, b: (1 - share) * a + share * b, start, end)


def arc(start: Any, end: Any, share: ArrayLike) -> Any:
    """cos(share pi/2) start + sin(share pi/2) end (Keskar 2016, Fig. 7)."""
    angle = share * math.pi / 2
    return jax.tree.map(lambda a, b: jnp.cos(angle) * a + jnp.sin(angle) * b, start, end)


@dataclasses.dataclass(frozen=True)
class Plane:
    """The plane that a run of weights moves in the most.

    Attributes:
      axes: [2, n], orthonormal.
      coordinates: [T, 2] of the weights; the last are the origin.
      explained: [2], the share of the variance along each axis.
    """

    axes: Array
    coordinates: Array
    explained: Array


def pca(weights: ArrayLike) -> Plane:
    """The plane of the first two principal components (Li 2018, section 7).

    Of the rows w_t - w_T, with columns centred, as in the paper's code, by the eigenvectors of
    their [T, T] products. Signs are such that the run begins at positive coordinates.

    Args:
      weights: [T, n] along a run, T >= 3.

    Raises:
      ValueError: the weights span no plane.
    """
    weights = np.asarray(weights)
    count, size = weights.shape
    blocks = [slice(first, first + COLUMNS) for first in range(0, size, COLUMNS)]
    rows = lambda block: np.float64(weights[:, block]) - weights[-1, block]
    centred = lambda block: rows(block) - rows(block).mean(0)
    values, vectors = np.linalg.eigh(sum(part @ part.T for part in map(centred, blocks)))
    total = np.maximum(values, 0).sum()
    if count < 3 or values[-2] <= 1e-12 * total:
        raise ValueError(f"{count} points of a run span no plane; take three or more that differ.")
    left, values = vectors[:, :-3:-1].T, values[:-3:-1]
    axes = np.concatenate([left @ centred(block) for block in blocks], 1)
    axes /= np.sqrt(values)[:, None]
    coordinates = sum(rows(block) @ axes[:, block].T for block in blocks)
    signs = np.where(coordinates[0] < 0, -1.0, 1.0)
    return Plane(axes * signs[:, None], coordinates * signs, values / total)
