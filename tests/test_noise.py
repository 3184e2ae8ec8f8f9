import itertools
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import integrate, stats

from scaling import noise
from scaling.errors import UserError
from scaling.noise import Tracker, estimate, noise_scale


def gradients(rng, shape, mean, factor):
    """Normal gradients [*shape, P] with this mean [P] and the covariance factor^T factor."""
    return mean + rng.standard_normal((*shape, len(factor))) @ factor


def shard_norms(rng, draws, steps, b_simple, shard, shards=8, directions=32):
    """Squared norms ([draws, steps] of shards, of their mean) of drawn gradient vectors, |G| = 1.

    The covariance has eigenvalues in proportion to 1, 1/2, 1/3, ...
    """
    values = 1 / np.arange(1, directions + 1)
    values *= b_simple / values.sum()
    mean = np.sqrt(values / b_simple)
    small, big = np.empty((2, draws, steps))
    for draw in range(draws):
        drawn = gradients(rng, (steps, shards), mean, np.diag(np.sqrt(values / shard)))
        small[draw] = np.square(drawn).sum(-1).mean(-1)
        big[draw] = np.square(drawn.mean(1)).sum(-1)
    return small, big


# --- two batch sizes ---


def test_estimates_are_unbiased_for_a_full_covariance():
    """E|G_B|^2 = |G|^2 + tr(Sigma) / B, and A.2 undoes it."""
    rng = np.random.default_rng(0)
    mean, factor = 3 * rng.standard_normal(12), 2 * rng.standard_normal((12, 12))
    examples = gradients(rng, (40_000, 8), mean, factor)  # 40,000 batches of 8
    small = np.square(examples.reshape(40_000, 4, 2, 12).mean(2)).sum(-1).mean(1)  # pairs
    big = np.square(examples.mean(1)).sum(-1)
    truth = mean @ mean, np.trace(factor.T @ factor)
    for found, expected in zip(estimate(small, big, 2, 8), truth, strict=True):
        assert abs(found.mean() - expected) < 4 * stats.sem(found)
        assert stats.sem(found) < 0.02 * expected


def test_estimates_by_hand():
    # |G|^2 = 3 and tr(Sigma) = 80 give 3 + 80 / 4 and 3 + 80 / 16.
    assert estimate(23.0, 8.0, 4, 16) == pytest.approx((3.0, 80.0))
    pair = estimate([[23.0], [13.0]], [8.0, 3.0], 4, 16)
    assert pair[0].shape == pair[1].shape == (2, 2)
    assert pair[0][0, 1] < 0  # kept, not clipped: clipping would bias the average
    assert [float(a[1, 0]) for a in pair] == pytest.approx([19 / 3, 80 / 3])


def test_a_published_example_of_a_small_difference():
    """|G_32|^2 = 0.041 and |G_512|^2 = 0.0028 +- 5%: about 5,150, from 3,230 to 12,580."""
    ratios = []
    for big in (0.0028, 0.0028 * 1.05, 0.0028 * 0.95):
        grad_sq_norm, trace = estimate(0.041, big, 32, 512)
        ratios.append(float(trace / grad_sq_norm))
    assert ratios == pytest.approx([5150, 3230, 12580], rel=2e-3)


def test_batches_without_replacement():
    """Over all batches of 4 out of 6 and all halves of each, by enumeration."""
    rows = np.random.default_rng(1).standard_normal((6, 3)) + 1
    mean = rows.mean(0)
    trace = np.square(rows - mean).sum() / 6
    batches = [rows[list(order)] for order in itertools.permutations(range(6), 4)]
    small = [np.square(b.reshape(2, 2, 3).mean(1)).sum(-1).mean() for b in batches]
    big = [np.square(b.mean(0)).sum() for b in batches]
    found = [a.mean() for a in estimate(small, big, 2, 4)]
    assert found == pytest.approx([mean @ mean - trace / 5, trace * 6 / 5])


def test_what_was_not_measured_stays_missing():
    found = estimate([1.0, np.nan], [0.5, 0.5], [4, np.nan], 8)
    assert [np.isnan(a).tolist() for a in found] == [[False, True]] * 2


@pytest.mark.parametrize("small, big", [(8, 8), (16, 8), (0, 8), ([4, 8], 8)])
def test_the_small_batch_is_smaller(small, big):
    with pytest.raises(ValueError, match="the small one must be positive and smaller"):
        estimate(1.0, 1.0, small, big)


# --- the ratio and its interval ---


