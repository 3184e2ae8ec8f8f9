"""Curvature of a loss at given weights: eigenvalues, trace and spectrum of its Hessian H.

H is never held. All is made of products H v over the data in chunks, forward over reverse
(Pearlmutter 1994), each at 1.2 to 1.8 times the time of a gradient. Eigenvalues and their
bounds come from Lanczos with full reorthogonalisation, by matfree; spectra from stochastic Lanczos
quadrature (Ghorbani 2019, arXiv:1901.10159), traces from XTrace (Epperly 2024, arXiv:2301.07825) or
Hutchinson's estimator.

A *loss* is (params, chunk) -> (sum of the losses of the chunk's examples, sum of their weights);
the loss of all is the one sum over the other, whatever the chunks. *Chunks* are a tree of arrays
[K, rows, ...]; where they lie on several devices by rows, the work does too. *Tensors* is a tree of
bools like `params`: those to differentiate by, all if None. The others stay, so that `params` may
hold batch statistics. Vectors [n] are of the chosen tensors, in the order of `jax.tree.leaves`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jax import lax
from jax.flatten_util import ravel_pytree
from matfree import decomp
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Loss = Callable[[Any, Any], tuple[jax.Array, jax.Array]]

CONFIDENCE = 0.95  # of intervals, two-sided
# A Krylov space is complete where the next vector is rounding: below so many units of the last
# place of |T|. With the square root of that unit, as others have it, accurate runs are cut short.
COMPLETE = 64
KEPT = 2**30  # bytes that products may keep
ROUNDING = 16  # units of the last place of |H| by which a converged eigenvalue may be off


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over random draws.

    Attributes:
      value: in the unit of what was averaged.
      standard_error: of the value.
      interval: Student's, at 95%.
      products: with the matrix that it took, or evaluations of the loss.
    """

    value: float
    standard_error: float
    interval: tuple[float, float]
    products: int

    @classmethod
    def of(cls, draws: ArrayLike, products: int) -> "Estimate":
        """Of independent draws [N].

        Raises:
          ValueError: there are fewer than two.
        """
        draws = np.asarray(draws, float)
        return cls.about(float(draws.mean()), draws, products)

    @classmethod
    def about(cls, value: float, draws: Array, products: int) -> "Estimate":
        """The value, with the standard error of the mean of the draws."""
        if draws.size < 2:
            raise ValueError(f"{draws.size} draw(s) have no standard error; take two or more.")
        error = float(draws.std(ddof=1)) / math.sqrt(draws.size)
        half = float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, draws.size - 1)) * error
        return cls(value, error, (value - half, value + half), products)


# --- losses and products ---


