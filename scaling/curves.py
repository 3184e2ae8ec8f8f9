"""The curve of steps against batch size, its least squares, and the curves that are believed.

The mathematics behind `scaling.fits`, which says what it is for:

    log S(B) = level + log((1 - w) + w (centre / B)^bend) / bend,    w = 1 / (1 + e^(-bend turn))

`level` is the log of the steps at the batch `centre` in the middle of the data, and `turn` =
log(B_crit / centre), from -inf (flat) to inf (slope -1): coordinates that stay finite on both
asymptotes. Given turn and bend the best level is a mean, so the search has one or two dimensions.
"""

import dataclasses
import functools
import math

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from scaling.errors import UserError

Array = NDArray[np.float64]
Interval = tuple[float, float]

# A fit through noiseless points would claim no uncertainty at all and leave its interval to
# rounding. Steps are never known to better than this, in log S.
SMALLEST_SD = 1e-6
# What tests count on at least: crossings are looked for every few percent of the steps.
LEAST_NOISE = 0.02
BENDS = (
    0.4,
    5.0,
)  # sharper than 5 is a corner to any measurement, slower than 0.4 no curve of steps
BEND_SD = 0.7  # of log bend, of the penalty
# How far beyond the measured batches a B_crit is told from 0 or infinity, in log B.
BEYOND = 30.0
GRID = 400  # values of B_crit at which the sum of squares is looked at
LOOKED_AT = np.unique([*np.geomspace(*BENDS, 24), 1.0])  # bends, likewise
SLOPES = (0.4, 2.5)  # that are looked at


@dataclasses.dataclass(frozen=True)
class Curve:
    """S(B) = s_min (1 + (b_crit / B)^bend)^(1 / bend) as fitted, and the curves that are believed.

    Where the data lie on slope -1 only, b_crit may be inf and s_min 0; where they are flat, b_crit
    and e_min may be 0. `steps` holds in both.
    """

    bend: float
    turn: float = dataclasses.field(repr=False)  # log(b_crit / centre)
    level: float = dataclasses.field(repr=False)  # log of the steps at the centre
    residual_sd: float  # of log S around the best curve of its kind
    problem: "Problem" = dataclasses.field(repr=False, compare=False)
    region: "Region" = dataclasses.field(repr=False, compare=False)

    def steps(self, batch: ArrayLike) -> Array:
        """The curve at `batch`, any shape."""
        log_ratio = np.log(self.problem.centre / np.asarray(batch, float))
        return exp(self.level + shape(self.turn, self.bend, log_ratio[..., None])[..., 0])

    def band(self, batch: ArrayLike) -> tuple[Array, Array]:
        """(lower, upper) ends of the interval of the curve at each batch, any shape.

        Of the curve, not of a new measurement, and at each batch by itself: that the whole curve
        lies inside the band has a lower confidence.
        """
        return self.region.steps(np.asarray(batch, float))

    @property
    def b_crit(self) -> float:
        """Where the two asymptotes meet, examples."""
        return float(self.problem.centre * np.exp(self.turn))

    def at(self, offset) -> tuple[float, Interval]:
        """A batch that lies by offset(bend), in log B, beyond b_crit; and its interval."""
        region, centre = self.region, self.problem.centre
        ends = (region.low + offset(region.bends)).min(), (region.high + offset(region.bends)).max()
        value, low, high = exp(np.log(centre) + np.array([self.turn + offset(self.bend), *ends]))
        return float(value), (float(low), float(high))


@dataclasses.dataclass(frozen=True)
class Rise:
    """A largest batch size that takes more steps than the smaller ones lead to expect."""

    batch: float
    steps: float
    expected: float
    p_value: float


def log_flat(turn: ArrayLike) -> Array:
    """log(1 - w): the share of the steps at `centre` that no batch removes; at -turn, log w."""
    return -np.logaddexp(0, turn)


def exp(logs: ArrayLike) -> Array:
    """e^logs, quietly inf where it overflows: wild points believe in almost any curve."""
    with np.errstate(over="ignore"):
        return np.exp(logs)


