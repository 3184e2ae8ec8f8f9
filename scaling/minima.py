"""The fewest steps of a search, and the interval of what searches of as many trials come to.

A search of n trials records the fewest steps of all. Another search of n trials, drawn from the
same space, records another number. `fewest_interval` is about the median of that number over such
searches, theta: F(theta) = 1 - 2^(-1/n), where F is the distribution of a trial's steps, trials
that never reach the goal included.

Upper end: an order statistic, whatever F. The trials at or below theta are Binomial(n, F(theta)),
and the j-th fewest steps are below theta where there are j of them: for j = 4 in 0.6% of searches.

Lower end: theta is below all trials half the time, so this end rests on a model of the lower tail,
F(s) ~ c s^(1 / sigma) (Weissman 1978, doi:10.1080/01621459.1978.10480104). With X_1 <= X_2 <= ...
the logs of the steps, X_i = mu + sigma log Gamma_i, Gamma_i the arrivals of a Poisson process of
rate 1, and theta is where that is log 2; the spacings i (X_{i+1} - X_i) are independent and
exponential with mean sigma (Renyi 1953). So the distribution of

    T = (X_1 - log theta) / sigma_hat,    sigma_hat = the mean of the first k spacings

depends on k alone, and the end is X_1 less a quantile of T times sigma_hat. Where the lower tail is
thinner than a power of s, as with a bound or a log-normal, the end is lower than it need be; where
it is heavier, too high.

Above X_1 the crossings are a Yule process of rate 1 / sigma. Where training stops before SPACINGS
more of them, k is the number seen and sigma_hat the sum of the spacings, the one that was cut short
included, over k.

Measured by `benchmarks/minima_coverage.py`, 1,000 searches of 8 to 64 trials in each of 832
settings: the 95% interval holds theta in 90 to 100% of the searches (99% in the middle one of the
settings), and in 86 to 100% of those with an upper end where half have one; least with log-t3
tails. It holds the mean log of the fewest steps in 82 to 100%, below 85% with log-t3 tails alone.
Percentiles of the minimum of resampled trials hold theta in about half, for no resample has fewer
steps than the search had; where those of a quarter as many trials are put around the fewest steps,
they hold it in 70% or more and often have no lower end.
"""

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy

from scaling.errors import UserError

SPACINGS = 6  # more would tell sigma better, but of a tail further from the minimum
DRAWS = 100_000  # of T: a quantile of 95% is one of 94.9 to 95.1%


