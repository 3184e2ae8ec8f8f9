"""How the critical batch sizes of two studies compare: their ratio, and how sure it is."""

import dataclasses
import math

import numpy as np
import scipy

from scaling.curves import SMALLEST_SD, Array, Curve, Interval, outermost_turns
from scaling.fits import StepsFit, interval_text, rounded

CELLS = 400  # of the grid of turns of each curve, about
# What is taken for the correlation of two studies' residuals: the measured one less so many
# standard errors of Fisher's z. The measured one itself would be too large half of the time.
CAUTION = 1.0


@dataclasses.dataclass(frozen=True)
class Ratio:
    """How many times as large a number of one curve is as that of another."""

    value: float  # may be 0 or inf; NaN where both are 0 or both inf
    interval: Interval  # likewise
    confidence: float
    correlation: float = 0.0  # of the two studies' residuals, as far as it was counted on

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
        return interval_text(self.interval, self.confidence, "any ratio")

    def describe(self) -> str:
        """Such as "2.1 (95%: 1.2 to 3.9)", or the interval alone where the value is not known."""
        return f"{rounded(self.value)} ({self.interval_text})" if self.known else self.interval_text


def critical_batch_ratio(fit: StepsFit, reference: StepsFit) -> Ratio:
    """B_crit of `fit` over that of `reference`, both of the hyperbola.

    The interval is profile likelihood. It holds every ratio for which there are two curves with

        (Q_1 / s_1^2 + Q_2 / s_2^2 - 2 r Q_12 / (s_1 s_2)) / (1 - r^2)

    at most F(1, nu) above its least value; Q_1 and Q_2 are the curves' sums of squares, Q_12 the
    sum of products of their residuals, s their `residual_sd`: each study has a noise of its own,
    for one may scatter by 5% and the other by 30%. r is the correlation of the residuals. Studies
    that draw the same trials at the same batch sizes err alike, by up to 0.94, and the difference
    is the surer. r is counted where both reached the goal at the same batch sizes, and then nu =
    n - 2; else it is 0 and nu that of Welch and Satterthwaite, from the degrees of freedom n - 2 of
    each and its share in the variance of the difference in log B_crit.

    Measured by `benchmarks/ratio_coverage.py`, 40 draws in each of 82 settings: the 95% intervals
    hold the truth in 85 to 100%. At a correlation of 0.9 the high end is 2.2 times the low one in
    the median setting, and 3.2 times where the errors are taken as independent.
    """
    pair = fit.hyperbola, reference.hyperbola
    sds = [max(curve.residual_sd, SMALLEST_SD) for curve in pair]
    r = _correlation(*pair)
    freedom = pair[0].problem.points - 2 if r else _welch(*pair, sds)
    most = float(scipy.stats.f.ppf(fit.confidence, 1, freedom))
    reach = [_reach(curve, sd, most / (1 - abs(r))) for curve, sd in zip(pair, sds, strict=True)]
    cell = sum(high - low for low, high in reach) / (2 * CELLS)
    turns = [_cells(curve, ends, cell) for curve, ends in zip(pair, reach, strict=True)]
    asks = [
        curve.problem.squares(turn) / sd**2
        for curve, turn, sd in zip(pair, turns, sds, strict=True)
    ]
    sums = asks[0][:, None] + asks[1][None, :]
    if r:
        mine, other = (
            _residuals(curve, turn) / sd for curve, turn, sd in zip(pair, turns, sds, strict=True)
        )
        sums = (sums - 2 * r * mine @ other.T) / (1 - r**2)
    believed = sums <= sums.min() + most
    low, high = _outermost(turns, sums - sums.min() - most, believed)
    shift = math.log(pair[0].problem.centre / pair[1].problem.centre)
    edge = [curve.problem.grid[[1, -2]] for curve in pair]
    at = lambda side, end: believed.any(1 - side)[end] and turns[side][end] == edge[side][end]
    low = -math.inf if at(0, 0) or at(1, -1) else low + shift
    high = math.inf if at(0, -1) or at(1, 0) else high + shift
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        value = float(np.float64(fit.b_crit) / reference.b_crit)
        ends = float(np.exp(low)), float(np.exp(high))
    return Ratio(value, ends, fit.confidence, r)


