"""Curvature against closed forms, dense matrices in float64, and spectra that are known."""

import itertools
import logging
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from scipy import stats
from sklearn.datasets import load_digits

from scaling.curvature import (
    Estimate,
    Operator,
    batch_sharpness,
    edge,
    flatten,
    hessian_product,
    in_chunks,
    lanczos,
    ritz,
    spectrum,
    summed,
    trace,
    value_and_grad,
)
from scaling.spectra import density

KEY = jax.random.key(0)


def times(v, h):
    return h * v


def diagonal(values, dtype=jnp.float32):
    values = jnp.asarray(values, dtype)
    return Operator(times, (values,), values.size, dtype)


def dense(operator):
    return np.stack([np.asarray(operator(row), float) for row in np.eye(operator.size)])


# --- products ---


@summed
def squared(weights, examples):
    x, y = examples
    return 0.5 * jnp.square(x @ weights - y)


@summed
def entropy(params, examples):
    """Softmax regression."""
    x, y = examples
    logits = x @ params["kernel"] + params["bias"]
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1)[:, 0]


def net(params, images):
    """64-16-16-10, or whatever the kernels say."""
    for kernel, bias in params[:-1]:
        images = jax.nn.relu(images @ kernel + bias)
    return images @ params[-1][0] + params[-1][1]


@summed
def net_loss(params, examples):
    images, labels = examples
    logits = jax.nn.log_softmax(net(params, images))
    return -jnp.take_along_axis(logits, labels[:, None], 1)[:, 0]


def digits(count=1797):
    images, labels = load_digits(return_X_y=True)
    return np.float32(images[:count] / 16), labels[:count]


@pytest.fixture(scope="module")
def trained():
    """(weights of a net after 300 steps of gradient descent, H in float64, its gradient)."""
    rng, sizes = np.random.default_rng(0), (64, 16, 16, 10)
    draw = lambda m, n: np.float32(rng.standard_normal((m, n)) * math.sqrt(2 / m))
    params = [(draw(m, n), np.zeros(n, np.float32)) for m, n in itertools.pairwise(sizes)]
    chunk = (digits(), np.ones(1797, np.float32))
    mean = lambda params: net_loss(params, chunk)[0] / 1797
    step = lambda params: jax.tree.map(lambda w, g: w - 0.1 * g, params, jax.grad(mean)(params))
    params = jax.jit(lambda p: jax.lax.fori_loop(0, 300, lambda _, p: step(p), p))(params)
    params = jax.tree.map(np.asarray, params)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), params)
        vector, restore = flatten(wide)
        gradient = lambda v: jax.grad(lambda v: mean(restore(v)))(v)
        # Reverse over reverse; the code under test goes forward over reverse.
        hessian = jax.jit(jax.jacrev(gradient))(vector)
        return params, np.asarray(hessian), np.asarray(gradient(vector))


@pytest.mark.parametrize("rows", [1, 7, 50, 128])
def test_linear_regression(rows):
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((100, 8)), rng.standard_normal(100)
    with jax.enable_x64(True):
        operator = hessian_product(squared, jnp.zeros(8), in_chunks((x, y), rows))
        assert dense(operator) == pytest.approx(x.T @ x / 100, abs=1e-14)
        values, bounds = ritz(lanczos(operator, KEY, 8))
    assert values == pytest.approx(np.linalg.eigvalsh(x.T @ x / 100)[::-1], rel=1e-13)
    assert bounds.max() < 1e-13


def softmax_hessian(x, kernel, bias):
    """Mean of (diag p - p p^T) x (x x^T) in the order of (bias, kernel)."""
    logits = x @ kernel + bias
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    inner = np.einsum("ni,ij->nij", p, np.eye(p.shape[1])) - np.einsum("ni,nj->nij", p, p)
    extended = np.concatenate([np.ones((len(x), 1)), x], 1)
    size = extended.shape[1] * p.shape[1]
    return np.einsum("na,nb,nij->aibj", extended, extended, inner).reshape(size, size) / len(x)


@pytest.fixture(scope="module")
def softmax():
    """(params, examples, H) of softmax regression, 5 inputs and 4 classes."""
    rng = np.random.default_rng(2)
    x, y = np.float32(rng.standard_normal((60, 5))), rng.integers(0, 4, 60)
    params = {"kernel": np.float32(rng.standard_normal((5, 4))), "bias": np.float32(rng.random(4))}
    hessian = softmax_hessian(*(np.float64(a) for a in (x, params["kernel"], params["bias"])))
    return params, (x, y), hessian


