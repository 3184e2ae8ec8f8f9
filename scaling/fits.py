"""Steps to the goal against batch size: how the curve bends, its two turns, and how sure they are.

McCandlish et al. 2018 (arXiv:1812.06162), eq. 2.11 and 2.12 at a fixed batch B, is a hyperbola:

    S(B) = S_min (1 + B_crit / B) = S_min + E_min / B,    E_min = S_min B_crit

S_min is the steps that an unlimited batch would need, E_min the examples that an unlimited number
of steps would need; at B = B_crit both are twice their minimum. Measured curves often bend more
sharply between the two asymptotes than that, and some more slowly. So the curve has a bend,

    S(B) = S_min (1 + (B_crit / B)^bend)^(1 / bend)

and is the hyperbola at bend 1. `b_crit`, `s_min` and `e_min` are those of the hyperbola: the
paper's numbers, for comparison. The two turns of the curve, in the sense of Shallue et al. 2018
(arXiv:1811.03600), are those of the bent curve, and are two measurements:

    end of perfect scaling   S(B) = 1.2 E_min / B     at B = B_crit (1.2^bend - 1)^(1 / bend)
    maximum useful batch     S(2B) = 0.9 S(B)

The first is also the critical batch size of Zhang et al. 2024 (arXiv:2410.21676): there the goal
takes 20% more examples than linear scaling would. On the hyperbola the turns lie at 0.2 and 4
B_crit; at bend 2.35 at 0.77 and 1.5.

The curve shown is a compromise: least squares with a penalty on log bend, as if bends scattered
around 1 with a standard deviation of 0.7, about what published curves do. It errs less than the
hyperbola where that is wrong, and less than the best bend where few points determine it. Intervals
take no such side. They are profile likelihood with an F statistic over all bends from 0.4 to 5:
they hold every curve whose sum of squares is at most the smallest one times 1 + F(1, n - 3) /
(n - 3), n the batch sizes that reached the goal. Three batch sizes leave the turns without bounds.
Those of the hyperbola's numbers count n - 2. The noise is estimated from the same few points and
the F quantile pays for that. Where the data lie on one asymptote only, an interval runs on to 0 or
infinity.

`doubts` says where the hyperbola is not the curve: an F test of bend 1, of slope -1 at small
batches, and of the largest batch against the others, for steps may rise there again (then it is
left out); and, where the noise of the points is given, of the scatter around the curve.

How often the intervals of the turns hold them, or a doubt is said, on curves of any bend, of slope
-0.85 and with a rise at the end, is measured by `benchmarks/turns_coverage.py`; the coverage of the
hyperbola's numbers on hyperbolas by `benchmarks/fits_coverage.py`: 93 to 98% under normal noise, 94
to 98% under heavy tails and with censored points, down to 86% where the noise is three times as
large at one end.
"""

import dataclasses
import functools
import math

import numpy as np
import scipy
from numpy.typing import ArrayLike

from scaling.curves import (
    BENDS,
    LEAST_NOISE,
    SMALLEST_SD,
    Array,
    Curve,
    Interval,
    Problem,
    Rise,
    bent,
    hyperbola,
    log_flat,
    rise_of,
    slope_of,
)
from scaling.errors import UserError

PERFECT = "perfect scaling"
DIMINISHING = "diminishing returns"
MAXIMAL = "maximal data parallelism"
PERFECT_END, MAX_USEFUL = "end of perfect scaling", "maximum useful batch"  # the two turns

# Levels of the tests behind `doubts`; that of the bend is the one of its interval.
ALPHA = {"bend": 0.05, "slope": 0.005, "rise": 0.002, "scatter": 0.01}


@dataclasses.dataclass(frozen=True)
class Turn:
    """A batch size at which the curve changes character."""

    batch: float  # may be 0 or inf
    interval: Interval  # likewise
    where: str  # "inside" the reached batch sizes, "above" the largest or "below" the smallest
    measured: Interval  # smallest and largest reached batch size
    confidence: float

    def describe(self) -> str:
        """Such as "about 256 (95%: 180 to 410)" or "not reached up to 1,024 (95%: above 700)"."""
        text = {
            "inside": f"about {rounded(self.batch)}",
            "above": f"not reached up to {self.measured[1]:,.0f}",
            "below": f"below {self.measured[0]:,.0f}, the smallest measured",
        }[self.where]
        return f"{text} ({self.interval_text})"

    @property
    def interval_text(self) -> str:
        """Such as "95%: 180 to 410" or "95%: above 700".

        An end far beyond the measured batch sizes is not a number that anyone measured: it is
        left out where it opens the interval, and the measured one instead where it closes it.
        """
        (low, high), (smallest, largest) = self.interval, self.measured
        low = 0 if low < smallest / 2 else min(low, largest)
        high = math.inf if high > 2 * largest else max(high, smallest)
        return interval_text((low, high), self.confidence, "any size")


