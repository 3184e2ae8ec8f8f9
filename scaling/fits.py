"""Steps to the goal against batch size: the hyperbola, its two turns, and how sure they are.

McCandlish et al. 2018 (arXiv:1812.06162), eq. 2.11 and 2.12 at a fixed batch B:

    S(B) = S_min (1 + B_crit / B) = S_min + E_min / B,    E_min = S_min B_crit

S_min is the steps that an unlimited batch would need, E_min the examples that an unlimited number
of steps would need; at B = B_crit both are twice their minimum. The two turns of the curve, in the
sense of Shallue et al. 2018 (arXiv:1811.03600), are fixed multiples of B_crit on a hyperbola:

    end of perfect scaling   S(B) = 1.2 E_min / B     at B = 0.2 B_crit
    maximum useful batch     S(2B) = 0.9 S(B)         at B = 4 B_crit

so they are one measurement, not two, and always a factor of 20 apart at these thresholds. A curve
that bends more sharply or more slowly than that shows in `residual_sd`, not in the turns.

Intervals are profile likelihood with an F statistic. They hold every pair (S_min, B_crit) whose
sum of squares is at most the smallest one times 1 + F(1, n - 2) / (n - 2), n the reached batch
sizes. The noise is estimated from the same few points and the F quantile pays for that. Where the
data lie on one asymptote only, the set runs on to B_crit = 0 or infinity and so does the interval.

Measured by `benchmarks/fits_coverage.py` with 5 to 12 batch sizes, 1,000 draws in each of 92
settings. The 95% intervals hold the truth in 93 to 98% of the draws under normal noise, data on one
asymptote included, 94 to 98% under heavy tails, and 94 to 98% with censored points. They count on
noise that is symmetric and the same at all batch sizes: exponential noise takes those of S_min and
E_min down to 88 and 90%, noise three times as large at the smallest batch as at the largest those
of E_min and B_crit to 86 and 89%. For B_crit under normal noise, a chi-squared threshold holds it
in 80 to 97%, percentiles of a residual bootstrap in 81 to 97%, log B_crit +- t standard errors in
78 to 97% (low where B_crit is not identified). A threshold from a parametric bootstrap does as well
as F, 92 to 98%, and takes hundreds of fits more and a seed.
"""

import dataclasses
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from scaling.errors import UserError

Array = NDArray[np.float64]
Interval = tuple[float, float]

PERFECT = "perfect scaling"
DIMINISHING = "diminishing returns"
MAXIMAL = "maximal data parallelism"
PERFECT_END, MAX_USEFUL = "end of perfect scaling", "maximum useful batch"  # the two turns

# A fit through noiseless points would claim no uncertainty at all and leave its interval to
# rounding. Steps are never known to better than this, in log S.
SMALLEST_SD = 1e-6
# How far beyond the measured batches a B_crit is told from 0 or infinity: at e^20 the curve is
# within 2e-9 of its asymptote.
BEYOND = 20.0
GRID = 400  # values of B_crit at which the sum of squares is looked at


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
        """Such as "95%: 180 to 410" or "95%: above 700"."""
        return _interval_text(self.interval, self.confidence, "any size")


@dataclasses.dataclass(frozen=True)
class StepsFit:
    """S(B) = s_min (1 + b_crit / B) as fitted, with intervals; see the top of this file.

    Where the data lie on slope -1 only, b_crit may be inf and s_min 0; where they are flat, b_crit
    and e_min may be 0. `steps` holds in both.
    """

    s_min: float  # steps
    s_min_interval: Interval
    b_crit: float  # examples
    b_crit_interval: Interval
    e_min: float  # examples, s_min * b_crit
    e_min_interval: Interval
    residual_sd: float  # of log S, with n - 2 degrees of freedom
    measured: Interval  # smallest and largest reached batch size
    confidence: float
    perfect_within: float
    least_saving: float
    turn: float = dataclasses.field(repr=False, compare=False)  # log(b_crit / centre)
    problem: "_Problem" = dataclasses.field(repr=False, compare=False)
    region: "_Region" = dataclasses.field(repr=False, compare=False)

    @property
    def variance(self) -> float:
        """Of log S around the curve, as far as steps can be known."""
        return max(self.residual_sd, SMALLEST_SD) ** 2

    def steps(self, batch: ArrayLike) -> Array:
        """The curve at `batch`, any shape."""
        return self.s_min + self.e_min / np.asarray(batch, float)

    def band(self, batch: ArrayLike) -> tuple[Array, Array]:
        """(lower, upper) ends of the interval of the curve at each batch, any shape.

        Of the curve, not of a new measurement, and at each batch by itself: that the whole curve
        lies inside the band has a lower confidence.
        """
        return self.region.steps(np.asarray(batch, float))

    @property
    def perfect_scaling_end(self) -> Turn:
        """Where steps exceed `perfect_within` times the slope -1 asymptote e_min / B.

        S(B) B / e_min = 1 + B / b_crit, so it is (perfect_within - 1) b_crit.
        """
        return self._turn(self.perfect_within - 1)

    @property
    def max_useful_batch(self) -> Turn:
        """Where doubling the batch saves less than a share `least_saving` of the steps.

        With x = B / b_crit, S(2B) / S(B) = (2x + 1) / (2x + 2), so x = 1 / (2 least_saving) - 1.
        """
        return self._turn(1 / (2 * self.least_saving) - 1)

    def _turn(self, multiple: float) -> Turn:
        batch = multiple * self.b_crit
        low, high = self.b_crit_interval
        smallest, largest = self.measured
        where = "above" if batch > largest else "below" if batch < smallest else "inside"
        interval = (multiple * low, multiple * high)
        return Turn(batch, interval, where, self.measured, self.confidence)


