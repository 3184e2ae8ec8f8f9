"""The ratio of the critical batch sizes of two studies, and its interval."""

import dataclasses
import math

import numpy as np
import scipy

from scaling.curves import SMALLEST_SD, Array, Curve, Interval, log_b_crit_ends
from scaling.fits import StepsFit, interval_text, rounded

CELLS = 400  # of the grid of log_b_crits of each curve, about
# The correlation of two studies' residuals is taken to be the measured one minus this many standard
# errors of Fisher's z. The measured one would be too large half of the time.
CAUTION = 1.0


@dataclasses.dataclass(frozen=True)
class Ratio:
    """The ratio of a parameter of one curve to that of another."""

    value: float  # may be 0 or inf; NaN where both are 0 or both inf
    interval: Interval  # likewise
    confidence: float
    correlation: float = 0.0  # assumed between the two studies' residuals

    @property
    def differs(self) -> bool:
        """Whether the interval excludes 1."""
        return not self.interval[0] <= 1 <= self.interval[1]

    @property
    def known(self) -> bool:
        """Whether the value is finite and positive, not that of an asymptote."""
        return 0 < self.value < math.inf

    @property
    def interval_text(self) -> str:
        """Such as "95%: 1.2 to 3.9" or "95%: above 7.2"."""
        return interval_text(self.interval, self.confidence, "any ratio")

    def describe(self) -> str:
        """Such as "2.1 (95%: 1.2 to 3.9)", or the interval alone where the value is not known."""
        return f"{rounded(self.value)} ({self.interval_text})" if self.known else self.interval_text


def critical_batch_ratio(fit: StepsFit, reference: StepsFit) -> Ratio:
    """B_crit of `fit` over that of `reference`, both of the hyperbola.

    The interval is profile likelihood. It contains every ratio for which there are two curves with

        (Q_1 / s_1^2 + Q_2 / s_2^2 - 2 r Q_12 / (s_1 s_2)) / (1 - r^2)

    at most F(1, nu) above its minimum. Q_1 and Q_2 are the curves' sums of squares, Q_12 the sum of
    products of their residuals, s_1 and s_2 their `residual_sd`, since one study may scatter by 5%
    and the other by 30%. r is the correlation of the residuals: studies that draw the same trials
    at the same batch sizes have errors correlated by up to 0.94, which makes the ratio more
    precise. r is estimated where both reached the goal at the same batch sizes, and then nu =
    n - 2. Otherwise r = 0 and nu is that of Welch and Satterthwaite, from the n - 2 degrees of
    freedom of each study and its share of the variance of the difference in log B_crit.

    Measured by `benchmarks/ratio_coverage.py`, 40 draws in each of 82 settings: the coverage of the
    95% intervals is 85 to 100%. At a correlation of 0.9 the high end is 2.2 times the low one in
    the median setting; assuming independent errors it is 3.2 times.
    """
    pair = fit.hyperbola, reference.hyperbola
    sds = [max(curve.residual_sd, SMALLEST_SD) for curve in pair]
    r = _correlation(*pair)
    dof = pair[0].problem.points - 2 if r else _welch(*pair, sds)
    threshold = float(scipy.stats.f.ppf(fit.confidence, 1, dof))
    ranges = [
        _range(curve, sd, threshold / (1 - abs(r))) for curve, sd in zip(pair, sds, strict=True)
    ]
    cell = sum(high - low for low, high in ranges) / (2 * CELLS)
    grids = [_cells(curve, ends, cell) for curve, ends in zip(pair, ranges, strict=True)]
    scaled = list(zip(pair, grids, sds, strict=True))
    first, second = (curve.problem.squares(grid) / sd**2 for curve, grid, sd in scaled)
    sums = first[:, None] + second[None, :]
    if r:
        mine, other = (_residuals(curve, grid) / sd for curve, grid, sd in scaled)
        sums = (sums - 2 * r * mine @ other.T) / (1 - r**2)
    excess = sums - sums.min() - threshold
    low, high = _extremes(grids, excess)
    shift = math.log(pair[0].problem.centre / pair[1].problem.centre)
    edges = [curve.problem.grid[[1, -2]] for curve in pair]
    open_at = lambda side, end: (
        (excess <= 0).any(1 - side)[end] and grids[side][end] == edges[side][end]
    )
    low = -math.inf if open_at(0, 0) or open_at(1, -1) else low + shift
    high = math.inf if open_at(0, -1) or open_at(1, 0) else high + shift
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        value = float(np.float64(fit.b_crit) / reference.b_crit)
        ends = float(np.exp(low)), float(np.exp(high))
    return Ratio(value, ends, fit.confidence, r)


