import math
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize, stats

from scaling import curves
from scaling.errors import UserError
from scaling.fits import Breakpoint, fit_steps, read_off, regimes
from scaling.logs import read_log

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


def bent(batch, bend, s_min=100.0, b_crit=500.0):
    return s_min * (1 + (b_crit / np.asarray(batch, float)) ** bend) ** (1 / bend)


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


def test_intervals_are_the_projections_of_the_confidence_region():
    """Each end by constrained minimisation, instead of by the scan over B_crit."""
    batch = 2.0 ** np.arange(3, 11)
    steps = noisy(batch, 0.15, seed=1, b_crit=100.0)
    fit = fit_steps(batch, steps, confidence=0.9)
    squares = lambda x: np.sum((np.log(steps) - x[0] - np.log1p(np.exp(x[1]) / batch)) ** 2)
    # Points 8, fitted numbers 2: t(6) at 95% is 1.943, and F(1, 6) at 90% is its square.
    threshold = squares(np.log([fit.s_min, fit.b_crit])) * (1 + 1.943180**2 / 6)
    inside = {"type": "ineq", "fun": lambda x: threshold - squares(x)}
    for quantity, interval in [
        (lambda x: x[0], fit.s_min_interval),
        (lambda x: x[1], fit.b_crit_interval),
        (lambda x: x[0] + x[1], fit.e_min_interval),
        (lambda x: x[0] + np.log1p(np.exp(x[1]) / 50), fit.hyperbola.band(50)),
    ]:
        for sign, end in zip((1, -1), interval, strict=True):
            found = optimize.minimize(
                lambda x, q=quantity, s=sign: s * q(x),
                np.log([fit.s_min, fit.b_crit]),
                constraints=inside,
                options={"ftol": 1e-12},
            )
            assert np.log(end) == pytest.approx(sign * found.fun, abs=1e-4)


def test_intervals_of_the_bent_curve_agree_with_a_fine_mesh():
    batch = 2.0 ** np.arange(3, 13)
    rng = np.random.default_rng(3)
    log_steps = np.log(bent(batch, 2.0, b_crit=100.0)) + 0.05 * rng.standard_normal(len(batch))
    fit = fit_steps(batch, np.exp(log_steps))
    bend, b_crit = np.meshgrid(np.geomspace(0.4, 5, 400), np.geomspace(30, 300, 600))
    residuals = log_steps - np.log(bent(batch, bend[..., None], 1.0, b_crit[..., None]))
    level = residuals.mean(-1)
    squares = ((residuals - level[..., None]) ** 2).sum(-1)
    # Points 10, fitted numbers 3: t(7) at 95% is 2.365, and F(1, 7) is its square.
    threshold = squares.min() * (1 + 2.364624**2 / 7)
    inside = squares <= threshold
    useful = np.array(
        [optimize.brentq(lambda b, p=p: bent(2 * b, p) / bent(b, p) - 0.9, 1, 1e5) for p in bend[0]]
    )
    for quantity, interval in [
        (bend, fit.bend_interval),
        (b_crit * (1.2**bend - 1) ** (1 / bend), fit.perfect_scaling_end.interval),
        (b_crit / 500 * useful, fit.max_useful_batch.interval),
    ]:
        ends = quantity[inside].min(), quantity[inside].max()
        assert interval == pytest.approx(ends, rel=0.01)
    # Away from the best level the squares grow by n times the distance squared.
    spread = np.sqrt(np.maximum(threshold - squares, 0) / len(batch))
    at_50 = np.log(bent(50, bend, 1.0, b_crit)) + level
    ends = (at_50 - spread)[inside].min(), (at_50 + spread)[inside].max()
    assert np.log(fit.band(50)) == pytest.approx(ends, abs=0.003)


