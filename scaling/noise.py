"""The gradient noise scale from gradient norms measured in training, and its implications.

McCandlish, Kaplan, Amodei et al. 2018 (arXiv:1812.06162). G is the gradient of the mean loss, Sigma
the covariance of one example's gradient, H the Hessian, B a batch size in examples:

    B_simple = tr(Sigma) / |G|^2              eq. 2.9, in examples
    B_noise  = tr(H Sigma) / (G^T H G)        eq. 2.8, in examples, see `scaling.noise_exact`

The estimates of both parts of B_simple are unbiased and may be negative at a single step, so each
is averaged and the averages are divided once. A mean of ratios would be dominated by steps with a
denominator near zero.

Intervals are Fieller's: the ratios r not rejected by a t test of mean(tr(Sigma)) - r mean(|G|^2).
They are bounded if and only if mean(|G|^2) differs from zero at the same confidence; otherwise the
noise scale is not resolved, and only a lower bound is known.

The variance of the means is estimated from differences of successive block means. The interval is
for the average over the measured steps of this run, not for other seeds. A trend over training,
such as the fall of |G|^2, widens it little unless it takes place within one or two blocks, since
variation between neighbouring blocks counts as noise.

Measured by `benchmarks/noise_coverage.py`, 500 draws in each setting. With |G|^2 constant the
coverage of the 95% intervals is 93 to 98%, from 8 steps to 1,000 and from B_simple at 2 times the
batch to 1,000 times; where |G|^2 falls or wanders, 94 to 100%. In 1,000 steps of 8 x 128 examples
with B_simple 2,000 it is 95%, and the ratio is within 10% of the truth in 85 to 100% of the draws,
from 4 directions of noise to 256. At 100 times the batch 10% of the draws are resolved in 1,000
steps, at 1,000 times 2%: the ones that the confidence level allows to be wrong, far too small.
Nearly all others have a lower bound. The coverage of the delta method is 89 to 96% up to 10 times
the batch and 13 to 78% beyond. The variance of block means about their overall mean performs as
well with |G|^2 constant, but doubles the width where |G|^2 falls by e^4, and resolves nothing where
it starts 100 times higher than it ends.

The noise of successive gradients must be independent, as with freshly drawn examples. With a
correlation of 0.5, 0.9 or 0.98 between steps the coverage would be 94, 90 and 72% for 1,000 steps,
and 86, 33 and 14% for 50.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from scaling.errors import UserError

Array = NDArray[np.float64]

CONFIDENCE = 0.95  # of intervals, two-sided
FEWEST = 8  # measurements that a ratio needs
WINDOWS = 20  # of a run, at most
FIRST_WINDOW = 50  # the first window has 1 / 50 of a run's measurements
RESOLVED = 0.9  # of a run's steps, in windows whose mean stands for it
BLOCKS = 20  # more follow a trend better, fewer tolerate a longer serial correlation


def estimate(
    small_sq: ArrayLike, big_sq: ArrayLike, b_small: ArrayLike, b_big: ArrayLike
) -> tuple[Array, Array]:
    """|G|^2 and tr(Sigma) from squared gradient norms at two batch sizes, eq. A.2.

    Unbiased, and therefore sometimes negative, if examples are drawn independently. For batches
    drawn without replacement from N examples they estimate |G|^2 - tr(Sigma) / (N - 1) and
    tr(Sigma) N / (N - 1), with moments over those N: the values of the distribution from which the
    N were drawn, as far as the parameters do not depend on them. This holds for batches up to N.
    Parts of a larger batch contain whole permutations of the N, whose noise cancels within a part.

    Args:
      small_sq: |G_small|^2, any shape; the mean over the parts of a batch if there are several.
      big_sq: |G_big|^2.
      b_small: examples per small gradient.
      b_big: examples per big gradient. All four broadcast.

    Returns:
      (grad_sq_norm, grad_variance_trace), of the broadcast shape; NaN where an argument is.

    Raises:
      ValueError: a b_small is not positive or not below its b_big.
    """
    small_sq, big_sq, b_small, b_big = (
        np.asarray(a, float) for a in (small_sq, big_sq, b_small, b_big)
    )
    wrong = (b_small <= 0) | (b_small >= b_big)  # NaN, not measured, passes
    if wrong.any():
        small, big = (np.broadcast_to(b, wrong.shape)[wrong][0] for b in (b_small, b_big))
        raise ValueError(
            f"The small batch has {small:g} examples and the big one {big:g}; the small one must "
            "be positive and smaller."
        )
    grad_sq_norm = (b_big * big_sq - b_small * small_sq) / (b_big - b_small)
    grad_variance_trace = (small_sq - big_sq) / (1 / b_small - 1 / b_big)
    return grad_sq_norm, grad_variance_trace


@dataclasses.dataclass(frozen=True)
class Estimate:
    """B_simple over a series of measurements.

    Attributes:
      grad_sq_norm: mean of the estimates of |G|^2; may be negative. None without measurements.
      grad_variance_trace: likewise for tr(Sigma).
      noise_scale: B_simple in examples, the ratio of the two; None where not resolved.
      low, high: its interval; None where unbounded. An unresolved noise scale may have a lower
        bound.
      resolved: whether the mean |G|^2 is above zero at the confidence of the interval, tr(Sigma) is
        positive, and there are at least `FEWEST` measurements.
      measurements: their number.
    """

    grad_sq_norm: float | None
    grad_variance_trace: float | None
    noise_scale: float | None
    low: float | None
    high: float | None
    resolved: bool
    measurements: int

    def as_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Window(Estimate):
    """B_simple over part of a run."""

    first_step: int
    last_step: int  # inclusive
    loss: float | None  # mean training loss; None if a loss is not finite

    @property
    def middle(self) -> float:
        """Its place among the steps."""
        return (self.first_step + self.last_step) / 2


@dataclasses.dataclass(frozen=True)
class Exact:
    """From the gradients of all N examples of a set, one by one; None: not positive.

    `estimate` is unbiased for the first two on batches drawn with replacement; without, see there.
    """

    grad_sq_norm: float  # |G|^2 of the mean gradient
    grad_variance_trace: float  # tr(Sigma), with 1 / N
    noise_scale: float | None  # B_simple
    hessian_noise_scale: float | None  # B_noise = tr(H Sigma) / (G^T H G), eq. 2.8


def noise_scale(grad_sq_norms: ArrayLike, grad_variance_traces: ArrayLike) -> Estimate:
    """B_simple and its 95% interval from a series of measurements; see the module docstring.

    Where the noise scale is barely resolved the ratio is biased low, since a series is resolved
    when its |G|^2 is large by chance. Measured by `benchmarks/noise_coverage.py`, the median of the
    resolved ratios is within 2% of the truth where at least 97% of all series are resolved, 0.96
    of it where 86% are, 0.83 to 0.88 at 59 to 67%, 0.61 to 0.69 at 25 to 30%, and 0.35 to 0.52 at
    10%. The interval covers this bias.

    Args:
      grad_sq_norms: [n] estimates of |G|^2 in the order of training; see `estimate`. Rows in which
        either number is not finite are skipped as not measured.
      grad_variance_traces: [n] of tr(Sigma).
    """
    pairs = _pairs(grad_sq_norms, grad_variance_traces)
    pairs = pairs[:, np.isfinite(pairs).all(0)]
    count = pairs.shape[1]
    if count == 0:
        return Estimate(None, None, None, None, None, False, 0)
    grad_sq_norm, trace = (float(mean) for mean in pairs.mean(1))
    if count < FEWEST:
        return Estimate(grad_sq_norm, trace, None, None, None, False, count)
    low, high = _fieller(trace, grad_sq_norm, *_covariance(pairs))
    resolved = high is not None and trace > 0
    ratio = trace / grad_sq_norm if resolved else None
    return Estimate(grad_sq_norm, trace, ratio, low, high, resolved, count)


def windows(
    steps: ArrayLike,
    grad_sq_norms: ArrayLike,
    grad_variance_traces: ArrayLike,
    losses: ArrayLike,
) -> list[Window]:
    """A run in at most WINDOWS consecutive windows of increasing length.

    The loss and |G|^2 fall fast at first and slowly later: of equal windows, the first would
    contain much of the fall and the last too little signal. The first has a fiftieth of the
    measurements, and none has fewer than `FEWEST`, so a short run has few windows. Rows before the
    first measurement belong to the first window, other rows without one to the window of the
    previous measurement. No windows without measurements.

    Args:
      steps: [n] in the order of training.
      grad_sq_norms, grad_variance_traces: [n], as for `noise_scale`.
      losses: [n] training losses.
    """
    pairs = _pairs(grad_sq_norms, grad_variance_traces)
    steps, losses = np.ravel(steps), np.asarray(losses, float).ravel()
    measured = np.flatnonzero(np.isfinite(pairs).all(0))
    if not measured.size:
        return []
    starts = [measured[end] for end in _window_ends(measured.size)[:-1]]
    result = []
    for start, end in itertools.pairwise([0, *starts, steps.size]):
        loss = float(losses[start:end].mean())
        result.append(
            Window(
                **noise_scale(*pairs[:, start:end]).as_dict(),
                first_step=int(steps[start]),
                last_step=int(steps[end - 1]),
                loss=loss if math.isfinite(loss) else None,
            )
        )
    return result


def _window_ends(measurements: int) -> list[int]:
    """Cumulative measurements at the end of each window; the last is `measurements`."""
    first = min(measurements, max(FEWEST, measurements / FIRST_WINDOW))
    ends = []
    for end in np.round(np.geomspace(first, measurements, WINDOWS)).astype(int).tolist():
        if end - (ends[-1] if ends else 0) >= FEWEST:
            ends.append(end)
    return [*ends[:-1], measurements] if ends else [measurements]


@dataclasses.dataclass(frozen=True)
class Average:
    """B_simple averaged over the steps of a run, in examples; None where it is not known."""

    noise_scale: float | None
    low: float | None
    high: float | None


def average(windows: Sequence[Window], whole: Estimate) -> Average:
    """Mean of B_simple over the resolved windows of a run, weighted by their steps.

    The "average" column of Table 1. Each step counts equally, whereas `whole`, of all steps
    together, weights each by its |G|^2 and is dominated by steps with large gradients.

    Windows are resolved where |G|^2 is large, by chance or early in training, so where they hold
    less than `RESOLVED` of the steps their mean is too low and its interval misses. Then only the
    lower end of `whole` is known.

    The interval assumes independent errors of the windows, combined in quadrature on each side.
    """
    resolved = [w for w in windows if w.resolved]
    steps = np.array([w.last_step - w.first_step + 1 for w in resolved])
    if not resolved or steps.sum() < RESOLVED * (windows[-1].last_step - windows[0].first_step + 1):
        return Average(None, whole.low, None)
    weights = steps / steps.sum()
    scales = np.array([w.noise_scale for w in resolved])
    lows, highs = np.array([w.low or 0.0 for w in resolved]), np.array([w.high for w in resolved])
    mean = float(weights @ scales)
    below, above = (
        float(np.linalg.norm(weights * side)) for side in (scales - lows, highs - scales)
    )
    return Average(mean, mean - below, mean + above)


@dataclasses.dataclass
class Tracker:
    """B_simple during training: exponential moving averages of |G|^2 and tr(Sigma), divided.

    The averages of A.2. `Tracker(**tracker.as_dict())` continues from the same state, which does
    not depend on how the measurements were split over calls of `add`.

    Attributes:
      decay: weight of the past at each measurement, in [0, 1); the average is over about
        1 / (1 - decay) measurements.
      measurements: number added.
      raw_grad_sq_norm, raw_grad_variance_trace: averages initialised at zero; their ratio needs no
        bias correction.
    """

    decay: float
    measurements: int = 0
    raw_grad_sq_norm: float = 0.0
    raw_grad_variance_trace: float = 0.0

    def add(self, grad_sq_norm: ArrayLike, grad_variance_trace: ArrayLike) -> None:
        """One measurement, or arrays of consecutive ones; non-finite ones are skipped."""
        pairs = _pairs(grad_sq_norm, grad_variance_trace)
        pairs = pairs[:, np.isfinite(pairs).all(0)]
        if not pairs.size:
            return
        last = np.array([[self.raw_grad_sq_norm], [self.raw_grad_variance_trace]])
        filtered, _ = scipy.signal.lfilter(
            [1 - self.decay], [1, -self.decay], pairs, zi=self.decay * last
        )
        self.raw_grad_sq_norm, self.raw_grad_variance_trace = filtered[:, -1].tolist()
        self.measurements += pairs.shape[1]

    @property
    def noise_scale(self) -> float | None:
        """B_simple in examples.

        None where an average is not positive or has fewer than `FEWEST` measurements. A running
        value without an interval; `noise_scale` of the recorded series has one.
        """
        positive = min(self.raw_grad_sq_norm, self.raw_grad_variance_trace) > 0
        if not positive or self.measurements < FEWEST:
            return None
        return self.raw_grad_variance_trace / self.raw_grad_sq_norm

    def as_dict(self) -> dict[str, Any]:
        """The state, for JSON."""
        return dataclasses.asdict(self)


# --- learning rates and batch sizes from the noise scale ---


def central_rate(
    batch: ArrayLike, rate_star: ArrayLike, batch_star: ArrayLike, alpha: float = 1.0
) -> Array:
    """Centre of a search for the learning rate: rate_star / (1 + batch_star / B)^alpha, eq. A.3.

    alpha is 1 for SGD and momentum, 0.5 to 1 for Adam and RMSProp. With alpha 1 and B_noise as
    batch_star it is the optimal learning rate of a single step, eq. 2.6. Arrays broadcast.
    """
    return np.asarray(rate_star, float) / (1 + np.divide(batch_star, batch)) ** alpha


def adaptive_batch(noise_scale: float, r: float, smallest: int = 1, largest: int = 2**30) -> int:
    """The batch sqrt(r B_simple), eq. D.3, as the nearest power of two in a range.

    Nearest in log B. r is the price of a step in examples: at the optimum, one more step is worth
    r examples. r = E_min / S_min is the natural choice.

    Args:
      noise_scale, r: positive.

    Raises:
      UserError: no power of two lies between `smallest` and `largest`.
    """
    low = math.ceil(math.log2(max(smallest, 1)))
    if 2**low > largest:
        raise UserError(
            f"No power of two lies between {smallest} and {largest}, the bounds of the batch size; "
            "widen them."
        )
    high = math.floor(math.log2(largest))
    return 2 ** min(max(round(math.log2(r * noise_scale) / 2), low), high)


def gamma(noise_scales: ArrayLike, s: ArrayLike) -> float:
    """Potential saving of an adaptive batch size, eq. D.4-D.5: 1 for none, near 0 for a large one.

    gamma = (int sqrt(B) ds)^2 / (S_min E_min), S_min = int ds, E_min = int B ds, by the trapezoidal
    rule. The adaptive front is (S / S_min - 1) (E / E_min - 1) = gamma; for fixed batch sizes the
    right-hand side is 1.

    Args:
      noise_scales: [n] noise scale B, positive.
      s: [n] progress, in steps of an unlimited batch, increasing. In a run at batch size b,
        ds = dS / (1 + B / b).
    """
    noise_scales, s = np.asarray(noise_scales, float), np.asarray(s, float)
    root, examples = (np.trapezoid(y, s) for y in (np.sqrt(noise_scales), noise_scales))
    return float(root**2 / ((s[-1] - s[0]) * examples))


# --- the interval ---


def _pairs(grad_sq_norms: ArrayLike, grad_variance_traces: ArrayLike) -> Array:
    """[2, n]: |G|^2 and tr(Sigma)."""
    return np.stack([np.asarray(a, float).ravel() for a in (grad_sq_norms, grad_variance_traces)])


def _covariance(pairs: Array) -> tuple[Array, float]:
    """Covariance [2, 2] of the means of `pairs` [2, n], and its degrees of freedom.

    From differences of successive block means (von Neumann 1941), with 2/3 of the degrees of
    freedom of deviations from the overall mean; a trend contributes only its change between
    neighbours.
    """
    count = pairs.shape[1]
    blocks = min(count, BLOCKS)
    starts = np.arange(blocks) * count // blocks
    sizes = np.diff(starts, append=count)
    means = np.add.reduceat(pairs, starts, axis=1) / sizes
    # Normalised to the variance of one measurement, for any two block sizes.
    steps = np.diff(means) / np.sqrt(1 / sizes[1:] + 1 / sizes[:-1])
    covariance = steps @ steps.T / (blocks - 1) / count
    # Matches the first two moments of the sum of squared differences under normal noise.
    return covariance, 2 * (blocks - 1) ** 2 / (3 * blocks - 4)


def _fieller(
    top: float, bottom: float, covariance: Array, dof: float
) -> tuple[float | None, float | None]:
    """The positive part of the interval of a ratio of two means; None where unbounded.

    `covariance` is that of (bottom, top). The interval has (top - r bottom)^2 <= t^2
    Var(top - r bottom): a quadratic a r^2 - 2 b r + c <= 0, with a > 0 if and only if `bottom`
    differs significantly from zero. Its roots are c / q and q / a (Fieller 1954).
    """
    t = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, dof)
    means = np.array([bottom, top])
    (a, b), (_, c) = np.outer(means, means) - t**2 * covariance
    q = b + math.sqrt(max(b * b - a * c, 0.0))
    if q <= 0 or bottom <= 0 < a:  # one is significantly negative: the interval is not positive
        return None, None
    return (float(c / q) if c > 0 else None), (float(q / a) if a > 0 else None)
