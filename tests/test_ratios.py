import math

import numpy as np
import pytest
from scipy import optimize, stats

from scaling.fits import fit_steps
from scaling.ratios import Ratio, critical_batch_ratio

BATCH = 2.0 ** np.arange(4, 14)  # 16 to 8,192


def hyperbola(batch, s_min=100.0, b_crit=500.0):
    return s_min * (1 + b_crit / np.asarray(batch, float))


def noisy(batch, sd, seed, **truth):
    rng = np.random.default_rng(seed)
    return hyperbola(batch, **truth) * np.exp(sd * rng.standard_normal(len(batch)))


def test_the_ratio_interval_is_the_profile_likelihood_of_two_curves():
    """Each end by constrained minimisation over all four numbers of the two curves."""
    batches = 2.0 ** np.arange(3, 10), 4.0 ** np.arange(2, 8)
    steps = [
        noisy(batch, 0.15, seed=seed, b_crit=b_crit)
        for seed, (batch, b_crit) in enumerate(zip(batches, (60.0, 150.0), strict=True))
    ]
    first, other = map(fit_steps, batches, steps)
    ratio = critical_batch_ratio(other, first)
    assert ratio.value == pytest.approx(other.b_crit / first.b_crit)

    def squares(i, x):
        curve = x[2 * i] + np.log1p(np.exp(x[2 * i + 1]) / batches[i])
        return np.sum((np.log(steps[i]) - curve) ** 2)

    best = np.log([first.s_min, first.b_crit, other.s_min, other.b_crit])
    variances = [squares(i, best) / free for i, free in enumerate((5, 4))]  # of 7 and 6 points
    # Variances of log B_crit from the curve's slopes in (log S_min, log B_crit), at the best.
    spread = []
    for i, batch in enumerate(batches):
        slope = 1 / (1 + batch / np.exp(best[2 * i + 1]))
        design = np.stack([np.ones_like(slope), slope], axis=1)
        spread.append(variances[i] * np.linalg.inv(design.T @ design)[1, 1])
    nu = sum(spread) ** 2 / (spread[0] ** 2 / 5 + spread[1] ** 2 / 4)  # Welch, Satterthwaite
    most = stats.t.ppf(0.975, nu) ** 2

    def inside(x):
        return most - sum((squares(i, x) - squares(i, best)) / variances[i] for i in (0, 1))

    for sign, end in zip((1, -1), ratio.interval, strict=True):
        found = optimize.minimize(
            lambda x, sign=sign: sign * (x[3] - x[1]),
            best,
            constraints={"type": "ineq", "fun": inside},
            tol=1e-12,
        )
        assert sign * found.fun == pytest.approx(math.log(end), abs=1e-3)
    back = critical_batch_ratio(first, other)
    assert (back.value, *back.interval[::-1]) == pytest.approx(
        [1 / ratio.value, *(1 / end for end in ratio.interval)], rel=1e-3
    )


@pytest.mark.parametrize("draws", [25, pytest.param(80, marks=pytest.mark.slow)])
@pytest.mark.parametrize("sds", [(0.15, 0.15), (0.05, 0.3)])
def test_coverage_of_the_ratio(sds, draws):
    """benchmarks/ratio_coverage.py is the full measurement."""
    batch = 4.0 ** np.arange(1, 7)
    held, told = [], []
    for seed in range(draws):
        ends = zip((60.0, 240.0), sds, (0, 1), strict=True)
        first, other = (
            fit_steps(batch, noisy(batch, sd, 2 * seed + i, b_crit=b)) for b, sd, i in ends
        )
        ratio = critical_batch_ratio(other, first)
        held.append(ratio.interval[0] <= 4 <= ratio.interval[1])
        told.append(ratio.differs)
    assert 0.88 <= np.mean(held) <= (0.99 if draws > 25 else 1.0)
    assert np.mean(told) > 0.5