def test_coverage_with_eight_shards():
    """B_simple 2,000, shards of 128 examples, 1,000 steps."""
    rng = np.random.default_rng(2)
    small, big = shard_norms(rng, 100, 1000, 2000, 128)
    found = [noise_scale(*estimate(s, b, 128, 1024)) for s, b in zip(small, big, strict=True)]
    ratios = np.array([e.noise_scale for e in found]) / 2000
    assert all(e.resolved and e.measurements == 1000 for e in found)
    assert abs(ratios.mean() - 1) < 0.012  # bias; the mean's own error is 0.004
    assert np.quantile(abs(ratios - 1), 0.95) < 0.1
    held = sum(e.low <= 2000 <= e.high for e in found)
    assert 90 <= held <= 99
    assert np.median([e.high / e.low for e in found]) < 1.25


@pytest.mark.parametrize("steps", [8, 50])
def test_far_beyond_the_batch_there_is_a_lower_bound_and_no_number(steps):
    """B_simple at 100 times the batch."""
    rng = np.random.default_rng(3)
    small, big = shard_norms(rng, 200, steps, 25_600, 32)
    pairs = zip(*estimate(small, big, 32, 256), strict=True)
    found = [noise_scale(*pair) for pair in pairs]
    unresolved = [e for e in found if not e.resolved]
    assert len(unresolved) > 180  # 97.5% or nearly: |G|^2 = 0 would be
    assert all(e.noise_scale is None and e.high is None for e in unresolved)
    assert sum(e.low is not None for e in unresolved) > 0.85 * len(unresolved)
    assert sum((e.low or 0) <= 25_600 <= (e.high or math.inf) for e in found) > 180


def test_among_series_that_are_only_just_resolved_the_ratio_is_too_low():
    """Those are resolved whose |G|^2 came out large. The interval holds the truth all the same."""
    rng = np.random.default_rng(8)
    drawn = rng.standard_normal((2, 1000, 50))
    # The error of the mean |G|^2 is half of it: 2.09 of them are the t that resolves.
    found = [noise_scale(1 + 0.5 * 50**0.5 * a, 100 + b) for a, b in zip(*drawn, strict=True)]
    resolved = [e for e in found if e.resolved]
    assert 0.4 < len(resolved) / 1000 < 0.6
    assert 0.7 < np.median([e.noise_scale for e in resolved]) / 100 < 0.9
    assert sum((e.low or 0) <= 100 <= (e.high or math.inf) for e in found) > 930


@pytest.mark.parametrize("fall", [4.0, 50.0])
def test_a_trend_is_part_of_the_average_and_not_noise(fall):
    """|G|^2 falls by e^fall."""
    rng = np.random.default_rng(4)
    path = np.exp(-np.arange(1000) * fall / 1000) + 0.1
    noise_of = 0.3 * rng.standard_normal((2, 100, 1000))
    found = [noise_scale(path + a, 20 + b) for a, b in zip(*noise_of, strict=True)]
    truth = 20 / path.mean()
    held = [e.low <= truth <= e.high for e in found]
    assert sum(held) >= 90
    # Without the trend: +- 2 x 0.3 / sqrt(1,000) / mean(|G|^2), both ways.
    plain = 1 + 4 * 0.3 / 1000**0.5 / path.mean()
    assert np.median([e.high / e.low for e in found]) < 1 + (3 if fall < 10 else 6) * (plain - 1)


def test_serial_correlation_widens_the_interval():
    """Noise with a memory of 5 measurements: independent ones would make it 3.2 times too sure."""
    rng = np.random.default_rng(5)
    keep = math.exp(-1 / 5)
    drawn = rng.standard_normal((2, 200, 1000))
    for t in range(1, 1000):
        drawn[..., t] = keep * drawn[..., t - 1] + math.sqrt(1 - keep**2) * drawn[..., t]
    found = [noise_scale(1 + a, 100 + 10 * b) for a, b in zip(*drawn, strict=True)]
    held = sum(e.resolved and e.low <= 100 <= e.high for e in found)
    assert 178 <= held <= 198


def test_the_interval_is_every_ratio_that_a_t_test_allows():
    """Fieller's set by its definition: (top - r bottom)^2 <= t^2 Var(top - r bottom)."""
    rng = np.random.default_rng(6)
    bottom, top = 2 + rng.standard_normal(20), 50 + 20 * rng.standard_normal(20)
    found = noise_scale(bottom, top)
    # 20 blocks of one: variance from successive differences, 2 x 19^2 / 56 degrees of freedom.
    t = stats.t.ppf(0.975, 2 * 19**2 / 56)
    for ratio in (found.low, found.high):
        rest = top - ratio * bottom
        variance = np.square(np.diff(rest)).sum() / 2 / 19 / 20
        assert rest.mean() ** 2 == pytest.approx(t**2 * variance)
    assert found.low < found.noise_scale < found.high
    assert found.noise_scale == pytest.approx(top.mean() / bottom.mean())


