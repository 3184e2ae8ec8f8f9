"""A small training run: a fixed sequence of gradients on two kernels and a bias."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

STEPS = 5


@pytest.fixture
def problem():
    """(params, stacked gradients of every step): dicts of float64 arrays, kernels 4-d and 2-d."""
    rng = np.random.default_rng(0)
    shapes = {"conv": (2, 2, 3, 4), "dense": (5, 3), "bias": (3,)}
    params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    grads = {name: 3 * rng.normal(size=(STEPS, *shape)) for name, shape in shapes.items()}
    return params, grads


@pytest.fixture
def train():
    """(tx, params, grads) -> the parameters after every update, stacked. Can be traced."""

    def train(tx, params, grads):
        def step(carry, g):
            params, state = carry
            updates, state = tx.update(g, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), params

        params, grads = jax.tree.map(jnp.float32, (params, grads))
        return jax.lax.scan(step, (params, tx.init(params)), grads)[1]

    return train


@pytest.fixture
def formula(problem):
    """An independent trainer: per-tensor update functions in NumPy float64.

    `update(w, g, t, memory, kernel)` returns the new w; `memory` is a dict of the tensor's own,
    `kernel` says whether it has two or more dimensions.
    """
    params, grads = problem

    def run(update):
        out = {}
        for name, w in params.items():
            memory, path = {}, []
            for t, g in enumerate(grads[name]):
                w = update(w, g, t, memory, w.ndim >= 2)
                path.append(w)
            out[name] = np.stack(path)
        return out

    return run
