"""Laws of the distance from initialisation: recovered where they hold, and as numpy fits them."""

import numpy as np
import pytest

from scaling.diffusion import fit_diffusion, fit_line

STEPS = np.unique(np.geomspace(10, 5000, 40).round())
DISTANCES = {
    "log": 1.5 + 2.0 * np.log(STEPS),
    "root": 0.3 + 0.25 * np.sqrt(STEPS),
    "power": 0.8 * STEPS**0.3,
}


@pytest.mark.parametrize("law", DISTANCES)
def test_the_law_that_holds_fits_best(law):
    fit = fit_diffusion(STEPS, DISTANCES[law])
    scores = {name: getattr(fit, name).r2 for name in DISTANCES}
    assert scores[law] == pytest.approx(1.0, abs=1e-9)
    assert max(score for name, score in scores.items() if name != law) < 0.9999
    if law == "log":
        assert (fit.log.slope, fit.log.intercept) == pytest.approx((2.0, 1.5))
    if law == "power":
        assert (fit.power.slope, np.exp(fit.power.intercept)) == pytest.approx((0.3, 0.8))


def test_noisy_distances_are_fitted_as_numpy_fits_them():
    distances = DISTANCES["log"] + np.random.default_rng(0).normal(0, 0.5, len(STEPS))
    slope, intercept = np.polyfit(np.log(STEPS), distances, 1)
    line = fit_diffusion(STEPS, distances).log
    assert (line.slope, line.intercept) == pytest.approx((slope, intercept))
    r = np.corrcoef(np.log(STEPS), distances)[0, 1]
    assert line.r2 == pytest.approx(r**2) and line.points == len(STEPS)


def test_a_power_law_is_fitted_to_the_distance_itself():
    """As the other laws are, and so no grid of exponents and factors does better."""
    distances = DISTANCES["log"]
    line = fit_diffusion(STEPS, distances).power
    total = np.sum((distances - distances.mean()) ** 2)
    score = lambda p, a: 1 - np.sum((distances - a * STEPS**p) ** 2) / total
    assert line.r2 == pytest.approx(score(line.slope, np.exp(line.intercept)))
    grid = [score(p, a) for p in np.linspace(0.05, 0.6, 56) for a in np.geomspace(0.3, 10, 200)]
    assert max(grid) <= line.r2 < max(grid) + 0.01


def test_too_little_to_fit():
    assert fit_line([1, 2], [1, 2]) is None and fit_line([1, 1, 1], [1, 2, 3]) is None
    assert fit_diffusion([1, 2, 3], [0.0, 0.0, 1.0]) is None
    assert fit_diffusion([1, 2, 3], [1.0, 1.0, 1.0]) is None
