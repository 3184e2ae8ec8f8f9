import dataclasses
import math

import numpy as np
import pytest
from scipy import optimize, stats

from scaling import fits
from scaling.errors import UserError
from scaling.fits import Ratio, Turn, critical_batch_ratio, fit_steps, regimes

BATCH = 2.0 ** np.arange(4, 14)  # 16 to 8,192


def hyperbola(batch, s_min=100.0, b_crit=500.0):
    """Written as in the paper, (S / S_min - 1) (E / E_min - 1) = 1 with E = B S, and solved for S.

    (S - S_min) (B S - E_min) = S_min E_min is quadratic in S; its other root is 0.
    """
    e_min = s_min * b_crit
    return np.array([np.roots([b, -(e_min + b * s_min), 0]).max() for b in np.atleast_1d(batch)])


def noisy(batch, sd, seed, **truth):
    rng = np.random.default_rng(seed)
    return hyperbola(batch, **truth) * np.exp(sd * rng.standard_normal(len(batch)))


# --- the fit ---


@pytest.mark.parametrize("s_min, b_crit", [(100.0, 500.0), (3.0, 20.0), (1e6, 6000.0)])
def test_exact_recovery_without_noise(s_min, b_crit):
    order = np.random.default_rng(0).permutation(len(BATCH))
    fit = fit_steps(BATCH[order], hyperbola(BATCH, s_min, b_crit)[order])
    assert fit.s_min == pytest.approx(s_min, rel=1e-7)
    assert fit.b_crit == pytest.approx(b_crit, rel=1e-7)
    assert fit.e_min == pytest.approx(s_min * b_crit, rel=1e-7)
    assert fit.residual_sd < 1e-7
    for value, (low, high) in [
        (s_min, fit.s_min_interval),
        (b_crit, fit.b_crit_interval),
        (s_min * b_crit, fit.e_min_interval),
    ]:
        assert low < value < high < 1.0001 * low
    # At B_crit both steps and examples are twice their minimum.
    assert fit.steps(b_crit) == pytest.approx(2 * s_min)
    assert b_crit * fit.steps(b_crit) == pytest.approx(2 * fit.e_min)


@pytest.mark.parametrize("decades", [1, 3, 9])
def test_the_same_least_squares_as_a_general_solver(decades):
    batch = np.geomspace(7, 7 * 10**decades, 8)
    steps = noisy(batch, 0.2, seed=decades, b_crit=7 * 10 ** (decades / 2))
    fit = fit_steps(batch, steps)

    def residuals(logs):
        return np.log(np.exp(logs[0]) * (1 + np.exp(logs[1]) / batch)) - np.log(steps)

    starts = [(np.log(steps.min()), np.log(b)) for b in batch]
    best = min((optimize.least_squares(residuals, s) for s in starts), key=lambda found: found.cost)
    assert np.log([fit.s_min, fit.b_crit]) == pytest.approx(best.x, abs=1e-5)
    assert fit.residual_sd == pytest.approx(math.sqrt(2 * best.cost / 6))


def test_intervals_are_the_projections_of_the_believed_region():
    """Each end by constrained minimisation, instead of by the scan over B_crit."""
    batch = 2.0 ** np.arange(3, 11)
    steps = noisy(batch, 0.15, seed=1, b_crit=100.0)
    fit = fit_steps(batch, steps, confidence=0.9)
    squares = lambda x: np.sum((np.log(steps) - x[0] - np.log1p(np.exp(x[1]) / batch)) ** 2)
    # Points 8, fitted numbers 2: t(6) at 95% is 1.943, and F(1, 6) at 90% is its square.
    believed = squares(np.log([fit.s_min, fit.b_crit])) * (1 + 1.943180**2 / 6)
    inside = {"type": "ineq", "fun": lambda x: believed - squares(x)}
    for quantity, interval in [
        (lambda x: x[0], fit.s_min_interval),
        (lambda x: x[1], fit.b_crit_interval),
        (lambda x: x[0] + x[1], fit.e_min_interval),
        (lambda x: x[0] + np.log1p(np.exp(x[1]) / 50), fit.band(50)),
    ]:
        for sign, end in zip((1, -1), interval, strict=True):
            found = optimize.minimize(
                lambda x, q=quantity, s=sign: s * q(x),
                np.log([fit.s_min, fit.b_crit]),
                constraints=inside,
                options={"ftol": 1e-12},
            )
            assert np.log(end) == pytest.approx(sign * found.fun, abs=1e-4)