@pytest.mark.parametrize("bend", [0.5, 1.0, 2.35, 4.0])
def test_the_bend_and_the_breakpoints_of_a_curve_without_noise(bend):
    fit = fit_steps(BATCH, bent(BATCH, bend))
    assert fit.curve.bend == pytest.approx(bend, rel=0.02)  # the penalty pulls towards 1
    for point, share, batch in [
        (fit.perfect_scaling_end, 1.2, None),
        (fit.max_useful_batch, None, 0.9),
    ]:
        excess = lambda b, share=share, saved=batch: (
            bent(b, bend) * b / (100 * 500) - share
            if share
            else bent(2 * b, bend) / bent(b, bend) - saved
        )
        truth = optimize.brentq(excess, 1e-3, 1e6)
        assert point.batch == pytest.approx(truth, rel=0.02)
        assert point.interval[0] <= truth * 1.001 and truth * 0.999 <= point.interval[1]
    assert fit.bend_interval == pytest.approx((bend, bend), rel=1e-3)
    assert (fit.bend_p < 1e-6) == (bend != 1)


def test_the_f_test_of_the_bend():
    batch = 2.0 ** np.arange(3, 13)
    rng = np.random.default_rng(3)
    steps = bent(batch, 2.0, b_crit=100.0) * np.exp(0.2 * rng.standard_normal(len(batch)))
    fit = fit_steps(batch, steps)
    curve = lambda x, b, p: x[0] + np.log1p(np.exp(p * (x[1] - np.log(b)))) / p
    squares = lambda x, p: np.sum((np.log(steps) - curve(x, batch, p)) ** 2)
    start = np.log([100, 100])
    one = optimize.minimize(squares, start, args=(1.0,), tol=1e-12).fun
    free = optimize.minimize(lambda x: squares(x[:2], x[2]), [*start, 2.0], tol=1e-12).fun
    assert fit.bend_p == pytest.approx(stats.f.sf((one - free) / (free / 7), 1, 7), rel=1e-4)
    assert fit.curve.residual_sd == pytest.approx(math.sqrt(free / 7), rel=1e-4)


def test_three_batch_sizes_leave_the_breakpoints_open():
    fit = fit_steps(BATCH[:3], hyperbola(BATCH[:3]))
    assert fit.perfect_scaling_end.interval == fit.max_useful_batch.interval == (0, math.inf)
    assert fit.bend_p is None and not fit.doubts
    assert fit.b_crit_interval[1] < math.inf  # on the hyperbola


# --- doubts ---


def test_a_sharp_bend_is_said():
    steps = bent(BATCH, 2.5) * np.exp(0.05 * np.random.default_rng(0).standard_normal(10))
    (doubt,) = fit_steps(BATCH, steps).doubts
    assert "bends more sharply than the hyperbola" in doubt and "not 1 (P = " in doubt
    assert fit_steps(BATCH, noisy(BATCH, 0.05, seed=0)).doubts == []


def test_a_rise_at_the_largest_batch_is_left_out_and_said():
    steps = noisy(BATCH, 0.03, seed=1)
    risen = steps * np.where(BATCH[-1] == BATCH, 2.0, 1.0)
    fit, without = fit_steps(BATCH, risen), fit_steps(BATCH[:-1], steps[:-1])
    assert fit.b_crit == pytest.approx(without.b_crit)
    assert fit.measured == (16, 4096)
    (rise,) = fit.rises
    assert (rise.batch, rise.steps) == pytest.approx((8192, risen[-1]))
    assert rise.expected == pytest.approx(hyperbola(8192)[0], rel=0.1)
    assert fit.doubts[0].startswith("Steps rise again at batch 8,192: ")
    # Fewer steps than expected are no rise.
    assert not fit_steps(BATCH, steps * np.where(BATCH[-1] == BATCH, 0.5, 1.0)).rises


def test_a_slope_that_is_not_minus_one_is_said():
    batch = 2.0 ** np.arange(0, 14)
    steps = 100 * (1 + (5000 / batch) ** 0.8)
    fit = fit_steps(batch, steps * np.exp(0.03 * np.random.default_rng(2).standard_normal(14)))
    value, (low, high), p_value = fit.slope
    assert low <= 0.8 <= high < 1 and value == pytest.approx(0.8, abs=0.05)
    assert p_value < 0.005
    assert any("fall as B^-0.7" in doubt for doubt in fit.doubts)


