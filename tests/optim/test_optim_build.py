import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from scaling.errors import UserError
from scaling.optim import build_optimizer, make_schedule
from scaling.optim.build import HYPERPARAMETERS, OPTIMIZERS

RATES = np.array([0.1, 0.4, 0.2, 0.0, 0.3])
norm = np.linalg.norm


def schedule(step):
    return jnp.float32(RATES)[step]


def assert_close(ours, theirs, rtol=2e-5):
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=rtol, atol=1e-6, err_msg=name)


# Independent formulas, float64: hyperparameters -> update(w, g, t, memory, kernel) -> new w.


def sgd(weight_decay):
    def update(w, g, t, memory, kernel):
        return w - RATES[t] * (g + weight_decay * kernel * w)

    return update


def heavy_ball(momentum, weight_decay):
    def update(w, g, t, memory, kernel):
        v = memory["v"] = momentum * memory.get("v", 0.0) + g + weight_decay * kernel * w
        return w - RATES[t] * v

    return update


def nesterov(momentum, weight_decay):
    def update(w, g, t, memory, kernel):
        g = g + weight_decay * kernel * w
        v = memory["v"] = momentum * memory.get("v", 0.0) + g
        return w - RATES[t] * (g + momentum * v)

    return update


def adam_direction(g, t, memory, b1, b2, eps):
    m = memory["m"] = b1 * memory.get("m", 0.0) + (1 - b1) * g
    v = memory["v"] = b2 * memory.get("v", 0.0) + (1 - b2) * g**2
    return m / (1 - b1 ** (t + 1)) / (np.sqrt(v / (1 - b2 ** (t + 1))) + eps)


def adam(b1, b2, eps, weight_decay):
    def update(w, g, t, memory, kernel):
        g = g + weight_decay * kernel * w
        return w - RATES[t] * adam_direction(g, t, memory, b1, b2, eps)

    return update


def larc_adam(trust_coefficient, fallback, **adams):
    def update(w, g, t, memory, kernel):
        g = g + adams["weight_decay"] * kernel * w
        local = trust_coefficient * norm(w.ravel()) / norm(g.ravel())
        share = local / RATES[t] if kernel and local < RATES[t] else 1.0
        return adam(**adams | {"weight_decay": 0.0})(w, share * g, t, memory, kernel)

    return update


def adamw(b1, b2, eps, weight_decay):
    def update(w, g, t, memory, kernel):
        r = adam_direction(g, t, memory, b1, b2, eps)
        return w - RATES[t] * (r + weight_decay * kernel * w)

    return update


def lamb(b1, b2, eps, weight_decay):
    def update(w, g, t, memory, kernel):
        u = adam_direction(g, t, memory, b1, b2, eps) + weight_decay * kernel * w
        return w - RATES[t] * norm(w.ravel()) / norm(u.ravel()) * u

    return update


def novograd(b1, b2, eps, weight_decay):
    def update(w, g, t, memory, kernel):
        square = norm(g.ravel()) ** 2
        v = memory["v"] = b2 * memory["v"] + (1 - b2) * square if t else square
        u = g / (np.sqrt(v) + eps) + weight_decay * kernel * w
        m = memory["m"] = b1 * memory.get("m", 0.0) + u
        return w - RATES[t] * m

    return update


def optax_lars(momentum, weight_decay, trust_coefficient):
    def update(w, g, t, memory, kernel):
        u = g + weight_decay * kernel * w
        local = trust_coefficient * norm(w.ravel()) / norm(u.ravel()) if kernel else 1.0
        v = memory["v"] = momentum * memory.get("v", 0.0) + RATES[t] * local * u
        return w - v

    return update


def newton_schulz(matrix):
    """On singular values, which is all that it changes; three constants of Jordan's."""
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    s = s / norm(s)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u * s @ v


def muon(momentum, weight_decay):
    def look_ahead(g, t, memory, beta):
        m = memory["m"] = beta * memory.get("m", 0.0) + (1 - beta) * g
        return beta * m / (1 - beta ** (t + 2)) + (1 - beta) * g / (1 - beta ** (t + 1))

    def update(w, g, t, memory, kernel):
        if kernel:
            matrix = look_ahead(g, t, memory, momentum).reshape(-1, w.shape[-1])
            rows, columns = matrix.shape
            d = newton_schulz(matrix).reshape(w.shape) * max(1, columns / rows) ** 0.5
        else:
            v = memory["v"] = 0.999 * memory.get("v", 0.0) + 0.001 * g**2
            root = np.sqrt(v / (1 - 0.999 ** (t + 1)))
            d = look_ahead(g, t, memory, 0.9) / (root + 1e-8)
        return w - RATES[t] * (d + weight_decay * kernel * w)

    return update