@dataclasses.dataclass(frozen=True)
class StepsFit:
    """Steps against batch size, fitted; see the top of this file.

    Attributes:
      hyperbola: the curve of bend 1.
      rises: the batch sizes that were left out of the fit, from the largest on.
      noise: (sd, degrees of freedom) of log S of one point, if given.
    """

    hyperbola: Curve
    rises: tuple[Rise, ...]
    noise: tuple[float, float] | None
    confidence: float
    perfect_within: float
    least_saving: float

    @functools.cached_property
    def _bent(self) -> tuple[Curve, float]:
        """The bent curve, and the least sum of squares of any bend."""
        if self.problem.points < 4:
            region = dataclasses.replace(self.hyperbola.region, unbounded=True)
            return dataclasses.replace(self.hyperbola, region=region), math.nan
        return bent(self.problem, self.confidence)

    @property
    def problem(self) -> "Problem":
        """The points."""
        return self.hyperbola.problem

    @property
    def curve(self) -> Curve:
        """The bent curve, on which the turns lie."""
        return self._bent[0]

    @property
    def bend_interval(self) -> Interval:
        """Of its exponent, within `BENDS`."""
        region = self.curve.region
        return BENDS if region.unbounded else (float(region.bends[0]), float(region.bends[-1]))

    @property
    def bend_p(self) -> float | None:
        """P value of the F test of bend 1; None with three batch sizes."""
        free, best = self.problem.points - 3, self._bent[1]
        if free < 1:
            return None
        worse = float(self.problem.squares(self.hyperbola.turn)) - best
        return float(scipy.stats.f.sf(worse / max(best / free, SMALLEST_SD**2), 1, free))

    @property
    def scatter_p(self) -> float | None:
        """P value of the scatter around the curve under the noise given; None without."""
        free = self.problem.points - 3
        if free < 1 or self.noise is None:
            return None
        sd, freedom = self.noise
        variance = self._bent[1] / free
        return float(scipy.stats.f.sf(variance / max(sd, LEAST_NOISE) ** 2, free, freedom))

    @property
    def measured(self) -> Interval:
        """Smallest and largest batch size in the fit."""
        return self.problem.measured

    @property
    def b_crit(self) -> float:
        """Of the hyperbola, examples."""
        return self.hyperbola.b_crit

    @property
    def b_crit_interval(self) -> Interval:
        """Of the hyperbola."""
        return self.hyperbola.at(np.zeros_like)[1]

    @property
    def s_min(self) -> float:
        """Of the hyperbola, steps."""
        return float(np.exp(self.hyperbola.level + log_flat(self.hyperbola.turn)))

    @property
    def s_min_interval(self) -> Interval:
        """Of the hyperbola."""
        return self.hyperbola.region.interval(log_flat)

    @property
    def e_min(self) -> float:
        """Of the hyperbola, s_min * b_crit, examples."""
        centre = self.hyperbola.problem.centre
        return float(centre * np.exp(self.hyperbola.level + log_flat(-self.hyperbola.turn)))

    @property
    def e_min_interval(self) -> Interval:
        """Of the hyperbola."""
        centre = math.log(self.hyperbola.problem.centre)
        return self.hyperbola.region.interval(lambda turn: log_flat(-turn) + centre)

    @property
    def residual_sd(self) -> float:
        """Of log S around the hyperbola, with n - 2 degrees of freedom."""
        return self.hyperbola.residual_sd

    @property
    def scatter(self) -> float:
        """Of log S around the bent curve, with n - 3 degrees of freedom."""
        return self.curve.residual_sd

    def steps(self, batch: ArrayLike) -> Array:
        """The bent curve at `batch`, any shape."""
        return self.curve.steps(batch)

    def band(self, batch: ArrayLike) -> tuple[Array, Array]:
        """Its interval, see `Curve.band`."""
        return self.curve.band(batch)

    @property
    def perfect_scaling_end(self) -> Turn:
        """Where steps exceed `perfect_within` times the slope -1 asymptote e_min / B.

        There S(B) B / e_min = (1 + (B / b_crit)^bend)^(1 / bend).
        """
        return self._turn(0)

    @property
    def max_useful_batch(self) -> Turn:
        """Where doubling the batch saves less than a share `least_saving` of the steps.

        With u = (b_crit / B)^bend, (S(2B) / S(B))^bend = (1 + u / 2^bend) / (1 + u).
        """
        return self._turn(1)

    def _turn(self, which: int) -> Turn:
        offset = lambda bend: offsets(bend, self.perfect_within, self.least_saving)[which]
        batch, interval = self.curve.at(offset)
        if self.curve.region.unbounded:
            interval = (0.0, math.inf)
        smallest, largest = self.measured
        where = "above" if batch > largest else "below" if batch < smallest else "inside"
        return Turn(batch, interval, where, self.measured, self.confidence)

    def overhead_batch(self, reference: float) -> float:
        """Where the goal takes `perfect_within` times the examples that it takes at `reference`.

        Of the hyperbola, examples: b_crit (perfect_within (1 + reference / b_crit) - 1), the
        critical batch size of Zhang et al. 2024 (arXiv:2410.21676) as they measure it, from a
        small batch that was run and not from the limit of small batches.
        """
        return self.perfect_within * (self.b_crit + reference) - self.b_crit

    @functools.cached_property
    def slope(self) -> tuple[float, Interval, float] | None:
        """(a, interval, P value of a = 1) of steps as B^-a at small batches, for any bend; None
        with fewer than six batch sizes."""
        return slope_of(self.problem, self.confidence)

    @property
    def doubts(self) -> list[str]:
        """Why the hyperbola is not the curve: a sentence each, or nothing."""
        found = []
        if self.bend_p is not None and self.bend_p < ALPHA["bend"]:
            low, high = (rounded(end) for end in self.bend_interval)
            low = "0.4 or less" if self.bend_interval[0] <= BENDS[0] * 1.01 else low
            high = "5 or more" if self.bend_interval[1] >= BENDS[1] * 0.99 else high
            how = "sharply" if self.curve.bend > 1 else "slowly"
            found.append(
                f"The curve bends more {how} than the hyperbola S_min (1 + B_crit / B): its "
                f"exponent is {rounded(self.curve.bend)} ({100 * self.confidence:g}%: {low} to "
                f"{high}) and not 1 (P = {self.bend_p:.2g})."
            )
        if self.slope is not None and self.slope[2] < ALPHA["slope"]:
            value, ends, p_value = self.slope
            found.append(
                f"At small batches steps fall as B^-{rounded(value)} ({100 * self.confidence:g}%: "
                f"{rounded(ends[0])} to {rounded(ends[1])}) and not as 1 / B (P = {p_value:.2g})."
            )
        for rise in self.rises:
            found.append(
                f"Steps rise again at batch {rise.batch:,.0f}: {rise.steps:,.0f}, where the "
                f"smaller ones lead to expect {rounded(rise.expected)} (P = {rise.p_value:.1g}); "
                "it is left out of the fit."
            )
        if self.scatter_p is not None and self.scatter_p < ALPHA["scatter"]:
            found.append(
                f"The points scatter by {self.scatter:.0%} around the curve, more than "
                f"their own noise explains (P = {self.scatter_p:.1g}), so no curve of this form "
                "is theirs."
            )
        return found