def test_blocks_of_unequal_size():
    """For independent noise the interval is about as wide as for blocks of equal size."""
    rng = np.random.default_rng(7)
    widths = {}
    for count in (39, 40):  # 19 blocks of two and one of one; all of two
        bottom, top = 5 + rng.standard_normal((2, 400, count))
        found = [noise_scale(b, t) for b, t in zip(bottom, top, strict=True)]
        widths[count] = np.mean([e.high - e.low for e in found])
        assert 0.92 < np.mean([e.low <= 1 <= e.high for e in found]) < 0.98
    assert widths[39] == pytest.approx(widths[40], rel=0.06)


def test_signs_that_leave_the_noise_scale_open():
    wave = np.tile([1.0, -1.0], 10)  # as many as there are blocks
    # |G|^2 surely positive, tr(Sigma) not: an upper bound, and no number.
    found = noise_scale(5 + 0.1 * wave, -0.01 + wave)
    assert (found.resolved, found.noise_scale, found.low) == (False, None, None)
    assert 0 < found.high < 1
    assert found.grad_variance_trace == pytest.approx(-0.01)
    # |G|^2 not, tr(Sigma) surely: a lower bound.
    found = noise_scale(-0.1 + wave, 1000 + wave)
    assert (found.resolved, found.noise_scale, found.high) == (False, None, None)
    assert 500 < found.low < 5000
    # Neither; one or the other surely negative: nothing at all.
    for bottom, top in [(0, 0), (-5, 9), (-5, -0.01), (5, -9)]:
        found = noise_scale(bottom + wave, top + np.roll(wave, bottom == 0))
        assert (found.noise_scale, found.low, found.high) == (None, None, None)
        assert not found.resolved


def test_without_noise_the_interval_is_a_point():
    found = noise_scale(np.full(10, 2.0), np.full(10, 60.0))
    assert (found.noise_scale, found.low, found.high) == pytest.approx((30, 30, 30))
    for top in (0.0, 1.0):
        nothing = noise_scale(np.zeros(10), np.full(10, top))
        assert not nothing.resolved
        assert (nothing.noise_scale, nothing.low, nothing.high) == (None, None, None)


def test_measurements_that_are_missing_or_few():
    rng = np.random.default_rng(8)
    bottom, top = 3 + rng.standard_normal((2, 60))
    holes_b, holes_t = (np.insert(a, [3, 10, 60], np.nan) for a in (bottom, top))
    holes_t[3], holes_b[11] = 1e9, 1e9  # their pairs are missing
    assert noise_scale(holes_b, holes_t) == noise_scale(bottom, top)
    few = noise_scale(bottom[: noise.FEWEST - 1], top[: noise.FEWEST - 1])
    assert few.measurements == noise.FEWEST - 1 and few.grad_sq_norm is not None
    assert (few.resolved, few.noise_scale, few.low, few.high) == (False, None, None, None)
    none = noise_scale([math.nan], [1.0])
    assert none.measurements == 0 and not none.resolved
    for found in (noise_scale(bottom, top), few, none):
        assert json.loads(json.dumps(found.as_dict(), allow_nan=False)) == found.as_dict()


# --- windows ---


def series(count):
    """|G|^2 falls, tr(Sigma) stays; a little noise."""
    rng = np.random.default_rng(9)
    bottom = np.linspace(4, 1, count) + 0.01 * rng.standard_normal(count)
    return bottom, 100 + rng.standard_normal(count)


def test_windows_grow_with_the_step(monkeypatch):
    monkeypatch.setattr(noise, "WINDOWS", 10)
    bottom, top = series(1000)
    steps, losses = np.arange(1000) * 2, np.linspace(2, 0, 1000)
    found = noise.windows(steps, bottom, top, losses)
    sizes = [w.measurements for w in found]
    assert sum(sizes) == 1000 and sizes[0] == 20 and len(sizes) == 10
    ends = np.cumsum(sizes)
    assert np.allclose(ends[1:] / ends[:-1], 50 ** (1 / 9), rtol=0.03)
    assert [(w.first_step, w.last_step) for w in found[:1]] == [(0, 38)]
    first, last = ends[1:3]
    third = noise_scale(bottom[first:last], top[first:last])
    assert {**third.as_dict(), "first_step": 2 * first, "last_step": 2 * (last - 1)} == {
        k: v for k, v in found[2].as_dict().items() if k != "loss"
    }
    assert found[2].loss == pytest.approx(losses[first:last].mean())
    spans = zip([0, *ends[:-1]], ends, strict=True)
    expected = [100 / np.linspace(4, 1, 1000)[a:b].mean() for a, b in spans]
    assert [w.noise_scale for w in found] == pytest.approx(expected, rel=0.01)
    mean = np.average(expected, weights=sizes)
    whole = noise_scale(bottom, top)
    assert noise.average(found, whole).noise_scale == pytest.approx(mean, rel=0.01)
    # The ratio over the whole run is another number: 40, not 45.
    assert whole.noise_scale == pytest.approx(40, rel=0.01)
    assert mean > 44


