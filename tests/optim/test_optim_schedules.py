import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from scaling.errors import UserError
from scaling.optim import make_schedule
from scaling.optim.schedules import DECAYS, ENDLESS

PEAK, WARMUP, TOTAL, INIT = 3.2, 10, 50, 0.1
STEPS = np.arange(70)  # well past TOTAL
DECAY_SHAPES = {
    "constant": {},
    "linear": {"end_factor": 0.05},
    "cosine": {"end_factor": 0.05},
    "polynomial": {"power": 2.0, "end_factor": 0.05},
    "step": {"boundaries": (20, 30, 40), "decay_factor": 0.1},
    "dip": {"boundaries": (20, 30), "decay_factor": 0.0625},
    "wsd": {"cooldown": 0.3, "end_factor": 0.05},
}


@pytest.mark.parametrize("name", DECAYS)
def test_those_without_an_end_are_the_same_for_any_length(name):
    of = lambda total: make_schedule(
        name, peak=PEAK, total_steps=total, warmup_steps=WARMUP, **DECAY_SHAPES[name]
    )
    steps = np.arange(TOTAL)
    alike = np.array_equal(jax.vmap(of(TOTAL))(steps), jax.vmap(of(10 * TOTAL))(steps))
    assert alike == (name in ENDLESS)


def closed_form(name, step, *, peak, total, warmup, init, **shape):
    """The rate of one step, in float64 and with Python's branches."""
    if step < warmup:
        return init + (peak - init) * step / warmup
    t, T = min(step - warmup, total - warmup), total - warmup
    end = shape.get("end_factor", 0.0)
    if name == "constant":
        return peak
    if name == "linear":
        return peak * (1 - (1 - end) * t / T)
    if name == "cosine":
        return peak * (end + (1 - end) * (1 + np.cos(np.pi * t / T)) / 2)
    if name == "polynomial":
        return peak * (end + (1 - end) * (1 - t / T) ** shape["power"])
    if name == "wsd":
        stable = (1 - shape["cooldown"]) * T
        return peak * (1 - (1 - end) * max(t - stable, 0) / (T - stable))
    if name == "dip":
        first, last = shape["boundaries"]
        return peak * (shape["decay_factor"] if first <= step < last else 1)
    passed = sum(step >= boundary for boundary in shape["boundaries"])
    return peak * shape["decay_factor"] ** passed


@pytest.mark.parametrize("warmup", [0, WARMUP])
@pytest.mark.parametrize("name", DECAY_SHAPES)
def test_matches_the_closed_form(name, warmup):
    shape = DECAY_SHAPES[name]
    schedule = make_schedule(
        name, peak=PEAK, total_steps=TOTAL, warmup_steps=warmup, warmup_init=INIT, **shape
    )
    expected = [
        closed_form(name, s, peak=PEAK, total=TOTAL, warmup=warmup, init=INIT, **shape)
        for s in STEPS
    ]
    np.testing.assert_allclose(jax.vmap(schedule)(STEPS), expected, rtol=2e-6, atol=1e-7)


def optax_decay(name):
    """Optax's own, counted from the end of the warmup (its boundaries too)."""
    end, length = 0.05, TOTAL - WARMUP
    return {
        "constant": optax.constant_schedule(PEAK),
        "linear": optax.linear_schedule(PEAK, PEAK * end, length),
        "cosine": optax.cosine_decay_schedule(PEAK, length, alpha=end),
        "polynomial": optax.polynomial_schedule(PEAK, PEAK * end, 2, length),
        "wsd": optax.linear_schedule(PEAK, PEAK * end, 12, transition_begin=28),
        "step": optax.piecewise_constant_schedule(PEAK, {10: 0.1, 20: 0.1, 30: 0.1}),
        "dip": optax.piecewise_constant_schedule(PEAK, {10: 0.0625, 20: 16.0}),
    }[name]


@pytest.mark.parametrize("name", DECAY_SHAPES)
def test_matches_optax(name):
    warmup = optax.linear_schedule(INIT, PEAK, WARMUP)
    theirs = optax.join_schedules([warmup, optax_decay(name)], [WARMUP])
    ours = make_schedule(
        name, peak=PEAK, total_steps=TOTAL, warmup_steps=WARMUP, warmup_init=INIT,
        **DECAY_SHAPES[name],
    )  # fmt: skip
    np.testing.assert_allclose(
        jax.vmap(ours)(STEPS), jax.vmap(theirs)(jnp.asarray(STEPS)), rtol=2e-6
    )


@pytest.mark.parametrize("name", DECAY_SHAPES)
def test_every_number_can_be_a_trial(name):
    """Trials stacked under vmap, one with no warmup and one nearly all warmup."""
    common = {
        "peak": np.array([0.5, 3.2, 10.0]),
        "total": np.array([50, 40, 60]),
        "warmup": np.array([0, 10, 59]),
        "init": np.array([0.0, 0.1, 0.001]),
    }
    shape = {  # each number of the decay times 1, 1/2, 1/4, the boundaries moved
        key: np.stack([np.asarray(value) * f for f in (1, 0.5, 0.25)])
        for key, value in DECAY_SHAPES[name].items()
    }

    @jax.jit
    @jax.vmap
    def trials(common, shape):
        schedule = make_schedule(
            name, peak=common["peak"], total_steps=common["total"], warmup_steps=common["warmup"],
            warmup_init=common["init"], **shape,
        )  # fmt: skip
        return jax.vmap(schedule)(STEPS)

    def trial(i):
        numbers = {key: value[i] for key, value in (common | shape).items()}
        return [closed_form(name, s, **numbers) for s in STEPS]

    rates = trials(common, shape)
    np.testing.assert_allclose(rates, [trial(i) for i in range(3)], rtol=5e-6, atol=1e-7)