def _correlation(mine: Curve, other: Curve) -> float:
    """What is counted on of the correlation of their residuals, 0 where they cannot be paired."""
    problems = mine.problem, other.problem
    freedom = problems[0].points - 2
    same = problems[0].points == problems[1].points and not any(
        problem.censored_steps.size for problem in problems
    )
    if not same or freedom < 2 or not np.allclose(*(_batches(p) for p in problems)):
        return 0.0
    pair = [_residuals(curve, np.array([curve.turn]))[0] for curve in (mine, other)]
    norm = math.sqrt(float((pair[0] ** 2).sum() * (pair[1] ** 2).sum()))
    if norm <= freedom * SMALLEST_SD**2:
        return 0.0
    z = math.atanh(min(0.999, float(pair[0] @ pair[1]) / norm)) if norm else 0.0
    return max(0.0, math.tanh(z - CAUTION / math.sqrt(max(freedom - 1, 1))))


def _batches(problem) -> Array:
    return np.sort(np.log(problem.centre) - problem.log_ratio)


def _residuals(curve: Curve, turns: Array) -> Array:
    """[turns, n] of log S from the hyperbola at its best level, in rising order of batch size."""
    levels, _ = curve.problem.levels(turns)
    order = np.argsort(-curve.problem.log_ratio)
    return (levels - levels.mean(-1, keepdims=True))[:, order]


def _welch(mine: Curve, other: Curve, sds) -> float:
    """Degrees of freedom of the difference in log B_crit."""
    free = np.array([curve.problem.points - 2 for curve in (mine, other)])
    # Each one's variance of log B_crit times both informations: 0 for both on asymptotes only.
    known = [curve.problem.information(curve.turn) for curve in (mine, other)]
    spread = np.array([sds[0] ** 2 * known[1], sds[1] ** 2 * known[0]])
    share = spread / spread.sum() if spread.any() else np.array([0.5, 0.5])
    return float(1 / (share**2 / free).sum())


def _reach(curve: Curve, sd: float, most: float) -> Interval:
    """The outermost turns that add at most `most`, within the finite part of the grid."""
    problem, turn = curve.problem, np.array([curve.turn])
    believed = float(problem.squares(curve.turn)) + most * sd**2
    low, high = outermost_turns(problem, np.ones(1), turn, believed)
    ends = np.clip([low[0], high[0]], problem.grid[1], problem.grid[-2])
    return float(ends[0]), float(ends[1])


def _cells(curve: Curve, ends: Interval, cell: float) -> Array:
    """Turns `cell` apart from the best one out to both ends, which are among them if they are the
    grid's."""
    grid = curve.problem.grid
    best = float(np.clip(curve.turn, grid[1], grid[-2]))
    below, above = (math.ceil(abs(end - best) / cell) if cell else 0 for end in ends)
    return np.clip(best + cell * np.arange(-below, above + 1), grid[1], grid[-2])


def _outermost(turns, excess: Array, believed: Array) -> Interval:
    """The least and the largest difference of turns that is believed, between cells by
    interpolation."""
    difference = turns[0][:, None] - turns[1][None, :]
    ends = []
    for sign in (-1, 1):
        inside = np.where(believed, sign * difference, -np.inf)
        row, column = np.unravel_index(inside.argmax(), inside.shape)
        # One cell further out, in either turn, the sum is too large: where between does it cross?
        steps = [(row + sign, column), (row, column - sign)]
        within = [s for s in steps if 0 <= s[0] < excess.shape[0] and 0 <= s[1] < excess.shape[1]]
        best = inside[row, column]
        for step in within:
            a, b = excess[row, column], excess[step]
            share = a / (a - b) if b > 0 >= a else 0.0
            best = max(best, inside[row, column] + share * (sign * difference[step] - best))
        ends.append(sign * float(best))
    return ends[0], ends[1]