def _correlation(mine: Curve, other: Curve) -> float:
    """A cautious correlation of their residuals, 0 where they cannot be paired."""
    problems = mine.problem, other.problem
    dof = problems[0].points - 2
    same = problems[0].points == problems[1].points and not any(
        problem.censored_steps.size for problem in problems
    )
    if not same or dof < 2 or not np.allclose(*(_log_batches(p) for p in problems)):
        return 0.0
    pair = [_residuals(curve, np.array([curve.log_b_crit]))[0] for curve in (mine, other)]
    norm = math.sqrt(float((pair[0] ** 2).sum() * (pair[1] ** 2).sum()))
    if norm <= dof * SMALLEST_SD**2:
        return 0.0
    z = math.atanh(min(0.999, float(pair[0] @ pair[1]) / norm))
    return max(0.0, math.tanh(z - CAUTION / math.sqrt(max(dof - 1, 1))))


def _log_batches(problem) -> Array:
    return np.sort(np.log(problem.centre) - problem.log_ratio)


def _residuals(curve: Curve, log_b_crits: Array) -> Array:
    """[log_b_crits, n] of log S from the hyperbola at its best level, by ascending batch size."""
    levels, _ = curve.problem.levels(log_b_crits)
    order = np.argsort(-curve.problem.log_ratio)
    return (levels - levels.mean(-1, keepdims=True))[:, order]


def _welch(mine: Curve, other: Curve, sds) -> float:
    """Degrees of freedom of the difference in log B_crit."""
    dof = np.array([curve.problem.points - 2 for curve in (mine, other)])
    # Both variances of log B_crit, times both informations: 0 only where both are on asymptotes.
    information = [curve.problem.information(curve.log_b_crit) for curve in (mine, other)]
    variances = np.array([sds[0] ** 2 * information[1], sds[1] ** 2 * information[0]])
    share = variances / variances.sum() if variances.any() else np.array([0.5, 0.5])
    return float(1 / (share**2 / dof).sum())


def _range(curve: Curve, sd: float, excess: float) -> Interval:
    """Ends of the log_b_crits whose scaled sum of squares exceeds the best by at most `excess`,
    within the finite part of the grid."""
    problem, log_b_crit = curve.problem, np.array([curve.log_b_crit])
    threshold = float(problem.squares(curve.log_b_crit)) + excess * sd**2
    low, high = log_b_crit_ends(problem, np.ones(1), log_b_crit, threshold)
    ends = np.clip([low[0], high[0]], problem.grid[1], problem.grid[-2])
    return float(ends[0]), float(ends[1])


def _cells(curve: Curve, ends: Interval, cell: float) -> Array:
    """log_b_crits in steps of `cell` from the best one, past both ends, clipped to the grid."""
    grid = curve.problem.grid
    best = float(np.clip(curve.log_b_crit, grid[1], grid[-2]))
    below, above = (math.ceil(abs(end - best) / cell) if cell else 0 for end in ends)
    return np.clip(best + cell * np.arange(-below, above + 1), grid[1], grid[-2])


def _extremes(grids, excess: Array) -> Interval:
    """The least and the largest difference of log_b_crits where excess <= 0, interpolated between
    cells."""
    difference = grids[0][:, None] - grids[1][None, :]
    ends = []
    for sign in (-1, 1):
        inside = np.where(excess <= 0, sign * difference, -np.inf)
        row, column = np.unravel_index(inside.argmax(), inside.shape)
        # One cell further out in either direction excess > 0: interpolate its zero.
        steps = [(row + sign, column), (row, column - sign)]
        within = [s for s in steps if 0 <= s[0] < excess.shape[0] and 0 <= s[1] < excess.shape[1]]
        best = inside[row, column]
        for step in within:
            a, b = excess[row, column], excess[step]
            share = a / (a - b) if b > 0 >= a else 0.0
            best = max(best, inside[row, column] + share * (sign * difference[step] - best))
        ends.append(sign * float(best))
    return ends[0], ends[1]
