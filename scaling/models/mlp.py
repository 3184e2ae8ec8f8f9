"""Fully connected networks: Shallue's FC family, and F1 of Keskar and Hoffer."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling.models.layers import he_normal
from scaling.models.norm import make_norm


class MLP(nn.Module):
    """[dense, norm, ReLU] for each width, then a dense layer to the classes.

    `widths=(1024,) * 3` and the like are Shallue 2018's FC nets; `widths=(512,) * 5, norm="batch"`
    is F1 (Keskar 2016, Table 1), 1,462,794 parameters on 784 inputs.
    """

    num_classes: int
    widths: tuple[int, ...] = (64,)
    norm: str = "none"
    ghost_batch: int | None = None
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, positions: jax.Array | None = None):
        del positions
        norm = make_norm(self.norm, self.ghost_batch, self.axis_name, self.dtype)
        x = x.reshape(x.shape[0], -1).astype(self.dtype)
        for width in self.widths:
            x = nn.Dense(width, kernel_init=he_normal, dtype=self.dtype)(x)
            x = nn.relu(norm()(x, train=train))
        return nn.Dense(self.num_classes, dtype=self.dtype)(x).astype(jnp.float32)
