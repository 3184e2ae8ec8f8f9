"""Sharpness of a minimum: how far the loss rises near the weights, by several measures.

Keskar's (arXiv:1609.04836, Metric 2.1) depends on the scale of the weights: to multiply a layer in
front of batch norm changes it, and leaves the function as it was (Dinh 2017). The adaptive measures
(Kwon 2021, arXiv:2102.11600; Andriushchenko 2023, arXiv:2302.07011) and relative flatness (Petzka
2021, arXiv:2001.00939) stay.

Vectors [n] are weights as `curvature.flatten` gives them. A `ValueAndGrad` is made by
`curvature.value_and_grad`; the loss may be on all examples or a batch.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from numpy.typing import ArrayLike

from scaling.curvature import Array, Estimate, Operator, trace

ValueAndGrad = Callable[[ArrayLike], tuple[float, Array]]

OFF_CENTRE = 1e-3  # of the box, where maximisation starts: at the centre the gradient may be 0
MOMENTUM = 0.75  # of auto-PGD
FEWEST_RISES = 0.75  # of the steps between two checkpoints; below, the step is halved


def normalised(logits: jax.Array) -> jax.Array:
    """Logits [N, C] centred and divided by their norm, per example: the scale of the outputs, which
    a net may raise without another decision, no longer counts (Andriushchenko 2023)."""
    centred = logits - logits.mean(-1, keepdims=True)
    return centred / jnp.sqrt(jnp.square(centred).sum(-1, keepdims=True) + 1e-24)


# --- Keskar's metric ---


@dataclasses.dataclass(frozen=True)
class Peak:
    """The largest loss found in a box around the weights.

    Attributes:
      centre: the loss at the weights.
      loss: the largest.
      by: "lbfgsb" or "vertices", whichever found it; "centre" where neither found a larger one.
      gradients: that it took.
      at_bound: share of the coordinates that lie at a bound of the box.
      message: of L-BFGS-B.
    """

    centre: float
    loss: float
    by: str
    gradients: int
    at_bound: float
    message: str

    @property
    def keskar(self) -> float:
        """phi = 100 (max f(x + A y) - f(x)) / (1 + f(x)), Keskar 2016, eq. 4."""
        return 100 * (self.loss - self.centre) / (1 + self.centre)


def subspace(key: jax.Array, size: int, dimensions: int = 100) -> Array:
    """A [n, dimensions] of N(0, 1). With columns of norm 1 the paper's Table 4 is out of reach."""
    return np.asarray(jax.random.normal(key, (size, dimensions)))


def box(x: ArrayLike, eps: float, subspace: Array | None = None) -> Array:
    """Half-widths eps (|(A^+ x)_i| + 1) of Keskar's box (2016, eq. 3), [n]; [m] in a subspace.

    Args:
      subspace: A [n, m]; None: the identity.
    """
    x = np.asarray(x, float)
    if subspace is not None:
        x = scipy.linalg.solve(np.float64(subspace.T @ subspace), subspace.T @ x, assume_a="pos")
    return eps * (np.abs(x) + 1)


def largest_loss(
    value_and_grad: ValueAndGrad,
    x: ArrayLike,
    box: Array,
    subspace: Array | None = None,
    iterations: int = 10,
    seed: int = 0,
) -> Peak:
    """The largest loss at x + A y, |y| <= box, by two ways, of which the better counts.

    Keskar's L-BFGS-B, of `iterations`; and y <- box sign(gradient), from vertex to vertex, which
    for a convex loss never falls, and is usually higher after five gradients. Both start near the
    centre. The loss is scaled to a gradient of 1 there, for at a finished minimum L-BFGS-B would
    take the first gradient for convergence and return the centre.

    Args:
      x: weights [n].
      box: half-widths, see `box`.
      seed: of the start.

    Raises:
      ValueError: a loss in the box is not finite.
    """
    x, seen = np.asarray(x, float), []

    def climb(place):
        y = box * place
        loss, gradient = value_and_grad(x + (y if subspace is None else subspace @ y))
        gradient = box * (gradient if subspace is None else subspace.T @ gradient)
        if not (math.isfinite(loss) and np.isfinite(gradient).all()):
            raise ValueError(f"The loss is {loss} in the box, or its gradient is not finite.")
        seen.append((loss, np.mean(np.abs(place) >= 1)))
        return loss, gradient

    start = OFF_CENTRE * np.random.default_rng(seed).choice([-1.0, 1.0], len(box))
    first, slope = climb(start)
    unit = np.abs(slope).max() or 1.0

    def falling(place):
        loss, gradient = climb(place)
        return (first - loss) / unit, -gradient / unit

    bounds, options = scipy.optimize.Bounds(-np.ones(len(box)), 1.0), {"maxiter": iterations}
    found = scipy.optimize.minimize(
        falling, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options
    )
    turn, place = len(seen), start
    for _ in range(iterations):
        vertex = np.where(slope == 0, np.sign(place), np.sign(slope))
        if np.array_equal(vertex, place):
            break
        place, (_, slope) = vertex, climb(vertex)
    centre = climb(np.zeros(len(box)))[0]
    best = int(np.argmax([loss for loss, _ in seen]))
    by = "lbfgsb" if best < turn else "vertices"
    if seen[best][0] <= centre:
        best, by = -1, "centre"
    loss, at_bound = seen[best]
    return Peak(centre, loss, by, len(seen), float(at_bound), found.message)