def shape(turn: ArrayLike, bend: ArrayLike, log_ratio: Array) -> Array:
    """log S less its level, [..., n], at turns and bends [...]; log_ratio, log(centre / batch), is
    [n] or [..., n]."""
    turn, bend = (np.asarray(values, float)[..., None] for values in (turn, bend))
    return np.logaddexp(log_flat(bend * turn), log_flat(-bend * turn) + bend * log_ratio) / bend


@dataclasses.dataclass(frozen=True)
class Problem:
    """The data in logs."""

    given: tuple[Array, Array, Array]  # batch sizes, steps, censored_at
    centre: float  # geometric mean of the extreme reached batch sizes
    measured: Interval  # smallest and largest reached batch size
    log_ratio: Array  # [n], log(centre / batch) of the reached points
    log_steps: Array  # [n]
    censored_ratio: Array  # [m], log(centre / batch) of the censored points
    censored_steps: Array  # [m], log of the steps tried

    @classmethod
    def of(cls, batch_sizes, steps, censored_at=None) -> "Problem":
        batch, steps = (np.asarray(a, float).ravel() for a in (batch_sizes, steps))
        tried = np.full(batch.shape, np.nan) if censored_at is None else censored_at
        tried = np.asarray(tried, float).ravel()
        _check_points(batch, steps, tried)
        reached, censored = np.isfinite(steps), np.isfinite(tried)
        low, high = float(batch[reached].min()), float(batch[reached].max())
        centre = math.sqrt(low) * math.sqrt(high)
        return cls(
            given=(batch, steps, tried),
            centre=centre,
            measured=(low, high),
            log_ratio=np.log(centre / batch[reached]),
            log_steps=np.log(steps[reached]),
            censored_ratio=np.log(centre / batch[censored]),
            censored_steps=np.log(tried[censored]),
        )

    def without_largest(self) -> "Problem":
        """The problem without the largest batch size that reached the goal."""
        keep = (self.given[0] != self.measured[1]) | ~np.isfinite(self.given[1])
        return Problem.of(*(values[keep] for values in self.given))

    @property
    def points(self) -> int:
        """Batch sizes that reached the goal."""
        return self.log_steps.size

    @functools.cached_property
    def grid(self) -> Array:
        """[GRID + 2] turns to look at, ascending, both asymptotes included."""
        edge = BEYOND + abs(np.concatenate([self.log_ratio, self.censored_ratio])).max()
        return np.concatenate([[-np.inf], np.linspace(-edge, edge, GRID), [np.inf]])

    @functools.cached_property
    def table(self) -> Array:
        """[bends, turns] sums of squares at `LOOKED_AT` and the grid."""
        return self.squares(self.grid, LOOKED_AT[:, None])

    def levels(self, turn: ArrayLike, bend: ArrayLike = 1.0) -> tuple[Array, Array]:
        """The level that each point asks for: [..., n] reached, [..., m] censored."""
        reached = self.log_steps - shape(turn, bend, self.log_ratio)
        return reached, self.censored_steps - shape(turn, bend, self.censored_ratio)

    def squares(self, turn: ArrayLike, bend: ArrayLike = 1.0) -> Array:
        """Sum of squared residuals, [...], at the best level of each turn and bend."""
        levels = self.levels(turn, bend)
        return squares_at(*levels, best_level(*levels))

    def information(self, turn: float) -> float:
        """1 / variance of a hyperbola's turn per variance of log S: how much its shape changes."""
        slopes = exp(-np.logaddexp(0, -(turn + self.log_ratio)))  # of `shape`, less a constant
        return float(((slopes - slopes.mean()) ** 2).sum())


def best_level(reached: Array, censored: Array) -> Array:
    """The level, [...], with the least squares, from what `Problem.levels` returns.

    The mean of the reached points and of the censored ones above it. Taking censored points in
    falling order, the mean rises as long as they are above it: the largest mean is the one.
    """
    if not censored.shape[-1]:
        return reached.mean(-1)
    falling = -np.sort(-censored, axis=-1)
    pool = np.concatenate([reached.sum(-1, keepdims=True), falling], axis=-1)
    counts = reached.shape[-1] + np.arange(pool.shape[-1])
    return (np.cumsum(pool, axis=-1) / counts).max(-1)


