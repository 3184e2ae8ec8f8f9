"""A minimal JAX step of a population of MLPs.

Without records, stopped trials and options, mostly matrix products remain: an upper bound on the
speed of a population. `population.py --blocks` times both.
"""

import itertools

from common import seconds

SIZE, UPDATES = 20_000, 512  # examples; updates per call


def bare_rate(shape, batch, widths, block, classes=10):
    """() -> trial-steps per second of `block` trials side by side."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    draw = np.random.default_rng(0)
    sizes = [int(np.prod(shape)), *widths, classes]
    images = jnp.asarray(draw.integers(0, 256, (SIZE, sizes[0]), np.uint8))
    labels = jnp.asarray(draw.integers(0, classes, SIZE))
    order = jnp.asarray(draw.integers(0, SIZE, (UPDATES, block, batch)))
    rates, momenta = jnp.full(block, 1e-3), jnp.full(block, 0.9)
    params = [
        (
            jnp.asarray(draw.normal(0, (2 / i) ** 0.5, (block, i, o)), jnp.float32),
            jnp.zeros((block, o)),
        )
        for i, o in itertools.pairwise(sizes)
    ]

    def loss(params, x, y):
        for weights, bias in params[:-1]:
            x = jax.nn.relu(x @ weights + bias)
        weights, bias = params[-1]
        log_p = jax.nn.log_softmax(x @ weights + bias)
        return -jnp.mean(jnp.sum(log_p * jax.nn.one_hot(y, classes), -1))

    def update(params, velocity, index, rate, momentum):
        x = (images[index].astype(jnp.float32) / 255 - 0.5) / 0.25
        grads = jax.grad(loss)(params, x, labels[index])
        velocity = jax.tree.map(lambda v, g: momentum * v + g, velocity, grads)
        nesterov = lambda p, v, g: p - rate * (g + momentum * v)
        return jax.tree.map(nesterov, params, velocity, grads), velocity

    @jax.jit
    def updates(params, velocity, order):
        one = lambda i, trials: jax.vmap(update)(*trials, order[i], rates, momenta)
        return jax.lax.fori_loop(0, UPDATES, one, (params, velocity))

    velocity = jax.tree.map(jnp.zeros_like, params)
    call = lambda: jax.block_until_ready(updates(params, velocity, order))
    call()
    return lambda: UPDATES * block / seconds(call)