# --- adaptive measures ---


def average(
    loss: Callable[[ArrayLike], float],
    x: ArrayLike,
    scale: ArrayLike,
    rho: float,
    key: jax.Array,
    draws: int,
) -> Estimate:
    """The mean of L(w + d) - L(w), d ~ N(0, rho^2 scale^2) (Andriushchenko 2023).

    For small rho it is rho^2 / 2 times tr(T H T), T of the scale. A draw is the mean of d and -d,
    which takes the gradient out.

    Args:
      scale: |w| for the adaptive measure, [n], or 1.
    """
    x, centre, rises = np.asarray(x, float), loss(x), []
    for one in jax.random.split(key, draws):
        step = rho * np.asarray(scale) * np.asarray(jax.random.normal(one, x.shape), float)
        rises.append((loss(x + step) + loss(x - step)) / 2 - centre)
    return Estimate.of(rises, 2 * draws + 1)


def worst(
    batches: Sequence[ValueAndGrad],
    x: ArrayLike,
    scale: ArrayLike,
    rho: float,
    key: jax.Array,
    norm: float = 2,
    steps: int = 20,
) -> Estimate:
    """The mean over batches of max L(w + d) - L(w), |d / scale| <= rho (Andriushchenko 2023).

    By auto-PGD (Croce and Hein 2020, algorithm 1) on each batch of m examples, 128 in the paper.
    With norm 2 and a gradient of 0 it is rho^2 / 2 times the top eigenvalue of T H T for small rho.

    Args:
      batches: the loss of each.
      scale: |w| for the adaptive measure, [n], or 1; weights of 0 stay.
      norm: 2 or infinity.
    """
    x, keys = np.asarray(x, float), jax.random.split(key, len(batches))
    scale = np.broadcast_to(np.asarray(scale, float), x.shape)
    rises = [
        _auto_pgd(function, x, scale, rho, one, norm, steps)
        for function, one in zip(batches, keys, strict=True)
    ]
    return Estimate.of(rises, len(batches) * (steps + 2))


def _auto_pgd(function, x, scale, rho, key, norm, steps):
    """max L - L(w) of one batch, by u = d / scale in the ball of radius rho."""

    def at(u):
        loss, gradient = function(x + scale * u)
        return loss, scale * gradient, u

    def project(u):
        if norm == 2:
            return u * min(1.0, rho / max(float(np.linalg.norm(u)), 1e-300))
        return np.clip(u, -rho, rho)

    def uphill(gradient):
        if norm == 2:
            return gradient / max(float(np.linalg.norm(gradient)), 1e-300)
        return np.sign(gradient)

    centre, start = function(x)[0], np.asarray(jax.random.normal(key, x.shape), float)
    now = best = at(project(rho * start))
    step, rises, passed = 2 * rho, 0, 0
    before, told = now[2], (step, best[0])
    for k in range(1, steps + 1):
        u = now[2]
        ahead = project(u + step * uphill(now[1]))
        new = at(project(u + MOMENTUM * (ahead - u) + (1 - MOMENTUM) * (u - before)))
        rises += new[0] > now[0]
        now, before = new, u
        best = max(best, now, key=lambda found: found[0])
        if k not in _checkpoints(steps):
            continue
        stuck = (step, best[0]) == told
        told = step, best[0]
        if stuck or rises < FEWEST_RISES * (k - passed):
            step, now, before = step / 2, best, best[2]
        rises, passed = 0, k
    return max(best[0] - centre, 0.0)


def _checkpoints(steps):
    """Steps after which auto-PGD may halve its step: at shares 0.22, 0.41, 0.57, ... of them."""
    shares, gap = [0.22], 0.22
    while shares[-1] < 1:
        gap = max(gap - 0.03, 0.06)
        shares.append(shares[-1] + gap)
    return {math.ceil(share * steps) for share in shares}


# --- relative flatness ---


@dataclasses.dataclass(frozen=True)
class _OnOutputs:
    """v -> H, with v and the result times a matrix [out, out] along their last axis."""

    product: Callable[..., jax.Array]

    def __call__(self, vector, matrix, *arguments):
        along = lambda vector: (vector.reshape(-1, len(matrix)) @ matrix).ravel()
        return along(self.product(along(vector), *arguments))


def relative_flatness(
    layer: Operator, kernel: ArrayLike, key: jax.Array, products: int
) -> Estimate:
    """sum over s, s' of <w_s, w_s'> tr H_{s, s'} of a layer (Petzka 2021).

    w_s are the weights into output s, and H_{s, s'} the block of the Hessian of w_s and w_s'. It is
    the trace of (I x R) H (I x R) with R^2 = W^T W.

    Args:
      layer: the Hessian of the kernel alone.
      kernel: [..., out], as in Flax.
    """
    weights = np.asarray(kernel, float).reshape(-1, np.shape(kernel)[-1])
    values, vectors = np.linalg.eigh(weights.T @ weights)
    root = vectors * np.sqrt(np.maximum(values, 0.0)) @ vectors.T
    arguments = (jnp.asarray(root, layer.dtype), *layer.arguments)
    return trace(
        Operator(_OnOutputs(layer.product), arguments, layer.size, layer.dtype), key, products
    )
