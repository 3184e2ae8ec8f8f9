"""DeepLabv3+ (Chen 2018) for climate data: Kurth 2018's, and MLPerf HPC's DeepCAM benchmark."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling.models.layers import Conv, ConvTranspose, he_uniform
from scaling.models.norm import make_norm
from scaling.models.tiramisu import check_divisible

UNITS = (3, 4, 6, 3)  # of the blocks of ResNet-50
RATES = (6, 12, 18)  # of the atrous convolutions at an output stride of 16


class Unit(nn.Module):
    """A pre-activation bottleneck (He 2016) whose 3x3 convolution has a stride and a dilation.

    Attributes:
      filters: of the first two convolutions; the third has four times as many.
      conv, norm: constructors with all else bound.
      normalised: whether `norm` normalises; the ReLU before the unit is there only then.
    """

    filters: int
    stride: int
    dilation: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    normalised: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """(the sum, the result of the first convolution)."""
        conv, norm, out = self.conv, self.norm, 4 * self.filters
        y = norm()(x, train=train)
        y = nn.relu(y) if self.normalised else y
        if x.shape[-1] == out:
            shortcut = x[:, :: self.stride, :: self.stride]
        else:
            shortcut = conv(out, (1, 1), self.stride, use_bias=True, name="projection")(y)
        y = conv(self.filters, (1, 1))(y)
        first = nn.relu(norm()(y, train=train))
        y = conv(self.filters, (3, 3), self.stride, dilation=self.dilation)(first)
        y = nn.relu(norm()(y, train=train))
        return conv(out, (1, 1), use_bias=True)(y) + shortcut, first


class Half(nn.Module):
    """Half of its input: in place of batch norm it keeps activations in the range of float16."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        del train
        return 0.5 * x