def fit_steps(
    batch_sizes: ArrayLike,
    steps: ArrayLike,
    *,
    censored_at: ArrayLike | None = None,
    confidence: float = 0.95,
    perfect_within: float = 1.2,
    least_saving: float = 0.1,
) -> StepsFit:
    """Least squares of log S on the hyperbola, over all of 0 <= B_crit <= inf.

    Args:
      batch_sizes: [n], each once, in any order.
      steps: [n] steps to the goal; None, NaN or inf where it was not reached.
      censored_at: [n] steps tried without success; None or NaN where the goal was reached. Such a
        point says S(B) > censored_at: its residual is log(censored_at / S(B)) where the fitted
        curve lies below it, and 0 elsewhere. A batch size with neither number says nothing and is
        left out. Censored points count neither as degrees of freedom nor as measured range.
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
    problem = _Problem.of(batch_sizes, steps, censored_at)
    grid = problem.grid()
    best = _minimum(problem, grid)
    free = problem.log_steps.size - 2
    variance = float(problem.squares(best)) / free
    # The largest sum of squares that is still believed.
    believed = max(variance, SMALLEST_SD**2) * (free + stats.f.ppf(confidence, 1, free))
    low, high = _ends(problem, grid, best, believed)
    region = _Region.of(problem, grid, (low, best, high), believed)
    level = float(_best_level(*problem.levels(best)))
    return StepsFit(
        s_min=float(np.exp(level + _log_flat(best))),
        s_min_interval=region.interval(_log_flat(region.turn)),
        b_crit=float(problem.centre * np.exp(best)),
        b_crit_interval=tuple(float(problem.centre * np.exp(end)) for end in (low, high)),
        e_min=float(problem.centre * np.exp(level + _log_flat(-best))),
        e_min_interval=region.interval(_log_flat(-region.turn) + np.log(problem.centre)),
        residual_sd=math.sqrt(variance),
        measured=problem.measured,
        confidence=confidence,
        perfect_within=perfect_within,
        least_saving=least_saving,
        turn=best,
        problem=problem,
        region=region,
    )


@dataclasses.dataclass(frozen=True)
class Ratio:
    """How many times as large a number of one curve is as that of another."""

    value: float  # may be 0 or inf; NaN where both are 0 or both inf
    interval: Interval  # likewise
    confidence: float

    @property
    def differs(self) -> bool:
        """Whether the interval leaves out 1."""
        return not self.interval[0] <= 1 <= self.interval[1]

    @property
    def known(self) -> bool:
        """Whether the value is a number that can be shown, and not an asymptote's."""
        return 0 < self.value < math.inf

    @property
    def interval_text(self) -> str:
        """Such as "95%: 1.2 to 3.9" or "95%: above 7.2"."""
        return _interval_text(self.interval, self.confidence, "any ratio")

    def describe(self) -> str:
        """Such as "2.1 (95%: 1.2 to 3.9)", or the interval alone where the value is not known."""
        return f"{rounded(self.value)} ({self.interval_text})" if self.known else self.interval_text


