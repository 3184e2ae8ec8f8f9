"""The gradient noise scale from the gradient of every example, for small models and sets.

McCandlish et al. 2018 (arXiv:1812.06162); notation as in `scaling.noise`, which does not need JAX.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpy.typing import ArrayLike, NDArray

from scaling.noise import Exact

Array = NDArray[np.float64]
Loss = Callable[[Any, Any], jax.Array]


def exact_noise(
    loss: Loss, params: Any, examples: Any, batch: int, samples: int, key: jax.Array
) -> Exact:
    """B_simple and B_noise from the gradient g_i of every example.

    Two passes for tr(Sigma) = E|g_i - G|^2: G first, then the deviations from it. E|g_i|^2 - |G|^2
    would lose it to rounding where it is small relative to |G|^2.

    tr(H Sigma), H the Hessian of the mean loss, is the mean of z^T H z over z with covariance
    Sigma, by Hessian-vector products: each z is a random combination N^-1/2 sum_i r_i (g_i - G),
    r_i = 1 or -1. A sample costs 4 N gradients, and N for every `batch` of them.

    Memory: 2 `batch` gradients of all parameters, and N numbers per sample.

    Args:
      loss: (params, example) -> scalar.
      params: any tree of arrays.
      examples: a tree of arrays [N, ...].
      batch: examples at a time; N need not be a multiple.
      samples: number of random combinations.
      key: of the signs r.
    """
    gradients = _Gradients(loss, params, examples, batch)
    mean = gradients.mean()
    squares = sum(squares.sum() for _, squares in gradients.deviations(mean))
    grad_sq_norm, variance = float(mean @ mean), float(squares / gradients.count)
    signs = np.asarray(jax.random.rademacher(key, (samples, gradients.count), np.int8))
    values = np.concatenate([gradients.curvatures(z) for z in gradients.mixes(mean, signs)])
    curvature, trace = float(gradients.curvatures(mean[None])[0]), float(values.mean())
    return Exact(
        grad_sq_norm,
        variance,
        variance / grad_sq_norm if grad_sq_norm > 0 else None,
        trace / curvature if curvature > 0 and trace > 0 else None,
    )


class _Gradients:
    """Gradients and curvatures over all examples, by batches, with parameters as one vector [P].

    Sums over batches are in float64, on the host.
    """

    def __init__(self, loss: Loss, params: Any, examples: Any, batch: int):
        self._params, restore = ravel_pytree(params)
        self._batch, self.count = batch, len(jax.tree.leaves(examples)[0])
        self._take = lambda start: jax.tree.map(lambda x: x[start : start + batch], examples)
        dot = lambda a, b: jnp.matmul(a, b, precision="highest")

        def alone(vector, example):
            return loss(restore(vector), example)

        def together(vector, chunk):
            return jax.vmap(alone, (None, 0))(vector, chunk).sum()

        def deviations(vector, chunk, mean):
            rows = jax.vmap(jax.grad(alone), (None, 0))(vector, chunk) - mean
            return rows, jnp.square(rows).sum(1)

        def curvature(vector, chunk, direction):
            # Forward over reverse: a `jax.custom_vjp` function has no forward derivative, its
            # gradient has.
            gradient = lambda vector: jax.grad(together)(vector, chunk)
            direction = direction.astype(vector.dtype)
            return dot(direction, jax.jvp(gradient, (vector,), (direction,))[1])

        self._gradient, self._dot = jax.jit(jax.grad(together)), jax.jit(dot)
        self._deviations, self._curvature = jax.jit(deviations), jax.jit(curvature)

    def mean(self) -> Array:
        """G, [P]."""
        total = np.zeros(self._params.size)
        for start in self._starts():
            total += np.asarray(self._gradient(self._params, self._take(start)))
        return total / self.count

    def deviations(self, mean: Array) -> Iterator[tuple[jax.Array, Array]]:
        """(g_i - G, [batch, P]; the squared norm of each, [batch]) of each batch."""
        for start in self._starts():
            rows, squares = self._deviations(self._params, self._take(start), mean)
            yield rows, np.asarray(squares, float)

    def mixes(self, mean: Array, signs: NDArray) -> Iterator[Array]:
        """N^-1/2 sum_i signs_i (g_i - G), [batch, P] per `batch` rows of signs [samples, N]."""
        for first in range(0, len(signs), self._batch):
            chunk = signs[first : first + self._batch]
            total = np.zeros((len(chunk), self._params.size))
            for start, (rows, _) in zip(self._starts(), self.deviations(mean), strict=True):
                total += np.asarray(self._dot(chunk[:, start : start + self._batch], rows))
            yield total / math.sqrt(self.count)

    def curvatures(self, directions: ArrayLike) -> Array:
        """z^T H z for each row z of [K, P], [K]."""
        total = np.zeros(len(directions))
        for start in self._starts():
            chunk = self._take(start)
            total += [float(self._curvature(self._params, chunk, z)) for z in directions]
        return total / self.count

    def _starts(self) -> range:
        return range(0, self.count, self._batch)
