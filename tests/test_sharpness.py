"""Sharpness against losses whose maximum is known, all corners of a box, and rescaled layers."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.curvature import flatten, hessian_product, summed, value_and_grad
from scaling.sharpness import (
    average,
    box,
    largest_loss,
    normalised,
    relative_flatness,
    subspace,
    worst,
)

KEY = jax.random.key(0)


def quadratic(hessian, slope=0.0, centre=0.0, level=0.1):
    """level + slope (x - centre) + (x - centre)^T H (x - centre) / 2, with its gradient."""
    hessian = np.diag(hessian) if np.ndim(hessian) == 1 else np.asarray(hessian)

    def value_and_grad(x):
        d = np.asarray(x) - centre
        return level + np.sum(slope * d) + d @ hessian @ d / 2, slope + hessian @ d

    return value_and_grad


# --- Keskar's box ---


def test_a_box_by_hand():
    assert box([0.0, -3.0, 2.0], 1e-3) == pytest.approx([1e-3, 4e-3, 3e-3])
    # The pseudo-inverse of a column a is a^T / |a|^2.
    assert box([1.0, 2.0, 2.0], 0.1, np.array([[2.0], [0.0], [0.0]])) == pytest.approx([0.15])
    a = subspace(KEY, 500, 20)
    assert a.shape == (500, 20) and a.std() == pytest.approx(1, abs=0.02)
    x = np.random.default_rng(0).standard_normal(500)
    assert box(x, 0.1, a) == pytest.approx(0.1 * (np.abs(np.linalg.pinv(a) @ x) + 1), rel=1e-5)


def test_a_linear_loss():
    """The largest is at the vertex of the signs of the gradient: sum B |g| above."""
    slope = np.random.default_rng(1).standard_normal(50)
    x = np.linspace(-2, 2, 50)
    widths = box(x, 1e-2)
    peak = largest_loss(quadratic(np.zeros(50), slope, x), x, widths)
    assert peak.loss - peak.centre == pytest.approx(widths @ np.abs(slope), rel=1e-12)
    assert peak.at_bound == 1
    assert peak.keskar == pytest.approx(100 * (widths @ np.abs(slope)) / 1.1)


@pytest.mark.parametrize("level", [0.1, 1e-7])
@pytest.mark.parametrize("size", [1.0, 1e-7])
def test_a_convex_quadratic_from_its_minimum(size, level):
    """sum h B^2 / 2; the gradient is 0 at the centre, and a flat loss is no converged one."""
    h = size * np.geomspace(1e-2, 10, 30)
    x = np.linspace(0, 1, 30)
    widths = box(x, 5e-4)
    peak = largest_loss(quadratic(h, centre=x, level=level), x, widths)
    assert peak.loss - level == pytest.approx(h @ np.square(widths) / 2, rel=1e-5, abs=1e-16)
    assert peak.by != "centre"


def test_the_lbfgsb_moves_from_a_minimum():
    """Without the vertices, which are not taken where the signs of the gradient are the start's."""
    h = np.geomspace(1e-2, 10, 30)
    seen = []

    def value_and_grad(x):
        loss, gradient = quadratic(h, level=1e-7)(x)
        seen.append(loss)
        return loss, gradient

    widths = np.full(30, 5e-4)
    largest_loss(value_and_grad, np.zeros(30), widths, seed=3)
    before_vertices = seen[:-2]  # one vertex, and the centre
    assert max(before_vertices) > 0.95 * (1e-7 + h @ np.square(widths) / 2)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dimensions", [3, 8, 12])
def test_all_corners(seed, dimensions):
    """A convex loss has its largest value at one of 2^d corners."""
    rng = np.random.default_rng(seed)
    root, slope = rng.standard_normal((dimensions, dimensions)), rng.standard_normal(dimensions)
    corners = np.array(list(itertools.product((-1.0, 1.0), repeat=dimensions)))
    found, truth = [], []
    for curvature in (0.1, 1.0):
        loss = quadratic(curvature * root @ root.T, 3 * slope)
        truth.append(np.sort([loss(corner)[0] for corner in corners]))
        found.append(largest_loss(loss, np.zeros(dimensions), np.ones(dimensions), seed=seed))
    assert found[0].loss == pytest.approx(truth[0][-1])
    # The best corner of many that are local maxima is not found from one start; a good one is.
    good = np.quantile(truth[1], 0.97 if dimensions > 3 else 0.8)
    assert good <= found[1].loss <= truth[1][-1] * (1 + 1e-9)