def test_scatter_beyond_the_noise_is_said():
    steps = noisy(BATCH, 0.2, seed=12)
    assert not fit_steps(BATCH, steps, noise=(0.2, 60)).doubts
    fit = fit_steps(BATCH, steps, noise=(0.05, 60))
    expected = stats.f.sf((fit.curve.residual_sd / 0.05) ** 2, 7, 60)
    assert fit.scatter_p == pytest.approx(expected, rel=1e-3)
    assert "more than their noise explains" in fit.doubts[-1]


@pytest.mark.parametrize("draws", [20, pytest.param(40, marks=pytest.mark.slow)])
@pytest.mark.parametrize("bend", [1.0, 2.35])
def test_the_breakpoints_are_covered_or_a_doubt_is_reported(bend, draws):
    """benchmarks/breakpoints_coverage.py is the full measurement."""
    batch = 2.0 ** np.arange(4, 12)
    fit = fit_steps(batch, bent(batch, bend, b_crit=180.0))
    truth = fit.perfect_scaling_end.batch, fit.max_useful_batch.batch
    held, said = [], []
    for seed in range(draws):
        noise = np.exp(0.15 * np.random.default_rng(seed).standard_normal(len(batch)))
        fit = fit_steps(batch, bent(batch, bend, b_crit=180.0) * noise)
        ends = fit.perfect_scaling_end.interval, fit.max_useful_batch.interval
        said.append(bool(fit.doubts))
        held.append(
            all(low <= value <= high for value, (low, high) in zip(truth, ends, strict=True))
        )
    assert np.mean(np.array(held) | np.array(said)) >= 0.85
    assert np.mean(said) <= 0.1 or bend != 1


def test_breakpoints_read_off_the_points():
    # Examples 100, 100, 110, 160, 300, 580: beyond 1.2 times the fewest after 4. Doublings save
    # 50, 45, 27, 6 and 3%.
    batch, steps = [1, 2, 4, 8, 16, 32], [100, 50, 27.5, 20, 18.75, 18.125]
    assert read_off(batch, steps) == ((4, 8), (4, 8))
    assert read_off(batch[::-1], steps[::-1], least_saving=0.05) == ((4, 8), (8, 16))
    assert read_off([1, 2, 4], [100, 50, 25]) == ((4, math.inf), (2, math.inf))
    assert read_off([1, 2, 4], [100, 100, 100]) == ((1, 2), (0, 1))
    # Steps between 1 and 4 are those of two doublings.
    assert read_off([1, 4, 16], [100, 82, 80])[1] == (0, 1)


# --- published ---


def test_the_critical_batch_sizes_of_zhang_2024():
    """Steps to the goal loss of five language models, as printed in the paper's public notebook
    (arXiv:2410.21676), in sequences of 512 tokens; by hand, E_min / S_min of a published fit."""
    rows = read_log(Path(__file__).parents[1] / "docs/results/zhang2024.csv").rows
    by_model = {}
    for row in rows:
        pair = row.number("batch"), row.number("steps")
        by_model.setdefault(row.text("study"), []).append(pair)
    fits_ = {model: fit_steps(*zip(*pairs, strict=True)) for model, pairs in by_model.items()}
    assert fits_["85M"].b_crit == pytest.approx(2235, abs=1)
    assert fits_["1.2B"].b_crit == pytest.approx(11140, abs=1)
    for model, batch in (("85M", 754), ("1.2B", 2535)):
        value, (low, high) = fits_[model].overhead_batch(256)
        assert value == pytest.approx(batch, abs=1) and low < value < high
        # There the hyperbola takes 20% more sequences than at 256.
        at, reference = fits_[model].hyperbola.steps([value, 256]) * [value, 256]
        assert at == pytest.approx(1.2 * reference)
    # One of the five bends more sharply than the hyperbola beyond doubt.
    assert [model for model, fit in fits_.items() if fit.doubts] == ["151M"]


