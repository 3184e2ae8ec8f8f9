"""AlexNet (Krizhevsky 2012) and AlexNet-BN (You 2017), as in Caffe."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling.models.layers import Conv, Dropout, he_normal, max_pool_3x3
from scaling.models.norm import local_response_norm, make_norm

GROUPS = (1, 2)
# Filters, kernel size, stride, whether grouped, whether a 3x3 max pool of stride 2 follows.
LAYERS = (
    (96, 11, 4, False, True),
    (256, 5, 1, True, True),
    (384, 3, 1, False, False),
    (384, 3, 1, True, False),
    (256, 3, 1, True, True),
)


class AlexNet(nn.Module):
    """Five convolutions, then dense layers of 4096, 4096 and the classes; for 224x224 images.

    Without `norm` it is Krizhevsky's: [conv, ReLU, local response norm, pool] twice, then three
    convolutions with ReLU, the last with a pool; 60,965,224 parameters for 1000 classes. With
    `norm="batch"` or "ghost" it is AlexNet-BN (You 2017, Table 1b): a norm and no bias in every
    layer but the last, and no local response norm. He initialisation, biases zero.

    Attributes:
      groups: of the second, fourth and fifth convolution, originally split over two GPUs; or 1.
      dropout: of both hidden dense layers.
    """

    num_classes: int
    groups: int = 2
    dropout: float = 0.5
    norm: str = "none"
    ghost_batch: int | None = None
    axis_name: str | None = None
    conv_method: str = "auto"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, positions: jax.Array | None = None):
        norm = make_norm(self.norm, self.ghost_batch, self.axis_name, self.dtype)
        plain = self.norm == "none"
        for i, (features, size, stride, grouped, pooled) in enumerate(LAYERS):
            x = Conv(
                features,
                (size, size),
                stride,
                use_bias=plain,
                groups=self.groups if grouped else 1,
                method=self.conv_method,
                dtype=self.dtype,
            )(x)
            x = nn.relu(norm()(x, train=train))
            if plain and i < 2:
                x = local_response_norm(x)
            if pooled:
                x = max_pool_3x3(x)
        x = x.reshape(x.shape[0], -1)
        for _ in range(2):
            x = nn.Dense(4096, plain, kernel_init=he_normal, dtype=self.dtype)(x)
            x = nn.relu(norm()(x, train=train))
            x = Dropout(self.dropout)(x, train=train, positions=positions)
        return nn.Dense(self.num_classes, dtype=self.dtype)(x).astype(jnp.float32)