def squares_at(reached: Array, censored: Array, level: Array) -> Array:
    """Sum of squared residuals, [...], at a level, [...]; a censored point's is one-sided."""
    level = level[..., None]
    below = np.maximum(censored - level, 0)
    return ((reached - level) ** 2).sum(-1) + (below**2).sum(-1)


@dataclasses.dataclass(frozen=True)
class Region:
    """All believed curves: at each bend, the turns from `low` to `high`.

    Attributes:
      believed: the largest sum of squares that is still believed.
      bends: [m], ascending.
      low, high: [m], -inf and inf included where they are believed.
      unbounded: whether the points leave the bend, and so the turns, open.
    """

    problem: Problem
    believed: float
    bends: Array
    low: Array
    high: Array
    unbounded: bool = False

    @functools.cached_property
    def scanned(self) -> tuple[Array, Array, Array, Array]:
        """(turns, bends, lowest levels, highest levels), [k] each, all over the region."""
        grid, count = self.problem.grid, max(40, GRID // len(self.bends))
        turns, bends = [], []
        for bend, low, high in zip(self.bends, self.low, self.high, strict=True):
            # An infinite end is a point of its own; the finite part stops at the grid's.
            scan = np.linspace(max(low, grid[1]), min(high, grid[-2]), count)
            turns.append(np.unique(np.concatenate([scan, [low, high]])))
            bends.append(np.full(turns[-1].size, bend))
        turn, bend = np.concatenate(turns), np.concatenate(bends)
        levels = self.problem.levels(turn, bend)
        best, middle = best_level(*levels), levels[0].mean(-1)
        # Reached points alone exceed what is believed this far from their mean.
        reach = math.sqrt(self.believed / self.problem.points)
        ends = []
        for outside in (middle - reach, middle + reach):
            inside = best
            for _ in range(40):  # halves the distance: 1e-12 of the reach
                half = (inside + outside) / 2
                holds = squares_at(*levels, half) <= self.believed
                inside, outside = np.where(holds, half, inside), np.where(holds, outside, half)
            ends.append(inside)
        return turn, bend, *ends

    def interval(self, shift) -> Interval:
        """Ends of exp(level + shift(turn)) over the region of a hyperbola."""
        turn, _, low, high = self.scanned
        return float(exp(np.min(low + shift(turn)))), float(exp(np.max(high + shift(turn))))

    def steps(self, batch: Array) -> tuple[Array, Array]:
        """Fewest and most steps at each batch, any shape."""
        turn, bend, low, high = self.scanned
        form = shape(turn, bend, np.log(self.problem.centre / batch.ravel()))
        low, high = exp((low[:, None] + form).min(0)), exp((high[:, None] + form).max(0))
        return low.reshape(batch.shape), high.reshape(batch.shape)


def least(problem: Problem, bends: Array, table: Array | None = None) -> tuple[Array, Array]:
    """(turns, sums of squares), [m] each: the best turn at each bend, -inf or inf where that is an
    asymptote.

    Args:
      table: [m, turns] of the sums of squares on the grid, if known.
    """
    grid = problem.grid
    table = problem.squares(grid, bends[:, None]) if table is None else table
    index = table.argmin(1)
    near = np.clip(index, 2, len(grid) - 3)
    low, high = grid[near - 1], grid[near + 1]
    rows, places = np.arange(len(bends)), np.linspace(0, 1, 9)
    for _ in range(12):  # each time a quarter of the distance: 6e-8 of the grid's
        turns = low[:, None] + (high - low)[:, None] * places
        best = problem.squares(turns, bends[:, None]).argmin(1)
        low, high = turns[rows, np.maximum(best - 1, 0)], turns[rows, np.minimum(best + 1, 8)]
    turns = (low + high) / 2
    # The outermost finite turns cannot be told from their asymptote.
    turns = np.where(index <= 1, -np.inf, np.where(index >= len(grid) - 2, np.inf, turns))
    return turns, problem.squares(turns, bends)


def outermost_turns(
    problem: Problem, bends: Array, turns: Array, believed: float
) -> tuple[Array, Array]:
    """The outermost believed turns, [m] each, below and above the best one at each bend.

    Outermost, so that a second valley of the sum of squares widens the interval instead of being
    left out of it.
    """
    grid, finite = problem.grid, problem.grid[1:-1]
    inside = problem.squares(grid, bends[:, None]) <= believed
    ends = []
    for outward in (-1, 1):
        side = grid < turns[:, None] if outward < 0 else grid > turns[:, None]
        holds = inside & side
        last = holds.argmax(1) if outward < 0 else len(grid) - 1 - holds[:, ::-1].argmax(1)
        near = np.where(holds.any(1), grid[last], turns)
        if outward < 0:
            beyond = np.searchsorted(finite, near, "left") - 1
        else:
            beyond = np.searchsorted(finite, near, "right")
        far = finite[np.clip(beyond, 0, len(finite) - 1)]
        within = np.clip(near, finite[0], finite[-1])
        for _ in range(36):  # halves the distance: 1e-11 of the grid's
            half = (within + far) / 2
            holds = problem.squares(half, bends) <= believed
            within, far = np.where(holds, half, within), np.where(holds, far, half)
        ends.append(np.where(near == outward * np.inf, near, within))
    return ends[0], ends[1]


def hyperbola(problem: Problem, confidence: float) -> Curve:
    """The curve of bend 1."""
    bends, free = np.array([1.0]), problem.points - 2
    turn, squares = least(problem, bends)
    variance = float(squares[0]) / free
    believed = max(variance, SMALLEST_SD**2) * (free + scipy.stats.f.ppf(confidence, 1, free))
    region = Region(problem, believed, bends, *outermost_turns(problem, bends, turn, believed))
    level = float(best_level(*problem.levels(turn[0])))
    return Curve(1.0, float(turn[0]), level, math.sqrt(variance), problem, region)


def bent(problem: Problem, confidence: float) -> tuple[Curve, float]:
    """The curve of the penalised bend, its region that of all bends; and the least squares of all.

    The penalty goes with the logarithm of the sum of squares, the profile likelihood of a noise
    that is not known.
    """
    best_bend, _, best = lowest(problem, lambda squares, bend: squares)
    penalised = lambda squares, bend: (
        (problem.points - 1) * np.log(squares + LEAST_NOISE**2) + (np.log(bend) / BEND_SD) ** 2
    )
    bend, turn, _ = lowest(problem, penalised)
    free = problem.points - 3
    variance = best / free
    believed = max(variance, SMALLEST_SD**2) * (free + scipy.stats.f.ppf(confidence, 1, free))
    low, high = _bend_ends(problem, best_bend, believed)
    own = [b for b in (best_bend, bend, 1.0) if low <= b <= high]
    # Denser at the ends, where the region opens as a square root.
    places = (1 - np.cos(np.linspace(0, math.pi, 25))) / 2
    bends = np.unique(np.concatenate([low * (high / low) ** places, own]))
    turns, squares = least(problem, bends)
    believed = max(believed, float(squares.max()))  # the ends of the bend, to the last digit
    region = Region(problem, believed, bends, *outermost_turns(problem, bends, turns, believed))
    level = float(best_level(*problem.levels(turn, bend)))
    return Curve(bend, turn, level, math.sqrt(variance), problem, region), best


def lowest(problem: Problem, objective) -> tuple[float, float, float]:
    """(bend, turn, objective there) where objective(sum of squares, bend) is lowest."""
    table = objective(problem.table, LOOKED_AT[:, None])
    row, column = np.unravel_index(table.argmin(), table.shape)
    if not 1 < column < len(problem.grid) - 2:  # an asymptote, on which every bend is the same
        turn = -math.inf if column <= 1 else math.inf
        return 1.0, turn, float(objective(problem.squares(turn), 1.0))
    found = scipy.optimize.minimize(
        lambda x: float(objective(problem.squares(x[1], math.exp(x[0])), math.exp(x[0]))),
        (math.log(LOOKED_AT[row]), problem.grid[column]),
        method="Nelder-Mead",
        bounds=[np.log(BENDS), (problem.grid[1], problem.grid[-2])],
        options={"xatol": 1e-7, "fatol": 1e-13, "maxiter": 400},
    )
    return math.exp(found.x[0]), float(found.x[1]), float(found.fun)


def _bend_ends(problem: Problem, best: float, believed: float) -> Interval:
    """The outermost believed bends."""
    profile = least(problem, LOOKED_AT, problem.table)[1]
    inside = LOOKED_AT[profile <= believed]
    ends = []
    for near, outward in (
        (min([*inside, best]), LOOKED_AT[::-1]),
        (max([*inside, best]), LOOKED_AT),
    ):
        beyond = [b for b in outward if (b - near) * (outward[-1] - outward[0]) > 0]
        if not beyond:
            ends.append(near)
            continue
        excess = lambda b: float(least(problem, np.exp([b]))[1][0]) - believed
        a, b = math.log(near), math.log(beyond[0])
        ends.append(
            math.exp(scipy.optimize.brentq(excess, a, b, xtol=1e-4)) if excess(a) < 0 else near
        )
    return ends[0], ends[1]


def rise_of(problem: Problem) -> Rise | None:
    """The largest batch, if it takes more steps than the others lead to expect, by an F test of its
    residual from the curve through the others."""
    free = problem.points - 4
    second, largest = np.argsort(-problem.log_ratio)[-2:]
    if free < 1 or problem.log_steps[largest] <= problem.log_steps[second]:
        return None
    others = problem.without_largest()
    bend, turn, squares = lowest(others, lambda squares, bend: squares)
    level = best_level(*others.levels(turn, bend))
    batch = problem.measured[1]
    expected = float(level + shape(turn, bend, np.log([others.centre / batch]))[0])
    if problem.log_steps[largest] <= expected:
        return None
    _, _, all_squares = lowest(problem, lambda squares, bend: squares)
    worse = (all_squares - squares) / max(squares / free, LEAST_NOISE**2)
    p_value = float(scipy.stats.f.sf(worse, 1, free)) / 2  # one side of it
    return Rise(batch, float(np.exp(problem.log_steps[largest])), math.exp(expected), p_value)


def slope_of(problem: Problem, confidence: float) -> tuple[float, Interval, float] | None:
    """See `StepsFit.slope`: least squares over slope, bend and turn. At slope a, log(centre /
    batch) is a times as long. The interval is log a +- t standard errors."""
    free = problem.points - 4
    if free < 2:
        return None

    def residuals(x):
        slope, bend, turn = math.exp(x[0]), math.exp(x[1]), x[2]
        reached, censored = dataclasses.replace(
            problem,
            log_ratio=slope * problem.log_ratio,
            censored_ratio=slope * problem.censored_ratio,
        ).levels(turn, bend)
        level = best_level(reached, censored)
        return np.concatenate([reached - level, np.maximum(censored - level, 0)])

    bend, turn, one = lowest(problem, lambda squares, bend: squares)
    limits = np.array([np.log(SLOPES), np.log(BENDS), problem.grid[[1, -2]]])
    starts = [(math.log(slope), math.log(bend), turn) for slope in (0.8, 1.0, 1.25)]
    found = min(
        (
            scipy.optimize.least_squares(residuals, np.clip(start, *limits.T), bounds=limits.T)
            for start in starts
        ),
        key=lambda one: one.cost,
    )
    variance = max(2 * found.cost / free, LEAST_NOISE**2)
    information = found.jac.T @ found.jac
    error = math.sqrt(variance * float(np.linalg.pinv(information, hermitian=True)[0, 0]))
    reach = float(scipy.stats.t.ppf((1 + confidence) / 2, free)) * error
    p_value = float(scipy.stats.f.sf((one - 2 * found.cost) / variance, 1, free))
    slope, low, high = np.exp(found.x[0] + reach * np.array([0, -1, 1]))
    return float(slope), (float(low), float(high)), p_value


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