class DeepLab(nn.Module):
    """DeepLabv3+ of Kurth 2018: a ResNet-50 at 1/8 of the resolution, and a decoder to all of it.

    The stride is in the last unit of a block of the ResNet; the third and fourth block have
    dilations of 2 and 4 in its place. Atrous spatial pyramid pooling has rates of 12, 24 and 36
    and the mean over the image. Transposed convolutions double the size three times, to the
    resolution of the images; features of the first block, and of two convolutions of the images
    themselves, are joined on the way.

    43,718,883 parameters with 16 channels and 3 classes, of which 4,096 are of a last norm of the
    ResNet that the decoder does not read: it is here, without work, so that parameters are those of
    the authors' code. With `norm="none"` every norm is a multiplication by 1/2, and the ReLU before
    a unit is gone with it, as in that code: 43,669,251 parameters.

    Attributes:
      width: channels of the stem, 64 in the papers; all others are in proportion.
      remat: compute each unit of the ResNet again in the backward pass in place of keeping its
        activations.
    """

    num_classes: int
    width: int = 64
    norm: str = "batch"
    ghost_batch: int | None = None
    remat: bool = False
    axis_name: str | None = None
    conv_method: str = "auto"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, positions: jax.Array | None = None):
        check_divisible(x, 8)
        normalised = self.norm != "none"
        norm = make_norm(self.norm, self.ghost_batch, self.axis_name, self.dtype)
        norm = norm if normalised else Half
        conv = functools.partial(Conv, method=self.conv_method, dtype=self.dtype)
        uniform = {"use_bias": True, "kernel_init": he_uniform}
        plain = functools.partial(conv, **uniform)
        double = functools.partial(
            ConvTranspose, method=self.conv_method, dtype=self.dtype, **uniform
        )

        def layer(features, size, name, y, dilation=1):
            y = conv(features, (size, size), dilation=dilation, name=name)(y)
            return nn.relu(norm(name=f"{name}_norm")(y, train=train))

        low, y = self._encoder(x, conv, norm, train)
        depth, (_, height, width, _) = 4 * self.width, y.shape
        parts = [layer(depth, 1, "aspp", y)]
        parts += [layer(depth, 3, f"aspp{2 * rate}", y, 2 * rate) for rate in RATES]
        mean = layer(depth, 1, "aspp_mean", y.mean((1, 2), keepdims=True))
        parts.append(jnp.broadcast_to(mean, (len(x), height, width, depth)))
        y = double(depth, name="double1")(layer(depth, 1, "aspp_out", jnp.concatenate(parts, -1)))

        y = jnp.concatenate([y, layer(3 * self.width // 4, 1, "low", low)], -1)
        y = layer(depth, 3, "decoder2", layer(depth, 3, "decoder1", y))
        y = double(depth, name="double3")(double(depth, name="double2")(y))
        skip = plain(self.width, name="skip1")(x)
        y = jnp.concatenate([y, plain(2 * self.width, name="skip2")(skip)], -1)
        y = plain(depth, name="full2")(plain(depth, name="full1")(y))
        return conv(self.num_classes, (1, 1), use_bias=True, name="head")(y).astype(jnp.float32)

    def _encoder(self, x, conv, norm, train):
        """(features at 1/4 of the resolution, features of the ResNet at 1/8)."""
        kind = nn.remat(Unit, static_argnums=(2,)) if self.remat else Unit
        normalised = self.norm != "none"
        x = conv(self.width, (7, 7), 2, use_bias=True, name="stem")(x)
        x, low = nn.max_pool(x, (3, 3), (2, 2), padding="SAME"), None
        for i, units in enumerate(UNITS):
            for j in range(units):
                last, filters = j == units - 1, self.width * 2**i
                stride = 2 if i == 0 and last else 1
                unit = kind(
                    filters,
                    stride,
                    2 ** max(i - 1, 0),
                    conv,
                    norm,
                    normalised,
                    name=f"block{i + 1}_unit{j + 1}",
                )
                x, first = unit(x, train)
                low = first if i == 0 and last else low
        if normalised and self.is_initializing():
            norm(name="unread_norm")(x, train=train)
        return low, x


class Separable(nn.Module):
    """A 3x3 convolution of every channel alone, then a 1x1 convolution."""

    features: int
    conv: Callable[..., nn.Module]
    stride: int = 1
    dilation: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        each = self.conv(
            x.shape[-1], (3, 3), self.stride, groups=x.shape[-1], dilation=self.dilation
        )
        return self.conv(self.features, (1, 1))(each(x))


class XceptionBlock(nn.Module):
    """Separable convolutions with a norm and a ReLU between them, and a shortcut.

    Attributes:
      features: of each but the last, which has those of the one before.
      last: a further separable convolution without norm: its stride; None: there is none.
      relu: whether a ReLU follows the sum.
    """

    features: tuple[int, ...]
    last: int | None
    relu: bool
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y, out, stride = x, self.features[-1], self.last or 1
        for i, features in enumerate(self.features):
            y = Separable(features, self.conv)(nn.relu(y) if i else y)
            y = self.norm()(y, train=train)
        if self.last:
            y = Separable(out, self.conv, self.last)(y)
        if x.shape[-1] != out or stride != 1:
            x = self.conv(out, (1, 1), stride, name="projection")(x)
            x = self.norm(name="projection_norm")(x, train=train)
        return nn.relu(x + y) if self.relu else x + y


class DeepCAM(nn.Module):
    """The net of MLPerf HPC's climate benchmark: DeepLabv3+ on an Xception of 65 layers.

    The encoder is at 1/16 of the resolution; four transposed convolutions double it. 56,454,720
    parameters with 16 channels and 3 classes.

    Attributes:
      middle: blocks of 728 channels.
      remat: compute each block of the Xception again in the backward pass in place of keeping its
        activations.
    """

    num_classes: int
    middle: int = 16
    norm: str = "batch"
    ghost_batch: int | None = None
    remat: bool = False
    axis_name: str | None = None
    conv_method: str = "auto"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, positions: jax.Array | None = None):
        check_divisible(x, 16)
        norm = make_norm(self.norm, self.ghost_batch, self.axis_name, self.dtype)
        ways = {"method": self.conv_method, "dtype": self.dtype}
        conv = functools.partial(Conv, **ways)

        def layer(module, name, y):
            return nn.relu(norm(name=f"{name}_norm")(module(name=name)(y), train=train))

        def double(name, y):
            return layer(functools.partial(ConvTranspose, 256, **ways), name, y)

        def of(features, size=1, dilation=1):
            return functools.partial(conv, features, (size, size), dilation=dilation)

        low, y = self._encoder(x, conv, norm, layer, train)
        parts = [layer(of(256), "aspp", y)]
        parts += [layer(of(256, 3, rate), f"aspp{rate}", y) for rate in RATES]
        mean = conv(256, (1, 1), name="aspp_mean")(y.mean((1, 2), keepdims=True))
        scale = self.param("aspp_mean_scale", nn.initializers.ones, (256,)).astype(self.dtype)
        bias = self.param("aspp_mean_bias", nn.initializers.zeros, (256,)).astype(self.dtype)
        parts.append(jnp.broadcast_to(nn.relu(scale * mean + bias), parts[0].shape))
        y = layer(of(256), "aspp_out", jnp.concatenate(parts, -1))

        y = double("double2", double("double1", y))
        y = jnp.concatenate([y, layer(of(48), "low", low)], -1)
        y = layer(of(256, 3), "decoder2", layer(of(256, 3), "decoder1", y))
        y = double("double3", conv(256, (1, 1), use_bias=True, name="decoder3")(y))
        return ConvTranspose(self.num_classes, name="head", **ways)(y).astype(jnp.float32)

    def _encoder(self, x, conv, norm, layer, train):
        """(features at 1/4 of the resolution, features at 1/16)."""
        kind = nn.remat(XceptionBlock, static_argnums=(2,)) if self.remat else XceptionBlock

        def block(name, features, last, x, relu=True):
            return kind(features, last, relu, conv, norm, name=name)(x, train)

        x = layer(functools.partial(conv, 32, (3, 3), 2), "stem1", x)
        x = layer(functools.partial(conv, 64, (3, 3)), "stem2", x)
        low = x = nn.relu(block("entry1", (128, 128), 2, x, relu=False))
        x = block("entry2", (256, 256), 2, x)
        x = block("entry3", (728, 728), 2, x)
        for i in range(self.middle):
            x = block(f"middle{i + 1}", (728, 728, 728), None, x)
        x = block("exit", (728, 1024), 1, x, relu=False)
        for i, features in enumerate((1536, 1536, 2048)):
            x = layer(functools.partial(Separable, features, conv, 1, 2), f"exit{i + 1}", x)
        return low, x