def test_the_band_has_the_shape_of_its_batches():
    fit = fit_steps(BATCH, noisy(BATCH, 0.1, seed=2))
    low, high = fit.band(BATCH.reshape(2, 5))
    assert low.shape == high.shape == (2, 5)
    assert (low < fit.steps(BATCH.reshape(2, 5))).all()
    assert (fit.steps(BATCH.reshape(2, 5)) < high).all()
    narrow = fit_steps(BATCH, noisy(BATCH, 0.1, seed=2), confidence=0.5).band(BATCH)
    assert (narrow[0] > low.ravel()).all() and (narrow[1] < high.ravel()).all()


@pytest.mark.parametrize("points, sd", [(8, 0.05), (8, 0.15), (12, 0.05), (12, 0.15)])
def test_coverage_of_the_intervals(points, sd):
    """benchmarks/fits_coverage.py is the full measurement; 88 to 99% is 4 standard errors."""
    batch = 2.0 ** np.arange(4, 4 + points)
    b_crit = math.sqrt(batch[0] * batch[-1])
    held = []
    for seed in range(200):
        fit = fit_steps(batch, noisy(batch, sd, seed, b_crit=b_crit))
        pairs = [
            (100, fit.s_min_interval),
            (b_crit, fit.b_crit_interval),
            (0.2 * b_crit, fit.perfect_scaling_end.interval),
            (100 * b_crit, fit.e_min_interval),
            (200, fit.band(b_crit)),
        ]
        held.append([low <= value <= high for value, (low, high) in pairs])
    share = np.mean(held, axis=0)
    assert ((share >= 0.88) & (share <= 0.99)).all(), share


# --- one asymptote only ---


@pytest.mark.parametrize("sd", [0, 0.1])
def test_slope_minus_one_bounds_b_crit_from_below_only(sd):
    noise = np.exp(sd * np.random.default_rng(3).standard_normal(len(BATCH)))
    fit = fit_steps(BATCH, 1e6 / BATCH * noise)
    low, high = fit.b_crit_interval
    assert low > BATCH[-1] and high == math.inf
    assert fit.s_min_interval[0] == 0 and fit.s_min_interval[1] < 100
    low, high = fit.e_min_interval
    assert low < 1e6 < high < 1.5 * low
    assert fit.steps(256) == pytest.approx(1e6 / 256, rel=0.1)
    assert np.isfinite(fit.band(BATCH)).all()
    # Noise may bend the best curve inside the range; the interval says that it need not bend.
    turn = fit.perfect_scaling_end if sd == 0 else fit.max_useful_batch
    assert turn.where == "above" and turn.interval[1] == math.inf
    assert turn.describe().startswith("not reached up to 8,192 (95%: above ")
    assert regimes(fit, BATCH[:-1]) == ["perfect scaling"] * (len(BATCH) - 1)


@pytest.mark.parametrize("sd", [0, 0.1])
def test_flat_steps_bound_b_crit_from_above_only(sd):
    noise = np.exp(sd * np.random.default_rng(4).standard_normal(len(BATCH)))
    fit = fit_steps(BATCH, 300 * noise)
    assert fit.b_crit_interval[0] == 0 and fit.b_crit_interval[1] < BATCH[0]
    assert fit.e_min_interval[0] == 0
    low, high = fit.s_min_interval
    assert low < 300 < high < 1.5 * low
    assert fit.steps(256) == pytest.approx(300, rel=0.1)
    turn = fit.max_useful_batch
    assert turn.where == "below" and turn.interval[0] == 0
    assert turn.describe().startswith("below 16, the smallest measured (95%: below ")
    assert regimes(fit, BATCH) == ["maximal data parallelism"] * len(BATCH)


def test_noiseless_asymptotes_are_named_as_such():
    slope, flat = fit_steps(BATCH, 1e6 / BATCH), fit_steps(BATCH, 300 + 0 * BATCH)
    assert (slope.s_min, slope.b_crit) == (0, math.inf)
    assert slope.e_min == pytest.approx(1e6)
    assert (flat.e_min, flat.b_crit) == (0, 0)
    assert flat.s_min == pytest.approx(300)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("confidence", [0.95, 0.9999])
