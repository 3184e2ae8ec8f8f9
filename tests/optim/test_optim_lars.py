import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from scaling.optim import larc, lars
from scaling.optim.lars import decayed, scale_by_larc

RATES = np.array([2.0, 8.0, 5.0, 0.0, 3.0])
norm = np.linalg.norm


def schedule(step):
    return jnp.float32(RATES)[step]


def everything(params):
    return jax.tree.map(lambda _: True, params)


def assert_close(ours, theirs, rtol=2e-5):
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=rtol, atol=1e-6, err_msg=name)


def test_decayed_means_two_or_more_dimensions(problem):
    params, _ = problem
    assert decayed(params) == {"conv": True, "dense": True, "bias": False}


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_lars_is_the_papers_formula(train, problem, formula, momentum):
    eta, beta = 0.02, 0.3

    def update(w, g, t, memory, kernel):
        local, decay = 1.0, 0.0
        if kernel:
            local, decay = eta * norm(w.ravel()) / (norm(g.ravel()) + beta * norm(w.ravel())), beta
        v = momentum * memory.get("v", 0.0) + RATES[t] * local * (g + decay * w)
        memory["v"] = v
        return w - v

    tx = lars(schedule, momentum=momentum, weight_decay=beta, trust_coefficient=eta)
    assert_close(train(tx, *problem), formula(update))


def test_lars_mask_can_include_every_tensor(train, problem):
    """Without weight decay and with optax's default masks the two implementations agree."""
    ours = lars(2.0, everything, weight_decay=0.0, trust_coefficient=0.01)
    theirs = optax.lars(2.0, trust_coefficient=0.01)
    assert_close(train(ours, *problem), train(theirs, *problem))


def test_lars_is_optax_lars_only_without_weight_decay(train, problem):
    def paths(weight_decay):
        ours = lars(schedule, weight_decay=weight_decay)
        theirs = optax.lars(schedule, weight_decay, decayed, trust_ratio_mask=decayed)
        return train(ours, *problem), train(theirs, *problem)

    assert_close(*paths(0.0))
    ours, theirs = paths(0.3)
    assert_close({"bias": ours["bias"]}, {"bias": theirs["bias"]})
    assert np.abs(ours["dense"] - theirs["dense"]).max() > 1e-4


@pytest.mark.parametrize("zero", ["w", "g"])
def test_lars_with_a_zero_norm_takes_the_plain_step(zero):
    w = {"dense": jnp.full((2, 3), 0.0 if zero == "w" else 2.0)}
    g = {"dense": jnp.full((2, 3), 0.0 if zero == "g" else 5.0)}
    tx = lars(0.1, momentum=0.0, weight_decay=0.5)
    updates, _ = tx.update(g, tx.init(w), w)
    np.testing.assert_allclose(updates["dense"], -0.1 * (g["dense"] + 0.5 * w["dense"]), rtol=1e-6)


def test_lars_does_not_hide_a_nan():
    w, g = {"dense": jnp.ones((2, 2))}, {"dense": jnp.full((2, 2), jnp.nan)}
    for tx in (lars(0.1), larc(0.1)):
        updates, _ = tx.update(g, tx.init(w), w)
        assert jnp.isnan(updates["dense"]).all()


def test_larc_is_the_clip_inside_the_momentum(train, problem, formula):
    """With these numbers the clip acts on some steps and not on others, and one rate is 0."""
    eta, beta, m, clipped = 1.0, 0.1, 0.8, []

    def update(w, g, t, memory, kernel):
        if kernel:
            g = g + beta * w
            local = eta * norm(w.ravel()) / norm(g.ravel())
            clipped.append(local < rates[t])
            g = g * (min(local, rates[t]) / rates[t] if rates[t] > 0 else 1.0)
        memory["v"] = m * memory.get("v", 0.0) + g
        return w - rates[t] * memory["v"]

    rates = RATES / 10
    tx = larc(
        lambda step: schedule(step) / 10, momentum=m, weight_decay=beta, trust_coefficient=eta
    )
    assert_close(train(tx, *problem), formula(update))
    assert any(clipped) and not all(clipped)


def test_larc_alone_steps_by_the_smaller_rate():
    w, g = {"dense": jnp.array([[3.0, 4.0]])}, {"dense": jnp.array([[0.0, 10.0]])}

    def step(lr):
        tx = larc(lr, momentum=0.0, trust_coefficient=0.02)  # local rate 0.02 x 5 / 10 = 0.01
        return tx.update(g, tx.init(w), w)[0]["dense"]

    np.testing.assert_allclose(step(0.5), [[0.0, -0.1]], rtol=1e-6)
    np.testing.assert_allclose(step(0.004), [[0.0, -0.04]], rtol=1e-6)


def test_larc_falls_back_to_its_own_rate_at_a_zero_norm():
    w, g = {"dense": jnp.zeros((2, 2))}, {"dense": jnp.ones((2, 2))}

    def step(fallback):
        tx = larc(0.1, momentum=0.0, fallback=fallback)
        return tx.update(g, tx.init(w), w)[0]["dense"]

    np.testing.assert_allclose(step(1 / 16000), -np.full((2, 2), 1 / 16000), rtol=1e-6)
    np.testing.assert_allclose(step(jnp.inf), -np.full((2, 2), 0.1), rtol=1e-6)


def test_larc_adam_runs_adam_on_the_scaled_gradient(train, problem, formula):
    """Kurth et al. 2018: here on every tensor, at a rate where the clip acts."""
    lr, eta, b1, b2, eps = 0.01, 0.002, 0.9, 0.999, 1e-8

    def update(w, g, t, memory, kernel):
        g = g * min(eta * norm(w.ravel()) / norm(g.ravel()), lr) / lr
        m = memory["m"] = b1 * memory.get("m", 0.0) + (1 - b1) * g
        v = memory["v"] = b2 * memory.get("v", 0.0) + (1 - b2) * g**2
        return w - lr * (m / (1 - b1 ** (t + 1))) / (np.sqrt(v / (1 - b2 ** (t + 1))) + eps)

    tx = optax.chain(
        scale_by_larc(lr), optax.scale_by_adam(b1, b2, eps), optax.scale_by_learning_rate(lr)
    )
    assert_close(train(tx, *problem), formula(update))
