"""LSTM language models: Shallue 2018's, with projected states."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from scaling.models.layers import Dropout


class LSTM(nn.Module):
    """Embedding, `layers` LSTMs with projection, head.

    Shallue 2018: one layer of 2,048 cells, embedding and projection of 512.

    Attributes:
      num_classes: V, the vocabulary.
      width: of the embedding, and of the projected state (Sak 2014).
      cells: of each layer.
      tied: the head is the embedding, transposed (Press 2017).
      dropout: after the embedding and each layer; none on the recurrence.
      dtype: of the products; parameters, cells and logits are float32.
    """

    num_classes: int
    layers: int = 1
    width: int = 512
    cells: int = 2048
    tied: bool = False
    dropout: float = 0.0
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, positions: jax.Array | None = None):
        """Logits [N, L, V] float32; those of place t depend on x[:, :t + 1] alone.

        Args:
          x: [N, L] int tokens. Every row starts from a state of zeros.
          positions: [N] indices of the rows in the global batch, for dropout.
        """
        dropout = lambda y: Dropout(self.dropout)(y, train=train, positions=positions)
        scaled = nn.initializers.normal(1 / math.sqrt(self.width))
        embedding = self.param("embedding", scaled, (self.num_classes, self.width))
        h = dropout(embedding[x].astype(self.dtype))
        for i in range(self.layers):
            h = dropout(ProjectedLSTM(self.width, self.cells, self.dtype, name=f"lstm{i}")(h))
        head = embedding.T
        if not self.tied:
            head = self.param("head", scaled, (self.width, self.num_classes))
        return jnp.dot(h, head.astype(self.dtype), preferred_element_type=jnp.float32)


class ProjectedLSTM(nn.Module):
    """h_t = (sigmoid(o) tanh(c_t)) P, c_t = sigmoid(f) c_(t-1) + sigmoid(i) tanh(g).

    (i, f, g, o) = x_t W + h_(t-1) R + b, without peepholes (Sak 2014, eq. 7 to 12); b starts at 1
    for f (Jozefowicz 2015), else at 0. The products with W are made for all places at once.
    """

    width: int
    cells: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, L, width of the input] -> [N, L, width]."""
        init, gates = nn.initializers.lecun_normal(), 4 * self.cells
        forget = lambda key, shape: jnp.zeros(shape).at[self.cells : 2 * self.cells].set(1.0)
        inputs = self.param("input", init, (x.shape[-1], gates)).astype(self.dtype)
        recurrent = self.param("recurrent", init, (self.width, gates)).astype(self.dtype)
        projection = self.param("projection", init, (self.cells, self.width)).astype(self.dtype)
        bias = self.param("bias", forget, (gates,))

        def step(state, from_input):
            c, h = state
            i, f, g, o = jnp.split(from_input + h @ recurrent, 4, -1)
            c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
            h = (nn.sigmoid(o) * jnp.tanh(c)).astype(self.dtype) @ projection
            return (c, h), h

        rows = x.swapaxes(0, 1).reshape(-1, x.shape[-1])  # as one matrix, see `layers.Dense`
        products = (rows @ inputs).reshape(x.shape[1], x.shape[0], gates) + bias  # float32
        zeros = (jnp.zeros((len(x), self.cells)), jnp.zeros((len(x), self.width), self.dtype))
        return lax.scan(step, zeros, products)[1].swapaxes(0, 1)
