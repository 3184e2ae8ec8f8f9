"""LARS and LARC: a learning rate per tensor, from the ratio of weight norm to gradient norm.

LARS, You, Gitman and Ginsburg 2017 (arXiv:1708.03888), eq. 5-6 and Algorithm 1, per tensor:

    lambda = eta ||w|| / (||g|| + beta ||w||)     eta the trust coefficient, beta the weight decay
    v <- m v + gamma_t lambda (g + beta w)        the learning rate gamma_t is inside the buffer
    w <- w - v

(Algorithm 1 as printed omits eta from lambda; the equations include it, as here.) Since lambda is
near eta, learning rates of 2 to 20 are normal. The paper has no Nesterov form.

Differences of `optax.lars` (0.2.8):
  * its denominator is ||g + beta w||, which is smaller unless g and w are aligned, and equal if
    beta = 0;
  * by default it scales and decays every tensor, including biases and norm parameters, since both
    masks default to True;
  * its weight decay defaults to 0, and it has options for Nesterov momentum and an epsilon.
Its learning rate is inside the momentum buffer too, and its ratio also falls back to 1.

LARC is the clipped form: the local rate can lower the learning rate but not raise it. Kurth et al.
2018 (arXiv:1810.01993) apply it before Adam.

Tensors where `mask` is True have a local rate and weight decay, the others neither (lambda = 1,
beta = 0). The default, `decayed`, excludes biases and norm scales and offsets.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

# A constant learning rate, or a function of the number of previous updates.
LearningRate = ArrayLike | Callable[[ArrayLike], ArrayLike]
# params -> a tree of bools with the same structure.
Mask = Callable[[Any], Any]


def decayed(params: Any) -> Any:
    """True for tensors of two or more dimensions: kernels and embeddings, not biases and norms.

    The dimensions are those of one trial: in a population, call it inside the `vmap`.
    """
    return jax.tree.map(lambda w: jnp.ndim(w) >= 2, params)


def lars(
    learning_rate: LearningRate,
    mask: Mask = decayed,
    *,
    momentum: ArrayLike = 0.9,
    weight_decay: ArrayLike = 5e-4,
    trust_coefficient: ArrayLike = 0.001,
) -> optax.GradientTransformation:
    """LARS as in the paper; see the module docstring.

    Where ||w|| = 0 or ||g|| = 0 the ratio is undefined and lambda = 1, the customary fallback. A
    kernel initialised at zero therefore takes its first step at the plain learning rate.

    Args:
      learning_rate: gamma_t, a scalar or a schedule; the first update uses schedule(0).
      mask: which tensors are scaled and decayed.
      momentum: m.
      weight_decay: beta, coupled: in both the gradient and the denominator.
      trust_coefficient: eta.
    """
    local = scale_by_lars(trust_coefficient=trust_coefficient, weight_decay=weight_decay)
    return optax.chain(
        optax.masked(local, mask),
        optax.scale_by_learning_rate(learning_rate),
        # After the learning rate: the buffer accumulates gamma_t lambda (g + beta w).
        optax.trace(momentum),
    )


def larc(
    learning_rate: LearningRate,
    mask: Mask = decayed,
    *,
    momentum: ArrayLike = 0.9,
    weight_decay: ArrayLike = 0.0,
    trust_coefficient: ArrayLike = 0.002,
    fallback: ArrayLike = 1 / 16000,
) -> optax.GradientTransformation:
    """LARC with momentum SGD.

    Per tensor, with g the gradient of the loss with its L2 term, g <- g + weight_decay w:

        v <- m v + g min(local, lr) / lr,   w <- w - lr v

    so the clipping is inside the momentum buffer and the learning rate outside. Without momentum
    the step is min(local, lr) g. Arguments as in `lars` and `scale_by_larc`.
    """
    local = scale_by_larc(learning_rate, trust_coefficient=trust_coefficient, fallback=fallback)
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask),
        optax.masked(local, mask),
        optax.trace(momentum),
        optax.scale_by_learning_rate(learning_rate),
    )


def scale_by_lars(
    *, trust_coefficient: ArrayLike, weight_decay: ArrayLike
) -> optax.GradientTransformation:
    """g -> lambda (g + weight_decay w) on every tensor; `lars` without mask, rate and momentum."""

    def scale(g: jax.Array, w: jax.Array) -> jax.Array:
        rate = _local_rate(g, w, trust_coefficient, weight_decay, fallback=1.0)
        return rate * (g + weight_decay * w)

    return optax.stateless_with_tree_map(scale)


class LarcState(NamedTuple):
    count: jax.Array  # number of updates, int32 scalar


def scale_by_larc(
    learning_rate: LearningRate,
    *,
    trust_coefficient: ArrayLike = 0.002,
    fallback: ArrayLike = 1 / 16000,
) -> optax.GradientTransformation:
    """g -> g min(local, lr) / lr on every tensor, local = eta ||w|| / ||g||.

    Chain it with an optimizer at the same learning rate. LARC-Adam (Kurth et al. 2018, with the
    default eta and fallback) is
    `optax.chain(scale_by_larc(lr), optax.scale_by_adam(), optax.scale_by_learning_rate(lr))`.

    Args:
      learning_rate: a scalar or a schedule, that of the optimizer. Where it is 0 the gradient is
        unchanged.
      trust_coefficient: eta.
      fallback: the local rate where ||w|| = 0 or ||g|| = 0; `jnp.inf` for no scaling.
    """

    def init(params):
        return LarcState(jnp.zeros([], jnp.int32))

    def update(updates, state, params):
        lr = learning_rate(state.count) if callable(learning_rate) else learning_rate

        def scale(g, w):
            local = _local_rate(g, w, trust_coefficient, 0.0, fallback)
            return g * jnp.where(local < lr, local / lr, 1.0)

        return jax.tree.map(scale, updates, params), LarcState(optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)


def _local_rate(g, w, trust_coefficient, weight_decay, fallback) -> jax.Array:
    """eta ||w|| / (||g|| + beta ||w||) of one tensor, or `fallback` where either norm is 0."""
    w_norm, g_norm = jnp.linalg.norm(w), jnp.linalg.norm(g)
    rate = trust_coefficient * w_norm / (g_norm + weight_decay * w_norm)
    return jnp.where((w_norm > 0) & (g_norm > 0), rate, fallback)