def test_softmax_regression(softmax):
    params, examples, hessian = softmax
    operator = hessian_product(entropy, params, in_chunks(examples, 16))
    assert dense(operator) == pytest.approx(hessian, abs=1e-6)
    scale = np.linspace(0.5, 2, 24)
    scaled = hessian_product(entropy, params, in_chunks(examples, 16), scale=scale)
    assert dense(scaled) == pytest.approx(scale[:, None] * hessian * scale, abs=1e-5)
    chosen = {"kernel": True, "bias": False}
    for keep in (False, True):
        block = hessian_product(entropy, params, in_chunks(examples, 60), chosen, keep=keep)
        assert dense(block) == pytest.approx(hessian[4:, 4:], abs=1e-6)
    with pytest.raises(ValueError, match="No tensor is chosen"):
        hessian_product(entropy, params, in_chunks(examples, 60), {"kernel": False, "bias": False})


def test_weights_of_examples(softmax):
    """Tokens, say: chunks count by their weights, not by their rows."""
    params, (x, y), _ = softmax
    weights = np.float32(np.arange(60) % 5)

    def weighted(params, chunk):
        x, y, weights = chunk
        losses = jax.vmap(lambda x, y: entropy(params, ((x[None], y[None]), jnp.ones(1)))[0])(x, y)
        return losses @ weights, weights.sum()

    chunks = jax.tree.map(lambda a: a.reshape(4, 15, *a.shape[1:]), (x, y, weights))
    repeated = np.repeat(np.arange(60), np.int64(weights))
    wide = [np.float64(a) for a in (x[repeated], params["kernel"], params["bias"])]
    found = dense(hessian_product(weighted, params, chunks))
    assert found == pytest.approx(softmax_hessian(*wide), abs=1e-6)


def test_chunks_and_devices_change_nothing(trained):
    params, hessian, gradient = trained
    vector = np.random.default_rng(3).standard_normal(len(hessian))
    expected, seen = hessian @ vector, []
    for rows in (8, 100, 1797):
        chunks = in_chunks(digits(), rows)
        for keep in (False, True):
            product = hessian_product(net_loss, params, chunks, keep=keep)(vector)
            seen.append(np.asarray(product))
        assert value_and_grad(net_loss, params, chunks)(flatten(params)[0])[1] == pytest.approx(
            gradient, abs=1e-6
        )
    mesh = Mesh(np.asarray(jax.devices()), ("batch",))
    assert mesh.size == 8
    over_rows = NamedSharding(mesh, PartitionSpec(None, "batch"))
    chunks = jax.device_put(in_chunks(digits(), 512), over_rows)
    for keep in (False, True):
        product = hessian_product(net_loss, params, chunks, keep=keep)(vector)
        assert len(product.sharding.device_set) == 8
        seen.append(np.asarray(product))
    for found in seen:
        assert np.linalg.norm(found - expected) < 2e-6 * np.linalg.norm(expected)