def critical_batch_ratio(fit: StepsFit, reference: StepsFit) -> Ratio:
    """B_crit of `fit` over that of `reference`; at equal thresholds the ratio of their turns too.

    The interval is profile likelihood once more. It holds every ratio for which there are two
    curves with

        sum over both of (Q - least Q) / s^2  <=  F(1, nu),

    Q a curve's sum of squares and s its `residual_sd`: each study has a noise of its own, for one
    may scatter by 5% and the other by 30%. nu is that of Welch and Satterthwaite, from the degrees
    of freedom n - 2 of each and its share in the variance of the difference in log B_crit. The
    confidence is that of `fit`.

    Measured by `benchmarks/ratio_coverage.py` with 4 to 11 batch sizes each, noise from 5 to 30%,
    the same in both and not, 500 draws in each of 42 settings: the 95% intervals hold the truth in
    91 to 97% of the draws. With one noise for both they would in 76 to 100%.
    """
    pair = fit, reference
    free = np.array([each.problem.log_steps.size - 2 for each in pair])
    # Each one's variance of log B_crit times both informations: 0 for both on asymptotes only.
    known = [each.problem.information(each.turn) for each in pair]
    spread = np.array([fit.variance * known[1], reference.variance * known[0]])
    share = spread / spread.sum() if spread.any() else np.array([0.5, 0.5])
    most = float(stats.f.ppf(fit.confidence, 1, 1 / (share**2 / free).sum()))
    mine, other = (_Side.of(each, most) for each in pair)
    shift = math.log(fit.problem.centre / reference.problem.centre)
    low = shift - _largest_difference(other, mine, most)
    high = shift + _largest_difference(mine, other, most)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = float(np.float64(fit.b_crit) / reference.b_crit)
    return Ratio(value, (float(_exp(low)), float(_exp(high))), fit.confidence)


def regimes(fit: StepsFit, batch: ArrayLike) -> list[str]:
    """The regime of each batch, [n], from the two turns of the fit (values, not intervals)."""
    perfect, useful = fit.perfect_scaling_end.batch, fit.max_useful_batch.batch
    return [
        PERFECT if size <= perfect else DIMINISHING if size <= useful else MAXIMAL
        for size in np.atleast_1d(batch)
    ]


# The fit works in two coordinates that stay finite on both asymptotes: `level`, the log of the
# steps at the batch `centre` in the middle of the data, and `turn` = log(B_crit / centre), from
# -inf (flat) to inf (slope -1):
#
#     log S(B) = level + log((1 - w) + w centre / B),    w = 1 / (1 + e^-turn)
#
# Given the turn the best level is a mean, so all of it is a search in one dimension.


def _log_flat(turn: ArrayLike) -> Array:
    """log(1 - w): the share of the steps at `centre` that no batch removes; at -turn, log w."""
    return -np.logaddexp(0, turn)


def _exp(logs: ArrayLike) -> Array:
    """e^logs, quietly inf where it overflows: three wild points believe in almost any curve."""
    with np.errstate(over="ignore"):
        return np.exp(logs)


def _shape(turn: ArrayLike, log_ratio: Array) -> Array:
    """log S less its level, [..., n], at turns [...]; log_ratio [n] is log(centre / batch)."""
    turn = np.asarray(turn, float)[..., None]
    return np.logaddexp(_log_flat(turn), _log_flat(-turn) + log_ratio)


@dataclasses.dataclass(frozen=True)
class _Problem:
    """The data in logs."""

    centre: float  # geometric mean of the extreme reached batch sizes
    measured: Interval  # smallest and largest reached batch size
    log_ratio: Array  # [n], log(centre / batch) of the reached points
    log_steps: Array  # [n]
    censored_ratio: Array  # [m], log(centre / batch) of the censored points
    censored_steps: Array  # [m], log of the steps tried

    @classmethod
    def of(cls, batch_sizes, steps, censored_at) -> "_Problem":
        batch, steps = (np.asarray(a, float).ravel() for a in (batch_sizes, steps))
        tried = np.full(batch.shape, np.nan) if censored_at is None else censored_at
        tried = np.asarray(tried, float).ravel()
        _check_points(batch, steps, tried)
        reached, censored = np.isfinite(steps), np.isfinite(tried)
        low, high = float(batch[reached].min()), float(batch[reached].max())
        centre = math.sqrt(low) * math.sqrt(high)
        return cls(
            centre=centre,
            measured=(low, high),
            log_ratio=np.log(centre / batch[reached]),
            log_steps=np.log(steps[reached]),
            censored_ratio=np.log(centre / batch[censored]),
            censored_steps=np.log(tried[censored]),
        )

    def grid(self) -> Array:
        """[GRID + 2] turns to look at, ascending, both asymptotes included."""
        edge = BEYOND + abs(np.concatenate([self.log_ratio, self.censored_ratio])).max()
        return np.concatenate([[-np.inf], np.linspace(-edge, edge, GRID), [np.inf]])

    def levels(self, turn: ArrayLike) -> tuple[Array, Array]:
        """The level that each point asks for: [..., n] reached, [..., m] censored."""
        reached = self.log_steps - _shape(turn, self.log_ratio)
        return reached, self.censored_steps - _shape(turn, self.censored_ratio)

    def squares(self, turn: ArrayLike) -> Array:
        """Sum of squared residuals, [...], at the best level of each turn."""
        levels = self.levels(turn)
        return _squares(*levels, _best_level(*levels))

    def information(self, turn: float) -> float:
        """1 / variance of the turn per variance of log S: how much the shape changes with it."""
        slopes = _exp(-np.logaddexp(0, -(turn + self.log_ratio)))  # of `_shape`, less a constant
        return float(((slopes - slopes.mean()) ** 2).sum())


