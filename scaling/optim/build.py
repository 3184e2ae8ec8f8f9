"""Optimizers by name; all hyperparameters may be traced.

Functions (learning_rate, mask, *, hyperparameters). Defaults are those of the method's
paper, where it states them. Parameters are assumed to be float32.

Weight decay applies to the tensors where `mask` is True. It is coupled (L2: added to the gradient,
before momentum and preconditioning) in sgd, momentum, nesterov, adam and the LARS family, and
decoupled (added to the step, after preconditioning) in adamw, lamb, novograd and muon.

The momentum buffer of sgd, momentum, nesterov and larc accumulates raw gradients, v <- m v + g,
w <- w - lr v. This form needs no momentum correction when the rate changes (Goyal et al. 2017,
section 3). In lars the buffer includes the rate, as in its paper.

SOAP and Shampoo are not offered: optax has neither, and their eigenvectors of Kronecker factors
would be code of our own.
"""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jax.typing import ArrayLike

from scaling.errors import look_up, refuse_unread
from scaling.optim.lars import LearningRate, Mask, decayed, larc, lars, scale_by_larc


def build_optimizer(
    name: str,
    learning_rate: LearningRate,
    hparams: Mapping[str, ArrayLike],
    mask: Mask = decayed,
) -> optax.GradientTransformation:
    """The optimizer `name` with these hyperparameters, the rest at their defaults.

    Args:
      name: a key of `OPTIMIZERS`.
      learning_rate: a scalar, or a schedule of the number of previous updates (the first update
        uses schedule(0)); either may close over traced values.
      hparams: any of `HYPERPARAMETERS[name]`, numbers or traced scalars. All optimizers have
        `max_grad_norm`: gradients are first clipped to this global norm (5.0 in Hoffer et al.
        2017), before weight decay is added; 0 or inf for no clipping.
      mask: params -> tree of bools, the tensors with weight decay (and, in the LARS family, a
        local rate).

    Raises:
      UserError: unknown optimizer, or a hyperparameter that it does not have.
    """
    recipe = look_up("optimizer", name, OPTIMIZERS)
    refuse_unread(f"The {name!r} optimizer", hparams, HYPERPARAMETERS[name])
    numbers = dict(hparams)
    max_grad_norm = numbers.pop("max_grad_norm", None)
    tx = recipe(learning_rate, mask, **numbers)
    if max_grad_norm is None:  # no clipping: skip the global norm
        return tx
    limit = jnp.where(max_grad_norm > 0, max_grad_norm, jnp.inf)
    return optax.chain(optax.clip_by_global_norm(limit), tx)