def test_what_takes_too_much_memory_is_not_kept(trained, monkeypatch):
    params, *_ = trained
    chunks = in_chunks(digits(), 512)
    held = [hessian_product(net_loss, params, chunks, keep=keep).arguments for keep in (True, None)]
    sizes = [sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) for tree in held]
    assert sizes[0] == sizes[1] > 4 * 2048 * 64  # the pixels alone
    monkeypatch.setattr("scaling.curvature.KEPT", sizes[0] // 2)
    assert len(hessian_product(net_loss, params, chunks).arguments) == 3  # chunks, nothing kept


def test_sums_over_chunks_are_of_float32():
    """4,096 chunks whose products of 1 would be 256 in all with 8 bits."""
    loss = lambda w, x: (0.5 * w[0] ** 2, jnp.float32(1))
    operator = hessian_product(loss, jnp.ones(1, jnp.bfloat16), np.zeros((4096, 1)))
    assert float(operator(jnp.ones(1))[0]) == 1.0


def test_other_weights_do_not_compile_again(softmax, caplog):
    params, examples, _ = softmax
    chunks = in_chunks(examples, 16)
    others = jax.tree.map(lambda leaf: 2 * leaf, params)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        first = lanczos(hessian_product(entropy, params, chunks), KEY, 6)
        assert "XLA compilation of" in caplog.text  # or this test would find nothing
        caplog.clear()
        second = lanczos(hessian_product(entropy, others, chunks), KEY, 6)
    assert "XLA compilation of" not in caplog.text
    assert abs(first.diagonal - second.diagonal).max() > 1e-3


# --- eigenvalues ---


@pytest.mark.parametrize("rows", [256, 1797])
def test_a_dense_hessian(trained, rows):
    params, hessian, _ = trained
    truth = np.linalg.eigvalsh(hessian)[::-1]
    krylov = lanczos(hessian_product(net_loss, params, in_chunks(digits(), rows)), KEY, 60)
    values, bounds = ritz(krylov)
    assert values[:10] == pytest.approx(truth[:10], abs=1e-6 * truth[0])
    assert values[-1] == pytest.approx(truth[-1], abs=1e-4 * truth[0]) and truth[-1] < 0
    nearest = np.abs(values[:, None] - truth).min(1)
    assert (nearest <= bounds).all()
    # Not by being wide: those of the first ten are the rounding alone.
    assert bounds[:10].max() < 3e-6 * truth[0]
    # The same from part of the steps; all are bounds there, too.
    early, wide = ritz(krylov, 12)
    assert len(early) == 12 and (np.abs(early[:, None] - truth).min(1) <= wide).all()
    assert early[0] == pytest.approx(truth[0], abs=wide[0]) and wide[5] > 100 * bounds[5]
    # No eigenvalue twice.
    assert np.diff(values[:10]).max() < -1e-3


SPECTRA = {"zero": [0.0], "one": [3.0], "five": [1.0, 2.0, 3.0, -4.0, 10.0]}


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e5])
@pytest.mark.parametrize("name", SPECTRA)
def test_few_distinct_eigenvalues(name, scale):
    """Lanczos breaks down; what follows would be NaN, or 500 for 3."""
    distinct = scale * np.array(SPECTRA[name])
    for seed in range(5):
        key = jax.random.key(seed)
        operator = diagonal(np.repeat(distinct, 12))
        krylov = lanczos(operator, key, 12)
        values, bounds = ritz(krylov)
        assert krylov.steps == len(distinct)
        assert values == pytest.approx(np.sort(distinct)[::-1], abs=1e-6 * abs(distinct).max())
        assert bounds.max() <= 1e-5 * abs(distinct).max()
        quadrature = spectrum(operator, key, 12, 3)
        start = jax.random.rademacher(jax.random.split(key, 3)[0], (operator.size,), jnp.float32)
        shares = np.square(start).reshape(len(distinct), 12).sum(1)[np.argsort(distinct)]
        found = quadrature.weights[0, : len(distinct)]
        assert found == pytest.approx(shares / shares.sum(), abs=1e-5)


def test_more_steps_than_dimensions():
    values, bounds = ritz(lanczos(diagonal([1.0, 2.0, 4.0]), KEY, 50))
    assert values == pytest.approx([4, 2, 1]) and bounds.max() < 1e-5


def test_a_product_that_is_not_finite():
    with pytest.raises(ValueError, match="not finite"):
        lanczos(diagonal([1.0, math.nan, 2.0]), KEY, 2)


# --- spectra ---


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e5])
def test_a_quadrature_by_hand(scale):
    """v = signs / sqrt(n): its moments v^T H^m v are those of the eigenvalues, up to 2 k - 1."""
    eigenvalues = scale * np.linspace(-1, 3, 40)
    quadrature = spectrum(diagonal(eigenvalues), KEY, 5, 4)
    for power in range(10):
        found = quadrature.mean(lambda nodes: (nodes / scale) ** power)  # noqa: B023
        assert found.value == pytest.approx(np.mean((eigenvalues / scale) ** power), rel=1e-4)
    assert quadrature.products == 20
    tenth = quadrature.mean(lambda nodes: (nodes / scale) ** 10).value
    assert abs(tenth / np.mean((eigenvalues / scale) ** 10) - 1) > 1e-4
    grid = scale * np.linspace(-2, 4, 601)
    found = density(quadrature.nodes, quadrature.weights, grid)
    assert np.trapezoid(found, grid) == pytest.approx(1, abs=1e-3)
    assert np.trapezoid(found * grid, grid) == pytest.approx(scale, rel=2e-3)
    unit = spectrum(diagonal(eigenvalues / scale), KEY, 5, 4)
    unit = density(unit.nodes, unit.weights, grid / scale)
    assert found * scale == pytest.approx(unit, abs=1e-2 * unit.max())


def test_weights_are_the_squares_of_the_start():
    """With as many steps as dimensions, the weight of an eigenvalue is v_i^2: of signs, 1 / n."""
    quadrature = spectrum(diagonal([1.0, 2.0, 5.0, 9.0]), KEY, 4, 2)
    assert quadrature.weights == pytest.approx(np.full((2, 4), 0.25), abs=1e-5)
    share = quadrature.mass(1.5, 6)
    assert share.value == pytest.approx(0.5, abs=1e-5) and share.standard_error < 1e-5
    norm = quadrature.mean(np.square)  # |H|_F^2 / n
    assert 4 * norm.value == pytest.approx(1 + 4 + 25 + 81, rel=1e-5)