def test_in_a_subspace():
    """The loss at x + A y: a quadratic of y with A^T H A."""
    h, slope, x = np.geomspace(0.1, 1, 40), np.linspace(-1, 2, 40), np.ones(40)
    a = subspace(KEY, 40, 2)
    widths = box(x, 1e-2, a)
    peak = largest_loss(quadratic(h, slope, x), x, widths, a)
    corners = [widths * c for c in itertools.product((-1, 1), repeat=2)]
    truth = max(slope @ a @ y + y @ (a.T * h) @ a @ y / 2 for y in corners)
    assert peak.loss - peak.centre == pytest.approx(truth, rel=1e-6)
    a = subspace(KEY, 40, 12)
    widths = box(x, 1e-2, a)
    peak = largest_loss(quadratic(np.zeros(40), slope, x), x, widths, a)
    assert peak.loss - peak.centre == pytest.approx(widths @ np.abs(a.T @ slope), rel=1e-6)


def test_a_larger_box_has_no_smaller_peak():
    loss = quadratic(np.geomspace(0.1, 10, 20), slope=0.3)
    found = [largest_loss(loss, np.ones(20), box(np.ones(20), eps)).keskar for eps in (1e-4, 1e-3)]
    assert 0 < found[0] < found[1]


def test_a_maximum_is_told_from_a_loss_that_did_not_move():
    peak = largest_loss(quadratic(np.full(5, -1.0)), np.zeros(5), np.ones(5))
    assert (peak.keskar, peak.by, peak.at_bound) == (0, "centre", 0)
    constant = largest_loss(quadratic(np.zeros(5)), np.zeros(5), np.ones(5))
    assert (constant.keskar, constant.by) == (0, "centre")


def test_a_loss_that_is_not_finite():
    with pytest.raises(ValueError, match="loss is nan in the box"):
        largest_loss(lambda x: (math.nan, x), np.ones(2), np.ones(2))


# --- adaptive measures ---


def test_the_average_of_a_quadratic():
    """rho^2 / 2 sum scale^2 h, whatever the slope."""
    h, scale = np.geomspace(0.1, 10, 40), np.linspace(0.5, 2, 40)
    loss = lambda x: quadratic(h, slope=5.0)(x)[0]
    found = average(loss, np.ones(40), scale, 0.2, KEY, 200)
    truth = 0.02 * scale**2 @ h
    assert found.interval[0] < truth < found.interval[1]
    # A sum of squares of normal numbers has the variance 2 sum of squares.
    error = 0.02 * math.sqrt(2 * np.square(scale**2 * h).sum() / 200)
    assert found.standard_error == pytest.approx(error, rel=0.3)
    assert found.products == 401


@pytest.mark.parametrize("norm", [2, math.inf])
def test_the_worst_of_a_linear_loss(norm):
    slope, scale = np.linspace(-1, 2, 30), np.linspace(0, 2, 30)
    batches = [quadratic(np.zeros(30), k * slope) for k in (1, 3)]
    found = worst(batches, np.ones(30), scale, 0.1, KEY, norm)
    dual = np.linalg.norm(scale * slope) if norm == 2 else np.abs(scale * slope).sum()
    assert found.value == pytest.approx(0.1 * 2 * dual, rel=1e-3)


def test_the_worst_of_a_quadratic():
    """At g = 0: rho^2 / 2 times the top eigenvalue of T H T; in the box, the sum of T^2 h."""
    rng = np.random.default_rng(2)
    basis = np.linalg.qr(rng.standard_normal((12, 12)))[0]
    hessian, scale = basis * np.geomspace(0.1, 10, 12) @ basis.T, np.linspace(0.5, 2, 12)
    batches, x = [quadratic(hessian, centre=np.ones(12))] * 3, np.ones(12)
    top = np.linalg.eigvalsh(scale[:, None] * hessian * scale)[-1]
    found = worst(batches, x, scale, 0.3, KEY)
    assert found.value == pytest.approx(0.045 * top, rel=0.01)
    assert found.value <= 0.045 * top * (1 + 1e-9)
    h = np.geomspace(0.1, 10, 12)
    corner = worst([quadratic(h, centre=x)] * 3, x, scale, 0.3, KEY, math.inf)
    assert corner.value == pytest.approx(0.045 * scale**2 @ h, rel=1e-3)


