"""VGG-11 and VGG-16 (Simonyan and Zisserman 2014, A and D); VGG-9 of Li 2018 for CIFAR."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling.models.layers import Conv, Dropout, he_normal, max_pool_2x2
from scaling.models.norm import make_norm

# Filters of the 3x3 convolutions by stage, each followed by a 2x2 max pool; then the widths of the
# hidden dense layers.
LAYERS = {
    9: (((64, 64), (128, 128), (256, 256, 256)), (256,)),
    11: (((64,), (128,), (256, 256), (512, 512), (512, 512)), (4096, 4096)),
    16: (((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3), (4096, 4096)),
}


class VGG(nn.Module):
    """`depth` 9 for 32x32 images, 11 and 16 for 224x224; optional norm in every layer.

    `depth=16, hidden=(512,), norm="batch"` is C2 on CIFAR-10 and C4 on CIFAR-100 (Keskar 2016,
    Table 1), also the VGG of Hoffer 2017, Table 1.

    Attributes:
      hidden: widths of the hidden dense layers; () for those of `LAYERS`.
      dropout: after each of them.
    """

    num_classes: int
    depth: int = 9
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    norm: str = "none"
    ghost_batch: int | None = None
    axis_name: str | None = None
    conv_method: str = "auto"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, positions: jax.Array | None = None):
        norm = make_norm(self.norm, self.ghost_batch, self.axis_name, self.dtype)
        stages, hidden = LAYERS[self.depth]
        for stage in stages:
            for features in stage:
                x = Conv(features, use_bias=True, method=self.conv_method, dtype=self.dtype)(x)
                x = nn.relu(norm()(x, train=train))
            x = max_pool_2x2(x)
        x = x.reshape(x.shape[0], -1)
        for width in self.hidden or hidden:
            x = nn.Dense(width, kernel_init=he_normal, dtype=self.dtype)(x)
            x = nn.relu(norm()(x, train=train))
            x = Dropout(self.dropout)(x, train=train, positions=positions)
        return nn.Dense(self.num_classes, dtype=self.dtype)(x).astype(jnp.float32)
