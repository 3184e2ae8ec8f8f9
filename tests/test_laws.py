import numpy as np
import pytest
import scipy

from scaling.errors import UserError
from scaling.laws import fit_law, standard_error

SIZES = np.array([1e8, 3e8, 1e9, 4e9, 1e10])


def draw(rng, studies, scatter):
    """(sizes, values, errors) of studies on D^0.45 N^0.1."""
    errors = np.exp(rng.uniform(np.log(0.03), np.log(0.3), studies))
    data = np.exp(np.linspace(0, 3, studies) + rng.normal(0, 0.2, studies))
    model = np.exp(rng.normal(0, 1, studies))
    noise = np.hypot(errors, scatter) * rng.normal(size=studies)
    return {"data": data, "model": model}, data**0.45 * model**0.1 * np.exp(1 + noise), errors


def test_equal_errors_are_ordinary_least_squares():
    values = SIZES**0.5 * np.exp([0.1, -0.2, 0.15, -0.1, 0.05])
    expected = scipy.stats.linregress(np.log(SIZES), np.log(values))
    half = expected.stderr * scipy.stats.t.ppf(0.975, 3)
    for error in (0.01, 0.5):  # the scatter is above the errors, then below them
        law = fit_law({"tokens": SIZES}, values, np.full(5, error))
        assert law.exponents["tokens"] == pytest.approx(expected.slope)
        ends = expected.slope - half, expected.slope + half
        assert law.intervals["tokens"] == pytest.approx(ends)
        assert law.constant == pytest.approx(expected.intercept)
    assert law.scatter == 0


def test_the_scatter_is_what_the_errors_leave_over():
    rng = np.random.default_rng(0)
    sizes = np.geomspace(1, 1e6, 4000)
    errors = np.where(np.arange(4000) % 2, 0.02, 0.4)
    values = 3 * sizes**0.3 * np.exp(np.hypot(errors, 0.2) * rng.normal(size=4000))
    law = fit_law({"D": sizes}, values, errors)
    assert law.scatter == pytest.approx(0.2, rel=0.05)
    np.testing.assert_allclose(law.at({"D": [1, 100]}), [3, 3 * 100**0.3], rtol=0.05)


def test_a_study_counts_by_its_error():
    values = SIZES**0.5 * np.array([1, 1, 1, 1, 2])
    errors = np.array([0.02, 0.02, 0.02, 0.02, 50])
    assert fit_law({"D": SIZES}, values, errors).exponents["D"] == pytest.approx(0.5, abs=1e-3)
    assert fit_law({"D": SIZES}, values, errors[::-1]).exponents["D"] > 0.6


@pytest.mark.parametrize("studies, scatter", [(5, 0), (5, 0.2), (8, 0), (8, 0.2)])
@pytest.mark.parametrize("names", [("data",), ("data", "model")])
def test_coverage(studies, scatter, names):
    rng = np.random.default_rng(studies)
    held = []
    for _ in range(400):
        sizes, values, errors = draw(rng, studies, scatter)
        if "model" not in names:
            values = values / sizes["model"] ** 0.1
        law = fit_law({name: sizes[name] for name in names}, values, errors)
        low, high = law.intervals["data"]
        held.append(low <= 0.45 <= high)
    assert 0.91 <= np.mean(held) <= 0.985  # 3.6 and 3.2 standard errors of 95%


def test_the_law_in_words():
    values = SIZES**0.5 * np.exp([0.1, -0.1, 0.1, -0.1, 0])
    law = fit_law({"tokens": SIZES}, values, np.full(5, 0.1))
    low, high = law.intervals["tokens"]
    assert law.describe() == f"tokens^0.482 (95%: {low:.3g} to {high:.3g})"


@pytest.mark.parametrize(
    "sizes, says",
    [
        ({"D": SIZES[:2]}, "A power law in D takes at least 3 studies .* 2 have one"),
        ({"D": SIZES[:3], "N": SIZES[2::-1]}, "in D and N takes at least 4 studies"),
        ({"D": np.ones(5)}, "D do not vary"),
        ({"D": SIZES, "N": SIZES**2}, "D and N do not vary, or not independently"),
    ],
)
def test_no_law(sizes, says):
    count = len(sizes["D"])
    with pytest.raises(UserError, match=says):
        fit_law(sizes, np.arange(1, count + 1), np.full(count, 0.1))


def test_the_standard_error_of_an_interval():
    half = 0.1 * scipy.stats.t.ppf(0.975, 7)
    assert standard_error((100 * np.exp(-half), 100 * np.exp(half)), 7, 0.95) == pytest.approx(0.1)