def _best_level(reached: Array, censored: Array) -> Array:
    """The level, [...], with the least squares, from what `_Problem.levels` returns.

    The mean of the reached points and of the censored ones above it. Taking censored points in
    falling order, the mean rises as long as they are above it: the largest mean is the one.
    """
    falling = -np.sort(-censored, axis=-1)
    pool = np.concatenate([reached.sum(-1, keepdims=True), falling], axis=-1)
    counts = reached.shape[-1] + np.arange(pool.shape[-1])
    return (np.cumsum(pool, axis=-1) / counts).max(-1)


def _squares(reached: Array, censored: Array, level: Array) -> Array:
    """Sum of squared residuals, [...], at a level, [...]; a censored point's is one-sided."""
    level = level[..., None]
    below = np.maximum(censored - level, 0)
    return ((reached - level) ** 2).sum(-1) + (below**2).sum(-1)


@dataclasses.dataclass(frozen=True)
class _Region:
    """All believed pairs: at each turn, the levels from `low` to `high`."""

    centre: float
    turn: Array  # [k], ascending, -inf and inf included where they are believed
    low: Array  # [k]
    high: Array  # [k]

    @classmethod
    def of(
        cls, problem: _Problem, grid: Array, turns: tuple[float, float, float], believed: float
    ) -> "_Region":
        """The region between the first and the last of `turns`, the second being the best."""
        # An infinite end is a point of its own; the finite part of the scan stops at the grid's.
        scan = np.linspace(max(turns[0], grid[1]), min(turns[2], grid[-2]), GRID)
        turn = np.unique(np.concatenate([scan, turns]))
        levels = problem.levels(turn)
        best, middle = _best_level(*levels), levels[0].mean(-1)
        # Reached points alone exceed what is believed this far from their mean.
        reach = math.sqrt(believed / problem.log_steps.size)
        ends = []
        for outside in (middle - reach, middle + reach):
            inside = best
            for _ in range(40):  # halves the distance: 1e-12 of the reach
                half = (inside + outside) / 2
                holds = _squares(*levels, half) <= believed
                inside, outside = np.where(holds, half, inside), np.where(holds, outside, half)
            ends.append(inside)
        return cls(problem.centre, turn, *ends)

    def interval(self, shift: Array) -> Interval:
        """Ends of exp(level + shift) over the region, shift [k]."""
        return float(_exp(np.min(self.low + shift))), float(_exp(np.max(self.high + shift)))

    def steps(self, batch: Array) -> tuple[Array, Array]:
        """Fewest and most steps at each batch, any shape."""
        shape = _shape(self.turn, np.log(self.centre / batch.ravel()))
        low = _exp((self.low[:, None] + shape).min(0))
        high = _exp((self.high[:, None] + shape).max(0))
        return low.reshape(batch.shape), high.reshape(batch.shape)


def _minimum(problem: _Problem, grid: Array) -> float:
    """The turn with the least sum of squares, -inf or inf where that is an asymptote."""
    index = int(problem.squares(grid).argmin())
    # The outermost finite turns cannot be told from their asymptote.
    if index <= 1:
        return -math.inf
    if index >= len(grid) - 2:
        return math.inf
    bounds = (grid[index - 1], grid[index + 1])
    found = optimize.minimize_scalar(
        problem.squares, bounds=bounds, method="bounded", options={"xatol": 1e-10}
    )
    return float(found.x)


