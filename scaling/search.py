"""Quasi-random search over hyperparameters: spaces, trials, and ranges that turn out too narrow.

A space maps a name to a range, ("log", 1e-4, 10.0) for example: a scale of `SCALES` and its bounds,
or the values of a discrete one. Tuples and JSON's lists are the same. Everything else about a range
is told in positions, 0 at the low bound and 1 at the high one, even on the range's own scale.

Trial t of a space is the t-th point of a scrambled low-discrepancy sequence. The search is that of
Bousquet et al. 2017 (arXiv:1706.03200) and Shallue et al. 2018 (arXiv:1811.03600, section 4), who
also widen a range whose best trial lies at an end of it.
"""

import dataclasses
import inspect
import math
import numbers
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np
import scipy

from scaling.errors import UserError, look_up, nearest, refuse_unread
from scaling.limits import AMOUNT, COUNT, FINITE, NOT_NEGATIVE, POSITIVE, RATE, SHARE, Limits

Space = Mapping[str, Sequence]
Values = Mapping[str, float]

SAMPLERS = {"sobol": "Sobol", "halton": "Halton"}  # in scipy.stats.qmc, seconds to import
MOST_POINTS = 2**16  # before `sample(..., outside=...)` gives up, after about a second


@dataclasses.dataclass(frozen=True)
class Scale:
    """What a scale means; `bounds` is what follows its name in a range.

    Attributes:
      from_unit: (position, *bounds) -> value, for positions in [0, 1].
      to_unit: (value, *bounds) -> position, beyond [0, 1] for values beyond the bounds; None where
        values have no order.
      extend: (low, high, factor) -> both bounds, moved outwards; see `widen`.
      limits: between these two, exclusively, the bounds must lie.
      whole: whether values are integers.
    """

    from_unit: Callable[..., float]
    to_unit: Callable[..., float] | None = None
    extend: Callable[..., tuple[float, float]] | None = None
    limits: tuple[float, float] = (-math.inf, math.inf)
    whole: bool = False

    @property
    def ordered(self) -> bool:
        """Whether a range of it has a low and a high side."""
        return self.to_unit is not None


def _ratio(length, factor):
    """A bound on a log scale moves by this ratio: an octave at least, a decade at most.

    One round of trials at a rate 100 times too large would only diverge.
    """
    return min(max(length**factor, 2.0), 10.0)


def _extend_log(low, high, factor):
    ratio = _ratio(high / low, factor)
    return low / ratio, high * ratio


def _extend_reverse_log(low, high, factor):
    ratio = _ratio((1 - low) / (1 - high), factor)
    # Rounded: 0.9 moves to 0, not to the 2e-16 that floats make of it.
    return round(1 - (1 - low) * ratio, 12), round(1 - (1 - high) / ratio, 12)


def _extend_linear(low, high, factor):
    return low - factor * (high - low), high + factor * (high - low)


def _extend_integer(low, high, factor):
    low, high = int(low), int(high)
    by = max(1, round(factor * (high - low)))
    return (max(low - by, 1) if low >= 1 else low - by), high + by  # of a count, 0 is another thing


SCALES = {
    # The logarithm of the value is uniform.
    "log": Scale(
        from_unit=lambda u, low, high: low * (high / low) ** u,
        to_unit=lambda v, low, high: math.log(v / low) / math.log(high / low),
        extend=_extend_log,
        limits=(0.0, math.inf),
    ),
    # The logarithm of 1 - value is uniform: for momentum, whose steps add up to 1 / (1 - momentum).
    "reverse_log": Scale(
        from_unit=lambda u, low, high: 1 - (1 - low) * ((1 - high) / (1 - low)) ** u,
        to_unit=lambda v, low, high: (
            math.log((1 - v) / (1 - low)) / math.log((1 - high) / (1 - low))
        ),
        extend=_extend_reverse_log,
        limits=(-math.inf, 1.0),
    ),
    "linear": Scale(
        from_unit=lambda u, low, high: low + u * (high - low),
        to_unit=lambda v, low, high: (v - low) / (high - low),
        extend=_extend_linear,
    ),
    # Both bounds included, every integer equally likely.
    "integer": Scale(
        from_unit=lambda u, low, high: math.floor(low + min(u * (high - low + 1), high - low)),
        to_unit=lambda v, low, high: (v - low) / (high - low),
        extend=_extend_integer,
        whole=True,
    ),
    # Every value equally likely; without an order there are no edges.
    "discrete": Scale(
        from_unit=lambda u, *values: values[min(int(u * len(values)), len(values) - 1)]
    ),
}