@pytest.mark.parametrize(
    "grid", [np.linspace(0, 6, 500), np.linspace(-9, 19, 30)], ids=["short", "coarse"]
)
def test_a_density_that_loses_mass_is_refused(grid):
    quadrature = spectrum(diagonal([1.0, 2.0, 5.0, 9.0]), KEY, 4, 2)
    with pytest.raises(ValueError, match=r"holds \S+ of the eigenvalues, which lie from 1 to 9;"):
        density(quadrature.nodes, quadrature.weights, grid)


# --- traces ---


def test_traces_of_a_net(trained):
    params, hessian, _ = trained
    operator = hessian_product(net_loss, params, in_chunks(digits(), 1797))
    found = [trace(operator, jax.random.key(seed), 30) for seed in range(5)]
    truth = np.trace(hessian)
    assert found[0].products == 30
    assert np.mean([abs(one.value / truth - 1) for one in found]) < 0.03
    assert all(one.interval[0] < truth < one.interval[1] for one in found)
    hutchinson = trace(operator, KEY, 30, "hutchinson")
    assert hutchinson.products == 30 and hutchinson.standard_error > 3 * found[0].standard_error
    assert abs(hutchinson.value - truth) < 3 * hutchinson.standard_error < 0.4 * truth


def test_xtrace_by_its_definition():
    """Each vector's residual after a projection on the products of the others, one QR for each."""
    rng = np.random.default_rng(6)
    h = rng.standard_normal((20, 20))
    h = h @ np.diag(np.exp(-np.arange(20) / 3)) @ h.T
    rows = np.asarray(jax.random.normal(KEY, (6, 20)), float)

    def estimate(rows):
        values = []
        for i, v in enumerate(rows):
            q, _ = np.linalg.qr(h @ np.delete(rows, i, 0).T)
            rest = v - q @ (q.T @ v)
            share = (20 - q.shape[1]) / (rest @ rest)
            values.append(np.trace(q.T @ h @ q) + share * (rest @ h @ rest))
        return np.mean(values)

    found = trace(Operator(lambda v, h: h @ v, (jnp.float32(h),), 20), KEY, 12)
    assert found.value == pytest.approx(estimate(rows), rel=1e-4)
    jackknife = math.sqrt(5 * np.var([estimate(np.delete(rows, i, 0)) for i in range(6)]))
    assert found.standard_error == pytest.approx(jackknife, rel=1e-3)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e5])
def test_traces_of_low_rank(scale):
    """Exact: H = 0, and of three nonzero eigenvalues, the same of any size."""
    eigenvalues = np.zeros(60)
    assert trace(diagonal(eigenvalues), KEY, 10).value == 0
    eigenvalues[[3, 20, 50]] = scale * np.array([1.0, -4.0, 10.0])
    found = trace(diagonal(eigenvalues), KEY, 20)
    assert found.value == pytest.approx(7 * scale, rel=1e-5)
    assert found.standard_error < 1e-4 * scale


def test_a_trace_from_as_many_products_as_dimensions():
    found = trace(diagonal([1.0, 2.0, 4.0]), KEY, 10)
    assert (found.value, found.standard_error, found.products) == (7, 0, 3)


@pytest.mark.parametrize("method, products", [("xtrace", 5), ("hutchinson", 1)])
def test_too_few_products_for_an_interval(method, products):
    with pytest.raises(ValueError, match="too few"):
        trace(diagonal(np.arange(40.0)), KEY, products, method)


COVERAGE = {
    "exponential": np.exp(-np.arange(300) / 5),
    "power": np.arange(1.0, 301) ** -1.5,
    "even": np.linspace(1, 3, 300),
    "both signs": np.concatenate([np.full(8, 10.0), np.linspace(-0.1, 0.1, 292)]),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["xtrace", "hutchinson"])
@pytest.mark.parametrize("name", COVERAGE)
def test_coverage(name, method):
    """Intervals hold the trace in 93% of 500 draws or more, in a basis that is no axis."""
    eigenvalues = COVERAGE[name]
    basis = np.linalg.qr(np.random.default_rng(4).standard_normal((300, 300)))[0]
    matrix = jnp.asarray(basis * eigenvalues @ basis.T, jnp.float32)
    operator = Operator(lambda v, h: h @ v, (matrix,), 300)
    found = [trace(operator, jax.random.key(seed), 30, method) for seed in range(500)]
    held = [one.interval[0] <= eigenvalues.sum() <= one.interval[1] for one in found]
    assert np.mean(held) >= 0.93
    if method == "xtrace" and name != "both signs":
        errors = [one.value / eigenvalues.sum() - 1 for one in found]
        assert math.sqrt(np.mean(np.square(errors))) < 0.03