def _ends(problem: _Problem, grid: Array, best: float, believed: float) -> Interval:
    """The outermost turns, below and above the best, whose sum of squares is believed.

    Outermost, so that a second valley of the sum of squares widens the interval instead of being
    left out of it.
    """
    inside = problem.squares(grid) <= believed
    ends = []
    for side, outward in ((grid < best, -1), (grid > best, 1)):
        turns, holds = grid[side][::outward], inside[side][::outward]  # away from the best
        last = int(np.flatnonzero(holds)[-1]) if holds.any() else -1
        if last == len(turns) - 1:
            ends.append(float(turns[-1]) if len(turns) else best)
            continue
        near, far = (float(turns[last]) if last >= 0 else best), float(turns[last + 1])
        near, far = np.clip((near, far), grid[1], grid[-2])
        excess = lambda turn: float(problem.squares(turn)) - believed
        # No sign change: `near` was an asymptote, and already its neighbour is not believed.
        crosses = excess(near) < 0 < excess(far)
        ends.append(float(optimize.brentq(excess, near, far, xtol=1e-12) if crosses else near))
    return ends[0], ends[1]


@dataclasses.dataclass(frozen=True)
class _Side:
    """One of two curves, as far as it is believed while the other is at its best.

    Attributes:
      low, high: the outermost of its turns, which may be infinite.
      below, above: [1000] turns from the best out to the finite end of the scan on each side.
      below_asks, above_asks: [1000] what each of them adds to the sum that is believed.
    """

    low: float
    high: float
    below: Array
    above: Array
    below_asks: Array
    above_asks: Array

    @classmethod
    def of(cls, fit: StepsFit, most: float) -> "_Side":
        problem, grid = fit.problem, fit.problem.grid()
        least = float(problem.squares(fit.turn))
        ends = _ends(problem, grid, fit.turn, least + most * fit.variance)
        finite = np.clip([ends[0], fit.turn, ends[1]], grid[1], grid[-2])
        turns = [np.linspace(finite[1], end, 1000) for end in (finite[0], finite[2])]
        return cls(*ends, *turns, *((problem.squares(t) - least) / fit.variance for t in turns))


def _largest_difference(upper: _Side, lower: _Side, most: float) -> float:
    """The largest turn of `upper` less turn of `lower` that is believed of both together."""
    if upper.high == math.inf or lower.low == -math.inf:
        return math.inf
    # Outermost, as in `_ends`: the least that any turn at or beyond asks for.
    asks = np.minimum.accumulate(upper.above_asks[::-1])[::-1]
    return float((np.interp(most - lower.below_asks, asks, upper.above) - lower.below).max())


def _check_points(batch: Array, steps: Array, tried: Array) -> None:
    """UserError for the first thing that is wrong with the points."""
    if not batch.size == steps.size == tried.size:
        raise UserError(
            f"There are {batch.size} batch sizes, {steps.size} step counts and {tried.size} "
            "censoring points; pass one of each per batch size."
        )
    if not np.isfinite(batch).all():
        raise UserError("A batch size is missing or infinite; pass a number for each point.")
    for name, values in (("batch sizes", batch), ("steps", steps), ("censored_at", tried)):
        _check_positive(name, values)
    sizes, counts = np.unique(batch, return_counts=True)
    if (counts > 1).any():
        raise UserError(
            f"Batch size {sizes[counts > 1][0]:g} is given more than once; pass its fewest steps."
        )
    both = np.isfinite(steps) & np.isfinite(tried)
    if both.any():
        raise UserError(
            f"Batch size {batch[both][0]:g} has both steps and censored_at; give censored_at only "
            "where the goal was not reached."
        )
    reached = int(np.isfinite(steps).sum())
    if reached < 3:
        raise UserError(
            f"{reached} batch size{'s' * (reached != 1)} reached the goal and the curve has two "
            "numbers to fit; measure at least 3, or ease the goal."
        )


def _check_positive(name: str, values: Array) -> None:
    wrong = values[values <= 0]  # NaN passes: it stands for a goal that was missed
    if wrong.size:
        raise UserError(f"One of the {name} is {wrong[0]:g}; they must be positive.")


def _check_share(name: str, value: float, low: float, high: float) -> None:
    if not low < value < high:
        limit = f"above {low}" if high == math.inf else f"between {low} and {high}"
        raise UserError(f"{name} is {value}; it must be {limit}.")


def _interval_text(interval: Interval, confidence: float, everything: str) -> str:
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