def test_studies_that_err_alike_are_compared_the_more_surely():
    """Both draw the same trials, so their residuals correlate."""
    batch, widths, held = np.geomspace(4, 4096, 8), {}, {}
    for correlation in (0.0, 0.9):
        for seed in range(15):
            own = np.random.default_rng(seed).standard_normal((2, 8))
            own[1] = correlation * own[0] + math.sqrt(1 - correlation**2) * own[1]
            pair = [
                fit_steps(batch, hyperbola(batch, b_crit=b) * np.exp(0.15 * noise))
                for b, noise in zip((90.0, 180.0), own, strict=True)
            ]
            ratio = critical_batch_ratio(pair[1], pair[0])
            low, high = ratio.interval
            held.setdefault(correlation, []).append(low <= 2 <= high)
            widths.setdefault(correlation, []).append(math.log(high / low))
    assert min(map(np.mean, held.values())) >= 0.85
    assert np.median(widths[0.9]) < 0.6 * np.median(widths[0.0])
    assert ratio.correlation > 0.5
    # At other batch sizes there is nothing to pair.
    shifted = fit_steps(1.1 * batch, hyperbola(1.1 * batch))
    assert critical_batch_ratio(pair[0], shifted).correlation == 0


def test_a_censored_point_counts_in_the_ratio():
    """What it says of the smallest batch is that E_min, and so B_crit, is larger."""
    bent = fit_steps(BATCH, noisy(BATCH, 0.05, seed=1))
    steps = noisy(BATCH, 0.05, seed=2)
    tried = [3 * steps[0], *[None] * 9]
    without = fit_steps(BATCH[1:], steps[1:])
    censored = fit_steps(BATCH, [None, *steps[1:]], censored_at=tried)
    assert critical_batch_ratio(censored, bent).value > critical_batch_ratio(without, bent).value
    assert critical_batch_ratio(censored, without).value > 1


@pytest.mark.filterwarnings("error")
def test_the_ratio_of_curves_of_which_one_end_was_measured():
    bent = fit_steps(BATCH, noisy(BATCH, 0.05, seed=1))
    noise = np.exp(0.05 * np.random.default_rng(2).standard_normal(len(BATCH)))
    slope = fit_steps(BATCH, 1e6 / BATCH * noise)
    low, high = critical_batch_ratio(slope, bent).interval
    assert low > 1 and high == math.inf
    assert critical_batch_ratio(bent, slope).interval == pytest.approx((0, 1 / low), rel=1e-3)
    exact, flat = fit_steps(BATCH, 1e6 / BATCH), fit_steps(BATCH, 300 + 0 * BATCH)
    ratio = critical_batch_ratio(exact, flat)
    assert ratio.value == ratio.interval[1] == math.inf and ratio.interval[0] > 1e6
    assert critical_batch_ratio(flat, exact).value == 0
    same = critical_batch_ratio(exact, exact)
    assert math.isnan(same.value) and same.interval == (0, math.inf) and not same.differs
    assert same.describe() == "95%: any ratio"


@pytest.mark.parametrize(
    "ratio, text",
    [
        (Ratio(2.06, (1.234, 3.9), 0.95), "2.06 (95%: 1.23 to 3.9)"),
        (Ratio(28.6, (7.55, math.inf), 0.95), "28.6 (95%: above 7.55)"),
        (Ratio(math.inf, (7.55, math.inf), 0.9), "90%: above 7.55"),
        (Ratio(0.0, (0.0, 0.3), 0.95), "95%: below 0.3"),
    ],
)
def test_ratios_in_words(ratio, text):
    assert ratio.describe() == text


def test_without_noise_the_ratio_is_known():
    pair = [fit_steps(BATCH, hyperbola(BATCH, b_crit=b)) for b in (300.0, 900.0)]
    ratio = critical_batch_ratio(pair[1], pair[0])
    assert ratio.interval == pytest.approx((3, 3), rel=1e-3) and ratio.differs
    assert not critical_batch_ratio(pair[0], pair[0]).differs