def test_windows_of_a_run_measured_now_and_then():
    bottom, top = (np.full(100, np.nan) for _ in range(2))
    bottom[5::5], top[5::5] = series(19)
    losses = np.arange(100.0)
    losses[99] = np.inf
    found = noise.windows(np.arange(100), bottom, top, losses)
    assert [w.measurements for w in found] == [8, 11]  # no window of less than FEWEST
    assert [(w.first_step, w.last_step) for w in found] == [(0, 44), (45, 99)]
    assert found[0].loss == 22 and found[1].loss is None
    json.dumps(found[1].as_dict(), allow_nan=False)
    assert noise.windows(range(3), [np.nan] * 3, [1.0] * 3, [0.0] * 3) == []
    assert len(noise.windows(range(3), [1.0] * 3, [1.0] * 3, [0.0] * 3)) == 1
    sizes = [w.measurements for w in noise.windows(range(30), *[[1.0, 2.0] * 15] * 3)]
    assert sum(sizes) == 30 and min(sizes) >= noise.FEWEST


def test_the_average_weights_by_steps_and_leaves_out_few_that_are_unresolved():
    def window(value, first, last, low=None, high=None):
        known = value is not None
        return noise.Window(1.0, 1.0, value, low, high, known, 9, first, last, 0.0)

    whole = noise.Estimate(1.0, 1.0, 7.0, 5.0, 9.0, True, 50)
    few, many = window(None, 40, 43, low=100.0), window(None, 40, 49, low=100.0)
    resolved = [window(10.0, 0, 9, 6, 18), window(40.0, 10, 39, 36, 60)]
    found = noise.average([*resolved, few], whole)
    assert found.noise_scale == pytest.approx(0.25 * 10 + 0.75 * 40)
    assert found.low == pytest.approx(32.5 - math.hypot(0.25 * 4, 0.75 * 4))
    assert found.high == pytest.approx(32.5 + math.hypot(0.25 * 8, 0.75 * 20))
    unbounded = noise.average([window(10.0, 0, 9, None, 18)], whole)  # tr(Sigma) may be zero
    assert (unbounded.low, unbounded.high) == (0.0, 18.0)
    # Of a fifth of the steps nothing is known: no value.
    for windows in ([*resolved, many], [many], []):
        assert noise.average(windows, whole) == noise.Average(None, 5.0, None)


@pytest.mark.parametrize("falls", [0.0, 3.0])
@pytest.mark.parametrize("multiple", [3, 30, 300])
def test_the_average_covers_where_few_windows_are_resolved(multiple, falls):
    """Gaussian gradients of 30 directions at a batch of 256 in parts of 32, |G|^2 falling by
    e^falls: windows are resolved by chance, those with a large |G|^2."""
    rng, steps, part, batch, held = np.random.default_rng(multiple), 1000, 32, 256, 0
    square = np.exp(-falls * np.arange(steps) / steps)
    truth = np.mean(multiple * batch / square)
    for _ in range(60):
        spread = np.sqrt(multiple * batch / part / 30)
        parts = spread * rng.normal(size=(steps, batch // part, 30))
        parts[:, :, 0] += np.sqrt(square)[:, None]
        small = (parts**2).sum(2).mean(1)
        big = (parts.mean(1) ** 2).sum(1)
        terms = noise.estimate(small, big, part, batch)
        windows = noise.windows(np.arange(steps), *terms, np.ones(steps))
        found = noise.average(windows, noise_scale(*terms))
        held += (found.low or 0.0) <= truth <= (math.inf if found.high is None else found.high)
    assert held >= 52


# --- the tracker ---


def test_the_tracker_against_the_recursion_written_out():
    rng = np.random.default_rng(10)
    bottom, top = 2 + rng.standard_normal(30), 50 + rng.standard_normal(30)
    tracker = Tracker(0.9)
    tracker.add(bottom, top)
    weights = 0.9 ** np.arange(29, -1, -1.0)
    assert tracker.raw_grad_sq_norm == pytest.approx(0.1 * weights @ bottom)
    ratio = np.average(top, weights=weights) / np.average(bottom, weights=weights)
    assert tracker.noise_scale == pytest.approx(ratio)
    assert tracker.measurements == 30


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.999])
def test_pieces_give_the_state_of_the_whole(decay):
    rng = np.random.default_rng(11)
    bottom, top = 0.3 + rng.standard_normal(20_000), 70 + rng.standard_normal(20_000)
    bottom[::7] = np.nan
    whole, pieces, single = Tracker(decay), Tracker(decay), Tracker(decay)
    whole.add(bottom, top)
    start = 0
    while start < 20_000:
        size = int(rng.integers(1, 700))
        pieces.add(bottom[start : start + size], top[start : start + size])
        pieces = Tracker(**json.loads(json.dumps(pieces.as_dict())))
        start += size
    for pair in zip(bottom, top, strict=True):
        single.add(*pair)
    assert whole.as_dict() == pieces.as_dict() == single.as_dict()
    assert whole.measurements == np.isfinite(bottom).sum()


