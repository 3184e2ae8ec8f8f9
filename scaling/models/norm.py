"""Normalisation: none, batch, ghost batch and group; local response normalisation for AlexNet.

A *ghost batch*, a group of consecutive examples of the global batch, shares batch statistics
(Hoffer 2017, section 4). Its size is part of the experiment, and independent of the number of
devices and microbatches; with per-device batch norm it would silently depend on them. Batch norm is
ghost batch norm with the global batch as its only group.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

KINDS = ("none", "batch", "ghost", "group")
# Normalising removes mean and scale. Two values become -1 and 1, one becomes 0, both without a
# gradient.
FEWEST_VALUES = 3


class Identity(nn.Module):
    """No normalisation, with the arguments of the others."""

    scale_init: nn.initializers.Initializer = nn.initializers.ones

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        del train
        return x


class GroupNorm(nn.Module):
    """Wu and He 2018, with the largest number of groups up to 32 that divides the channels."""

    scale_init: nn.initializers.Initializer = nn.initializers.ones
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        del train
        groups = groups_of(x.shape[-1])
        return nn.GroupNorm(groups, scale_init=self.scale_init, dtype=self.dtype)(x)


def groups_of(channels: int) -> int:
    """Number of groups of `GroupNorm`: the largest divisor of the channels up to 32."""
    return next(groups for groups in range(min(32, channels), 0, -1) if channels % groups == 0)


class GhostBatchNorm(nn.Module):
    """Batch norm over groups of `ghost_batch` consecutive examples.

    Training uses the group statistics of Hoffer 2017, Algorithm 1, gathered over devices where a
    group spans several. The running statistics are the sequential exponential average over all
    groups of the global batch, in order:

        running <- momentum^k running + sum_i momentum^(k-i) (1 - momentum) statistic_i

    They start at zero, as does `weight`, the same average of 1. Evaluation divides by it to correct
    the bias towards zero, as Adam divides by 1 - beta^t (Kingma and Ba 2014, section 3). Before the
    first group the mean is 0 and the variance 1.

    Each device averages its own groups, weighted by the number of devices; the mean of these
    averages over devices, taken once per update with the gradients, is exact.

    Attributes:
      ghost_batch: examples in a group; None for the global batch, which must then be one
        microbatch.
      axis_name: the pmap axis over which the batch is divided, None outside pmap.
      momentum: of the running statistics.
      dtype: of the result; statistics are always float32.
    """

    ghost_batch: int | None = None
    axis_name: str | None = None
    momentum: float = 0.9
    epsilon: float = 1e-5
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """x: [N, ..., C], rows of one microbatch on this device."""
        channels = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        running_var = self.variable("batch_stats", "var", jnp.zeros, channels)
        running_weight = self.variable("batch_stats", "weight", jnp.zeros, ())
        scale = self.param("scale", self.scale_init, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))

        if train and not self.is_initializing():
            mean, var, count, weights = self._group_statistics(x)
            decay = self.momentum**count
            running_mean.value = decay * running_mean.value + weights @ mean
            running_var.value = decay * running_var.value + weights @ var
            running_weight.value = decay * running_weight.value + weights.sum()
        else:
            weight = running_weight.value
            total = jnp.where(weight > 0, weight, 1.0)
            mean = running_mean.value[None] / total
            var = jnp.where(weight > 0, running_var.value[None] / total, 1.0)

        groups = mean.shape[0]
        grouped = x.reshape(groups, -1, channels).astype(jnp.float32)
        y = (grouped - mean[:, None]) * (lax.rsqrt(var + self.epsilon) * scale)[:, None] + bias
        return y.reshape(x.shape).astype(self.dtype)

    def _group_statistics(self, x):
        """Mean and variance [groups here, C], groups in the microbatch, their running weights."""
        rows = x.shape[0]
        devices = 1 if self.axis_name is None else lax.axis_size(self.axis_name)
        device = 0 if self.axis_name is None else lax.axis_index(self.axis_name)
        ghost = self.ghost_batch or devices * rows
        here, across = max(rows // ghost, 1), max(ghost // rows, 1)
        if here * ghost != rows * across or devices % across:
            raise ValueError(f"ghost batch {ghost} does not fit {devices} devices x {rows} rows")

        grouped = x.reshape(here, -1, x.shape[-1]).astype(jnp.float32)
        mean = grouped.mean(1)
        var = jnp.square(grouped - mean[:, None]).mean(1)
        if across > 1:
            # Chan et al. 1979: the variance of a union from the parts' means and variances.
            part_mean, part_var = lax.all_gather((mean[0], var[0]), self.axis_name)
            split = lambda a: a.reshape(devices // across, across, -1)[device // across]
            mean = split(part_mean).mean(0)[None]
            var = split(part_var + jnp.square(part_mean - self._spread(part_mean, across))).mean(0)
            var = var[None]
        count = devices * rows // ghost
        order = device * rows // ghost + jnp.arange(here)
        weights = (1.0 - self.momentum) * self.momentum ** (count - 1 - order) * devices / across
        return mean, var, count, weights

    @staticmethod
    def _spread(part_mean, across):
        """The group mean of each device, [devices, C]."""
        group_mean = part_mean.reshape(-1, across, part_mean.shape[-1]).mean(1)
        return jnp.repeat(group_mean, across, axis=0)


def local_response_norm(
    x: jax.Array, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> jax.Array:
    """Krizhevsky 2012, section 3.3: x / (k + alpha mean of x^2 over `size` channels)^beta.

    The window is centred on each channel and padded with zeros. As in Caffe, alpha is divided by
    `size` and k is 1; the paper has the sum, and k = 2.

    Args:
      x: [..., C].
    """
    before, channels = size // 2, x.shape[-1]
    # In float32: bfloat16 would lose most of the sum in the addition to k.
    squares = jnp.square(x.astype(jnp.float32))
    padded = jnp.pad(squares, ((0, 0),) * (x.ndim - 1) + ((before, size - 1 - before),))
    total = sum(padded[..., i : i + channels] for i in range(size))
    return (x * (k + alpha / size * total) ** -beta).astype(x.dtype)


def make_norm(
    kind: str, ghost_batch: int | None, axis_name: str | None, dtype: jnp.dtype
) -> Callable[..., nn.Module]:
    """The constructor of a model's norm layers; its arguments are `scale_init` and `name`."""
    if kind == "none":
        return Identity
    if kind == "group":
        return functools.partial(GroupNorm, dtype=dtype)
    return functools.partial(
        GhostBatchNorm,
        ghost_batch=ghost_batch if kind == "ghost" else None,
        axis_name=axis_name,
        dtype=dtype,
    )