# Epochs to the target by batch size, of many seeds each: MLPerf's reference convergence points,
# mlcommons/logging training_4.0.0/rcps_resnet.json (LARS, 75.9%) and mlcommons/hpc deepcam
# rcps_deepcam.json (LAMB, mean IoU .82); training sets of 1,281,167 and 121,266 examples.
MLPERF = {
    "ResNet-50": (
        1_281_167,
        {
            1632: 35.0,
            3264: 35.2,
            4096: 40.0,
            8192: 42.0,
            13056: 45.4,
            32768: 56.0,
            49152: 68.0,
            58880: 80.0,
            65536: 84.5,
        },
        47_500,
        34.6,
    ),
    "DeepCAM": (121_266, {128: 9.0, 256: 9.0, 512: 11.5, 1024: 13.0, 2048: 22.9}, 1150, 7.7),
}


@pytest.mark.parametrize("task", MLPERF)
def test_the_critical_batch_sizes_of_mlperf(task):
    """Against a straight line: examples to the target are E_min (1 + B / B_crit)."""
    size, epochs, published, fewest = MLPERF[task]
    batches = np.array(list(epochs), float)
    reached = np.array(list(epochs.values()))
    fit = fit_steps(batches, reached * size / batches)
    low, high = fit.b_crit_interval
    assert low < published < high < 4 * low
    relative = np.stack([np.ones_like(batches), batches], 1) / reached[:, None]
    (start, per_example), *_ = np.linalg.lstsq(relative, np.ones_like(batches))
    assert fit.b_crit == pytest.approx(start / per_example, rel=0.1)
    assert fit.e_min / size == pytest.approx(fewest, rel=0.05)


def test_the_band_has_the_shape_of_its_batches():
    fit = fit_steps(BATCH, noisy(BATCH, 0.1, seed=2))
    low, high = fit.band(BATCH.reshape(2, 5))
    assert low.shape == high.shape == (2, 5)
    assert (low < fit.steps(BATCH.reshape(2, 5))).all()
    assert (fit.steps(BATCH.reshape(2, 5)) < high).all()
    narrow = fit_steps(BATCH, noisy(BATCH, 0.1, seed=2), confidence=0.5).band(BATCH)
    assert (narrow[0] > low.ravel()).all() and (narrow[1] < high.ravel()).all()