def test_the_tracker_has_no_value_where_it_is_not_resolved():
    tracker = Tracker(0.5)
    assert tracker.noise_scale is None
    tracker.add(np.ones(noise.FEWEST - 1), np.full(noise.FEWEST - 1, 9.0))
    assert tracker.noise_scale is None
    tracker.add(1.0, 9.0)
    assert tracker.noise_scale == pytest.approx(9)
    tracker.add(-5.0, 9.0)
    assert tracker.noise_scale is None
    tracker.add([5.0, 5.0, 5.0], [9.0] * 3)
    assert tracker.noise_scale > 0
    before = tracker.as_dict()
    tracker.add([np.nan, 1.0], [1.0, np.inf])
    assert tracker.as_dict() == before


# --- formulas ---


def test_learning_rates():
    # 0.27 B / (96 + B), the paper's own law for SVHN.
    batch = np.array([24, 96, 1e9])
    assert noise.central_rate(batch, 0.27, 96) == pytest.approx([0.054, 0.135, 0.27])
    assert noise.central_rate(32, 0.1, 96, alpha=0.5) == pytest.approx(0.05)
    # Far below the scale the rate is linear in B, or goes with its root.
    assert noise.central_rate(2, 1, 1e6) / noise.central_rate(1, 1, 1e6) == pytest.approx(2)
    half = [noise.central_rate(b, 1, 1e6, 0.5) for b in (1, 2)]
    assert half[1] / half[0] == pytest.approx(2**0.5)


@pytest.mark.parametrize(
    "value, r, expected",
    [
        (100, 100, 128),  # of 64 and 128
        (100, 81, 64),  # 90: the middle in log B is 90.5
        (92, 92, 128),  # 92: nearer 64 by difference
        (1, 1, 16),  # the powers of two from 10 to 3,000 begin with 16 ...
        (1e6, 1e6, 2048),  # ... and end with 2,048
    ],
)
def test_adaptive_batch(value, r, expected):
    found = noise.adaptive_batch(value, r, 10, 3000)
    assert found == expected and isinstance(found, int)


def test_bad_adaptive_batches_are_refused():
    with pytest.raises(UserError, match="No power of two lies between 65 and 100"):
        noise.adaptive_batch(10, 10, 65, 100)
    with pytest.raises(UserError, match="No power of two lies between 0 and 0"):
        noise.adaptive_batch(10, 10, 0, 0)


def test_gamma():
    s = np.linspace(0, 7, 20_001)
    # The paper's case, B = 10 sqrt(s): 24 / 25.
    assert noise.gamma(np.maximum(10 * np.sqrt(s), 1e-12), s) == pytest.approx(24 / 25, rel=1e-5)
    assert noise.gamma(np.full(5, 300.0), [0, 1, 4, 5, 9]) == pytest.approx(1)
    scale = lambda s: 20 + s**3
    root, examples = (integrate.quad(f, 0, 7)[0] for f in (lambda s: math.sqrt(scale(s)), scale))
    assert noise.gamma(scale(s), s) == pytest.approx(root**2 / (7 * examples), rel=1e-6)
    coarse = np.array([0.0, 1.0, 3.0])  # trapezia: 1 / 2 (y0 + y1) + (y1 + y2)
    assert noise.gamma([4.0, 9.0, 16.0], coarse) == pytest.approx((2.5 + 7) ** 2 / 3 / (6.5 + 25))


def test_it_needs_no_jax():
    """A report is made where there may be none."""
    code = "import sys; sys.modules['jax'] = None; import scaling.noise"
    subprocess.run([sys.executable, "-c", code], check=True)
