"""Steps to the goal against batch size: the fitted curve, its two breakpoints, and their intervals.

McCandlish et al. 2018 (arXiv:1812.06162), eq. 2.11 and 2.12 at a fixed batch B, is a hyperbola:

    S(B) = S_min (1 + B_crit / B) = S_min + E_min / B,    E_min = S_min B_crit

S_min is the number of steps at an unlimited batch, E_min the number of examples at an unlimited
number of steps; at B = B_crit both are twice their minimum. Many measured curves bend more sharply
between the two asymptotes, some more gradually. The model therefore has a bend,

    S(B) = S_min (1 + (B_crit / B)^bend)^(1 / bend)

and is the hyperbola at bend 1. `b_crit`, `s_min` and `e_min` are those of the hyperbola, for
comparison with the paper. The two breakpoints, in the sense of Shallue et al. 2018
(arXiv:1811.03600), are those of the curve with the fitted bend:

    end of perfect scaling   S(B) = 1.2 E_min / B     at B = B_crit (1.2^bend - 1)^(1 / bend)
    largest useful batch     S(2B) = 0.9 S(B)

The first is also the critical batch size of Zhang et al. 2024 (arXiv:2410.21676): there the goal
takes 20% more examples than linear scaling would. On the hyperbola they lie at 0.2 and 4 B_crit; at
bend 2.35, at 0.77 and 1.5.

The curve shown is least squares with a penalty on log bend, a normal prior around 1 with standard
deviation 0.7, about the scatter of published curves. Its error is smaller than the hyperbola's
where that is wrong, and smaller than the unpenalised bend's where few points determine it. The
intervals have no penalty. They are profile likelihood with an F statistic over all bends from 0.4
to 5: they contain every curve whose sum of squares is at most the smallest one times
1 + F(1, n - 3) / (n - 3), n the batch sizes that reached the goal. With three batch sizes the
breakpoints are unbounded. The hyperbola's own intervals have n - 2 degrees of freedom. The F
quantile accounts for estimating the noise from the same few points. Where the data lie on one
asymptote only, an interval extends to 0 or infinity.

`doubts` lists evidence against the hyperbola: F tests of bend 1, of slope -1 at small batches, of
the largest batch against the others, since steps may rise again there (it is then left out), and,
where the noise of the points is given, of the scatter around the curve.

Coverage (`benchmarks/breakpoints_coverage.py`, 300 draws, 168 settings: bends 0.5 to 4, slope
-0.85, a rise at the end, 3 to 12 batch sizes, noise of 5 to 40%): both intervals contain their
breakpoint or a doubt is listed in 89 to 100% of draws, but for 78% where steps rise at the last two
of twelve batch sizes under 8% noise. Under bend 1 a doubt is listed in at most 9%. The hyperbola's
parameters on hyperbolas (`benchmarks/fits_coverage.py`): 93 to 98% under normal noise, 94 to 98%
with heavy tails or censored points, down to 86% where the noise is three times as large at one end.
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
PERFECT_END, MAX_USEFUL = "end of perfect scaling", "largest useful batch"  # the breakpoints

# Significance levels of the tests in `doubts`; the bend's matches its interval.
ALPHA = {"bend": 0.05, "slope": 0.005, "rise": 0.002, "scatter": 0.01}


@dataclasses.dataclass(frozen=True)
class Breakpoint:
    """A batch size at which the curve changes character."""

    batch: float  # may be 0 or inf
    interval: Interval  # likewise
    where: str  # "inside" the reached batch sizes, "above" the largest or "below" the smallest
    measured: Interval  # smallest and largest reached batch size
    confidence: float

    def describe(self) -> str:
        """Such as "about 256 (95%: 180 to 410)", "not reached up to 1,024 (95%: above 700)", or
        that the data do not determine it."""
        if not self.determined:
            return f"not determined by these measurements ({self.interval_text})"
        text = {
            "inside": f"about {rounded(self.batch)}",
            "above": f"not reached up to {self.measured[1]:,.0f}",
            "below": f"below {self.measured[0]:,.0f}, the smallest measured",
        }[self.where]
        return f"{text} ({self.interval_text})"

    @property
    def determined(self) -> bool:
        """Whether the measurements say anything of it."""
        return self._ends != (0, math.inf)

    @property
    def interval_text(self) -> str:
        """Such as "95%: 180 to 410" or "95%: above 700".

        A low end far below the measured batch sizes, or a high end far above them, would be an
        extrapolation and is omitted; ends beyond the opposite side are clipped to the range.
        """
        return interval_text(self._ends, self.confidence, "any size")

    @property
    def _ends(self) -> Interval:
        (low, high), (smallest, largest) = self.interval, self.measured
        low = 0 if low < smallest / 2 else min(low, largest)
        return low, math.inf if high > 2 * largest else max(high, smallest)


@dataclasses.dataclass(frozen=True)
class StepsFit:
    """Steps against batch size, fitted; see the module docstring.

    Attributes:
      hyperbola: the curve of bend 1.
      rises: the batch sizes left out of the fit, largest first.
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
        """The curve with the fitted bend, and the least sum of squares of any bend."""
        if self.problem.points < 4:
            region = dataclasses.replace(self.hyperbola.region, unbounded=True)
            return dataclasses.replace(self.hyperbola, region=region), math.nan
        return bent(self.problem, self.confidence)

    @property
    def problem(self) -> "Problem":
        """The data."""
        return self.hyperbola.problem

    @property
    def curve(self) -> Curve:
        """The curve with the fitted bend, which has the breakpoints."""
        return self._bent[0]

    @property
    def bend_interval(self) -> Interval:
        """Interval of the bend, within `BENDS`."""
        region = self.curve.region
        return BENDS if region.unbounded else (float(region.bends[0]), float(region.bends[-1]))

    @property
    def bend_p(self) -> float | None:
        """P value of the F test of bend 1; None for three batch sizes."""
        dof, best = self.problem.points - 3, self._bent[1]
        if dof < 1:
            return None
        excess = float(self.problem.squares(self.hyperbola.log_b_crit)) - best
        return float(scipy.stats.f.sf(excess / max(best / dof, SMALLEST_SD**2), 1, dof))

    @property
    def scatter_p(self) -> float | None:
        """P value of the scatter around the curve under the given noise; None without it."""
        dof = self.problem.points - 3
        if dof < 1 or self.noise is None:
            return None
        sd, noise_dof = self.noise
        variance = self._bent[1] / dof
        return float(scipy.stats.f.sf(variance / max(sd, LEAST_NOISE) ** 2, dof, noise_dof))

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
        return float(np.exp(self.hyperbola.level + log_flat(self.hyperbola.log_b_crit)))

    @property
    def s_min_interval(self) -> Interval:
        """Of the hyperbola."""
        return self.hyperbola.region.interval(log_flat)

    @property
    def e_min(self) -> float:
        """Of the hyperbola, s_min * b_crit, examples."""
        centre = self.hyperbola.problem.centre
        return float(centre * np.exp(self.hyperbola.level + log_flat(-self.hyperbola.log_b_crit)))

    @property
    def e_min_interval(self) -> Interval:
        """Of the hyperbola."""
        centre = math.log(self.hyperbola.problem.centre)
        return self.hyperbola.region.interval(lambda log_b_crit: log_flat(-log_b_crit) + centre)

    @property
    def residual_sd(self) -> float:
        """Of log S around the hyperbola, with n - 2 degrees of freedom."""
        return self.hyperbola.residual_sd

    @property
    def scatter(self) -> float:
        """Of log S around `curve`, with n - 3 degrees of freedom."""
        return self.curve.residual_sd

    def steps(self, batch: ArrayLike) -> Array:
        """`curve` at `batch`, any shape."""
        return self.curve.steps(batch)

    def band(self, batch: ArrayLike) -> tuple[Array, Array]:
        """Its interval, see `Curve.band`."""
        return self.curve.band(batch)

    @property
    def perfect_scaling_end(self) -> Breakpoint:
        """Where steps exceed `perfect_within` times the slope -1 asymptote e_min / B.

        There S(B) B / e_min = (1 + (B / b_crit)^bend)^(1 / bend).
        """
        return self._breakpoint(0)

    @property
    def max_useful_batch(self) -> Breakpoint:
        """Where doubling the batch saves less than a share `least_saving` of the steps.

        With u = (b_crit / B)^bend, (S(2B) / S(B))^bend = (1 + u / 2^bend) / (1 + u).
        """
        return self._breakpoint(1)

    def _breakpoint(self, which: int) -> Breakpoint:
        offset = lambda bend: offsets(bend, self.perfect_within, self.least_saving)[which]
        batch, interval = self.curve.at(offset)
        if self.curve.region.unbounded:
            interval = (0.0, math.inf)
        smallest, largest = self.measured
        where = "above" if batch > largest else "below" if batch < smallest else "inside"
        return Breakpoint(batch, interval, where, self.measured, self.confidence)

    def overhead_batch(self, reference: float) -> tuple[float, Interval]:
        """The batch, in examples, and its interval, at which the goal takes `perfect_within` times
        as many examples as at `reference`.

        Of the hyperbola: b_crit (perfect_within (1 + reference / b_crit) - 1), the critical batch
        size as Zhang et al. 2024 (arXiv:2410.21676) measure it, relative to a small batch that was
        run, not to the limit of small batches.
        """
        at = lambda b_crit: self.perfect_within * reference + (self.perfect_within - 1) * b_crit
        low, high = map(at, self.b_crit_interval)
        return at(self.b_crit), (low, high)

    @functools.cached_property
    def slope(self) -> tuple[float, Interval, float] | None:
        """(a, interval, P value of a = 1) of S ~ B^-a at small batches, for any bend; None for
        fewer than six batch sizes."""
        return slope_of(self.problem, self.confidence)

    @property
    def doubts(self) -> list[str]:
        """Evidence against the hyperbola, one sentence each."""
        sentences = []
        if self.bend_p is not None and self.bend_p < ALPHA["bend"]:
            low, high = (rounded(end) for end in self.bend_interval)
            low = "0.4 or less" if self.bend_interval[0] <= BENDS[0] * 1.01 else low
            high = "5 or more" if self.bend_interval[1] >= BENDS[1] * 0.99 else high
            how = "sharply" if self.curve.bend > 1 else "slowly"
            sentences.append(
                f"The curve bends more {how} than the hyperbola S_min (1 + B_crit / B): its "
                f"exponent is {rounded(self.curve.bend)} ({100 * self.confidence:g}%: {low} to "
                f"{high}), not 1 (P = {self.bend_p:.2g})."
            )
        if self.slope is not None and self.slope[2] < ALPHA["slope"]:
            value, ends, p_value = self.slope
            sentences.append(
                f"At small batches steps fall as B^-{rounded(value)} ({100 * self.confidence:g}%: "
                f"{rounded(ends[0])} to {rounded(ends[1])}), not as 1 / B (P = {p_value:.2g})."
            )
        for rise in self.rises:
            sentences.append(
                f"Steps rise again at batch {rise.batch:,.0f}: {rise.steps:,.0f}, where the "
                f"smaller batches predict {rounded(rise.expected)} (P = {rise.p_value:.1g}); this "
                "batch is left out of the fit."
            )
        if self.scatter_p is not None and self.scatter_p < ALPHA["scatter"]:
            sentences.append(
                f"The points scatter by {self.scatter:.0%} around the curve, more than their noise "
                f"explains (P = {self.scatter_p:.1g}); no curve of this form fits them."
            )
        return sentences


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
    """Least-squares fit of log S, over all of 0 <= B_crit <= inf.

    Args:
      batch_sizes: [n], distinct, in any order.
      steps: [n] steps to the goal; None, NaN or inf where it was not reached.
      censored_at: [n] steps tried without success; None or NaN where the goal was reached. Such a
        point is the bound S(B) > censored_at: its residual is log(censored_at / S(B)) where the
        curve lies below it, and 0 elsewhere. A batch size with neither number is left out.
        Censored points count neither as degrees of freedom nor as measured range.
      noise: (sd, degrees of freedom) of log S of one point, from repeated measurements.
      confidence: of every interval, two-sided and individual.
      perfect_within: ratio of steps to the slope -1 asymptote at which perfect scaling ends, > 1.
      least_saving: fraction of the steps that doubling the largest useful batch saves, in (0, 0.5).

    Raises:
      UserError: fewer than 3 batch sizes reached the goal, a value is not positive, lengths
        differ, a batch size is repeated, or an option is out of range.
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
    """The measured batch sizes on either side of each breakpoint, from the points alone.

    End of perfect scaling: between the last batch whose examples are within `perfect_within` times
    the fewest, and the next. Largest useful batch: between the last batch after which a doubling
    saves at least `least_saving`, and the next. 0 and inf where there is no such batch.

    Args:
      batch_sizes, steps: [n], of the batch sizes that reached the goal.
    """
    order = np.argsort(batch_sizes)
    batch, steps = (np.asarray(values, float)[order] for values in (batch_sizes, steps))
    examples = batch * steps
    saving = 1 - (steps[1:] / steps[:-1]) ** (1 / np.log2(batch[1:] / batch[:-1]))
    passed = examples <= perfect_within * examples.min(), saving >= least_saving
    intervals = []
    for ends, before in zip((batch, batch[:-1]), passed, strict=True):
        last = int(before.nonzero()[0][-1]) if before.any() else -1
        low, high = (ends[i] if 0 <= i < ends.size else None for i in (last, last + 1))
        intervals.append((low or 0.0, high or math.inf))
    return intervals[0], intervals[1]


def regimes(fit: StepsFit, batch: ArrayLike) -> list[str]:
    """The regime of each batch, [n], by the values of the two breakpoints."""
    perfect, useful = fit.perfect_scaling_end.batch, fit.max_useful_batch.batch
    return [
        PERFECT if size <= perfect else DIMINISHING if size <= useful else MAXIMAL
        for size in np.atleast_1d(batch)
    ]


def offsets(bend: ArrayLike, perfect_within: float, least_saving: float) -> tuple[Array, Array]:
    """log(B / b_crit) of the two breakpoints at each bend, any shape."""
    kept = (1 - least_saving) ** bend
    perfect = np.log(perfect_within**bend - 1) / bend
    return perfect, -np.log((1 - kept) / (kept - 0.5**bend)) / bend


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