def test_three_wild_points_have_unbounded_intervals_and_no_nonsense(confidence):
    fit = fit_steps([16, 64, 256], [1000, 100, 800], confidence=confidence)
    assert fit.b_crit_interval == (0, math.inf)
    assert fit.s_min_interval[0] == 0 and fit.e_min_interval[0] == 0
    assert f"{100 * confidence:g}%: any size" in fit.perfect_scaling_end.describe()
    everything = [*dataclasses.astuple(fit)[:7], fit.steps(BATCH), *fit.band(BATCH)]
    assert not any(np.isnan(value).any() for value in everything)


# --- the turns ---


def test_the_turns_are_where_their_words_say():
    fit = fit_steps(BATCH, hyperbola(BATCH))
    perfect, useful = fit.perfect_scaling_end, fit.max_useful_batch
    # 1.2 times the slope -1 line, which is the curve itself at a vanishing batch.
    line = 1e-6 * hyperbola(1e-6)[0] / perfect.batch
    assert hyperbola(perfect.batch)[0] == pytest.approx(1.2 * line, rel=1e-6)
    steps, doubled = hyperbola([useful.batch, 2 * useful.batch])
    assert doubled == pytest.approx(0.9 * steps, rel=1e-6)
    assert (perfect.batch, useful.batch) == pytest.approx((0.2 * 500, 4 * 500), rel=1e-6)
    assert (perfect.where, useful.where) == ("inside", "inside")


def test_the_thresholds_of_the_turns():
    fit = fit_steps(BATCH, hyperbola(BATCH), perfect_within=1.5, least_saving=0.25)
    assert fit.perfect_scaling_end.batch == pytest.approx(0.5 * 500)
    steps, doubled = hyperbola([fit.max_useful_batch.batch, 2 * fit.max_useful_batch.batch])
    assert doubled == pytest.approx(0.75 * steps)


def test_turns_outside_the_reached_range():
    fit = fit_steps(BATCH[4:7], hyperbola(BATCH[4:7]))  # 256 to 1,024, turns at 100 and 2,000
    assert (fit.perfect_scaling_end.where, fit.max_useful_batch.where) == ("below", "above")
    assert fit.max_useful_batch.describe().startswith("not reached up to 1,024")
    # A batch size that was only tried does not count as measured.
    censored = fit_steps(
        BATCH[4:9], [*hyperbola(BATCH[4:7]), None, None], censored_at=[None] * 3 + [50, 50]
    )
    assert censored.measured == (256, 1024)
    assert censored.max_useful_batch.where == "above"


@pytest.mark.parametrize(
    "turn, text",
    [
        (Turn(256.4, (180, 410), "inside", (16, 1024), 0.95), "about 256 (95%: 180 to 410)"),
        (Turn(25.64, (1.5, math.inf), "inside", (16, 64), 0.9), "about 25.6 (90%: above 1.5)"),
        (Turn(12345, (0, 54321), "inside", (1, 2**20), 0.95), "about 12,300 (95%: below 54,300)"),
        (
            Turn(2e6, (1e6, math.inf), "above", (1, 2**20), 0.95),
            "not reached up to 1,048,576 (95%: above 1,000,000)",
        ),
    ],
)
def test_turns_in_words(turn, text):
    assert turn.describe() == text


def test_regimes_change_at_the_turns():
    fit = fit_steps(BATCH, hyperbola(BATCH))  # turns at 100 and 2,000
    assert regimes(fit, [1, 99, 101, 1999, 2001]) == [
        "perfect scaling",
        "perfect scaling",
        "diminishing returns",
        "diminishing returns",
        "maximal data parallelism",
    ]


# --- two curves ---


def test_the_ratio_holds_what_two_curves_can_be_believed_to_have():
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
        assert sign * found.fun == pytest.approx(math.log(end), abs=1e-4)
    back = critical_batch_ratio(first, other)
    assert (back.value, *back.interval[::-1]) == pytest.approx(
        [1 / ratio.value, *(1 / end for end in ratio.interval)]
    )


@pytest.mark.parametrize("sds", [(0.15, 0.15), (0.05, 0.3)])
def test_coverage_of_the_ratio(sds):
    """benchmarks/ratio_coverage.py is the full measurement; the least is 4 standard errors off."""
    batch = 4.0 ** np.arange(1, 7)
    held, told = [], []
    for seed in range(200):
        ends = zip((60.0, 240.0), sds, (0, 1), strict=True)
        first, other = (
            fit_steps(batch, noisy(batch, sd, 2 * seed + i, b_crit=b)) for b, sd, i in ends
        )
        ratio = critical_batch_ratio(other, first)
        held.append(ratio.interval[0] <= 4 <= ratio.interval[1])
        told.append(ratio.differs)
    assert 0.88 <= np.mean(held) <= 0.99
    assert np.mean(told) > 0.5


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
    assert critical_batch_ratio(bent, slope).interval == pytest.approx((0, 1 / low))
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