# What is not named here can have any finite value that its scale has.
LIMITS = {
    "learning_rate": RATE,
    "warmup_init": Limits(0, RATE.high, "[]"),
    "warmup_steps": AMOUNT,
    "decay_steps": COUNT,
    "decay_share": Limits(0, 1, "(]"),
    "end_factor": Limits(0, 100, "[]"),
    "power": Limits(0, 100, "(]"),
    "decay_factor": POSITIVE,
    "label_smoothing": SHARE,
    "gradient_noise": NOT_NEGATIVE,
    "momentum": SHARE,
    "weight_decay": NOT_NEGATIVE,
    "trust_coefficient": Limits(0, 1000, "(]"),
    "fallback": RATE,
    "b1": SHARE,
    "b2": SHARE,
    "eps": Limits(0, 1000, "(]"),
    "max_grad_norm": NOT_NEGATIVE,  # 0: no clipping
}


def check_space(space: Space, readable: Collection[str]) -> None:
    """Nothing, if trials can be drawn from the space and read.

    Args:
      readable: the hyperparameters that a trial can set.

    Raises:
      UserError: no range; a name that is not readable; an unknown scale; bounds that are not two
        numbers, low below high, that the scale allows; discrete values that are not numbers; a
        value that the hyperparameter cannot have.
    """
    if not space:
        raise UserError("The search space is empty; give at least one hyperparameter a range.")
    refuse_unread("A trial", space, readable)
    for name, given in space.items():
        _check_range(name, given)
        for value in given[1:]:
            told = f"The range of {name!r} holds {value:g}"
            LIMITS.get(name, FINITE).check(told, value, name)


def sample(
    space: Space,
    trials: range | Sequence[int],
    *,
    seed: int | Sequence[int],
    sampler: str = "sobol",
    outside: Space | None = None,
) -> list[dict[str, float]]:
    """The values of some trials: integers as int, discrete values as given, all others floats.

    A trial is a function of its number, the seed, the sampler and what the space holds: not of the
    other trials asked for, nor of the order of the names, which are sorted before they are given
    the sequence's dimensions.

    Args:
      space: ranges, as `check_space` accepts them.
      trials: their numbers, from 0.
      sampler: "sobol" or "halton".
      outside: a space of the same names; what lies inside it is skipped, so that trial t is the
        t-th point of `space` that `outside` does not hold. For a second round, in what `widen`
        added to a first one.

    Raises:
      UserError: unknown sampler, or too little of the space lies outside `outside` to find the
        trials there.
    """
    engine = getattr(scipy.stats.qmc, look_up("sampler", sampler, SAMPLERS))
    if min(trials, default=0) < 0:
        raise ValueError(f"Trial {min(trials)}: trials are numbered from 0.")
    needed = max(trials, default=-1) + 1
    # Sobol points are balanced, and SciPy silent, where their count is a power of two. Always from
    # the first: a thousand points take a millisecond, and every point has one way to come about.
    points = 1 << max(needed - 1, 0).bit_length()
    while True:
        found = [_values(space, point) for point in _points(engine, len(space), points, seed)]
        if outside is not None:
            found = [values for values in found if not inside(outside, values)]
        if len(found) >= needed:
            return [found[trial] for trial in trials]
        points *= 2
        if points > max(MOST_POINTS, 2 * needed):
            raise UserError(
                f"Only {len(found)} of {points // 2:,} points lie outside the old ranges and "
                f"{needed} are needed; widen more, or ask for fewer trials."
            )


def unit_positions(space: Space, values: Values) -> dict[str, float]:
    """Name -> position of its value in its range, for every name but the discrete ones.

    0 is the low bound and 1 the high one; values beyond the bounds have positions beyond [0, 1].
    An integer's position is (value - low) / (high - low).
    """
    return {
        name: SCALES[scale].to_unit(values[name], *bounds)
        for name, (scale, *bounds) in space.items()
        if SCALES[scale].ordered
    }


