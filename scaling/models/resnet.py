"""Residual networks: CIFAR ResNets and Wide ResNets, ImageNet's bottleneck ResNets.

He et al. 2015 (post-activation, the default), He et al. 2016 (`preactivation=True`),
Zagoruyko and Komodakis 2016 (Wide ResNet). The bottleneck nets are "v1.5": the stride is on the
3x3 convolution, as in Goyal 2017.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling.models.layers import Conv, Dropout, he_fan_out
from scaling.models.norm import make_norm

BOTTLENECK_STAGES = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class Block(nn.Module):
    """One residual block, basic (two 3x3) or bottleneck (1x1, 3x3, 1x1 to four times the width).

    Attributes:
      filters: width of the block; a bottleneck has four times as many output channels.
      projection: 1x1 convolution on the shortcut where shapes differ. False: subsample and pad
        channels with zeros (He 2015, option A, as in the CIFAR nets).
      conv, norm: constructors with method, dtype and kind bound.
    """

    filters: int
    stride: int
    bottleneck: bool
    preactivation: bool
    projection: bool
    zero_init_residual: bool
    dropout: float
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, positions: jax.Array | None) -> jax.Array:
        if self.bottleneck:
            layers = [
                (self.filters, 1, 1),
                (self.filters, 3, self.stride),
                (4 * self.filters, 1, 1),
            ]
        else:
            layers = [(self.filters, 3, self.stride), (self.filters, 3, 1)]
        out = layers[-1][0]
        reshaped = self.stride != 1 or x.shape[-1] != out

        y, shortcut = x, x
        if self.preactivation:
            y = nn.relu(self.norm()(x, train=train))
            if reshaped and self.projection:
                shortcut = y
        for i, (features, size, stride) in enumerate(layers):
            last = i == len(layers) - 1
            y = self.conv(features, (size, size), stride)(y)
            if not last:
                y = nn.relu(self.norm()(y, train=train))
                y = Dropout(self.dropout)(y, train=train, positions=positions)
        if not self.preactivation:
            init = nn.initializers.zeros if self.zero_init_residual else nn.initializers.ones
            y = self.norm(scale_init=init)(y, train=train)

        if reshaped and self.projection:
            shortcut = self.conv(out, (1, 1), self.stride, name="projection")(shortcut)
            if not self.preactivation:
                shortcut = self.norm(name="projection_norm")(shortcut, train=train)
        elif reshaped:
            shortcut = shortcut[:, :: self.stride, :: self.stride]
            shortcut = jnp.pad(shortcut, ((0, 0),) * 3 + ((0, out - shortcut.shape[-1]),))
        y = y + shortcut
        return y if self.preactivation else nn.relu(y)


class ResNet(nn.Module):
    """ResNet of `depth` 6n+2 with basic blocks for small images, or 50 and 101 for ImageNet.

    Attributes:
      depth: 8, 20, 32, 44, 56, ... or 50, 101. A pre-activation net with `width > 1` counts depth
        as Wide ResNets do, 6n+4 (16, 22, 28, 40), and projects its shortcuts. Hoffer 2017 trains
        ResNet-44, `depth=44`, and Wide ResNet 16-4, `depth=16, width=4, preactivation=True`.
      width: factor on the filters of all but the first convolution.
      zero_init_residual: last norm scale of every block initialised at zero (Goyal 2017, 5.1).
      dropout: between the convolutions of a block (Wide ResNet).
      remat: compute each block again in the backward pass in place of keeping its activations
        (Chen 2016, arXiv:1604.06174).
    """

    num_classes: int
    depth: int = 8
    width: int = 1
    preactivation: bool = False
    zero_init_residual: bool = False
    dropout: float = 0.0
    norm: str = "batch"
    ghost_batch: int | None = None
    remat: bool = False
    axis_name: str | None = None
    conv_method: str = "auto"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, positions: jax.Array | None = None):
        norm = make_norm(self.norm, self.ghost_batch, self.axis_name, self.dtype)

        def conv(features, size, stride, name=None):
            return Conv(
                features,
                size,
                stride,
                kernel_init=he_fan_out,
                method=self.conv_method,
                dtype=self.dtype,
                name=name,
            )

        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        bottleneck, stages, filters, projection = self._shape()
        if bottleneck:
            x = conv(64, (7, 7), 2, name="stem")(x)
        else:
            x = conv(16, (3, 3), 1, name="stem")(x)
        if not self.preactivation:
            x = nn.relu(norm(name="stem_norm")(x, train=train))
        if bottleneck:
            x = nn.max_pool(x, (3, 3), (2, 2), padding="SAME")
        for stage, blocks in enumerate(stages):
            for i in range(blocks):
                x = block(
                    filters * self.width * 2**stage,
                    2 if stage and not i else 1,
                    bottleneck,
                    self.preactivation,
                    projection,
                    self.zero_init_residual,
                    self.dropout,
                    conv,
                    norm,
                    name=f"stage{stage + 1}_block{i + 1}",
                )(x, train, positions)
        if self.preactivation:
            x = nn.relu(norm(name="final_norm")(x, train=train))
        x = x.mean((1, 2), dtype=jnp.float32)
        # Goyal 2017, 5.1: small initial weights of the ImageNet classifier. With the 64 features of
        # a CIFAR net 0.01 would be a tenth of the usual deviation, and gradients vanish at first.
        init = nn.initializers.normal(0.01) if bottleneck else nn.initializers.lecun_normal()
        return nn.Dense(self.num_classes, kernel_init=init, name="head")(x)

    def _shape(self):
        """(bottleneck, blocks per stage, filters of the first stage, projection shortcuts)."""
        if self.depth in BOTTLENECK_STAGES:
            return True, BOTTLENECK_STAGES[self.depth], 64, True
        wide = self.preactivation and self.width > 1
        n, rest = divmod(self.depth - (4 if wide else 2), 6)
        if rest or n < 1:
            known = "6n+4 for a Wide" if wide else "6n+2 (8, 20, 32, 44, 56), 50 or 101 for a"
            raise ValueError(f"model.depth is {self.depth}; use {known} ResNet")
        return False, (n, n, n), 16, wide
