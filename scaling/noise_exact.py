"""The gradient noise scale from the gradient of every example, for small models and sets.

McCandlish et al. 2018 (arXiv:1812.06162); notation as in `scaling.noise`, which does not need JAX.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpy.typing import ArrayLike, NDArray

from scaling.errors import UserError

Array = NDArray[np.float64]
Loss = Callable[[Any, Any], jax.Array]


@dataclasses.dataclass(frozen=True)
class Moments:
    """Population moments of the gradients of all N examples of a set.

    `noise.estimate` is unbiased for them on batches drawn with replacement; without, see there.
    """

    grad_sq_norm: float  # |G|^2 of the mean gradient
    grad_variance_trace: float  # tr(Sigma), with 1 / N
    noise_scale: float | None  # B_simple in examples; None where G is zero


@dataclasses.dataclass(frozen=True)
class HessianNoise:
    """B_noise and its parts."""

    noise_scale: float | None  # in examples; None unless numerator and denominator are positive
    standard_error: float | None  # of noise_scale, from the samples; None if exact
    hessian_variance_trace: float  # tr(H Sigma)
    gradient_curvature: float  # G^T H G
    rate_max: float | None  # |G|^2 / (G^T H G), eq. 2.6; None where the curvature is not positive
    improvement_max: float | None  # |G|^4 / (2 G^T H G), eq. 2.7, in units of the loss; likewise


def per_example_moments(loss: Loss, params: Any, examples: Any, batch: int = 256) -> Moments:
    """|G|^2 and tr(Sigma) = E|g_i - G|^2 from the gradient g_i of every example.

    Two passes: G first, then the deviations from it. E|g_i|^2 - |G|^2 would lose tr(Sigma) to
    rounding where it is small relative to |G|^2. Sums over batches are in float64.

    Costs two gradients per example, and memory for `batch` gradients of all parameters.

    Args:
      loss: (params, example) -> scalar.
      params: any tree of arrays.
      examples: a tree of arrays [N, ...].
      batch: examples at a time; N need not be a multiple.

    Raises:
      UserError: there are no examples, their arrays differ in length, or batch is not positive.
    """
    exact = _Exact(loss, params, examples, batch)
    mean = exact.mean_gradient()
    squares = sum(squares.sum() for _, squares in exact.deviations(mean))
    grad_sq_norm, trace = float(mean @ mean), float(squares / exact.count)
    return Moments(grad_sq_norm, trace, trace / grad_sq_norm if grad_sq_norm > 0 else None)


def hessian_noise_scale(
    loss: Loss,
    params: Any,
    examples: Any,
    batch: int = 256,
    samples: int | None = None,
    key: jax.Array | None = None,
) -> HessianNoise:
    """B_noise = tr(H Sigma) / (G^T H G), eq. 2.8, H the Hessian of the mean loss of all examples.

    tr(H Sigma) is the mean of z^T H z over z with covariance Sigma, by Hessian-vector products.
    Averaging over all deviations z = g_i - G is exact and costs N products over all examples, about
    4 N^2 gradients. With `samples`, each z is a random combination N^-1/2 sum_i r_i (g_i - G),
    r_i = 1 or -1; that costs 4 N gradients per sample, and N for every `batch` of them.

    Memory: 2 `batch` gradients of all parameters, and N numbers per sample.

    Args:
      loss, params, examples, batch: as for `per_example_moments`.
      samples: number of random combinations, at least 2; None for the exact trace.
      key: random key of the signs; required with `samples`.

    Raises:
      UserError: as for `per_example_moments`; or `samples` is below 2 or has no key.
    """
    if samples is not None and (samples < 2 or key is None):
        raise UserError(
            f"samples is {samples} and the key {key}; give at least 2 samples and a key, or "
            "samples=None for the exact value."
        )
    exact = _Exact(loss, params, examples, batch)
    mean = exact.mean_gradient()
    if samples is None:
        directions = (rows for rows, _ in exact.deviations(mean))
    else:
        directions = exact.mixes(mean, _signs(key, samples, exact.count))
    values = np.concatenate([exact.curvatures(rows) for rows in directions])
    trace, error = float(values.mean()), None
    curvature, grad_sq_norm = float(exact.curvatures(mean[None])[0]), float(mean @ mean)
    if samples is not None and curvature > 0:
        error = float(values.std(ddof=1)) / math.sqrt(samples) / curvature
    convex = curvature > 0
    return HessianNoise(
        noise_scale=trace / curvature if convex and trace > 0 else None,
        standard_error=error,
        hessian_variance_trace=trace,
        gradient_curvature=curvature,
        rate_max=grad_sq_norm / curvature if convex else None,
        improvement_max=grad_sq_norm**2 / (2 * curvature) if convex else None,
    )


class _Exact:
    """Gradients and curvatures over all examples, by batches, with parameters as one vector [P].

    Sums over batches are in float64, on the host.
    """

    def __init__(self, loss: Loss, params: Any, examples: Any, batch: int):
        self._params, restore = ravel_pytree(params)
        self._batch, self.count = batch, _count(jax.tree.leaves(examples), batch)
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

    def mean_gradient(self) -> Array:
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


def _signs(key: jax.Array, samples: int, count: int) -> NDArray[np.int8]:
    """[samples, count] of 1 and -1."""
    return np.asarray(jax.random.rademacher(key, (samples, count), np.int8))


def _count(leaves: Sequence[Any], batch: int) -> int:
    """N, the common length of all arrays."""
    if batch < 1:
        raise UserError(f"batch is {batch}; it must be at least 1.")
    counts = sorted({len(leaf) for leaf in leaves})
    if len(counts) != 1 or counts[0] == 0:
        raise UserError(
            f"The arrays of the examples have the lengths {counts}; pass arrays of one positive "
            "length."
        )
    return counts[0]