def fewest_interval(
    steps: Sequence[float | None],
    *,
    until: float = math.inf,
    before: float | None = None,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Interval of the median, over searches of as many trials, of the fewest steps.

    Args:
      steps: per trial; None, NaN or inf where it missed the goal or diverged.
      until: the step to which every trial was trained that might yet have reached the goal; inf if
        none might. Crossings after it are left out, for others are missing there.
      before: the evaluation before the fewest steps. A crossing lies between two evaluations: all
        are taken to be as far apart as these two in proportion, and by at least one step; trials
        that tie are spread evenly between them.
      confidence: of both ends together; the upper one misses at most half as often as both may.

    Returns:
      (low, high). low is below the fewest steps, and 0 where fewer than two trials reached the
      goal; high is inf where fewer than four did (of nine trials or fewer, than three).

    Raises:
      UserError: there are no trials, one has no positive number of steps, or the confidence is not
        between 0 and 1.
    """
    trials = np.asarray(steps, float).ravel()
    if not trials.size:
        raise UserError("There are no trials to take the minimum of; pass at least one.")
    if (trials <= 0).any():
        raise UserError(f"One of the steps is {trials[trials <= 0][0]:g}; they must be positive.")
    if not 0 < confidence < 1:
        raise UserError(f"confidence is {confidence}; it must be between 0 and 1.")
    crossed = np.sort(trials[np.isfinite(trials) & (trials <= until)])
    place, share = _upper_place(trials.size, confidence)
    high = float(crossed[place - 1]) if place <= crossed.size else math.inf
    first, sigma, spacings = _tail(crossed, before, until)
    if spacings < 1:
        return 0.0, high
    return math.exp(first - _pivot(spacings, share) * sigma), high


def noise_of(searches: Iterable[tuple[Sequence[float | None], float]]) -> tuple[float, float]:
    """(sd, degrees of freedom) of the log of the fewest steps of one search, by all of them.

    The log of Gamma_1 has variance pi^2 / 6, so that of the fewest steps is sigma^2 pi^2 / 6. An
    estimate of sigma from k spacings has variance sigma^2 / k.

    Args:
      searches: (steps of its trials, the evaluation before the fewest) of each, as in
        `fewest_interval`.

    Returns:
      (nan, 0) where no search has two trials that reached the goal.
    """
    known = []
    for steps, before in searches:
        trials = np.asarray(steps, float)
        _, sigma, spacings = _tail(np.sort(trials[np.isfinite(trials)]), before)
        if spacings:
            known.append((sigma**2 * spacings / (spacings + 1), spacings))
    if not known:
        return math.nan, 0.0
    squares, weights = np.array(known).T
    variance = np.average(squares, weights=weights) * math.pi**2 / 6
    return math.sqrt(variance), float(weights.sum()) / 2


def _tail(crossed, before, until=math.inf):
    """(X_1, sigma_hat, k) of sorted crossings, of training that ended at `until`."""
    spacings = min(SPACINGS, crossed.size - 1)
    if spacings < 1:
        return math.nan, math.nan, 0
    logs = np.log(_spread(crossed, before))[: spacings + 1]
    total = float(np.diff(logs) @ np.arange(1, spacings + 1))
    if spacings < SPACINGS and until < math.inf:
        total += crossed.size * (math.log(until) - float(logs[-1]))
    return float(logs[0]), total / spacings, spacings


def interval_of(result: Mapping[str, Any]) -> tuple[int, int] | None:
    """The 95% interval of a point's result.json, in whole steps from 1 on.

    Returns:
      None where the goal was not reached, or by too few trials for an upper end: their lower end
      would rest on the distance between two or three of them.
    """
    if result["status"] != "reached":
        return None
    trials = result["trials"]
    missed = [trial["stopped_at_step"] for trial in trials if trial["outcome"] == "missed"]
    low, high = fewest_interval(
        [trial["steps_to_target"] for trial in trials],
        until=min(missed, default=math.inf),
        before=result["resolution"][0],
    )
    return None if high == math.inf else (max(1, math.floor(low)), int(high))


def _spread(crossed, before):
    """Sorted crossings [n], each moved to its place between its evaluation and the one before."""
    first = crossed[0]
    share = 0.0 if before is None or first - before <= 1 else 1 - before / first
    width = np.minimum(np.maximum(1.0, share * crossed), crossed)
    start, end = (np.searchsorted(crossed, crossed, side) for side in ("left", "right"))
    rank = np.arange(1, crossed.size + 1) - start  # among those that tie
    return crossed - width * (1 - rank / (end - start + 1))


@functools.cache
def _upper_place(trials, confidence):
    """Which of the fewest steps is the upper end, and how often the lower one may miss."""
    places = np.arange(1, trials + 2)  # the last: no such trial
    misses = scipy.stats.binom.sf(places - 1, trials, 1 - 2 ** (-1 / trials))
    index = int(np.argmax(misses <= (1 - confidence) / 2))
    return int(places[index]), float(1 - confidence - misses[index])


@functools.cache
def _pivot(spacings, share):
    """What T of so many spacings exceeds with probability `share`."""
    # This generator's numbers are the same in every version of NumPy.
    arrivals = np.random.RandomState(0).exponential(size=(DRAWS, spacings + 1)).cumsum(1)
    logs = np.log(arrivals)
    sigma = np.diff(logs) @ np.arange(1, spacings + 1) / spacings
    return float(np.quantile((logs[:, 0] - math.log(math.log(2))) / sigma, 1 - share))
