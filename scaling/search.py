"""Quasi-random search over hyperparameters: spaces, trials, and widening of ranges.

A space maps a name to a range, such as ("log", 1e-4, 10.0): a scale of `SCALES` and its bounds, or
the values of a discrete one. Lists, as in JSON, are equivalent to tuples. A position in a range is
0 at the low bound and 1 at the high one, and uniform on the range's scale.

Trial t of a space is the t-th point of a scrambled low-discrepancy sequence. The search is that of
Bousquet et al. 2017 (arXiv:1706.03200) and Shallue et al. 2018 (arXiv:1811.03600, section 4), who
also widen a range whose best trial lies at one of its ends.
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
MOST_POINTS = 2**16  # tried by `sample(..., outside=...)`, about a second's worth


@dataclasses.dataclass(frozen=True)
class Scale:
    """A scale; `bounds` is what follows its name in a range.

    Attributes:
      from_unit: (position, *bounds) -> value, for positions in [0, 1].
      to_unit: (value, *bounds) -> position, beyond [0, 1] for values beyond the bounds; None for
        unordered values.
      extend: (low, high, factor) -> both bounds, moved outwards; see `widen`.
      limits: exclusive limits of the bounds.
      whole: whether values are integers.
    """

    from_unit: Callable[..., float]
    to_unit: Callable[..., float] | None = None
    extend: Callable[..., tuple[float, float]] | None = None
    limits: tuple[float, float] = (-math.inf, math.inf)
    whole: bool = False

    @property
    def ordered(self) -> bool:
        """Whether its ranges have a low and a high side."""
        return self.to_unit is not None


def _ratio(length, factor):
    """The ratio by which a bound on a log scale moves: at least an octave, at most a decade.

    Most of a round of trials at rates up to 100 times too large would diverge.
    """
    return min(max(length**factor, 2.0), 10.0)


def _extend_log(low, high, factor):
    ratio = _ratio(high / low, factor)
    return low / ratio, high * ratio


def _extend_reverse_log(low, high, factor):
    ratio = _ratio((1 - low) / (1 - high), factor)
    # Rounded, so that 0.9 moves to 0 and not to 2e-16.
    return round(1 - (1 - low) * ratio, 12), round(1 - (1 - high) / ratio, 12)


def _extend_linear(low, high, factor):
    return low - factor * (high - low), high + factor * (high - low)


def _extend_integer(low, high, factor):
    low, high = int(low), int(high)
    by = max(1, round(factor * (high - low)))
    return (max(low - by, 1) if low >= 1 else low - by), high + by  # counts do not widen to 0


SCALES = {
    # Uniform in the logarithm of the value.
    "log": Scale(
        from_unit=lambda u, low, high: low * (high / low) ** u,
        to_unit=lambda v, low, high: math.log(v / low) / math.log(high / low),
        extend=_extend_log,
        limits=(0.0, math.inf),
    ),
    # Uniform in the logarithm of 1 - value: for momentum, whose effective rate is 1 / (1 -
    # momentum).
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
    # Every integer equally likely, including both bounds.
    "integer": Scale(
        from_unit=lambda u, low, high: math.floor(low + min(u * (high - low + 1), high - low)),
        to_unit=lambda v, low, high: (v - low) / (high - low),
        extend=_extend_integer,
        whole=True,
    ),
    # Every value equally likely; unordered, so without edges.
    "discrete": Scale(
        from_unit=lambda u, *values: values[min(int(u * len(values)), len(values) - 1)]
    ),
}


# Other hyperparameters can have any finite value of their scale.
LIMITS = {
    "learning_rate": RATE,
    "warmup_init": Limits(0, RATE.high, "[]"),
    "warmup_steps": AMOUNT,
    "decay_steps": COUNT,
    "decay_share": Limits(0, 1, "(]"),
    "end_factor": Limits(0, 100, "[]"),
    "power": Limits(0, 100, "(]"),
    "cooldown": Limits(0, 1, "(]"),
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
    "ewa_decay": SHARE,
    "max_grad_norm": NOT_NEGATIVE,  # 0: no clipping
}


def check_space(space: Space, readable: Collection[str]) -> None:
    """Check that trials can be drawn from the space and trained.

    Args:
      readable: the hyperparameters that a trial can set.

    Raises:
      UserError: no range; a name that is not readable; an unknown scale; bounds that are not two
        numbers, low below high, within the limits of the scale; discrete values that are not
        numbers; a value outside the limits of the hyperparameter.
    """
    if not space:
        raise UserError("The search space is empty; add a range for at least one hyperparameter.")
    refuse_unread("A trial, drawn from search.space,", space, readable)
    for name, bounds in space.items():
        _check_range(name, bounds)
        for value in bounds[1:]:
            statement = f"The range of {name!r} contains {value:g}"
            LIMITS.get(name, FINITE).check(statement, value, name)


def sample(
    space: Space,
    trials: range | Sequence[int],
    *,
    seed: int | Sequence[int],
    sampler: str = "sobol",
    outside: Space | None = None,
) -> list[dict[str, float]]:
    """The values of trials: integers as int, discrete values as given, all others floats.

    A trial is a function of its number, the seed, the sampler and the ranges: not of the other
    trials requested, nor of the order of the names, which are sorted before they are assigned to
    the dimensions of the sequence.

    Args:
      space: ranges that `check_space` accepts.
      trials: their numbers, from 0.
      sampler: "sobol" or "halton".
      outside: a space of the same names, whose points are skipped: trial t is the t-th point of
        `space` outside it. For a second round, in the part added by `widen`.

    Raises:
      UserError: unknown sampler, or too little of the space lies outside `outside` to find the
        trials there.
    """
    engine = getattr(scipy.stats.qmc, look_up("sampler", sampler, SAMPLERS))
    if min(trials, default=0) < 0:
        raise ValueError(f"Trial {min(trials)}: trials are numbered from 0.")
    needed = max(trials, default=-1) + 1
    # Sobol points are balanced, and SciPy does not warn, if their count is a power of two. They are
    # always drawn from the first, so that point t is unique; a thousand take a millisecond.
    points = 1 << max(needed - 1, 0).bit_length()
    while True:
        drawn = [_values(space, point) for point in _points(engine, len(space), points, seed)]
        if outside is not None:
            drawn = [values for values in drawn if not inside(outside, values)]
        if len(drawn) >= needed:
            return [drawn[trial] for trial in trials]
        points *= 2
        if points > max(MOST_POINTS, 2 * needed):
            raise UserError(
                f"Only {len(drawn)} of {points // 2:,} points lie outside the old ranges and "
                f"{needed} are needed; widen more, or use fewer trials."
            )


def unit_positions(space: Space, values: Values) -> dict[str, float]:
    """Name -> position of its value in its range, for all but discrete ranges.

    Values beyond the bounds have positions beyond [0, 1]. The position of an integer is
    (value - low) / (high - low).
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

    The length is on the range's scale; log and reverse_log move by an octave to a decade (of the
    value, or of 1 - value), integers by at least 1. No side moves across 0, beyond the limits of
    its scale or `LIMITS`, or from positive integers to 0; such a side stays. The result equals
    `space` if no side moves.

    Args:
      edges: (name, "low" or "high"), as `edges` returns them; no discrete ones.
    """
    widened = dict(space)
    for name, side in edges:
        scale, low, high = widened[name]
        _, first, last = space[name]  # both sides move by the original length
        lower, higher = SCALES[scale].extend(first, last, factor)
        floor, ceiling = SCALES[scale].limits
        lower = max(lower, 0) if low >= 0 else lower
        higher = min(higher, 0) if high <= 0 else higher
        limits = LIMITS.get(name, FINITE)
        lower, higher = max(lower, limits.low), min(higher, limits.high)
        if side == "low" and floor < lower < low and limits.contains(lower):
            low = lower
        if side == "high" and high < higher < ceiling and limits.contains(higher):
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
    """The first points of the sequence, [count, dimensions] in [0, 1)."""
    # Renamed in SciPy 1.15; `seed` is deprecated.
    name = "rng" if "rng" in inspect.signature(engine).parameters else "seed"
    return engine(dimensions, scramble=True, **{name: np.random.default_rng(seed)}).random(count)


def _values(space, point):
    """One trial from one point, the names in sorted order."""
    values = {}
    for name, u in zip(sorted(space), point.tolist(), strict=True):
        scale, *bounds = space[name]
        value = SCALES[scale].from_unit(u, *bounds)
        if SCALES[scale].ordered:  # against rounding
            value = min(max(value, bounds[0]), bounds[1])
        values[name] = value
    return values


def _check_range(name, value):
    """UserError unless `value` is a scale with valid bounds."""
    if not isinstance(value, list | tuple) or not value or not isinstance(value[0], str):
        raise UserError(
            f"The range of {name!r} is {value!r}; write a scale and its bounds, for example "
            '("log", 0.001, 1.0).'
        )
    scale, *bounds = value
    if scale not in SCALES:
        raise UserError(
            f"The range of {name!r} has unknown scale {scale!r}: {nearest(scale, SCALES)}"
        )
    ordered = SCALES[scale].ordered
    is_number = lambda v: isinstance(v, numbers.Real) and not isinstance(v, bool)
    if not bounds or (ordered and len(bounds) != 2) or not all(map(is_number, bounds)):
        takes = "two numbers, low and high" if ordered else "one or more numbers"
        raise UserError(f"The range of {name!r} is {value!r}; {scale!r} takes {takes}.")
    if not ordered:
        return
    low, high = bounds
    limits = Limits(*SCALES[scale].limits)
    for bound in bounds:
        limits.check(f"The range of {name!r} has the bound {bound}", bound, f"a {scale!r} bound")
        if SCALES[scale].whole and bound != int(bound):
            raise UserError(f"The range of {name!r} has the bound {bound}; use whole numbers.")
    if not low < high:
        raise UserError(
            f"The range of {name!r} goes from {low} to {high}; write the low bound first, below "
            "the high one."
        )