ADAM = {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "weight_decay": 0.3}
CASES = {
    "sgd": (sgd, {"weight_decay": 0.3}),
    "momentum": (heavy_ball, {"momentum": 0.7, "weight_decay": 0.3}),
    "nesterov": (nesterov, {"momentum": 0.7, "weight_decay": 0.3}),
    "adam": (adam, ADAM),
    "larc_adam": (larc_adam, ADAM | {"trust_coefficient": 0.1, "fallback": 1e-3}),
    "adamw": (adamw, ADAM),
    "lamb": (lamb, ADAM),
    "novograd": (novograd, ADAM),
    "muon": (muon, {"momentum": 0.7, "weight_decay": 0.3}),
    "optax_lars": (
        optax_lars, {"momentum": 0.7, "weight_decay": 0.3, "trust_coefficient": 0.1}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_formula(train, problem, formula, name):
    reference, hparams = CASES[name]
    tx = build_optimizer(name, schedule, hparams)
    # In float32 the 1 - 0.999^t of muon's Adam is right to four digits.
    rtol = 2e-4 if name == "muon" else 2e-5
    assert_close(train(tx, *problem), formula(reference(**hparams)), rtol)


def trial_hparams(name):
    """Two unlike trials: every hyperparameter of `name` differs and is away from its default."""
    first = {"momentum": 0.5, "weight_decay": 0.2, "b1": 0.6, "b2": 0.9, "eps": 1e-3,
             "trust_coefficient": 0.05, "fallback": 0.01, "max_grad_norm": 5.0}  # fmt: skip
    second = {"momentum": 0.8, "weight_decay": 0.1, "b1": 0.8, "b2": 0.7, "eps": 1e-2,
              "trust_coefficient": 0.02, "fallback": 0.02, "max_grad_norm": 0.0}  # fmt: skip
    return [{key: trial[key] for key in HYPERPARAMETERS[name]} for trial in (first, second)]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_population_is_its_trials_run_alone(train, problem, name):
    """And each number counts: a hyperparameter that is declared but not read fails."""
    params, grads = problem
    # A kernel at zero exercises the trust ratios' fallbacks, and the hyperparameter of that name.
    params = params | {"conv": np.zeros_like(params["conv"])}

    def run(peak, hparams):
        rates = make_schedule("linear", peak=peak, total_steps=8, warmup_steps=2, warmup_init=0.05)
        return train(build_optimizer(name, rates, hparams), params, grads)

    first, second = trial_hparams(name)
    # Two unlike trials, then the first with one number at a time from the second.
    trials = [(0.3, first), (0.1, second)] + [(0.3, first | {key: second[key]}) for key in first]
    stacked = jax.tree.map(lambda *numbers: jnp.array(numbers), *trials)
    together = jax.jit(jax.vmap(run))(*stacked)

    alone = jax.jit(lambda: [run(*trial) for trial in trials[:2]])()
    for i in range(2):
        assert_close(jax.tree.map(lambda x, i=i: x[i], together), alone[i])

    moved = [
        max(np.abs(path[i + 2] - path[0]).max() for path in together.values())
        for i in range(len(first))
    ]
    assert {key: m > 1e-5 for key, m in zip(first, moved, strict=True)} == dict.fromkeys(
        first, True
    )


def test_the_first_update_uses_the_first_rate_and_each_update_the_next(train, problem):
    params, grads = problem
    ones = jax.tree.map(np.ones_like, grads)
    path = train(build_optimizer("sgd", schedule, {}), params, ones)
    moved = params["dense"][0, 0] - np.asarray(path["dense"])[:, 0, 0]
    np.testing.assert_allclose(moved, np.cumsum(RATES), atol=1e-6)


def test_missing_hyperparameters_take_the_declared_defaults(train, problem):
    defaults = build_optimizer("larc", 0.1, {})
    spelled = build_optimizer("larc", 0.1, HYPERPARAMETERS["larc"])
    assert_close(train(defaults, *problem), train(spelled, *problem))
    assert HYPERPARAMETERS["nesterov"] == {
        "momentum": 0.9, "weight_decay": 0.0, "max_grad_norm": np.inf
    }  # fmt: skip


def test_clipping_is_by_global_norm_and_before_weight_decay(problem):
    params, grads = problem
    g = {name: jnp.float32(stack[0]) for name, stack in grads.items()}
    w = jax.tree.map(jnp.float32, params)
    total = norm(np.concatenate([np.ravel(x) for x in g.values()]))

    @jax.jit
    def step(limit):
        tx = build_optimizer("sgd", 1.0, {"weight_decay": 0.3, "max_grad_norm": limit})
        return jax.tree.map(jnp.negative, tx.update(g, tx.init(w), w)[0])

    def expected(factor):
        return {name: factor * g[name] + 0.3 * (w[name].ndim >= 2) * w[name] for name in g}

    assert_close(step(5.0), expected(5.0 / total))
    for no_clip in (0.0, jnp.inf, 2 * total):
        assert_close(step(no_clip), expected(1.0))


def test_muon_makes_every_matrix_nearly_orthogonal_and_scales_it_by_its_shape():
    """Also a wide one, whose columns outnumber its rows."""
    rng = np.random.default_rng(0)
    w = {"conv": jnp.zeros((3, 3, 4, 8)), "wide": jnp.zeros((8, 32))}
    g = jax.tree.map(lambda leaf: jnp.float32(rng.normal(size=leaf.shape)), w)
    tx = build_optimizer("muon", 0.1, {})
    updates, _ = jax.jit(lambda: tx.update(g, tx.init(w), w))()
    for name, scale in (("conv", 1.0), ("wide", 2.0)):
        matrix = np.asarray(updates[name]).reshape(-1, w[name].shape[-1])
        values = np.linalg.svd(matrix, compute_uv=False) / (0.1 * scale)
        assert values.min() > 0.65 and values.max() < 1.25, name


def test_muon_leaves_the_tables_of_language_models_to_adam():
    """And takes a layer's kernel, whatever the layer is called."""
    rng = np.random.default_rng(0)
    w = {"embedding": (8, 4), "positions": (6, 4), "head": (4, 8), "bias": (4,), "up0": (4, 8)}
    w = {name: jnp.zeros(shape) for name, shape in w.items()}
    w["up0"], w["resnet"] = {"kernel": w["up0"]}, {"head": {"kernel": jnp.zeros((4, 8))}}
    g = jax.tree.map(lambda leaf: jnp.float32(rng.normal(size=leaf.shape)), w)
    tx, adam = build_optimizer("muon", 0.1, {}), optax.nadam(0.1)
    updates, expected = (jax.jit(lambda t=t: t.update(g, t.init(w), w)[0])() for t in (tx, adam))
    for name in ("embedding", "positions", "head", "bias"):
        np.testing.assert_allclose(updates[name], expected[name], rtol=1e-5)
    for kernel in (updates["up0"]["kernel"], updates["resnet"]["head"]["kernel"]):
        values = np.linalg.svd(kernel, compute_uv=False) / (0.1 * 2**0.5)
        assert values.min() > 0.65 and values.max() < 1.25


def test_the_mask_can_be_chosen():
    """At a zero gradient only the decay moves a tensor."""
    w = {"dense": jnp.ones((2, 3)), "bias": jnp.ones(3)}
    zero = jax.tree.map(jnp.zeros_like, w)
    only_bias = lambda tree: {name: name == "bias" for name in tree}
    for name in ("momentum", "adamw", "novograd", "muon", "lars"):
        tx = build_optimizer(name, 0.1, {"weight_decay": 0.3}, only_bias)
        updates, _ = tx.update(zero, tx.init(w), w)
        np.testing.assert_allclose(updates["bias"], np.full(3, -0.03), rtol=1e-6)
        assert not updates["dense"].any()


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match="Unknown optimizer 'nestrov': did you mean 'nesterov'"):
        build_optimizer("nestrov", 0.1, {})
    with pytest.raises(UserError, match="'sgd' optimizer does not read 'momentum'"):
        build_optimizer("sgd", 0.1, {"momentum": 0.9})
    with pytest.raises(UserError, match="'momentun': did you mean 'momentum'"):
        build_optimizer("lars", 0.1, {"momentun": 0.9})
