"""Small convolutional nets: Shallue's Simple CNN, and C1 / C3 of Keskar and Hoffer."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling.models.layers import Conv, Dropout, he_normal, max_pool_2x2, max_pool_3x3
from scaling.models.norm import make_norm

SIZES = {"narrow": (16, 32, 512), "base": (32, 64, 1024), "wide": (64, 128, 2048)}


class SimpleCNN(nn.Module):
    """Two stages of [5x5 conv, ReLU, 2x2 max pool], a dense ReLU layer with dropout, a dense layer.

    Shallue 2018, and McCandlish 2018, App. A.4.1. `size` is narrow, base or wide, see `SIZES`:
    filters of both stages and hidden units. The papers use dropout 0.4 on Fashion-MNIST and none on
    MNIST.
    """

    num_classes: int
    size: str = "base"
    dropout: float = 0.0
    norm: str = "none"
    ghost_batch: int | None = None
    axis_name: str | None = None
    conv_method: str = "auto"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, positions: jax.Array | None = None):
        norm = make_norm(self.norm, self.ghost_batch, self.axis_name, self.dtype)
        *filters, hidden = SIZES[self.size]
        for features in filters:
            use_bias = self.norm == "none"
            x = Conv(features, (5, 5), 1, use_bias, method=self.conv_method, dtype=self.dtype)(x)
            x = max_pool_2x2(nn.relu(norm()(x, train=train)))
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(hidden, kernel_init=he_normal, dtype=self.dtype)(x))
        x = Dropout(self.dropout)(x, train=train, positions=positions)
        return nn.Dense(self.num_classes, dtype=self.dtype)(x).astype(jnp.float32)


class ShallowCNN(nn.Module):
    """Two stages of [5x5 conv of 64, 3x3 max pool of stride 2, norm, ReLU], two dense layers.

    C1 on CIFAR-10 and C3 on CIFAR-100 (Keskar 2016, Table 1; Hoffer 2017, Table 1). The dense
    layers are [384, norm, ReLU, dropout], [192, norm, ReLU, dropout] and the classes. As in
    Hoffer's code, the norm follows the pool and normalised layers have no bias: 1,388,490
    parameters for 32x32x3 and 10 classes. Keskar normalises before the pool.
    """

    num_classes: int
    dropout: float = 0.5
    norm: str = "batch"
    ghost_batch: int | None = None
    axis_name: str | None = None
    conv_method: str = "auto"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, positions: jax.Array | None = None):
        norm = make_norm(self.norm, self.ghost_batch, self.axis_name, self.dtype)
        use_bias = self.norm == "none"
        for _ in range(2):
            x = Conv(64, (5, 5), 1, use_bias, method=self.conv_method, dtype=self.dtype)(x)
            x = nn.relu(norm()(max_pool_3x3(x), train=train))
        x = x.reshape(x.shape[0], -1)
        for width in (384, 192):
            x = nn.Dense(width, use_bias, kernel_init=he_normal, dtype=self.dtype)(x)
            x = nn.relu(norm()(x, train=train))
            x = Dropout(self.dropout)(x, train=train, positions=positions)
        return nn.Dense(self.num_classes, dtype=self.dtype)(x).astype(jnp.float32)