@pytest.mark.parametrize("draws", [40, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("points, sd", [(8, 0.05), (12, 0.15)])
def test_coverage_of_the_intervals(points, sd, draws):
    """benchmarks/fits_coverage.py is the full measurement; 87% is 4 standard errors of 100 off."""
    batch = 2.0 ** np.arange(4, 4 + points)
    b_crit = math.sqrt(batch[0] * batch[-1])
    held = []
    for seed in range(draws):
        fit = fit_steps(batch, noisy(batch, sd, seed, b_crit=b_crit))
        pairs = [
            (100, fit.s_min_interval),
            (b_crit, fit.b_crit_interval),
            (100 * b_crit, fit.e_min_interval),
            (200, fit.hyperbola.band(b_crit)),
        ]
        held.append([low <= value <= high for value, (low, high) in pairs])
    share = np.mean(held, axis=0)
    assert ((share >= 0.87) & (share <= 1.0)).all(), share


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
    point = fit.perfect_scaling_end if sd == 0 else fit.max_useful_batch
    assert point.where == "above" and point.interval[1] > 1e6
    assert point.describe().startswith("not reached up to 8,192 (95%: above ")
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
    point = fit.max_useful_batch
    assert point.where == "below" and point.interval[0] == 0
    assert point.describe().startswith("below 16, the smallest measured (95%: below ")
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
    told = f"not determined by these measurements ({100 * confidence:g}%: any size)"
    assert fit.perfect_scaling_end.describe() == told
    numbers = fit.s_min, fit.b_crit, fit.e_min, fit.residual_sd, *fit.s_min_interval
    everything = [*numbers, *fit.e_min_interval, fit.steps(BATCH), *fit.band(BATCH)]
    assert not any(np.isnan(value).any() for value in everything)


# --- the breakpoints ---

UNKNOWN = "not determined by these measurements (95%: any size)"


def test_the_breakpoints_are_where_their_words_say():
    fit = fit_steps(BATCH, hyperbola(BATCH))
    perfect, useful = fit.perfect_scaling_end, fit.max_useful_batch
    # 1.2 times the slope -1 line, which is the curve itself at a vanishing batch.
    line = 1e-6 * hyperbola(1e-6)[0] / perfect.batch
    assert hyperbola(perfect.batch)[0] == pytest.approx(1.2 * line, rel=1e-6)
    steps, doubled = hyperbola([useful.batch, 2 * useful.batch])
    assert doubled == pytest.approx(0.9 * steps, rel=1e-6)
    assert (perfect.batch, useful.batch) == pytest.approx((0.2 * 500, 4 * 500), rel=1e-6)
    assert (perfect.where, useful.where) == ("inside", "inside")


def test_the_thresholds_of_the_breakpoints():
    fit = fit_steps(BATCH, hyperbola(BATCH), perfect_within=1.5, least_saving=0.25)
    assert fit.perfect_scaling_end.batch == pytest.approx(0.5 * 500)
    steps, doubled = hyperbola([fit.max_useful_batch.batch, 2 * fit.max_useful_batch.batch])
    assert doubled == pytest.approx(0.75 * steps)


def test_breakpoints_outside_the_reached_range():
    fit = fit_steps(BATCH[4:7], hyperbola(BATCH[4:7]))  # 256 to 1,024, breakpoints at 100 and 2,000
    assert (fit.perfect_scaling_end.where, fit.max_useful_batch.where) == ("below", "above")
    assert fit.max_useful_batch.describe() == UNKNOWN  # three points, two parameters
    # A batch size that was only tried does not count as measured.
    censored = fit_steps(
        BATCH[4:9], [*hyperbola(BATCH[4:7]), None, None], censored_at=[None] * 3 + [50, 50]
    )
    assert censored.measured == (256, 1024)
    assert censored.max_useful_batch.where == "above"


@pytest.mark.parametrize(
    "point, text",
    [
        (Breakpoint(256.4, (180, 410), "inside", (16, 1024), 0.95), "about 256 (95%: 180 to 410)"),
        (
            Breakpoint(25.64, (9.5, math.inf), "inside", (16, 64), 0.9),
            "about 25.6 (90%: above 9.5)",
        ),
        # What lies far beyond the measured batches was not measured.
        (Breakpoint(25.64, (1.5, 300), "inside", (16, 64), 0.95), UNKNOWN),
        (
            Breakpoint(3e-4, (0, 4e-4), "below", (1, 64), 0.95),
            "below 1, the smallest measured (95%: below 1)",
        ),
        (
            Breakpoint(12345, (0, 54321), "inside", (1, 2**20), 0.95),
            "about 12,300 (95%: below 54,300)",
        ),
        (
            Breakpoint(2e6, (1e6, math.inf), "above", (1, 2**20), 0.95),
            "not reached up to 1,048,576 (95%: above 1,000,000)",
        ),
    ],
)
def test_breakpoints_in_words(point, text):
    assert point.describe() == text


def test_regimes_change_at_the_breakpoints():
    fit = fit_steps(BATCH, hyperbola(BATCH))  # breakpoints at 100 and 2,000
    assert regimes(fit, [1, 99, 101, 1999, 2001]) == [
        "perfect scaling",
        "perfect scaling",
        "diminishing returns",
        "diminishing returns",
        "maximal data parallelism",
    ]


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
    # It adds nothing: values this far off were excluded without it.
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
    level = curves.best_level(reached, censored)
    tries = np.linspace(-3, 3, 2001)
    tried = [curves.squares_at(reached, censored, np.full(50, t)) for t in tries]
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
        ([16, 32, 32, 64], [9, 5, 5, 4], {}, ("32 appears more than once",)),
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


def test_read_off_examples_are_compared_with_the_fewest():
    """130, 100, 100 and 144 of them: not with those of the smallest batch."""
    assert read_off([1, 2, 4, 8], [130, 50, 25, 18])[0] == (4, 8)
