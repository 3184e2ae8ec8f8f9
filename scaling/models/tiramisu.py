"""Tiramisu, a fully convolutional DenseNet (Jegou 2017), as modified by Kurth 2018 for climate."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling.errors import UserError
from scaling.models.layers import Conv, ConvTranspose, Dropout, he_uniform
from scaling.models.norm import make_norm


class Layer(nn.Module):
    """Convolution, norm, ReLU, dropout.

    Attributes:
      conv, norm: constructors with all else bound.
    """

    features: int
    size: int
    stride: int
    dropout: float
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, positions: jax.Array | None) -> jax.Array:
        x = self.conv(self.features, (self.size, self.size), self.stride)(x)
        x = nn.relu(self.norm()(x, train=train))
        return Dropout(self.dropout)(x, train=train, positions=positions)


class DenseBlock(nn.Module):
    """Layers that each read the input and all layers before them.

    Attributes:
      layer: constructor of a layer.
    """

    layers: int
    layer: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, positions: jax.Array | None):
        """(the input and the new features, the new features alone), side by side in channels."""
        new = []
        for _ in range(self.layers):
            new.append(self.layer()(jnp.concatenate([x, *new], -1), train, positions))
        return jnp.concatenate([x, *new], -1), jnp.concatenate(new, -1)


class Tiramisu(nn.Module):
    """U-shaped net: dense blocks at falling, then at rising resolution. A class for every pixel.

    Down: a dense block, then a 1x1 convolution of stride 2 that keeps the channels. Up: the new
    features of the block below, doubled in size by a transposed convolution that keeps their
    channels; beside them the result of the block on the way down at this size; a dense block.

    The defaults are Kurth's Summit net: 7,801,315 parameters with 16 channels and 3 classes. Of
    these 296,480 are of a transition after the lowest block whose result nothing reads; it is
    here, without work, so that parameters are those of the authors' code. Their net of Piz Daint
    has `filters=48` and reads 4 channels. (In their code dropout also acts on the logits.)

    Attributes:
      blocks: layers of each dense block on the way down; all but the last are on the way up too.
      growth: channels of a layer in a dense block.
      filters: of the first convolution.
      kernel: height and width of the convolutions in dense blocks and of the first.
      dropout: after every layer.
      remat: compute each dense block again in the backward pass in place of keeping its
        activations, which take most of the memory (Chen 2016, arXiv:1604.06174).
    """

    num_classes: int
    blocks: tuple[int, ...] = (2, 2, 2, 4, 5)
    growth: int = 32
    filters: int = 64
    kernel: int = 5
    dropout: float = 0.2
    norm: str = "none"
    ghost_batch: int | None = None
    remat: bool = False
    axis_name: str | None = None
    conv_method: str = "auto"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, positions: jax.Array | None = None):
        check_divisible(x, 2 ** (len(self.blocks) - 1))
        norm = make_norm(self.norm, self.ghost_batch, self.axis_name, self.dtype)
        shared = {
            "use_bias": True,
            "kernel_init": he_uniform,
            "method": self.conv_method,
            "dtype": self.dtype,
        }

        def conv(*args, **kwargs):
            return Conv(*args, **shared, **kwargs)

        def layer(features=self.growth, size=self.kernel, stride=1, name=None):
            return Layer(features, size, stride, self.dropout, conv, norm, name=name)

        def block(layers, name, x):
            kind = nn.remat(DenseBlock, static_argnums=(2,)) if self.remat else DenseBlock
            return kind(layers, layer, name=name)(x, train, positions)

        x = layer(self.filters, name="stem")(x, train, positions)
        skips, lowest = [], len(self.blocks) - 1
        for i, layers in enumerate(self.blocks):
            x, new = block(layers, f"down{i}", x)
            skips.append(x)
            if i < lowest or self.is_initializing():
                x = layer(x.shape[-1], 1, 2, f"transition{i}")(x, train, positions)
        for i in reversed(range(lowest)):
            larger = ConvTranspose(new.shape[-1], **shared, name=f"larger{i}")(new)
            x, new = block(self.blocks[i], f"up{i}", jnp.concatenate([larger, skips[i]], -1))
        return conv(self.num_classes, (1, 1), name="head")(x).astype(jnp.float32)


def check_divisible(x: jax.Array, factor: int) -> None:
    """UserError unless `factor` divides the height and the width of images [N, H, W, C]."""
    _, height, width, _ = x.shape
    if height % factor or width % factor:
        raise UserError(
            f"The images are {height}x{width} and this model halves them to 1/{factor} and doubles "
            f"them again; use a height and a width that {factor} divides."
        )