def fit_steps(
    batch_sizes: ArrayLike,
    steps: ArrayLike,
    *,
    censored_at: ArrayLike | None = None,
    noise: tuple[float, float] | None = None,
    confidence: float = 0.95,
    perfect_within: float = 1.2,
    least_saving: float = 0.1,
) -> StepsFit:
    """Least squares of log S on the curve, over all of 0 <= B_crit <= inf.

    Args:
      batch_sizes: [n], each once, in any order.
      steps: [n] steps to the goal; None, NaN or inf where it was not reached.
      censored_at: [n] steps tried without success; None or NaN where the goal was reached. Such a
        point says S(B) > censored_at: its residual is log(censored_at / S(B)) where the fitted
        curve lies below it, and 0 elsewhere. A batch size with neither number says nothing and is
        left out. Censored points count neither as degrees of freedom nor as measured range.
      noise: (sd, degrees of freedom) of log S of one point, as repeated measurements tell it.
      confidence: of every interval, two-sided, each by itself.
      perfect_within: steps over slope -1 at which perfect scaling ends, above 1.
      least_saving: share of the steps that doubling the largest useful batch saves, in (0, 0.5).

    Raises:
      UserError: fewer than 3 batch sizes reached the goal, a value is not positive, lengths
        differ, a batch size is repeated, or a threshold is out of range.
    """
    _check_share("confidence", confidence, 0, 1)
    _check_share("perfect_within", perfect_within, 1, math.inf)
    _check_share("least_saving", least_saving, 0, 0.5)
    problem, rises = Problem.of(batch_sizes, steps, censored_at), []
    while (rise := rise_of(problem)) and rise.p_value < ALPHA["rise"]:
        rises.append(rise)
        problem = problem.without_largest()
    return StepsFit(
        hyperbola=hyperbola(problem, confidence),
        rises=tuple(rises),
        noise=noise,
        confidence=confidence,
        perfect_within=perfect_within,
        least_saving=least_saving,
    )


