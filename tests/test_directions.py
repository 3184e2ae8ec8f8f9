"""Directions against written-out norms, numpy's SVD, and functions that rescaling leaves alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.directions import arc, line, pca, random_direction, shifted

KEY = jax.random.key(0)


@pytest.fixture
def params():
    rng = np.random.default_rng(0)
    draw = lambda *shape: np.float32(rng.standard_normal(shape))
    return {"conv": {"kernel": draw(3, 3, 4, 5), "bias": draw(5)}, "dense": draw(7, 6)}


def test_filters_have_the_norms_of_the_weights(params):
    found = random_direction(KEY, params)
    raw = random_direction(KEY, params, None)
    kernel = np.asarray(found["conv"]["kernel"])
    for j in range(5):
        weights, drawn = params["conv"]["kernel"][..., j], np.asarray(raw["conv"]["kernel"])[..., j]
        assert np.linalg.norm(kernel[..., j]) == pytest.approx(np.linalg.norm(weights), rel=1e-5)
        ratio = kernel[..., j] / drawn
        assert ratio == pytest.approx(np.full((3, 3, 4), ratio.flat[0]), rel=1e-4)
    columns = np.linalg.norm(found["dense"], axis=0)
    assert columns == pytest.approx(np.linalg.norm(params["dense"], axis=0), rel=1e-5)
    assert not np.any(found["conv"]["bias"])
    by_layer = random_direction(KEY, params, "layer")
    assert np.linalg.norm(by_layer["dense"]) == pytest.approx(
        np.linalg.norm(params["dense"]), rel=1e-5
    )
    assert np.linalg.norm(by_layer["dense"], axis=0) != pytest.approx(columns, rel=0.01)


def test_drawn_numbers_are_normal_and_of_the_key_alone(params):
    raw = random_direction(KEY, {"a": np.zeros((400, 100)), "b": np.zeros(9)}, None)
    assert np.std(raw["a"]) == pytest.approx(1, abs=0.01)
    others = jax.tree.map(lambda leaf: 3 * leaf, params)
    assert jax.tree.all(
        jax.tree.map(
            np.array_equal, random_direction(KEY, params, None), random_direction(KEY, others, None)
        )
    )
    assert not np.array_equal(random_direction(jax.random.key(1), params)["dense"], raw["a"])


def test_a_line_does_not_see_a_rescaled_layer():
    """f(alpha) of a net with a normalised first layer, whose kernel is 5 times as large."""
    rng = np.random.default_rng(1)
    x, first, second = (np.float32(rng.standard_normal(s)) for s in ((40, 4), (4, 6), (6, 3)))

    def curve(factor):
        params = {"first": factor * first, "second": second}
        direction = random_direction(KEY, params)

        def f(alpha):
            moved = shifted(params, [direction], [alpha])
            hidden = x @ moved["first"]
            hidden = (hidden - hidden.mean(0)) / hidden.std(0)
            return jnp.square(jnp.maximum(hidden, 0) @ moved["second"]).mean()

        return [float(f(alpha)) for alpha in np.linspace(-1, 1, 5)]

    assert curve(5.0) == pytest.approx(curve(1.0), rel=1e-4)


def test_lines_and_arcs_end_where_they_should(params):
    end = jax.tree.map(lambda leaf: leaf + 1, params)
    for path in (line, arc):
        for share, expected in ((0.0, params), (1.0, end)):
            found = path(params, end, share)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)
    half = jax.tree.map(lambda a, b: (a + b) / np.sqrt(2), params, end)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), arc(params, end, 0.5), half
    )
    beyond = line(params, end, 2.0)
    assert beyond["dense"] == pytest.approx(params["dense"] + 2, rel=1e-5)


def test_a_quadratic_surface():
    """c + a g1 + b g2 + (a, b) G (a, b)^T / 2 at every point of a plane."""
    rng = np.random.default_rng(2)
    x, d1, d2, h = rng.standard_normal((4, 5))
    f = lambda params: 0.5 * np.sum(h * np.asarray(params["w"]) ** 2)
    slopes = np.array([d @ (h * x) for d in (d1, d2)])
    curvature = np.array([[a @ (h * b) for b in (d1, d2)] for a in (d1, d2)])
    for steps in ((0.0, 0.0), (0.5, -1.0), (-2.0, 0.3)):
        place = np.array(steps)
        expected = 0.5 * np.sum(h * x * x) + place @ slopes + place @ curvature @ place / 2
        assert f(shifted({"w": x}, [{"w": d1}, {"w": d2}], steps)) == pytest.approx(expected)


@pytest.mark.parametrize("size", [50, 70_000])
def test_pca_against_svd(size):
    rng = np.random.default_rng(3)
    weights = np.float32(rng.standard_normal((8, 3)) @ rng.standard_normal((3, size)) + 5)
    weights += np.float32(1e-2 * rng.standard_normal((8, size)))
    found = pca(weights)
    rows = np.float64(weights) - weights[-1]
    centred = rows - rows.mean(0)
    _, values, axes = np.linalg.svd(centred, full_matrices=False)
    assert found.explained == pytest.approx(values[:2] ** 2 / np.sum(values**2), rel=1e-6)
    assert np.abs(found.axes @ axes[:2].T) == pytest.approx(np.eye(2), abs=1e-6)
    # Coordinates are of the rows, not of the centred ones: the end is the origin.
    assert found.coordinates == pytest.approx(rows @ found.axes.T, abs=1e-6 * abs(rows).max() * 300)
    assert not found.coordinates[-1].any() and (found.coordinates[0] > 0).all()


def test_a_run_that_spans_no_plane():
    with pytest.raises(ValueError, match="no plane"):
        pca(np.outer(np.arange(5), np.ones(4)))
    with pytest.raises(ValueError, match="no plane"):
        pca(np.random.default_rng(4).standard_normal((2, 4)))
