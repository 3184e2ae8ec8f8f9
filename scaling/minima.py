"""The fewest steps of a search, and an interval for those of other searches of the same size.

A search of n trials records the fewest steps of all. `fewest_interval` is for theta, the median of
that number over searches of n trials drawn from the same space: F(theta) = 1 - 2^(-1/n), where F is
the distribution of a trial's steps, including trials that never reach the goal.

Upper end: an order statistic, for any F. The number of trials at or below theta is Binomial(n,
F(theta)), and the j-th fewest steps are below theta if there are j of them: for j = 4 in 0.6% of
searches.

Lower end: theta is below all trials half the time, so this end relies on a model of the lower tail,
F(s) ~ c s^(1 / sigma) (Weissman 1978, doi:10.1080/01621459.1978.10480104). With X_1 <= X_2 <= ...
the logs of the steps, X_i = mu + sigma log Gamma_i, with Gamma_i the arrivals of a Poisson process
of rate 1, and theta is at Gamma = log 2; the spacings i (X_{i+1} - X_i) are independent and
exponential with mean sigma (Renyi 1953). The distribution of

    T = (X_1 - log theta) / sigma_hat,    sigma_hat = the mean of the first k spacings

therefore depends on k alone, and the end is X_1 minus a quantile of T times sigma_hat. It is
conservative where the lower tail is thinner than a power of s, as with a bound or a log-normal, and
too high where the tail is heavier.

Above X_1 the crossings are a Yule process of rate 1 / sigma. Where training stops before SPACINGS
more of them, k is the number observed and sigma_hat the sum of the spacings, including the censored
one, over k.

Measured by `benchmarks/minima_coverage.py`, 1,000 searches of 8 to 64 trials in each of 832
settings: the coverage of theta by the 95% interval is 90 to 100% (median over settings 99%), and 86
to 100% among the searches with an upper end where half have one; lowest with log-t3 tails. That of
the mean log of the fewest steps is 82 to 100%, below 85% only with log-t3 tails. The percentile
bootstrap of the minimum covers theta in about half of the searches, since no resample has fewer
steps than the search; an m out of n bootstrap with m = n / 4, centred on the fewest steps, in 70%
or more, often without a lower end.
"""

import functools
import math
from collections.abc import Iterable, Sequence

import numpy as np
import scipy

from scaling.errors import UserError

SPACINGS = 6  # more would estimate sigma better, but farther from the minimum
DRAWS = 100_000  # of T, whose 95% quantile is then one of 94.9 to 95.1%


def fewest_interval(
    steps: Sequence[float | None],
    *,
    until: float = math.inf,
    before: float | None = None,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Interval of the median of the fewest steps over searches with the same number of trials.

    Args:
      steps: per trial; None, NaN or inf where it missed the goal or diverged.
      until: the step to which every trial without a crossing was trained; inf if there is none.
        Crossings after it are left out, since others may be missing there.
      before: the evaluation before the fewest steps. A crossing lies between two evaluations, whose
        ratio is assumed to be that of these two everywhere and their distance at least one step;
        ties are spread evenly between them.
      confidence: of both ends together; the upper one takes at most half of the error.

    Returns:
      (low, high). low is below the fewest steps, and 0 where fewer than two trials reached the
      goal; high is inf where fewer than four did (of nine trials or fewer, than three).

    Raises:
      UserError: there are no trials, one has no positive number of steps, or the confidence is not
        between 0 and 1.
    """
    trials = np.asarray(steps, float).ravel()
    if not trials.size:
        raise UserError("There are no trials; pass at least one.")
    if (trials <= 0).any():
        raise UserError(f"One of the steps is {trials[trials <= 0][0]:g}; they must be positive.")
    if not 0 < confidence < 1:
        raise UserError(f"confidence is {confidence}; it must be between 0 and 1.")
    crossed = np.sort(trials[np.isfinite(trials) & (trials <= until)])
    place, share = _upper_place(trials.size, confidence)
    high = float(crossed[place - 1]) if place <= crossed.size else math.inf
    first, total, spacings = _tail(crossed, before, until)
    if spacings < 1:
        return 0.0, high
    return math.exp(first - _pivot(spacings, share) * total / spacings), high


def noise_of(
    searches: Iterable[tuple[Sequence[float | None], float | None, float]],
) -> tuple[float, float]:
    """(sd, degrees of freedom) of the log of the fewest steps of one search, pooled over all.

    The log of Gamma_1 has variance pi^2 / 6, so that of the fewest steps is sigma^2 pi^2 / 6. An
    estimate of sigma from k spacings has variance sigma^2 / k. Searches that were stopped before
    SPACINGS of them count together, those that were stopped before the first one included.

    Args:
      searches: (steps of its trials, the evaluation before the fewest, the step until which all
        were trained) of each, as in `fewest_interval`.

    Returns:
      (nan, 0) where no search has two trials that reached the goal.
    """
    sums = [(0.0, 0)]  # the first is of all searches that were stopped
    for steps, before, until in searches:
        trials = np.asarray(steps, float)
        crossed = np.sort(trials[np.isfinite(trials) & (trials <= until)])
        _, *own = _tail(crossed, before, until)
        if own[1] < SPACINGS and until < math.inf:
            sums[0] = sums[0][0] + own[0], sums[0][1] + own[1]
        else:
            sums.append(own)
    totals, counts = np.array([each for each in sums if each[1]], float).reshape(-1, 2).T
    if not counts.size:
        return math.nan, 0.0
    variance = np.average(totals**2 / (counts * (counts + 1)), weights=counts) * math.pi**2 / 6
    return math.sqrt(variance), float(counts.sum()) / 2


def _tail(crossed, before, until=math.inf):
    """(X_1, sum of spacings, their number k) of sorted crossings, censored at `until`."""
    if not crossed.size:
        return math.nan, 0.0, 0
    spacings = min(SPACINGS, crossed.size - 1)
    logs = np.log(_spread(crossed, before))[: spacings + 1]
    total = float(np.diff(logs) @ np.arange(1, spacings + 1))
    if spacings < SPACINGS and until < math.inf:
        total += crossed.size * (math.log(until) - float(logs[-1]))
    return float(logs[0]), total, spacings


def _spread(crossed, before):
    """Sorted crossings [n], each moved between its evaluation and the one before."""
    first = crossed[0]
    share = 0.0 if before is None or first - before <= 1 else 1 - before / first
    width = np.minimum(np.maximum(1.0, share * crossed), crossed)
    start, end = (np.searchsorted(crossed, crossed, side) for side in ("left", "right"))
    rank = np.arange(1, crossed.size + 1) - start  # among ties
    return crossed - width * (1 - rank / (end - start + 1))


@functools.cache
def _upper_place(trials, confidence):
    """(rank of the upper end, error probability left to the lower end)."""
    places = np.arange(1, trials + 2)  # the last stands for no upper end
    misses = scipy.stats.binom.sf(places - 1, trials, 1 - 2 ** (-1 / trials))
    index = int(np.argmax(misses <= (1 - confidence) / 2))
    return int(places[index]), float(1 - confidence - misses[index])


@functools.cache
def _pivot(spacings, share):
    """The upper `share` quantile of T for this number of spacings."""
    # NumPy guarantees the stream of RandomState across versions.
    arrivals = np.random.RandomState(0).exponential(size=(DRAWS, spacings + 1)).cumsum(1)
    logs = np.log(arrivals)
    sigma = np.diff(logs) @ np.arange(1, spacings + 1) / spacings
    return float(np.quantile((logs[:, 0] - math.log(math.log(2))) / sigma, 1 - share))
