"""Checks of config values: plain Python, of the key's type, within limits; and the cores here."""

import dataclasses
import math
import numbers
import os
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


def cores() -> int:
    """Of the CPU, that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@dataclasses.dataclass(frozen=True)
class Limits:
    """An interval of valid numbers; `ends` are its brackets, such as "[)"."""

    low: float = -math.inf
    high: float = math.inf
    ends: str = "()"

    def contains(self, value: float) -> bool:
        """Whether the value is valid; NaN never is."""
        above = self.low <= value if self.ends[0] == "[" else self.low < value
        below = value <= self.high if self.ends[1] == "]" else value < self.high
        return above and below

    def check(self, statement: str, value: float, name: str = "it") -> None:
        """UserError, "`statement`; `name` must be ...", unless the value is valid."""
        if not self.contains(value):
            raise UserError(f"{statement}; {name} must be {self}.")

    def __str__(self) -> str:
        """For example "at least 0 and below 1"."""
        ends = []
        if self.low > -math.inf:
            ends.append(f"{'at least' if self.ends[0] == '[' else 'above'} {self.low:,}")
        if self.high < math.inf:
            ends.append(f"{'at most' if self.ends[1] == ']' else 'below'} {self.high:,}")
        return " and ".join(ends) or "finite"


FINITE = Limits()
COUNT = Limits(1, 2**31 - 1, "[]")  # int32
AMOUNT = Limits(0, 2**31 - 1, "[]")
SHARE, UP_TO_ONE = Limits(0, 1, "[)"), Limits(0, 1, "[]")
RATE = Limits(0, 10_000, "(]")
POSITIVE = Limits(0, 1_000_000, "(]")
NOT_NEGATIVE = Limits(0, 1_000_000, "[]")


def plain(value: Any) -> Any:
    """The value with NumPy and JAX numbers as Python's, and lists and arrays as tuples."""
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
    """The plain value, if valid for the key; integers become float where `kind` is float.

    Args:
      kind: bool, int, float, str or numbers.Real; (int,) and the like for a tuple of such; object
        for any of these.
      limits: of the number, or of every number in the tuple.
      optional: whether None is valid.

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
    return tuple(_checked(f"{key} contains {_short(v)}", v, kind[0], limits) for v in value)


def _checked(statement, value, kind, limits, optional=False):
    if kind is object and isinstance(value, tuple):
        return tuple(_checked(statement, inner, object, limits) for inner in value)
    types = {float: numbers.Real, object: (str, numbers.Real, type(None))}.get(kind, kind)
    if not isinstance(value, types) or (isinstance(value, bool) and kind not in (bool, object)):
        raise UserError(f"{statement}; it must be {WORDS[kind][0]}{', or None' * optional}.")
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        limits.check(statement, value)
    return float(value) if kind is float else value


def _short(value):
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
