import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from scaling.optim.averaging import averaging

STEPS = 50
ADAM = optax.adam(0.1)


def _trajectory(tx, decay):
    """(weights, averages) after every update of a quadratic's noisy descent, [STEPS, 3] each."""
    w, noise = jnp.float32([1.0, -2.0, 3.0]), np.random.default_rng(0).normal(size=(STEPS, 3))
    tx = averaging(tx, decay)

    def step(carry, noise):
        w, state = carry
        updates, state = tx.update(w + noise, state, w)
        w = optax.apply_updates(w, updates)
        return (w, state), (w, state.average)

    return jax.lax.scan(step, (w, tx.init(w)), jnp.float32(noise))[1]


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99, 1.0])
def test_the_average_is_that_of_all_weights_after_updates(decay):
    """Its definition, in float64; and the updates are those of the optimizer alone."""
    weights, averages = jax.jit(_trajectory, static_argnums=0)(ADAM, jnp.float32(decay))
    for t in (1, 2, STEPS):
        coefficients = np.float64(np.float32(decay)) ** np.arange(t - 1, -1, -1)
        expected = np.average(np.asarray(weights[:t], np.float64), 0, coefficients)
        np.testing.assert_allclose(averages[t - 1], expected, rtol=1e-5, atol=1e-6)


def test_the_average_moves_no_weight_and_begins_at_the_initial_ones():
    w, grads = {"a": jnp.arange(3.0), "b": jnp.ones((2, 2))}, {"a": jnp.ones(3), "b": jnp.eye(2)}
    tx = averaging(ADAM, 0.9)
    state, alone = tx.init(w), ADAM.init(w)
    jax.tree.map(np.testing.assert_array_equal, state.average, w)
    for _ in range(3):
        updates, state = tx.update(grads, state, w)
        expected, alone = ADAM.update(grads, alone, w)
        jax.tree.map(np.testing.assert_array_equal, updates, expected)
        w = optax.apply_updates(w, updates)


def test_trials_have_decays_of_their_own():
    decays = jnp.float32([0.1, 0.9])
    _, averages = jax.vmap(lambda decay: _trajectory(ADAM, decay))(decays)
    for each, decay in zip(averages, decays, strict=True):
        np.testing.assert_allclose(each, _trajectory(ADAM, decay)[1], rtol=1e-5, atol=1e-6)