# --- censored points ---


def test_a_censored_point_below_the_curve_changes_nothing():
    steps = noisy(BATCH, 0.1, seed=5)
    plain = fit_steps(BATCH[:-1], steps[:-1])
    steps[-1] = np.nan
    tried = np.full(len(BATCH), np.nan)
    tried[-1] = 20
    fit = fit_steps(BATCH, steps, censored_at=tried)
    assert (fit.s_min, fit.b_crit) == pytest.approx((plain.s_min, plain.b_crit), rel=1e-7)
    assert fit.residual_sd == pytest.approx(plain.residual_sd)
    # It says nothing new: what lies this far off was not believed without it either.
    assert fit.b_crit_interval == pytest.approx(plain.b_crit_interval, rel=1e-5)


@pytest.mark.parametrize("end, rises", [(-1, False), (0, True)])
def test_a_censored_point_above_the_curve_pulls_it(end, rises):
    """More steps at the largest batch mean a smaller B_crit, at the smallest one a larger."""
    steps = noisy(BATCH, 0.1, seed=6)
    tried = np.full(len(BATCH), np.nan)
    tried[end] = 2 * steps[end]
    steps[end] = np.inf  # another way to say that it missed
    free = fit_steps(np.delete(BATCH, end), np.delete(steps, end))
    pulled = fit_steps(BATCH, steps, censored_at=tried)
    assert (pulled.b_crit > free.b_crit) == rises
    as_if_reached = fit_steps(BATCH, np.where(np.isnan(tried), steps, tried))
    # As long as the curve stays below it, it is the same least squares as a point that reached...
    assert pulled.steps(BATCH[end]) < tried[end]
    assert pulled.b_crit == pytest.approx(as_if_reached.b_crit, rel=1e-6)
    # ... but it is no measurement of the noise.
    assert pulled.residual_sd > as_if_reached.residual_sd


def test_the_best_level_under_several_censored_points():
    rng = np.random.default_rng(7)
    reached, censored = rng.normal(size=(50, 3)), rng.normal(size=(50, 5))
    level = fits._best_level(reached, censored)
    tries = np.linspace(-3, 3, 2001)
    tried = [fits._squares(reached, censored, np.full(50, t)) for t in tries]
    assert level == pytest.approx(tries[np.argmin(tried, axis=0)], abs=0.002)


def test_a_point_without_any_number_is_left_out():
    steps = noisy(BATCH, 0.1, seed=8)
    assert fit_steps([*BATCH, 2**20], [*steps, None]) == fit_steps(BATCH, steps)


# --- errors ---


@pytest.mark.parametrize(
    "batches, steps, options, words",
    [
        ([16, 32], [9, 5], {}, ("2 batch sizes reached", "at least 3")),
        ([16, 32, 64], [9, 5, None], {"censored_at": [None, None, 9]}, ("2 batch sizes reached",)),
        ([16, 32, 64], [9, 5, 0], {}, ("steps is 0", "positive")),
        ([-16, 32, 64], [9, 5, 4], {}, ("batch sizes is -16",)),
        (
            [16, 32, 64, 128],
            [9, 5, 4, None],
            {"censored_at": [None, None, None, -3]},
            ("censored_at is -3",),
        ),
        ([16, 32, 64], [9, 5], {}, ("3 batch sizes", "2 step counts")),
        ([16, 32, 64], [9, 5, 4], {"censored_at": [1]}, ("1 censoring",)),
        ([16, 32, 32, 64], [9, 5, 5, 4], {}, ("32 is given more than once",)),
        ([16, 32, None], [9, 5, 4], {}, ("batch size is missing",)),
        ([16, 32, 64], [9, 5, 4], {"censored_at": [9, None, None]}, ("16 has both",)),
        ([16, 32, 64], [9, 5, 4], {"confidence": 95}, ("confidence is 95",)),
        ([16, 32, 64], [9, 5, 4], {"perfect_within": 1}, ("perfect_within is 1", "above 1")),
        ([16, 32, 64], [9, 5, 4], {"least_saving": 0.5}, ("least_saving is 0.5",)),
    ],
)
def test_what_cannot_be_fitted(batches, steps, options, words):
    with pytest.raises(UserError) as error:
        fit_steps(batches, steps, **options)
    for word in words:
        assert word in str(error.value)