def in_chunks(examples: Any, rows: int) -> tuple[Any, NDArray]:
    """(examples [K, rows, ...], mask [K, rows]), 0 on the copies of the last that fill a chunk.

    Args:
      examples: a tree of arrays [N, ...].
    """
    count = len(jax.tree.leaves(examples)[0])
    index = np.arange(-(-count // rows) * rows).reshape(-1, rows)
    take = lambda leaf: leaf[np.minimum(index, count - 1)]
    return jax.tree.map(take, examples), (index < count).astype(np.float32)


def summed(losses: Callable[[Any, Any], jax.Array]) -> Loss:
    """The loss, on what `in_chunks` gives, of (params, examples) -> losses [rows].

    Make it once: programs are compiled anew for a new one.
    """

    def loss(params, chunk):
        examples, mask = chunk
        return jnp.sum(jnp.where(mask > 0, losses(params, examples), 0.0)), jnp.sum(mask)

    return loss


def flatten(params: Any, tensors: Any = None) -> tuple[jax.Array, Callable[[jax.Array], Any]]:
    """The chosen tensors as a vector [n], and a function from such a vector to all of `params`."""
    chosen, merge = _split(params, _kept(params, tensors))
    vector, restore = ravel_pytree(chosen)
    return vector, lambda vector: merge(restore(vector))


def _kept(params, tensors):
    """Which leaves are chosen, a tuple of bools."""
    if tensors is None:
        return (True,) * len(jax.tree.leaves(params))
    kept = jax.tree.map(lambda _, keep: bool(keep), params, tensors)
    if not any(jax.tree.leaves(kept)):
        raise ValueError("No tensor is chosen; set one of `tensors` to True.")
    return tuple(jax.tree.leaves(kept))


def _split(params, kept):
    """The chosen leaves, and a function from such a list to all of `params`."""
    leaves, structure = jax.tree.flatten(params)

    def merge(chosen):
        rest = iter(chosen)
        pairs = zip(leaves, kept, strict=True)
        return structure.unflatten([next(rest) if keep else leaf for leaf, keep in pairs])

    return [leaf for leaf, keep in zip(leaves, kept, strict=True) if keep], merge


def _total(function, chunks):
    """The sum of function(chunk), a tree, over the chunks, in float32 or wider."""
    shapes = jax.eval_shape(function, jax.tree.map(lambda leaf: leaf[0], chunks))
    wide = lambda s: jnp.zeros(s.shape, jnp.promote_types(s.dtype, jnp.float32))
    add = lambda total, chunk: (jax.tree.map(jnp.add, total, function(chunk)), None)
    return lax.scan(add, jax.tree.map(wide, shapes), chunks)[0]


@dataclasses.dataclass(frozen=True)
class _Program:
    """What is traced. Equal for other weights and data of a loss, which then compile no more."""

    loss: Loss
    kept: tuple[bool, ...]

    def gradient(self, params: Any, chunk: Any, tangent: Any = None):
        """((sum of losses, of weights), its gradient) by the chosen leaves; with a tangent, a list
        like the chosen leaves, (the same, H times the tangent), of the sum, too."""
        chosen, merge = _split(params, self.kept)

        def pair(chosen):
            of = lambda chosen: self.loss(merge(chosen), chunk)
            (total, weight), gradient = jax.value_and_grad(of, has_aux=True)(chosen)
            return gradient, (total, weight)

        if tangent is None:
            return pair(chosen)
        gradient, product, sums = jax.jvp(pair, (chosen,), (tangent,), has_aux=True)
        return (gradient, product), sums


@dataclasses.dataclass(frozen=True)
class _Product(_Program):
    """(vector, params, scale, chunks, or None and what `linear` gives of them) -> d H d vector."""

    def __call__(self, vector, params, scale, chunks, linear=None):
        _, restore = ravel_pytree(_split(params, self.kept)[0])
        tangent = restore(vector if scale is None else vector * scale)

        def one(chunk):
            (_, product), (_, weight) = self.gradient(params, chunk, tangent)
            return product, weight

        with jax.default_matmul_precision("highest"):
            if linear is None:
                product, weight = _total(one, chunks)
            else:
                product, weight = _total(lambda one: one(tangent), linear[0]), linear[1]
        product = (ravel_pytree(product)[0] / weight).astype(vector.dtype)
        return product if scale is None else product * scale

    @functools.partial(jax.jit, static_argnums=0)
    def linear(self, params, chunks):
        """(the product of each chunk as a linear function, a tree [K, ...]; the sum of weights)."""

        def one(chunk):
            chosen, merge = _split(params, self.kept)
            total = lambda chosen: self.loss(merge(chosen), chunk)
            _, product, weight = jax.linearize(jax.grad(total, has_aux=True), chosen, has_aux=True)
            return product, weight

        with jax.default_matmul_precision("highest"):
            products, weights = lax.map(one, chunks)
        return products, weights.sum()


@dataclasses.dataclass(frozen=True)
class Operator:
    """A symmetric matrix [size, size] by its products; called with a vector, it gives one.

    Attributes:
      product: (vector, *arguments) -> vector, to be traced. Hashable: programs are compiled for it.
      arguments: trees of arrays. What `product` closes over instead becomes a constant of the
        program, and may take long to compile.
      dtype: of vectors.
    """

    product: Callable[..., jax.Array]
    arguments: tuple[Any, ...]
    size: int
    dtype: Any = jnp.float32

    def __call__(self, vector: ArrayLike) -> jax.Array:
        return _apply(self.product, jnp.asarray(vector, self.dtype), *self.arguments)


_apply = jax.jit(lambda product, *args: product(*args), static_argnums=0)


def hessian_product(
    loss: Loss,
    params: Any,
    chunks: Any,
    tensors: Any = None,
    scale: ArrayLike | None = None,
    keep: bool | None = None,
) -> Operator:
    """The Hessian H of the loss; d H d with a `scale` d [n], such as |w| for adaptive measures.

    Args:
      keep: what a gradient computes of all examples, for faster products: 20 kB an example for
        five layers of 128 units with batch norm. None: where it takes at most `KEPT` bytes.

    Raises:
      ValueError: no tensor is chosen.
    """
    vector, _ = flatten(params, tensors)
    scale = None if scale is None else jnp.asarray(scale, vector.dtype)
    product = _Product(loss, _kept(params, tensors))
    if keep is None:
        kept = jax.tree.leaves(jax.eval_shape(product.linear, params, chunks))
        keep = sum(leaf.size * leaf.dtype.itemsize for leaf in kept) <= KEPT
    data = (None, product.linear(params, chunks)) if keep else (chunks,)
    return Operator(product, (params, scale, *data), vector.size, vector.dtype)


def value_and_grad(
    loss: Loss, params: Any, chunks: Any, tensors: Any = None
) -> Callable[[ArrayLike], tuple[float, Array]]:
    """The function from a vector [n] to the loss there and its gradient [n], float64."""
    x, restore = flatten(params, tensors)
    program = _Program(loss, _kept(params, tensors))

    def of(vector):
        params = restore(jnp.asarray(vector, x.dtype))
        value, gradient = _value_and_grad(program, params, chunks)
        return float(value), np.asarray(gradient, float)

    return of


@functools.partial(jax.jit, static_argnums=0)
def _value_and_grad(program, params, chunks):
    gradient, (total, weight) = _total(lambda chunk: program.gradient(params, chunk), chunks)
    return total / weight, ravel_pytree(gradient)[0] / weight


# --- eigenvalues ---


@dataclasses.dataclass(frozen=True)
class Krylov:
    """H in the Krylov space of a random vector: a tridiagonal matrix T.

    Attributes:
      diagonal: [steps].
      off_diagonal: [steps - 1].
      residual: norm of the part of the next vector outside of the space; about 0 where the space
        is complete, which is at as many steps as H has distinct eigenvalues.
      rounding: error of a converged eigenvalue, at most.
    """

    diagonal: Array
    off_diagonal: Array
    residual: float
    rounding: float

    @property
    def steps(self) -> int:
        """Products, fewer than asked for where the space was complete."""
        return len(self.diagonal)


def lanczos(operator: Operator, key: jax.Array, steps: int) -> Krylov:
    """Lanczos with full reorthogonalisation from a normal vector.

    Memory: 3 `steps` vectors. Without reorthogonalisation eigenvalues come twice and are wrong.

    Raises:
      ValueError: a product is not finite.
    """
    return _krylov(operator, jax.random.normal(key, (operator.size,), operator.dtype), steps)


def _krylov(operator, start, steps):
    """`lanczos` from a vector, cut where the space is complete: what follows is rounding."""
    count = min(steps, operator.size)
    found = _tridiagonal(operator.product, count, start, *operator.arguments)
    diagonal, below, residual = (np.asarray(a, float) for a in found)
    if not np.isfinite(diagonal[0]):
        raise ValueError("A Hessian-vector product is not finite; are the loss and the weights?")
    below, unit = np.append(below, residual), float(jnp.finfo(operator.dtype).eps)
    norm = before = 0.0
    for k, (at, after) in enumerate(zip(diagonal, below, strict=True), 1):
        norm = max(norm, before + abs(at))  # of the rows of T
        # Zero operators and multiples of I have 0 / 0 in the second vector.
        if k == count or not after > COMPLETE * unit * norm:
            break
        norm, before = max(norm, before + abs(at) + after), after
    return Krylov(diagonal[:k], below[: k - 1], float(after), ROUNDING * unit * norm)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _tridiagonal(product, steps, start, *arguments):
    # Of T's two off-diagonals the lower one, the norm of what was left, shows that nothing was.
    # `decomp.tridiag_sym` gives the mean of both.
    decompose = decomp.hessenberg(steps, reortho="full", custom_vjp=False)
    with jax.default_matmul_precision("highest"):
        _, matrix, residual, _ = decompose(product, start, *arguments)
    return jnp.diagonal(matrix), jnp.diagonal(matrix, -1), jnp.linalg.norm(residual)


def ritz(krylov: Krylov, steps: int | None = None) -> tuple[Array, Array]:
    """(eigenvalues of T, from the largest to the smallest; their error bounds), [steps] each.

    Within the bound of a value is an eigenvalue of H (Paige 1980): |residual| times the last
    component of T's eigenvector, and rounding. The first converge first, then the last, which is
    lambda_min. Equal eigenvalues of H are found once.

    Args:
      steps: of the first so many alone: how the values converged.
    """
    steps = krylov.steps if steps is None else steps
    residual = np.append(krylov.off_diagonal, krylov.residual)[steps - 1]
    values, vectors = _eigen(krylov, steps)
    return values[::-1], np.abs(residual * vectors[-1])[::-1] + krylov.rounding


def _eigen(krylov, steps=None):
    """Eigenvalues, ascending, and vectors of T."""
    steps = krylov.steps if steps is None else steps
    off = krylov.off_diagonal[: steps - 1]
    return scipy.linalg.eigh_tridiagonal(krylov.diagonal[:steps], off)


# --- spectra ---


@dataclasses.dataclass(frozen=True)
class Quadrature:
    """The spectrum of H as seen by random vectors.

    Attributes:
      nodes: [probes, steps] Ritz values.
      weights: [probes, steps], of each probe 1 in all; 0 on nodes beyond a complete space.
      products: with H.
    """

    nodes: Array
    weights: Array
    products: int

    def mean(self, function: Callable[[Array], Array]) -> Estimate:
        """The mean of a function over all eigenvalues, tr f(H) / n.

        Unbiased for polynomials up to degree 2 steps - 1 (Golub and Meurant 1994).
        """
        return Estimate.of((self.weights * function(self.nodes)).sum(1), self.products)

    def mass(self, low: float, high: float) -> Estimate:
        """The share of eigenvalues between two values, inclusive.

        Ask away from 0: a spectrum that is dense there is not resolved, and the share of negative
        eigenvalues comes out wrong, for which there is lambda_min.
        """
        return self.mean(lambda nodes: (nodes >= low) & (nodes <= high))


def spectrum(operator: Operator, key: jax.Array, steps: int, probes: int) -> Quadrature:
    """Stochastic Lanczos quadrature (Ghorbani, Krishnan and Xiao 2019), from random signs.

    Raises:
      ValueError: a product is not finite.
    """
    nodes, weights = np.zeros((2, probes, min(steps, operator.size)))
    products = 0
    for i, one in enumerate(jax.random.split(key, probes)):
        start = jax.random.rademacher(one, (operator.size,), operator.dtype)
        krylov = _krylov(operator, start, steps)
        nodes[i, : krylov.steps], vectors = _eigen(krylov)
        weights[i, : krylov.steps] = vectors[0] ** 2
        products += krylov.steps
    if not np.allclose(weights.sum(1), 1.0):
        raise AssertionError(f"The weights of the probes are {weights.sum(1)} in all, not 1.")
    return Quadrature(nodes, weights, products)


# --- traces ---


def trace(operator: Operator, key: jax.Array, products: int, method: str = "xtrace") -> Estimate:
    """tr H, from at most so many products; exactly where that many are n.

    XTrace (Epperly, Tropp and Webber 2024, with their normalisation of the residuals) takes the
    trace of H on the products of half of the vectors exactly. It is the more accurate the faster
    the spectrum falls, and holds 2 n numbers for every two products. Hutchinson's estimator is the
    mean of v^T H v over random signs v, and holds none.

    The standard error of XTrace is the jackknife's, on average too large rather than too small
    (Efron and Stein 1981). The spread of its leave-one-out values, as in the paper, is too small
    where they share their errors: intervals of 95% cover 83% of the draws from the spectrum
    exp(-i / 5), and those of the jackknife 100%.

    Args:
      method: "xtrace" or "hutchinson".

    Raises:
      ValueError: there are too few products for an interval: six and two.
    """
    arguments = operator.arguments
    zeros = jnp.zeros(operator.size, operator.dtype)
    if products >= operator.size:
        value = float(_exact_trace(operator.product, zeros, *arguments))
        return Estimate(value, 0.0, (value, value), operator.size)
    if products < {"xtrace": 6, "hutchinson": 2}[method]:
        raise ValueError(f"{products} product(s) are too few for an interval by {method}.")
    if method == "hutchinson":
        draws = _hutchinson(operator.product, products, key, zeros, *arguments)
        return Estimate.of(draws, products)
    probes = products // 2
    parts = _sketch(operator.product, probes, key, zeros, *arguments)
    parts = [np.asarray(part, float) for part in parts]
    size, diagonal = operator.size, np.abs(np.diag(parts[0]))
    if diagonal.min() <= COMPLETE * float(jnp.finfo(operator.dtype).eps) * diagonal.max():
        value = float(np.trace(parts[3]))  # the rank of H is below the number of probes
        return Estimate(value, 0.0, (value, value), 2 * probes)
    without = [_xtrace(parts, np.arange(probes) != i, size) for i in range(probes)]
    # (m - 1) / m sum of squared deviations = the variance of the mean of these m "draws".
    draws = (probes - 1) * np.asarray(without)
    return Estimate.about(_xtrace(parts, np.ones(probes, bool), size), draws, 2 * probes)


@functools.partial(jax.jit, static_argnums=0)
def _exact_trace(product, zeros, *arguments):
    element = lambda i: product(zeros.at[i].set(1.0), *arguments)[i]
    return lax.map(element, jnp.arange(zeros.size)).sum()


@functools.partial(jax.jit, static_argnums=(0, 1))
def _hutchinson(product, probes, key, zeros, *arguments):
    def one(key):
        signs = jax.random.rademacher(key, zeros.shape, zeros.dtype)
        return signs @ product(signs, *arguments)

    with jax.default_matmul_precision("highest"):
        return lax.map(one, jax.random.split(key, probes))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _sketch(product, probes, key, zeros, *arguments):
    """All that `_xtrace` needs of normal vectors V [n, m], with Q R = H V: R, Q^T V, (H Q)^T V,
    Q^T H Q, [m, m] each, and |v|^2 [m]."""
    # One product after another: side by side they would take the memory of all, and no less time
    # on a CPU.
    products = lambda rows: lax.map(lambda v: product(v, *arguments), rows)
    with jax.default_matmul_precision("highest"):
        rows = jax.random.normal(key, (probes, zeros.size), zeros.dtype)
        q, r = jnp.linalg.qr(products(rows).T)
        of_q = products(q.T)
        return r, q.T @ rows.T, of_q @ rows.T, of_q @ q, jnp.square(rows).sum(1)


def _xtrace(parts, kept, size):
    """The mean over vectors v of tr(Q^T H Q) + (v - Q Q^T v)^T H (v - Q Q^T v), normalised, with
    Q of the products of the other vectors.

    Args:
      parts: of `_sketch`.
      kept: [m] bools, the vectors to use.
    """
    r, q_v, hq_v, q_h_q, squares = parts
    # Q C is an orthonormal basis of the products kept; leaving out v_i as well takes away the
    # direction s_i of it, column i of `gone`.
    c, r = np.linalg.qr(r[:, kept])
    q_v, hq_v, q_h_q = c.T @ q_v[:, kept], c.T @ hq_v[:, kept], c.T @ q_h_q @ c
    gone = np.linalg.inv(r).T
    gone /= np.linalg.norm(gone, axis=0)
    along = (q_v * gone).sum(0)
    inside = q_v - gone * along  # Q_i^T v_i
    sketched = np.trace(q_h_q) - (gone * (q_h_q @ gone)).sum(0)
    rest = (inside * (q_h_q @ inside) - hq_v * inside + gone * r * along).sum(0)
    share = (size - len(r) + 1) / (squares[kept] - np.square(inside).sum(0))
    return float(np.mean(sketched + share * rest))


# --- along a run ---


def edge(learning_rate: float, momentum: float = 0.0, nesterov: bool = False) -> float:
    """The top eigenvalue of H above which training on a quadratic diverges (Cohen 2021).

    arXiv:2103.00065. Momentum b is that of v <- b v + g, w <- w - rate v: 2 / rate without it,
    (2 + 2 b) / rate with it, and (2 + 2 b) / (rate (1 + 2 b)) with Nesterov's.
    """
    return (2 + 2 * momentum) / (learning_rate * (1 + 2 * momentum * nesterov))


def batch_sharpness(loss: Loss, params: Any, chunks: Any, tensors: Any = None) -> Estimate:
    """E[g^T H g] / E|g|^2, g and H of a batch; one for each chunk (Andreyev and Beneventano
    2024, arXiv:2412.20553).

    At the edge of stability of SGD it is 2 / rate.

    Raises:
      ValueError: there are fewer than two chunks.
    """
    program = _Program(loss, _kept(params, tensors))
    return ratio_of_means(*np.asarray(_along_gradients(program, params, chunks), float))


def ratio_of_means(tops: Array, bottoms: Array) -> Estimate:
    """mean(tops) / mean(bottoms) of pairs [N], [N], with an interval by the delta method.

    Raises:
      ValueError: there are fewer than two.
    """
    ratio = float(tops.mean() / bottoms.mean())
    return Estimate.about(ratio, (tops - ratio * bottoms) / bottoms.mean(), len(tops))


@functools.partial(jax.jit, static_argnums=0)
def _along_gradients(program, params, chunks):
    """[2, K]: g^T H g and |g|^2 of each chunk."""

    def one(chunk):
        gradient, (_, weight) = program.gradient(params, chunk)
        (_, product), _ = program.gradient(params, chunk, gradient)
        flat, along = ravel_pytree(gradient)[0] / weight, ravel_pytree(product)[0] / weight**2
        return jnp.stack([flat @ along, flat @ flat])

    with jax.default_matmul_precision("highest"):
        return lax.map(one, chunks).T
