"""Steps against batch size: the curve, its least-squares fit and its confidence region.

The mathematics of `scaling.fits`, where the model is explained:

    log S(B) = level + log((1 - w) + w (centre / B)^bend) / bend,   w = 1 / (1 + e^(-bend beta))

`level` is the log of the steps at the batch `centre`, the middle of the data, and beta is
`log_b_crit` = log(B_crit / centre), from -inf (flat) to inf (slope -1), with a finite level on both
asymptotes. Given beta and bend the best level is a mean, so the search has one or two dimensions.
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

# A floor on the noise in log S: without it a fit through noiseless points would have zero
# uncertainty, and rounding would decide its interval.
SMALLEST_SD = 1e-6
# The floor that the tests use: evaluations, and so crossings, are a few percent of the steps apart.
LEAST_NOISE = 0.02
# No measurement distinguishes a bend above 5 from a corner; below 0.4 no curve of steps was seen.
BENDS = (0.4, 5.0)
BEND_SD = 0.7  # of log bend, in the penalty
# A B_crit farther beyond the measured batches than this, in log B, counts as 0 or infinity.
BEYOND = 30.0
GRID = 400  # values of B_crit at which the sum of squares is tabulated
BEND_GRID = np.unique([*np.geomspace(*BENDS, 24), 1.0])  # bends, likewise
SLOPES = (0.4, 2.5)  # range of the search


@dataclasses.dataclass(frozen=True)
class Curve:
    """The fitted S(B) = s_min (1 + (b_crit / B)^bend)^(1 / bend) and its confidence region.

    Where all data lie on slope -1, b_crit may be inf and s_min 0; where they are flat, b_crit and
    e_min may be 0. `steps` is valid in both cases.
    """

    bend: float
    log_b_crit: float = dataclasses.field(repr=False)  # log(b_crit / centre)
    level: float = dataclasses.field(repr=False)  # log of the steps at the centre
    residual_sd: float  # of log S around the best curve of its kind
    problem: "Problem" = dataclasses.field(repr=False, compare=False)
    region: "Region" = dataclasses.field(repr=False, compare=False)

    def steps(self, batch: ArrayLike) -> Array:
        """The curve at `batch`, any shape."""
        log_ratio = np.log(self.problem.centre / np.asarray(batch, float))
        return exp(self.level + shape(self.log_b_crit, self.bend, log_ratio[..., None])[..., 0])

    def band(self, batch: ArrayLike) -> tuple[Array, Array]:
        """(lower, upper) ends of the interval of the curve at each batch, any shape.

        The interval is of the curve, not of a new measurement, and pointwise: the confidence that
        the whole curve lies inside the band is lower.
        """
        return self.region.steps(np.asarray(batch, float))

    @property
    def b_crit(self) -> float:
        """Intersection of the two asymptotes, in examples."""
        return float(self.problem.centre * np.exp(self.log_b_crit))

    def at(self, offset) -> tuple[float, Interval]:
        """The batch at b_crit e^offset(bend), and its interval."""
        region, centre = self.region, self.problem.centre
        ends = (region.low + offset(region.bends)).min(), (region.high + offset(region.bends)).max()
        value = self.log_b_crit + offset(self.bend)
        value, low, high = exp(np.log(centre) + np.array([value, *ends]))
        return float(value), (float(low), float(high))


@dataclasses.dataclass(frozen=True)
class Rise:
    """A largest batch size that takes more steps than the smaller ones predict."""

    batch: float
    steps: float
    expected: float
    p_value: float


def log_flat(log_b_crit: ArrayLike) -> Array:
    """log(1 - w), of the share of the steps at `centre` that no batch removes; log w at -beta."""
    return -np.logaddexp(0, log_b_crit)


def exp(logs: ArrayLike) -> Array:
    """e^logs, inf without a warning on overflow: very noisy points admit almost any curve."""
    with np.errstate(over="ignore"):
        return np.exp(logs)


def shape(log_b_crit: ArrayLike, bend: ArrayLike, log_ratio: Array) -> Array:
    """log S - level, [..., n], at log_b_crit and bend [...]; log_ratio is log(centre / batch), [n]
    or [..., n]."""
    beta, bend = (np.asarray(values, float)[..., None] for values in (log_b_crit, bend))
    return np.logaddexp(log_flat(bend * beta), log_flat(-bend * beta) + bend * log_ratio) / bend


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
        """[GRID + 2] log_b_crits to search, ascending, including both asymptotes."""
        edge = BEYOND + abs(np.concatenate([self.log_ratio, self.censored_ratio])).max()
        return np.concatenate([[-np.inf], np.linspace(-edge, edge, GRID), [np.inf]])

    @functools.cached_property
    def table(self) -> Array:
        """[bends, log_b_crits] sums of squares on `BEND_GRID` and `grid`."""
        return self.squares(self.grid, BEND_GRID[:, None])

    def levels(self, log_b_crit: ArrayLike, bend: ArrayLike = 1.0) -> tuple[Array, Array]:
        """The level of the curve through each point: [..., n] reached, [..., m] censored."""
        reached = self.log_steps - shape(log_b_crit, bend, self.log_ratio)
        return reached, self.censored_steps - shape(log_b_crit, bend, self.censored_ratio)

    def squares(self, log_b_crit: ArrayLike, bend: ArrayLike = 1.0) -> Array:
        """Sum of squared residuals, [...], at the best level for each log_b_crit and bend."""
        levels = self.levels(log_b_crit, bend)
        return squares_at(*levels, best_level(*levels))

    def information(self, log_b_crit: float) -> float:
        """Fisher information on the log_b_crit of a hyperbola, at unit variance of log S."""
        # d shape / d log_b_crit, up to a constant.
        slopes = exp(-np.logaddexp(0, -(log_b_crit + self.log_ratio)))
        return float(((slopes - slopes.mean()) ** 2).sum())


def best_level(reached: Array, censored: Array) -> Array:
    """The least-squares level, [...], of the levels that `Problem.levels` returns.

    It is the mean over the reached points and the censored ones above that mean. Adding censored
    points in descending order raises the mean as long as they are above it, so the largest of
    these running means is the solution.
    """
    if not censored.shape[-1]:
        return reached.mean(-1)
    falling = -np.sort(-censored, axis=-1)
    pool = np.concatenate([reached.sum(-1, keepdims=True), falling], axis=-1)
    counts = reached.shape[-1] + np.arange(pool.shape[-1])
    return (np.cumsum(pool, axis=-1) / counts).max(-1)


def squares_at(reached: Array, censored: Array, level: Array) -> Array:
    """Sum of squared residuals, [...], at a level, [...]; one-sided for censored points."""
    level = level[..., None]
    below = np.maximum(censored - level, 0)
    return ((reached - level) ** 2).sum(-1) + (below**2).sum(-1)


@dataclasses.dataclass(frozen=True)
class Region:
    """Confidence region: at each bend, the log_b_crits from `low` to `high`.

    Attributes:
      threshold: the largest sum of squares in the region.
      bends: [m], ascending.
      low, high: [m]; -inf and inf where the asymptotes are in the region.
      unbounded: whether the points leave the bend, and so the breakpoints, undetermined.
    """

    problem: Problem
    threshold: float
    bends: Array
    low: Array
    high: Array
    unbounded: bool = False

    @functools.cached_property
    def scanned(self) -> tuple[Array, Array, Array, Array]:
        """(log_b_crits, bends, lowest levels, highest levels), [k] each, throughout the region."""
        grid, count = self.problem.grid, max(40, GRID // len(self.bends))
        log_b_crits, bends = [], []
        for bend, low, high in zip(self.bends, self.low, self.high, strict=True):
            # An infinite end is a separate point; the finite part ends with the grid.
            scan = np.linspace(max(low, grid[1]), min(high, grid[-2]), count)
            log_b_crits.append(np.unique(np.concatenate([scan, [low, high]])))
            bends.append(np.full(log_b_crits[-1].size, bend))
        log_b_crit, bend = np.concatenate(log_b_crits), np.concatenate(bends)
        levels = self.problem.levels(log_b_crit, bend)
        best, middle = best_level(*levels), levels[0].mean(-1)
        # Beyond this distance from their mean, the reached points alone exceed the threshold.
        radius = math.sqrt(self.threshold / self.problem.points)
        ends = []
        for outside in (middle - radius, middle + radius):
            inside = best
            for _ in range(40):  # bisection, to 1e-12 of the radius
                half = (inside + outside) / 2
                within = squares_at(*levels, half) <= self.threshold
                inside, outside = np.where(within, half, inside), np.where(within, outside, half)
            ends.append(inside)
        return log_b_crit, bend, *ends

    def interval(self, shift) -> Interval:
        """Ends of exp(level + shift(log_b_crit)) over the region of a hyperbola."""
        log_b_crit, _, low, high = self.scanned
        low, high = exp((low + shift(log_b_crit)).min()), exp((high + shift(log_b_crit)).max())
        return float(low), float(high)

    def steps(self, batch: Array) -> tuple[Array, Array]:
        """Fewest and most steps at each batch, any shape."""
        log_b_crit, bend, low, high = self.scanned
        form = shape(log_b_crit, bend, np.log(self.problem.centre / batch.ravel()))
        low, high = exp((low[:, None] + form).min(0)), exp((high[:, None] + form).max(0))
        return low.reshape(batch.shape), high.reshape(batch.shape)


def least(problem: Problem, bends: Array, table: Array | None = None) -> tuple[Array, Array]:
    """(log_b_crits, sums of squares), [m] each: the best fit at each bend, -inf or inf where it is
    an asymptote.

    Args:
      table: [m, log_b_crits] sums of squares on the grid, if already computed.
    """
    grid = problem.grid
    table = problem.squares(grid, bends[:, None]) if table is None else table
    index = table.argmin(1)
    near = np.clip(index, 2, len(grid) - 3)
    low, high = grid[near - 1], grid[near + 1]
    rows, places = np.arange(len(bends)), np.linspace(0, 1, 9)
    for _ in range(12):  # each divides the bracket by 4: to 6e-8 of the grid spacing
        inside = low[:, None] + (high - low)[:, None] * places
        best = problem.squares(inside, bends[:, None]).argmin(1)
        low, high = inside[rows, np.maximum(best - 1, 0)], inside[rows, np.minimum(best + 1, 8)]
    # The outermost finite values are indistinguishable from the asymptotes.
    asymptotes = [index <= 1, index >= len(grid) - 2]
    log_b_crits = np.select(asymptotes, [-np.inf, np.inf], (low + high) / 2)
    return log_b_crits, problem.squares(log_b_crits, bends)


def log_b_crit_ends(
    problem: Problem, bends: Array, log_b_crits: Array, threshold: float
) -> tuple[Array, Array]:
    """Ends of the log_b_crits within the threshold, [m] each, around the best one at each bend.

    A second minimum of the sum of squares widens the interval rather than falling outside it.
    """
    grid, finite = problem.grid, problem.grid[1:-1]
    inside = problem.squares(grid, bends[:, None]) <= threshold
    ends = []
    for outward in (-1, 1):
        side = grid < log_b_crits[:, None] if outward < 0 else grid > log_b_crits[:, None]
        within = inside & side
        last = within.argmax(1) if outward < 0 else len(grid) - 1 - within[:, ::-1].argmax(1)
        near = np.where(within.any(1), grid[last], log_b_crits)
        if outward < 0:
            beyond = np.searchsorted(finite, near, "left") - 1
        else:
            beyond = np.searchsorted(finite, near, "right")
        far = finite[np.clip(beyond, 0, len(finite) - 1)]
        end = np.clip(near, finite[0], finite[-1])
        for _ in range(36):  # bisection, to 1e-11 of the grid spacing
            half = (end + far) / 2
            within = problem.squares(half, bends) <= threshold
            end, far = np.where(within, half, end), np.where(within, far, half)
        ends.append(np.where(near == outward * np.inf, near, end))
    return ends[0], ends[1]


def hyperbola(problem: Problem, confidence: float) -> Curve:
    """The fit at bend 1."""
    bends, dof = np.array([1.0]), problem.points - 2
    log_b_crit, squares = least(problem, bends)
    variance = float(squares[0]) / dof
    threshold = max(variance, SMALLEST_SD**2) * (dof + scipy.stats.f.ppf(confidence, 1, dof))
    ends = log_b_crit_ends(problem, bends, log_b_crit, threshold)
    region = Region(problem, threshold, bends, *ends)
    level = float(best_level(*problem.levels(log_b_crit[0])))
    return Curve(1.0, float(log_b_crit[0]), level, math.sqrt(variance), problem, region)


def bent(problem: Problem, confidence: float) -> tuple[Curve, float]:
    """(the fit at the penalised bend, with the region over all bends; least sum of squares).

    The penalty is added to the log of the sum of squares, the profile likelihood under unknown
    noise.
    """
    best_bend, _, best = lowest(problem, lambda squares, bend: squares)
    penalised = lambda squares, bend: (
        (problem.points - 1) * np.log(squares + LEAST_NOISE**2) + (np.log(bend) / BEND_SD) ** 2
    )
    bend, log_b_crit, _ = lowest(problem, penalised)
    dof = problem.points - 3
    variance = best / dof
    threshold = max(variance, SMALLEST_SD**2) * (dof + scipy.stats.f.ppf(confidence, 1, dof))
    low, high = _bend_ends(problem, best_bend, threshold)
    exact = [b for b in (best_bend, bend, 1.0) if low <= b <= high]
    # Denser at the ends, where the width of the region grows as a square root.
    places = (1 - np.cos(np.linspace(0, math.pi, 25))) / 2
    bends = np.unique(np.concatenate([low * (high / low) ** places, exact]))
    log_b_crits, squares = least(problem, bends)
    threshold = max(threshold, float(squares.max()))  # rounding must not exclude the end bends
    ends = log_b_crit_ends(problem, bends, log_b_crits, threshold)
    region = Region(problem, threshold, bends, *ends)
    level = float(best_level(*problem.levels(log_b_crit, bend)))
    return Curve(bend, log_b_crit, level, math.sqrt(variance), problem, region), best


def lowest(problem: Problem, objective) -> tuple[float, float, float]:
    """(bend, log_b_crit, objective) at the minimum of objective(sum of squares, bend)."""
    table = objective(problem.table, BEND_GRID[:, None])
    row, column = np.unravel_index(table.argmin(), table.shape)
    if not 1 < column < len(problem.grid) - 2:  # an asymptote, where the bend has no effect
        log_b_crit = -math.inf if column <= 1 else math.inf
        return 1.0, log_b_crit, float(objective(problem.squares(log_b_crit), 1.0))
    minimum = scipy.optimize.minimize(
        lambda x: float(objective(problem.squares(x[1], math.exp(x[0])), math.exp(x[0]))),
        (math.log(BEND_GRID[row]), problem.grid[column]),
        method="Nelder-Mead",
        bounds=[np.log(BENDS), (problem.grid[1], problem.grid[-2])],
        options={"xatol": 1e-7, "fatol": 1e-13, "maxiter": 400},
    )
    return math.exp(minimum.x[0]), float(minimum.x[1]), float(minimum.fun)


def _bend_ends(problem: Problem, best: float, threshold: float) -> Interval:
    """The smallest and the largest bend within the threshold."""
    profile = least(problem, BEND_GRID, problem.table)[1]
    inside = BEND_GRID[profile <= threshold]
    ends = []
    for near, outward in (
        (min([*inside, best]), BEND_GRID[::-1]),
        (max([*inside, best]), BEND_GRID),
    ):
        beyond = [b for b in outward if (b - near) * (outward[-1] - outward[0]) > 0]
        if not beyond:
            ends.append(near)
            continue
        excess = lambda b: float(least(problem, np.exp([b]))[1][0]) - threshold
        a, b = math.log(near), math.log(beyond[0])
        ends.append(
            math.exp(scipy.optimize.brentq(excess, a, b, xtol=1e-4)) if excess(a) < 0 else near
        )
    return ends[0], ends[1]


def rise_of(problem: Problem) -> Rise | None:
    """The largest batch, if it takes more steps than the others predict, with an F test of its
    residual from the curve fitted to the others."""
    dof = problem.points - 4
    second, largest = np.argsort(-problem.log_ratio)[-2:]
    if dof < 1 or problem.log_steps[largest] <= problem.log_steps[second]:
        return None
    others = problem.without_largest()
    bend, log_b_crit, squares = lowest(others, lambda squares, bend: squares)
    level = best_level(*others.levels(log_b_crit, bend))
    batch = problem.measured[1]
    expected = float(level + shape(log_b_crit, bend, np.log([others.centre / batch]))[0])
    if problem.log_steps[largest] <= expected:
        return None
    _, _, all_squares = lowest(problem, lambda squares, bend: squares)
    f_value = (all_squares - squares) / max(squares / dof, LEAST_NOISE**2)
    p_value = float(scipy.stats.f.sf(f_value, 1, dof)) / 2  # one-sided
    return Rise(batch, float(np.exp(problem.log_steps[largest])), math.exp(expected), p_value)


def slope_of(problem: Problem, confidence: float) -> tuple[float, Interval, float] | None:
    """See `StepsFit.slope`: least squares over slope, bend and log_b_crit. A slope a multiplies
    log(centre / batch) by a. The interval is log a +- t standard errors."""
    dof = problem.points - 4
    if dof < 2:
        return None

    def residuals(x):
        slope, bend, log_b_crit = math.exp(x[0]), math.exp(x[1]), x[2]
        reached, censored = dataclasses.replace(
            problem,
            log_ratio=slope * problem.log_ratio,
            censored_ratio=slope * problem.censored_ratio,
        ).levels(log_b_crit, bend)
        level = best_level(reached, censored)
        return np.concatenate([reached - level, np.maximum(censored - level, 0)])

    bend, log_b_crit, squares_slope_1 = lowest(problem, lambda squares, bend: squares)
    limits = np.array([np.log(SLOPES), np.log(BENDS), problem.grid[[1, -2]]])
    starts = [(math.log(slope), math.log(bend), log_b_crit) for slope in (0.8, 1.0, 1.25)]
    best = min(
        (
            scipy.optimize.least_squares(residuals, np.clip(start, *limits.T), bounds=limits.T)
            for start in starts
        ),
        key=lambda fit: fit.cost,
    )
    variance = max(2 * best.cost / dof, LEAST_NOISE**2)
    information = best.jac.T @ best.jac
    error = math.sqrt(variance * float(np.linalg.pinv(information, hermitian=True)[0, 0]))
    half_width = float(scipy.stats.t.ppf((1 + confidence) / 2, dof)) * error
    p_value = float(scipy.stats.f.sf((squares_slope_1 - 2 * best.cost) / variance, 1, dof))
    slope, low, high = np.exp(best.x[0] + half_width * np.array([0, -1, 1]))
    return float(slope), (float(low), float(high)), p_value


def _check_points(batch: Array, steps: Array, tried: Array) -> None:
    """UserError for the first invalid point."""
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
            f"Batch size {sizes[counts > 1][0]:g} appears more than once; pass its fewest steps."
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
            "parameters; measure at least 3, or choose an easier goal."
        )


def _check_positive(name: str, values: Array) -> None:
    wrong = values[values <= 0]  # NaN passes: it marks a missed goal
    if wrong.size:
        raise UserError(f"One of the {name} is {wrong[0]:g}; they must be positive.")