def test_an_interval_by_hand():
    found = Estimate.of([1.0, 2.0, 4.0], 3)
    # The variance is (16 + 1 + 25) / 9 / 2; Student's quantile for 2 degrees of freedom.
    error = math.sqrt(42 / 9 / 2 / 3)
    assert found.standard_error == pytest.approx(error)
    assert found.interval == pytest.approx((7 / 3 - 4.302653 * error, 7 / 3 + 4.302653 * error))
    with pytest.raises(ValueError, match="two or more"):
        Estimate.of([1.0], 1)


# --- along a run ---


def ends(rate, momentum, nesterov, eigenvalue):
    """|w| after 3,000 updates from 1 on eigenvalue w^2 / 2."""
    w, velocity = 1.0, 0.0
    for _ in range(3000):
        velocity = momentum * velocity + eigenvalue * w
        w -= rate * (eigenvalue * w + momentum * velocity if nesterov else velocity)
    return abs(w)


@pytest.mark.parametrize(
    "momentum, nesterov, expected", [(0.0, False, 20), (0.9, False, 38), (0.9, True, 13.571)]
)
def test_the_edge_of_stability(momentum, nesterov, expected):
    found = edge(0.1, momentum, nesterov)
    assert found == pytest.approx(expected, abs=1e-3)
    assert ends(0.1, momentum, nesterov, 0.995 * found) < 1e-3
    assert ends(0.1, momentum, nesterov, 1.005 * found) > 1e3


def test_batch_sharpness_of_a_quadratic():
    """f = w^T H w / 2, the same in every batch: g^T H g / g^T g, without spread."""
    h, w = np.array([1.0, 2, 5], np.float32), np.array([1.0, -1, 0.5], np.float32)
    loss = lambda w, h: (3 * 0.5 * jnp.sum(h * w * w), jnp.float32(3))
    g = h * w
    found = batch_sharpness(loss, w, np.tile(h, (4, 1)))
    assert found.value == pytest.approx(g @ (h * g) / (g @ g), rel=1e-6)
    assert found.standard_error < 1e-6 and found.products == 4


def test_gradient_descent_that_neither_grows_nor_falls_has_the_batch_sharpness_of_the_edge():
    """On a quadratic, at the rate 2 / lambda: along the top eigenvector w becomes -w."""
    h, w = np.array([1.0, 2, 5], np.float32), np.array([1.0, -1, 0.5], np.float32)
    loss = lambda w, h: (0.5 * jnp.sum(h * w * w), jnp.float32(1))
    for _ in range(60):
        w = w - np.float32(2 / 5) * h * w
    assert batch_sharpness(loss, w, np.tile(h, (2, 1))).value == pytest.approx(edge(2 / 5))


def test_batch_sharpness_is_a_ratio_of_means():
    """Batches of linear regression with Hessians of their own."""
    rng = np.random.default_rng(5)
    x, y = np.float32(rng.standard_normal((32, 8, 3))), np.float32(rng.standard_normal((32, 8)))
    w = np.float32(rng.standard_normal(3))
    tops, bottoms = [], []
    for rows, targets in zip(np.float64(x), np.float64(y), strict=True):
        hessian, g = rows.T @ rows / 8, rows.T @ (rows @ w - targets) / 8
        tops.append(g @ hessian @ g)
        bottoms.append(g @ g)
    found = batch_sharpness(squared, w, ((x, y), np.ones((32, 8), np.float32)))
    ratio = np.mean(tops) / np.mean(bottoms)
    assert found.value == pytest.approx(ratio, rel=1e-5)
    assert abs(ratio / np.mean(np.divide(tops, bottoms)) - 1) > 0.01
    # Leaving out one batch at a time has about the same standard error.
    kept = ~np.eye(32, dtype=bool)
    without = [np.mean(np.array(tops)[k]) / np.mean(np.array(bottoms)[k]) for k in kept]
    jackknife = math.sqrt(31 * np.var(without))
    assert found.standard_error == pytest.approx(jackknife, rel=0.2)
    half = stats.t.ppf(0.975, 31) * found.standard_error
    assert found.interval[1] - found.value == pytest.approx(half)