def edges(space: Space, values: Values, margin: float = 0.05) -> list[tuple[str, str]]:
    """(name, "low" or "high") of every value in the outer `margin` of its range, or beyond it."""
    return [
        (name, "low" if position <= margin else "high")
        for name, position in unit_positions(space, values).items()
        if not margin < position < 1 - margin
    ]


def widen(
    space: Space, edges: Iterable[tuple[str, str]], factor: float = 0.5
) -> dict[str, Sequence]:
    """The space with each named side moved outwards by `factor` of its range's length.

    The length is that on the range's own scale, but log and reverse_log move by an octave at least
    and a decade at most (of the value, or of 1 - value), and integers by 1 at least. No side moves
    across 0, where its scale cannot go, beyond `LIMITS`, or from positive integers to 0. A side
    without room stays: the space that comes back equals the given one if no side had any.

    Args:
      edges: (name, "low" or "high"), as `edges` finds them; no discrete ones.
    """
    widened = dict(space)
    for name, side in edges:
        scale, low, high = widened[name]
        _, first, last = space[name]  # both sides move by the length before
        lower, higher = SCALES[scale].extend(first, last, factor)
        floor, ceiling = SCALES[scale].limits
        lower = max(lower, 0) if low >= 0 else lower
        higher = min(higher, 0) if high <= 0 else higher
        limits = LIMITS.get(name, FINITE)
        lower, higher = max(lower, limits.low), min(higher, limits.high)
        if side == "low" and floor < lower < low and limits.hold(lower):
            low = lower
        if side == "high" and high < higher < ceiling and limits.hold(higher):
            high = higher
        if (low, high) != tuple(widened[name][1:]):
            widened[name] = (scale, low, high)
    return widened


def inside(space: Space, values: Values) -> bool:
    """Whether every value lies in its range, bounds included, or among its discrete values."""
    return all(
        bounds[0] <= values[name] <= bounds[1] if SCALES[scale].ordered else values[name] in bounds
        for name, (scale, *bounds) in space.items()
    )


def _points(engine, dimensions, count, seed):
    """The sequence's first points, [count, dimensions] in [0, 1)."""
    # Only the name changed in SciPy 1.15; `seed` is to go.
    name = "rng" if "rng" in inspect.signature(engine).parameters else "seed"
    return engine(dimensions, scramble=True, **{name: np.random.default_rng(seed)}).random(count)


def _values(space, point):
    """One trial from one point, the names in sorted order."""
    values = {}
    for name, u in zip(sorted(space), point.tolist(), strict=True):
        scale, *bounds = space[name]
        value = SCALES[scale].from_unit(u, *bounds)
        if SCALES[scale].ordered:  # rounding must not leave the range; equal bounds leave `value`
            value = min(max(value, bounds[0]), bounds[1])
        values[name] = value
    return values


def _check_range(name, given):
    """UserError unless `given` is a scale and bounds that it takes."""
    if not isinstance(given, list | tuple) or not given or not isinstance(given[0], str):
        raise UserError(
            f"The range of {name!r} is {given!r}; write a scale and its bounds, for example "
            '("log", 0.001, 1.0).'
        )
    scale, *bounds = given
    if scale not in SCALES:
        raise UserError(
            f"The range of {name!r} has unknown scale {scale!r}: {nearest(scale, SCALES)}"
        )
    ordered = SCALES[scale].ordered
    is_number = lambda v: isinstance(v, numbers.Real) and not isinstance(v, bool)
    if not bounds or (ordered and len(bounds) != 2) or not all(map(is_number, bounds)):
        takes = "two numbers, low and high" if ordered else "one or more numbers"
        raise UserError(f"The range of {name!r} is {given!r}; {scale!r} takes {takes}.")
    if not ordered:
        return
    low, high = bounds
    floor, ceiling = SCALES[scale].limits
    for bound in bounds:
        if not floor < bound < ceiling:
            raise UserError(
                f"The range of {name!r} has the bound {bound}; a {scale!r} bound lies between "
                f"{floor:g} and {ceiling:g}, both excluded."
            )
        if SCALES[scale].whole and bound != int(bound):
            raise UserError(f"The range of {name!r} has the bound {bound}; use whole numbers.")
    if not low < high:
        raise UserError(
            f"The range of {name!r} goes from {low} to {high}; the low bound comes first and is "
            "below the high one."
        )