def test_warmup_starts_at_its_first_rate_and_reaches_the_peak():
    schedule = make_schedule("linear", peak=3.2, total_steps=90, warmup_steps=5, warmup_init=0.1)
    np.testing.assert_allclose([schedule(0), schedule(5), schedule(90)], [0.1, 3.2, 0.0])


@pytest.mark.parametrize("name", DECAY_SHAPES)
def test_a_constant_warmup_jumps_to_the_peak_and_changes_nothing_after_it(name):
    numbers = {
        "peak": PEAK,
        "total_steps": TOTAL,
        "warmup_steps": WARMUP,
        "warmup_init": INIT,
        **DECAY_SHAPES[name],
    }
    constant, gradual = (
        jax.vmap(make_schedule(name, warmup_shape=shape, **numbers))(STEPS)
        for shape in ("constant", "gradual")
    )
    np.testing.assert_array_equal(constant[:WARMUP], np.full(WARMUP, np.float32(INIT)))
    np.testing.assert_array_equal(constant[WARMUP:], gradual[WARMUP:])
    assert constant[WARMUP] == np.float32(PEAK) and np.all(np.diff(gradual[:WARMUP]) > 0)


def test_trials_of_a_constant_warmup_may_differ():
    @jax.vmap
    def trials(init, warmup):
        schedule = make_schedule(
            "constant", peak=2.0, total_steps=9, warmup_steps=warmup, warmup_init=init,
            warmup_shape="constant",
        )  # fmt: skip
        return jax.vmap(schedule)(jnp.arange(4))

    rates = jax.jit(trials)(jnp.array([0.5, 0.25]), jnp.array([1, 3]))
    np.testing.assert_array_equal(rates, [[0.5, 2, 2, 2], [0.25, 0.25, 0.25, 2]])


def test_each_boundary_may_have_its_own_factor():
    """Hoffer et al.'s wide ResNet: 0.1, then 2e-2 at 60, 4e-3 at 120, 1e-4 at 140."""
    schedule = make_schedule(
        "step", peak=0.1, total_steps=200, boundaries=(60, 120, 140), decay_factor=(0.2, 0.2, 0.025)
    )
    rates = [schedule(s) for s in (59, 60, 120, 140)]
    np.testing.assert_allclose(rates, [0.1, 2e-2, 4e-3, 1e-4], rtol=1e-6)


def test_factors_of_hoffers_shallow_nets_may_also_raise_the_rate():
    """C1 and C3: 1e-3, then 1e-2 at 60, 1e-3 at 120, 1e-4 at 180; stacked with another trial."""
    factors = np.array([(10.0, 0.1, 0.1), (2.0, 0.5, 0.5)], np.float32)

    @jax.vmap
    def trials(factors):
        schedule = make_schedule(
            "step", peak=1e-3, total_steps=200, boundaries=(60, 120, 180), decay_factor=factors
        )
        return jax.vmap(schedule)(jnp.array([0, 59, 60, 119, 120, 179, 180]))

    expected = [[1, 1, 10, 10, 1, 1, 0.1], [1, 1, 2, 2, 1, 1, 0.5]]
    np.testing.assert_allclose(trials(factors), 1e-3 * np.array(expected), rtol=1e-6)


def test_a_boundary_inside_the_warmup_waits_for_its_end():
    schedule = make_schedule("step", peak=1.0, total_steps=9, warmup_steps=4, boundaries=(2,))
    rates = [schedule(s) for s in range(5)]
    np.testing.assert_allclose(rates, [0.0, 0.25, 0.5, 0.75, 0.1], rtol=1e-6)


def test_a_factor_for_some_of_the_boundaries_is_refused():
    schedule = make_schedule(
        "step", peak=1.0, total_steps=9, boundaries=(2, 3, 4), decay_factor=(0.1, 0.2)
    )
    with pytest.raises(UserError, match="one for each boundary"):
        schedule(0)


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match="Unknown schedule 'cosin': did you mean 'cosine'"):
        make_schedule("cosin", peak=0.1, total_steps=10)
    with pytest.raises(UserError, match="'linear' schedule does not read 'power'"):
        make_schedule("linear", peak=0.1, total_steps=10, power=2.0)
    with pytest.raises(UserError, match="'warmup_step': did you mean 'warmup_steps'"):
        make_schedule("constant", peak=0.1, total_steps=10, warmup_step=2)
    with pytest.raises(UserError, match="warmup_shape 'gradul': did you mean 'gradual'"):
        make_schedule("constant", peak=0.1, total_steps=10, warmup_shape="gradul")