def _coupled(direction, learning_rate, mask, weight_decay):
    """-lr direction(g + weight_decay w)."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask),
        direction,
        optax.scale_by_learning_rate(learning_rate),
    )


def _sgd(learning_rate, mask, *, weight_decay=0.0):
    return _coupled(optax.identity(), learning_rate, mask, weight_decay)


def _momentum(learning_rate, mask, *, momentum=0.9, weight_decay=0.0):
    """Heavy ball: v <- m v + g, w <- w - lr v."""
    return _coupled(optax.trace(momentum), learning_rate, mask, weight_decay)


def _nesterov(learning_rate, mask, *, momentum=0.9, weight_decay=0.0):
    """v <- m v + g, w <- w - lr (m v + g)."""
    return _coupled(optax.trace(momentum, nesterov=True), learning_rate, mask, weight_decay)


def _adam(learning_rate, mask, *, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0):
    return _coupled(optax.scale_by_adam(b1, b2, eps), learning_rate, mask, weight_decay)


def _larc_adam(
    learning_rate,
    mask,
    *,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    weight_decay=0.0,
    trust_coefficient=0.002,
    fallback=1 / 16000,
):
    """Adam on gradients that LARC has scaled, as Kurth et al. 2018 train."""
    local = scale_by_larc(learning_rate, trust_coefficient=trust_coefficient, fallback=fallback)
    direction = optax.chain(optax.masked(local, mask), optax.scale_by_adam(b1, b2, eps))
    return _coupled(direction, learning_rate, mask, weight_decay)


def _adamw(learning_rate, mask, *, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.01):
    """Adam, then w <- w - lr (adam + weight_decay w)."""
    return optax.adamw(learning_rate, b1, b2, eps, weight_decay=weight_decay, mask=mask)


def _lamb(learning_rate, mask, *, b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.01):
    """You et al. 2019 (arXiv:1904.00962), with phi(z) = z.

    The trust ratio is on every tensor, as in the paper; `mask` is for the decay only.
    """
    return optax.lamb(learning_rate, b1, b2, eps, weight_decay=weight_decay, mask=mask)


def _novograd(learning_rate, mask, *, b1=0.95, b2=0.98, eps=1e-8, weight_decay=0.0):
    """Ginsburg et al. 2019 (arXiv:1905.11286), without gradient averaging.

    Per tensor m <- b1 m + (g / (sqrt(v) + eps) + weight_decay w): without a factor 1 - b1, the
    stationary step is 1 / (1 - b1) = 20 times the averaged one. The decay is inside m, so it cannot
    be a separate transformation.
    """

    def on(tensors, decay):
        return optax.masked(optax.scale_by_novograd(b1, b2, eps, weight_decay=decay), tensors)

    def others(params):
        return jax.tree.map(lambda included: not included, mask(params))

    return optax.chain(
        on(mask, weight_decay), on(others, 0.0), optax.scale_by_learning_rate(learning_rate)
    )


def _optax_lars(learning_rate, mask, *, momentum=0.9, weight_decay=5e-4, trust_coefficient=0.001):
    """`optax.lars` with the masks of `lars`, so that only the denominator differs."""
    return optax.lars(
        learning_rate,
        weight_decay,
        mask,
        trust_coefficient,
        trust_ratio_mask=mask,
        momentum=momentum,
    )


# Parameters of language models, by their own name, with a vector for every token or place: no maps
# between layers, so not for Muon.
TABLES = ("embedding", "positions", "head")


def _muon(learning_rate, mask, *, momentum=0.95, weight_decay=0.0):
    """Jordan et al. 2024 (github.com/KellerJordan/Muon): orthogonalised momentum.

    m <- momentum m + (1 - momentum) g, and with M its Nesterov form, bias-corrected:

        d = sqrt(max(1, columns / rows)) NS(M),   w <- w - lr (d + weight_decay w)

    NS is five Newton-Schulz steps, which bring every singular value near 1. A tensor of two or more
    dimensions is reshaped to a matrix [all but the last, the last], a convolution to [kh kw in,
    out], including the last layer of an image model, for which Jordan uses Adam. Biases, norms and
    `TABLES` use optax's Adam, with Nesterov momentum, b1 = 0.9 and b2 = 0.999, at the same learning
    rate.
    """

    def of(path, w):
        if w.ndim < 2 or getattr(path[-1], "key", None) in TABLES:
            return None
        return optax.contrib.MuonDimensionNumbers(tuple(range(w.ndim - 1)), w.ndim - 1)

    def matrices(params):
        return jax.tree_util.tree_map_with_path(of, params)

    # The rate -1 leaves the directions unscaled; decay and rate follow, for all tensors alike.
    return optax.chain(
        optax.contrib.muon(-1.0, beta=momentum, muon_weight_dimension_numbers=matrices),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )


OPTIMIZERS = {
    "sgd": _sgd,
    "momentum": _momentum,
    "nesterov": _nesterov,
    "adam": _adam,
    "adamw": _adamw,
    "lamb": _lamb,
    "novograd": _novograd,
    "muon": _muon,
    "lars": lars,
    "larc": larc,
    "larc_adam": _larc_adam,
    "optax_lars": _optax_lars,
}
# Hyperparameters of each optimizer, with defaults.
HYPERPARAMETERS: dict[str, dict[str, float]] = {
    name: {**recipe.__kwdefaults__, "max_grad_norm": math.inf}
    for name, recipe in OPTIMIZERS.items()
}
