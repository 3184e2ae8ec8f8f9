"""What a value of a config may be: plain Python, of its key's type, within limits."""

import dataclasses
import math
import numbers
from typing import Any

import numpy as np

from scaling.errors import UserError

MOST_VALUES = 1000  # in a tuple
WORDS = {
    bool: ("True or False", "True or False"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    numbers.Real: ("a number", "numbers"),
    str: ("text", "texts"),
    object: ("a number, text, or a tuple of such", ""),
}


@dataclasses.dataclass(frozen=True)
class Limits:
    """The numbers that a value can be; `ends` tells whether these two are among them."""

    low: float = -math.inf
    high: float = math.inf
    ends: str = "()"

    def hold(self, value: float) -> bool:
        """Whether the value can be; NaN never can."""
        above = self.low <= value if self.ends[0] == "[" else self.low < value
        below = value <= self.high if self.ends[1] == "]" else value < self.high
        return above and below

    def check(self, told: str, value: float, name: str = "it") -> None:
        """UserError, "`told`; `name` must be ...", unless the value can be."""
        if not self.hold(value):
            raise UserError(f"{told}; {name} must be {self}.")

    def __str__(self) -> str:
        """For example "at least 0 and below 1"."""
        ends = []
        if self.low > -math.inf:
            ends.append(f"{'at least' if self.ends[0] == '[' else 'above'} {self.low:,}")
        if self.high < math.inf:
            ends.append(f"{'at most' if self.ends[1] == ']' else 'below'} {self.high:,}")
        return " and ".join(ends) or "finite"


FINITE = Limits()
COUNT = Limits(1, 2**31 - 1, "[]")  # what an int32 counts
AMOUNT = Limits(0, 2**31 - 1, "[]")
SHARE, UP_TO_ONE = Limits(0, 1, "[)"), Limits(0, 1, "[]")
RATE = Limits(0, 10_000, "(]")
POSITIVE = Limits(0, 1_000_000, "(]")
NOT_NEGATIVE = Limits(0, 1_000_000, "[]")


def plain(value: Any) -> Any:
    """The value with NumPy's and JAX's numbers as Python's, and lists and arrays as tuples; of what
    is neither, itself."""
    if hasattr(value, "items"):
        return {key: plain(inner) for key, inner in value.items()}
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        array = np.asarray(value)
        if array.dtype.kind in "biuU":
            value = array.tolist()
        elif array.dtype.kind in "fV" and array.dtype.names is None:  # V: bfloat16 and its like
            value = array.astype(np.float64).tolist()
    return tuple(map(plain, value)) if isinstance(value, list | tuple) else value


def check_value(key: str, value: Any, kind: Any, limits: Limits = FINITE, optional=False) -> Any:
    """The plain value, if the key can have it: whole numbers as float where the key is a float's.

    Args:
      kind: bool, int, float, str or numbers.Real; (int,) and the like for a tuple of such; object
        for any of these.
      limits: of the number, or of every number of the tuple.
      optional: whether it may be None.

    Raises:
      UserError: another type, a number that is not finite or outside the limits.
    """
    if value is None and optional:
        return None
    if not isinstance(kind, tuple):
        return _checked(f"{key} is {_short(value)}", value, kind, limits, optional)
    if not isinstance(value, tuple):
        raise UserError(f"{key} is {_short(value)}; it must be a tuple of {WORDS[kind[0]][1]}.")
    if len(value) > MOST_VALUES:
        raise UserError(f"{key} has {len(value):,} values; it must have at most {MOST_VALUES:,}.")
    return tuple(_checked(f"{key} holds {_short(v)}", v, kind[0], limits) for v in value)


def _checked(told, value, kind, limits, optional=False):
    if kind is object and isinstance(value, tuple):
        return tuple(_checked(told, inner, object, limits) for inner in value)
    types = {float: numbers.Real, object: (str, numbers.Real, type(None))}.get(kind, kind)
    if not isinstance(value, types) or (isinstance(value, bool) and kind not in (bool, object)):
        raise UserError(f"{told}; it must be {WORDS[kind][0]}{', or None' * optional}.")
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        limits.check(told, value)
    return float(value) if kind is float else value


def _short(value):
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