def read_off(
    batch_sizes: ArrayLike,
    steps: ArrayLike,
    *,
    perfect_within: float = 1.2,
    least_saving: float = 0.1,
) -> tuple[Interval, Interval]:
    """Between which measured batch sizes the two turns lie, by the points alone.

    The first: from the last batch whose examples are within `perfect_within` times the fewest, to
    the one after it. The second: from the last batch after which a doubling saves a share
    `least_saving`, to the one after it. 0 and inf stand for what lies outside the points.

    Args:
      batch_sizes, steps: [n], of the batch sizes that reached the goal.
    """
    order = np.argsort(batch_sizes)
    batch, steps = (np.asarray(values, float)[order] for values in (batch_sizes, steps))
    examples = batch * steps
    saving = 1 - (steps[1:] / steps[:-1]) ** (1 / np.log2(batch[1:] / batch[:-1]))
    holds = examples <= perfect_within * examples.min(), saving >= least_saving
    turns = []
    for ends, held in zip((batch, batch[:-1]), holds, strict=True):
        last = int(held.nonzero()[0][-1]) if held.any() else -1
        low, high = (ends[at] if 0 <= at < ends.size else None for at in (last, last + 1))
        turns.append((low or 0.0, high or math.inf))
    return turns[0], turns[1]


def regimes(fit: StepsFit, batch: ArrayLike) -> list[str]:
    """The regime of each batch, [n], from the two turns of the fit (values, not intervals)."""
    perfect, useful = fit.perfect_scaling_end.batch, fit.max_useful_batch.batch
    return [
        PERFECT if size <= perfect else DIMINISHING if size <= useful else MAXIMAL
        for size in np.atleast_1d(batch)
    ]


def offsets(bend: ArrayLike, perfect_within: float, least_saving: float) -> tuple[Array, Array]:
    """log(B / b_crit) of the two turns at each bend, any shape."""
    left = (1 - least_saving) ** bend
    perfect = np.log(perfect_within**bend - 1) / bend
    return perfect, -np.log((1 - left) / (left - 0.5**bend)) / bend


def _check_share(name: str, value: float, low: float, high: float) -> None:
    if not low < value < high:
        limit = f"above {low}" if high == math.inf else f"between {low} and {high}"
        raise UserError(f"{name} is {value}; it must be {limit}.")


def interval_text(interval: Interval, confidence: float, everything: str) -> str:
    """Such as "95%: 1.2 to 3.9", "95%: above 7.2", or `everything` for 0 to infinity."""
    low, high = interval
    span = f"{rounded(low)} to {rounded(high)}"
    if high == math.inf:
        span = f"above {rounded(low)}" if low > 0 else everything
    elif low == 0:
        span = f"below {rounded(high)}"
    return f"{100 * confidence:g}%: {span}"


def rounded(value: float) -> str:
    """Three digits, thousands separated: 0.123, 25.6, 1,020."""
    value = float(f"{value:.3g}")
    return f"{value:,.0f}" if value >= 100 else f"{value:g}"
