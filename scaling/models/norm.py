"""Normalisation: none, batch, ghost batch and group; AlexNet's, across channels.

Batch statistics are shared by a *ghost batch*: a group of consecutive examples of the global batch
(Hoffer 2017, section 4). Its size is part of the experiment. It does not follow from the number of
devices or microbatches, as it silently does where every device normalises what it happens to hold.
Batch norm is the ghost batch norm whose one group is the global batch.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

KINDS = ("none", "batch", "ghost", "group")
# Normalising n values takes out their mean and their scale. Of two that leaves nothing but a sign,
# through which no gradient passes, and of one, nothing.
FEWEST_VALUES = 3


class Identity(nn.Module):
    """No normalisation; takes and ignores what the others use."""

    scale_init: nn.initializers.Initializer = nn.initializers.ones

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        del train
        return x


class GroupNorm(nn.Module):
    """Wu and He 2018, with as many of 32 groups as divide the channels."""

    scale_init: nn.initializers.Initializer = nn.initializers.ones
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        del train
        groups = groups_of(x.shape[-1])
        return nn.GroupNorm(groups, scale_init=self.scale_init, dtype=self.dtype)(x)


def groups_of(channels: int) -> int:
    """Groups that `GroupNorm` divides so many channels into."""
    return next(groups for groups in range(min(32, channels), 0, -1) if channels % groups == 0)


class GhostBatchNorm(nn.Module):
    """Batch norm over groups of `ghost_batch` consecutive examples.

    In training, group statistics are those of Hoffer 2017, Algorithm 1; across devices they are
    gathered where a group spans several. The running statistics are the sequential exponential
    average over all groups of the global batch, in order:

        running <- momentum^k running + sum_i momentum^(k-i) (1 - momentum) statistic_i

    They start at zero, and so does `weight`, the same average of 1. Evaluation divides by it, as
    Adam does by 1 - beta^t (Kingma and Ba 2014, section 3): after few groups the plain average
    would tell mostly of where it started. Before the first group the mean is 0 and the variance 1.

    A device knows only its own groups. It keeps an estimate in which those count `devices` times,
    so the mean of the devices' estimates, taken once per update with the gradients, is exact.

    Attributes:
      ghost_batch: examples in a group; None means the global batch, which then must be one
        microbatch.
      axis_name: the pmap axis that shares the batch, None outside of one.
      momentum: of the running statistics.
      dtype: of the result; statistics are float32 always.
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
        """Every device's group mean, [devices, C]."""
        group_mean = part_mean.reshape(-1, across, part_mean.shape[-1]).mean(1)
        return jnp.repeat(group_mean, across, axis=0)


def local_response_norm(
    x: jax.Array, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> jax.Array:
    """Krizhevsky 2012, section 3.3: x / (k + alpha mean of x^2 over `size` channels)^beta.

    The channels are those around each one, zeros beyond the first and the last. As in Caffe, alpha
    is divided by `size` and k is 1; the paper's formula takes the sum, and k = 2.

    Args:
      x: [..., C].
    """
    before, channels = size // 2, x.shape[-1]
    # In float32: next to k, bfloat16 would lose most of the rest.
    squares = jnp.square(x.astype(jnp.float32))
    padded = jnp.pad(squares, ((0, 0),) * (x.ndim - 1) + ((before, size - 1 - before),))
    total = sum(padded[..., i : i + channels] for i in range(size))
    return (x * (k + alpha / size * total) ** -beta).astype(x.dtype)


def make_norm(
    kind: str, ghost_batch: int | None, axis_name: str | None, dtype: jnp.dtype
) -> Callable[..., nn.Module]:
    """The constructor of norm layers for one model; call it with `scale_init` and `name` only."""
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
