"""Decoder-only Transformers (Vaswani 2017) on rows of tokens, as in 2018 and as later models.

The later form is `MODERN`, as options. Both normalise before each sublayer.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling.models.layers import Dense, Dropout

# Layers, width, hidden units of a feed-forward layer, heads. `base` is Vaswani 2017's; of the
# others Shallue 2018 gives the names alone.
SIZES = {
    "base": (6, 512, 2048, 8),
    "shallow": (2, 512, 2048, 8),
    "narrow_and_shallow": (2, 256, 1024, 4),
    "wide": (6, 1024, 4096, 16),
}
ACTIVATIONS = {
    "relu": nn.relu,
    "gelu": nn.gelu,
    "swiglu": lambda x: jnp.multiply(*_gate(x)),  # Shazeer 2020: half of the units gate the others
}
MODERN = {"rotary": True, "rms_norm": True, "qk_norm": True, "bias": False, "activation": "gelu"}
WAVELENGTH = 10_000.0  # of the slowest rotation is 2 pi times this


class Transformer(nn.Module):
    """Embedding, `layers` blocks of causal attention and a feed-forward layer, norm, head.

    Attributes:
      num_classes: V, the vocabulary.
      size: of `SIZES`; `layers`, `width`, `ffn` and `heads` replace its numbers.
      rotary: positions rotate queries and keys (Su 2021) instead of having a learned vector each.
      rms_norm: normalisation by the root mean square (Zhang 2019) instead of layer norm.
      qk_norm: queries and keys of each head are normalised so too (Henry 2020).
      activation: of `ACTIVATIONS`; swiglu has a third matrix.
      bias: of layer norms and feed-forward layers. Attention and head have none.
      tied: the head is the embedding, transposed.
      dropout: after the embedding and each sublayer; none on attention weights.
      dtype: of the computation; parameters and logits are float32.
    """

    num_classes: int
    size: str = "base"
    layers: int | None = None
    width: int | None = None
    ffn: int | None = None
    heads: int | None = None
    rotary: bool = False
    rms_norm: bool = False
    qk_norm: bool = False
    activation: str = "relu"
    bias: bool = True
    tied: bool = True
    dropout: float = 0.0
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32

    def _shape(self) -> tuple[int, int, int, int]:
        """Layers, width, ffn, heads.

        Raises:
          ValueError: the heads do not divide the width, or a head cannot be rotated.
        """
        own = (self.layers, self.width, self.ffn, self.heads)
        layers, width, ffn, heads = (
            size if value is None else value
            for value, size in zip(own, SIZES[self.size], strict=True)
        )
        if width % heads:
            raise ValueError(f"model.heads is {heads}; use a divisor of model.width, {width}")
        if self.rotary and width // heads % 2:
            raise ValueError(
                f"model.rotary needs heads of an even width, and {width} / {heads} is odd"
            )
        return layers, width, ffn, heads

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, positions: jax.Array | None = None):
        """Logits [N, L, V] float32; those of place t depend on x[:, :t + 1] alone.

        Args:
          x: [N, L] int tokens. A model with learned positions is for the L it is initialised with.
          positions: [N] indices of the rows in the global batch, for dropout.
        """
        layers, width, ffn, heads = self._shape()
        dense = functools.partial(Dense, dtype=self.dtype)
        norm = functools.partial(nn.LayerNorm, use_bias=self.bias, dtype=self.dtype)
        if self.rms_norm:
            norm = functools.partial(nn.RMSNorm, dtype=self.dtype)
        dropout = lambda y: Dropout(self.dropout)(y, train=train, positions=positions)
        # Blocks start as the identity, whatever their number, and logits with variance 0.16: of
        # what was tried the fastest start on the King James Bible that begins near log(V).
        last = nn.initializers.zeros
        narrow = nn.initializers.normal(0.4 / math.sqrt(width))

        embedding = self.param("embedding", narrow, (self.num_classes, width))
        h = embedding[x]
        if not self.rotary:
            h += self.param("positions", narrow, (x.shape[1], width))
        h = dropout(h.astype(self.dtype))
        for i in range(layers):
            y = norm(name=f"norm{i}_attention")(h)
            y = dense(3 * width, use_bias=False, name=f"qkv{i}")(y)
            q, k, v = (part.reshape(*x.shape, heads, -1) for part in jnp.split(y, 3, -1))
            if self.qk_norm:
                q, k = (
                    nn.RMSNorm(dtype=self.dtype, name=f"norm{i}_{n}")(part)
                    for n, part in (("q", q), ("k", k))
                )
            if self.rotary:
                q, k = rotated(q), rotated(k)
            y = attention(q, k, v).reshape(*x.shape, width)
            h += dropout(dense(width, use_bias=False, kernel_init=last, name=f"out{i}")(y))
            y = norm(name=f"norm{i}_ffn")(h)
            units = ffn * (1 + (self.activation == "swiglu"))
            y = ACTIVATIONS[self.activation](dense(units, self.bias, name=f"up{i}")(y))
            h += dropout(dense(width, self.bias, kernel_init=last, name=f"down{i}")(y))
        h = norm(name="norm")(h)
        head = embedding.T if self.tied else self.param("head", narrow, (width, self.num_classes))
        return jnp.dot(h, head.astype(self.dtype), preferred_element_type=jnp.float32)


def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Causal softmax attention of [N, L, heads, D]; by cuDNN on a GPU in bfloat16, where it can."""
    takes = q.dtype == jnp.bfloat16 and q.shape[-1] in range(8, 129, 8)
    fused = jax.default_backend() == "gpu" and takes
    return jax.nn.dot_product_attention(
        q, k, v, is_causal=True, implementation="cudnn" if fused else "xla"
    )


def rotated(x: jax.Array) -> jax.Array:
    """x [N, L, heads, D] with the pair (i, i + D/2) of place t turned by t / 10,000^(2 i / D).

    Products of two such vectors depend on the distance of their places alone (Su 2021, eq. 16).
    """
    half = x.shape[-1] // 2
    rates = jnp.exp(jnp.arange(half) * (-math.log(WAVELENGTH) / half))
    angles = (jnp.arange(x.shape[1])[:, None] * rates)[:, None]
    a, b = jnp.split(x.astype(jnp.float32), 2, -1)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1).astype(x.dtype)


def _gate(x):
    gate, value = jnp.split(x, 2, -1)
    return nn.silu(gate), value