def test_the_step_is_halved_where_it_overshoots():
    """A peak inside the ball, much narrower than the first step of twice the radius."""
    peak = np.array([0.11, -0.07, 0.05])

    def value_and_grad(x):
        height = math.exp(-5 * np.sum((x - peak) ** 2))
        return height, -10 * (x - peak) * height

    found = worst([value_and_grad] * 2, np.zeros(3), 1.0, 1.0, KEY, steps=60)
    assert found.value == pytest.approx(1 - value_and_grad(np.zeros(3))[0], rel=0.02)


def test_normalised_logits():
    logits = np.random.default_rng(3).standard_normal((7, 5))
    found = np.asarray(normalised(jnp.asarray(logits)))
    assert found.sum(1) == pytest.approx(0, abs=1e-6)
    assert np.square(found).sum(1) == pytest.approx(1, rel=1e-5)
    again = normalised(jnp.asarray(30 * logits + 4))
    assert np.asarray(again) == pytest.approx(found, abs=1e-5)
    assert np.isfinite(jax.grad(lambda z: normalised(z).sum())(jnp.ones((1, 3)))).all()


# --- a net, rescaled ---


@summed
def loss(params, examples):
    """Two layers, the first in front of batch norm."""
    x, y = examples
    hidden = x @ params["first"]
    hidden = (hidden - hidden.mean(0)) / jnp.sqrt(hidden.var(0) + 1e-12)
    logits = jax.nn.relu(hidden + params["shift"]) @ params["second"]
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1)[:, 0]


def rescaled(factor):
    """(params, chunks, x, |x|, value and gradient) with the first kernel times a factor."""
    rng = np.random.default_rng(4)
    draw = lambda *shape: np.float32(rng.standard_normal(shape))
    params = {"first": factor * draw(6, 8), "second": draw(8, 3), "shift": draw(8)}
    chunks = jax.tree.map(lambda a: a[None], ((draw(64, 6), rng.integers(0, 3, 64)), np.ones(64)))
    x = np.asarray(flatten(params)[0])
    return params, chunks, x, np.abs(x), value_and_grad(loss, params, chunks)


def test_what_rescaling_a_layer_changes():
    """The function is the same: raw measures are not, adaptive ones are."""
    raw, seen = [], []
    for factor in (1.0, 4.0):
        params, chunks, x, scale, function = rescaled(np.float32(factor))
        kernel = {"first": True, "second": False, "shift": False}
        layer = hessian_product(loss, params, chunks, kernel)
        dense = lambda o: np.stack([np.asarray(o(row)) for row in np.eye(o.size)])
        raw.append(np.linalg.eigvalsh(dense(layer))[-1])
        adaptive = hessian_product(loss, params, chunks, scale=scale)
        seen.append(
            (
                function(x)[0],
                np.linalg.eigvalsh(dense(adaptive))[-1],
                average(lambda x, f=function: f(x)[0], x, scale, 0.1, KEY, 4).value,
                worst([function] * 2, x, scale, 0.1, KEY).value,
                relative_flatness(layer, params["first"], KEY, 100).value,
            )
        )
    assert raw[0] / raw[1] == pytest.approx(16, rel=1e-3)
    assert seen[1] == pytest.approx(seen[0], rel=2e-3)


def test_relative_flatness_of_softmax_regression():
    """sum <w_s, w_s'> mean (diag p - p p^T)_{s, s'} |x|^2."""
    rng = np.random.default_rng(5)
    x, y, kernel = rng.standard_normal((50, 6)), rng.integers(0, 4, 50), rng.standard_normal((6, 4))
    x, kernel = np.float32(x), np.float32(kernel)

    @summed
    def entropy(kernel, examples):
        logits = jax.nn.log_softmax(examples[0] @ kernel)
        return -jnp.take_along_axis(logits, examples[1][:, None], 1)[:, 0]

    p = np.asarray(jax.nn.softmax(x @ kernel), float)
    inner = np.einsum("ni,ij->nij", p, np.eye(4)) - np.einsum("ni,nj->nij", p, p)
    traces = np.einsum("nij,n->ij", inner, np.square(x).sum(1)) / 50
    truth = np.sum(kernel.T @ kernel * traces)
    layer = hessian_product(entropy, kernel, ((x[None], y[None]), np.ones((1, 50))))
    exact = relative_flatness(layer, kernel, KEY, 24)
    assert exact.value == pytest.approx(truth, rel=1e-5)
    found = relative_flatness(layer, kernel, KEY, 16)
    assert found.interval[0] < truth < found.interval[1]
