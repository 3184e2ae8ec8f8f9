"""Layers whose results do not depend on the batch layout, and convolutions for every backend."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from scaling.errors import UserError

NHWC = ("NHWC", "HWIO", "NHWC")
FEW = 16  # channels, for which a product for each tap of a kernel is too small to be fast

# He et al. 2015, as in the ResNet papers; also for ReLU MLPs.
he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")
he_uniform = nn.initializers.he_uniform()
he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Conv(nn.Module):
    """2-D convolution, NHWC, SAME padding; parameters named and shaped as in `flax.linen.Conv`.

    Attributes:
      features: output channels.
      kernel_size: height and width.
      stride: of both axes.
      groups: number of channel groups, each convolved separately.
      dilation: of the kernel, in pixels between its taps ("atrous" above 1).
      method: implementation; all agree to float tolerance (see `convolve`).
      dtype: of the computation; parameters are float32.
    """

    features: int
    kernel_size: tuple[int, int] = (3, 3)
    stride: int = 1
    use_bias: bool = False
    groups: int = 1
    dilation: int = 1
    kernel_init: nn.initializers.Initializer = he_normal
    method: str = "auto"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if x.shape[-1] % self.groups or self.features % self.groups:
            raise UserError(
                f"{self.groups} groups do not divide a convolution of {x.shape[-1]} to "
                f"{self.features} channels."
            )
        shape = (*self.kernel_size, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape).astype(self.dtype)
        y = convolve(x.astype(self.dtype), kernel, self.stride, self.method, self.dilation)
        if self.use_bias:
            y += self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        return y


class ConvTranspose(nn.Module):
    """Transposed 2-D convolution that doubles height and width, NHWC, SAME padding.

    As `flax.linen.ConvTranspose` with strides (2, 2), whose gradient XLA computes many times slower
    on a CPU: here it is a plain convolution of the image with zeros between its pixels. Attributes
    as in `Conv`.
    """

    features: int
    kernel_size: tuple[int, int] = (3, 3)
    use_bias: bool = False
    kernel_init: nn.initializers.Initializer = he_normal
    method: str = "auto"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape).astype(self.dtype)
        y = convolve_transposed(x.astype(self.dtype), kernel, self.method)
        if self.use_bias:
            y += self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        return y


def convolve_transposed(x: jax.Array, kernel: jax.Array, method: str = "auto") -> jax.Array:
    """`lax.conv_transpose` with strides (2, 2) and SAME padding, [N, H, W, C] -> [N, 2H, 2W, F].

    Args:
      kernel: [kh, kw, C, F], kh and kw odd, 3 or more.
      method: of `convolve`.
    """
    if _method(method) == "xla":
        return lax.conv_transpose(x, kernel, (2, 2), "SAME", dimension_numbers=NHWC)
    between = (1, 0, 1)  # a zero before every pixel
    zeros = jnp.zeros((), x.dtype)
    return convolve(lax.pad(x, zeros, ((0, 0, 0), between, between, (0, 0, 0))), kernel, 1, method)


def _method(name):
    """The method that `auto` stands for here."""
    backend = "forward_only" if jax.default_backend() == "cpu" else "xla"
    return backend if name == "auto" else name


def for_curvature(model: nn.Module) -> nn.Module:
    """The model with convolutions whose gradients can be differentiated forward, for products with
    a Hessian: `forward_only` has none, and its place is taken by `patches`."""
    if _method(getattr(model, "conv_method", "xla")) == "forward_only":
        return model.clone(conv_method="patches")
    return model


def convolve(
    x: jax.Array, kernel: jax.Array, stride: int = 1, method: str = "auto", dilation: int = 1
) -> jax.Array:
    """SAME convolution of [N, H, W, C] with [kh, kw, C, F].

    With a kernel [kh, kw, C / groups, F] it is grouped: group g of the filters has group g of the
    channels as input. All methods but xla loop over the groups; where each is one channel and one
    filter, over the taps.

    Methods:
      xla: `lax.conv_general_dilated`; best on GPUs and TPUs.
      forward_only: the gradients are forward convolutions too. XLA has a fast CPU kernel for
        convolutions with operands in plain NHWC order; inside a loop, and so in every training
        step here, its own backward convolutions are not in that order and run ten to thirty times
        slower. With both a stride and a dilation, as patches.
      patches: patches times a matrix. Under `vmap` over models a convolution becomes a grouped
        one, slow on every backend; this becomes a batched matrix product.
      auto: forward_only on CPU, xla elsewhere.
    """
    method = _method(method)
    if method == "xla":
        return _conv(x, kernel, stride, "SAME", dilation)
    groups = x.shape[-1] // kernel.shape[2]
    if groups > 1 and groups == x.shape[-1] == kernel.shape[3]:
        taps = _shifted(x, kernel.shape, stride, dilation)
        return sum(map(jnp.multiply, taps, kernel.reshape(-1, groups)))
    if groups > 1:
        pairs = zip(jnp.split(x, groups, -1), jnp.split(kernel, groups, -1), strict=True)
        return jnp.concatenate([convolve(*pair, stride, method, dilation) for pair in pairs], -1)
    if kernel.shape[:2] == (1, 1):
        return jnp.einsum("nhwc,cf->nhwf", x[:, ::stride, ::stride], kernel[0, 0])
    if method == "forward_only" and 1 in (stride, dilation):
        return _conv_forward_only(x, kernel, stride, dilation)
    if method in ("patches", "forward_only"):
        patches = jnp.concatenate(_shifted(x, kernel.shape, stride, dilation), axis=-1)
        return patches @ kernel.reshape(-1, kernel.shape[3])
    raise ValueError(f"unknown convolution method {method!r}")


def _conv(x, kernel, stride, padding, dilation):
    if padding == "SAME":
        padding = _same_padding(x.shape, kernel.shape, stride, dilation)
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=NHWC,
        feature_group_count=x.shape[-1] // kernel.shape[2],
    )


def _same_padding(shape, kernel_shape, stride, dilation):
    window = [(size - 1) * dilation + 1 for size in kernel_shape[:2]]
    return lax.padtype_to_pads(shape[1:3], window, (stride, stride), "SAME")


def _shifted(x, kernel_shape, stride, dilation):
    """The pixels under each tap of a kernel, in its order, [N, out_h, out_w, C] each."""
    pads = _same_padding(x.shape, kernel_shape, stride, dilation)
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    out_h, out_w = -(-x.shape[1] // stride), -(-x.shape[2] // stride)
    rows, columns = (
        [slice(i, i + (out - 1) * stride + 1, stride) for i in range(0, size * dilation, dilation)]
        for size, out in zip(kernel_shape[:2], (out_h, out_w), strict=True)
    )
    return [padded[:, row, column] for row in rows for column in columns]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv_forward_only(x, kernel, stride, dilation):
    return _conv(x, kernel, stride, "SAME", dilation)


def _forward(x, kernel, stride, dilation):
    return _conv_forward_only(x, kernel, stride, dilation), (x, kernel)


def _backward(stride, dilation, residuals, dy):
    x, kernel = residuals
    kh, kw = kernel.shape[:2]
    dx = _input_gradient(dy, kernel, x.shape, stride, dilation)
    padding = _same_padding(x.shape, kernel.shape, stride, dilation)
    if stride == dilation == 1 and min(kernel.shape[2:]) <= FEW:
        return dx, _kernel_gradient_of_few(x, dy, kernel.shape, padding)
    # x convolved with dy as the kernel; examples are the input channels, channels the examples. The
    # barriers keep XLA from folding the transposes back into the slow form.
    columns, window = lax.optimization_barrier((x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3)))
    dkernel = _conv(columns, window, dilation, padding, stride)
    return dx, dkernel[:, :kh, :kw].transpose(1, 2, 0, 3)


def _input_gradient(dy, kernel, shape, stride, dilation):
    """Of an input of this shape [N, H, W, C].

    With a stride s, along an axis: dx[s a + p] = sum over m of dy[a - m] kernel[s m + p + padding].
    So it is a convolution of dy with s x s x C outputs at (a, b): the pixels from (s a, s b) on.
    """
    padding = _same_padding(shape, kernel.shape, stride, dilation)
    (n, h, w, f), c, s = dy.shape, kernel.shape[2], stride
    around, pads = [], []
    for size, (before, _) in zip(kernel.shape[:2], padding, strict=True):
        first, last = -((before + s - 1) // s), (size - 1 - before) // s  # m
        around.append((-s * first - before, s * (last + 1) + before - size))
        pads.append((last + (dilation - 1) * (size - 1), -first))
    taps = jnp.pad(kernel, (*around, (0, 0), (0, 0)))
    taps = taps.reshape(taps.shape[0] // s, s, taps.shape[1] // s, s, c, f)[::-1, :, ::-1]
    taps = taps.transpose(0, 2, 5, 1, 3, 4).reshape(*taps.shape[:3:2], f, s * s * c)
    dx = _conv(dy, lax.optimization_barrier(taps), 1, tuple(pads), dilation)
    dx = dx.reshape(n, h, w, s, s, c).swapaxes(2, 3).reshape(n, s * h, s * w, c)
    return dx[:, : shape[1], : shape[2]]


def _kernel_gradient_of_few(x, dy, shape, padding):
    """Of a kernel of this shape [kh, kw, C, F]: of each example one matrix product for all taps, of
    x shifted by kw columns, [pixels, kw C], and dy shifted by kh rows, [pixels, kh F]."""
    (kh, kw, c, f), (width, (top, bottom)) = shape, (x.shape[2], padding[0])

    def one(total, pair):
        x, dy = pair
        x = jnp.pad(x, (*padding, (0, 0)))
        dy = jnp.pad(dy, ((kh - 1, top + bottom), (0, 0), (0, 0)))
        columns = [x[:, j : j + width].reshape(-1, c) for j in range(kw)]
        rows = [dy[kh - 1 - i :][: len(x)].reshape(-1, f) for i in range(kh)]
        sides = lax.optimization_barrier((jnp.concatenate(columns, 1), jnp.concatenate(rows, 1)))
        over_pixels = ((0,), (0,)), ((), ())
        return total + lax.dot_general(*sides, over_pixels, preferred_element_type=wide), None

    wide = jnp.promote_types(dy.dtype, jnp.float32)
    total, _ = lax.scan(one, jnp.zeros((kw * c, kh * f), wide), (x, dy))
    return total.reshape(kw, c, kh, f).transpose(2, 0, 1, 3).astype(dy.dtype)


_conv_forward_only.defvjp(_forward, _backward)


def max_pool_2x2(x: jax.Array) -> jax.Array:
    """2x2 max pooling with stride 2, [N, H, W, C] -> [N, H//2, W//2, C].

    A reshape and a maximum: on CPU several times faster than `lax.reduce_window`.

    Raises:
      UserError: an image smaller than a window.
    """
    _check_window(x, 2)
    n, h, w, c = x.shape
    x = x[:, : h - h % 2, : w - w % 2]
    return x.reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))


def max_pool_3x3(x: jax.Array) -> jax.Array:
    """3x3 max pooling with stride 2, [N, H, W, C] -> [N, (H-1)//2, (W-1)//2, C].

    Overlapping windows without padding, as in AlexNet. Maxima of slices along one axis, then the
    other: on CPU, with its gradient, five times faster than `lax.reduce_window`.

    Raises:
      UserError: an image smaller than a window.
    """
    _check_window(x, 3)
    for axis in (1, 2):
        last = (x.shape[axis] - 3) // 2 * 2
        a, b, c = (lax.slice_in_dim(x, i, i + last + 1, 2, axis) for i in range(3))
        x = jnp.maximum(jnp.maximum(a, b), c)
    return x


def _check_window(x, size):
    _, height, width, _ = x.shape
    if min(height, width) < size:
        raise UserError(
            f"The images are too small for this model: {height}x{width} pixels remain before a "
            f"{size}x{size} pool; use larger images or another model."
        )


class Dense(nn.Dense):
    """`flax.linen.Dense`, of all rows as one matrix.

    With two leading axes XLA's gradient takes 1.1 to 1.7 times as long on a CPU: the product for
    the kernel is then computed transposed.
    """

    def __call__(self, inputs: jax.Array) -> jax.Array:
        rows = super().__call__(inputs.reshape(-1, inputs.shape[-1]))
        return rows.reshape(*inputs.shape[:-1], self.features)


class Dropout(nn.Module):
    """Dropout with a mask per example, independent of its row in an array.

    `flax.linen.Dropout` draws one mask per array, so its result would depend on the number of
    devices and microbatches. Here every example has its own key.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, positions: jax.Array | None) -> jax.Array:
        """x: [N, ...]. positions: [N] indices of the examples in the global batch."""
        if not train or self.rate == 0.0 or self.is_initializing():
            return x
        key = self.make_rng("dropout")
        keep = jax.vmap(
            lambda position: jax.random.bernoulli(
                jax.random.fold_in(key, position), 1.0 - self.rate, x.shape[1:]
            )
        )(positions)
        return jnp.where(keep, x / (1.0 - self.rate), 0.0)
