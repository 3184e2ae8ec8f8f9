"""Limits and ticks of logarithmic axes."""

import math
from collections.abc import Iterable
from typing import NamedTuple

STEPS = ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1,))  # within a decade


class Scale(NamedTuple):
    """A logarithmic axis."""

    low: float
    high: float
    ticks: list[float]


def powers_of_two(values: Iterable[float], most: int = 14) -> Scale:
    """An axis over `values` with two to `most` ticks, powers of two."""
    values = list(values)
    pad = max(1.35, (max(values) / min(values)) ** 0.04)
    low, high = min(values) / pad, max(values) * pad
    ticks = _powers(math.ceil(math.log2(low)), math.floor(math.log2(high)))
    if len(ticks) < 2:
        ticks = _powers(math.floor(math.log2(low)), math.ceil(math.log2(high)))
        low, high = min(low, ticks[0] / 1.1), max(high, ticks[-1] * 1.1)
    return Scale(low, high, ticks[:: math.ceil(len(ticks) / most)])


def _powers(first, last):
    return [2.0**exponent for exponent in range(first, last + 1)]


def decades(values: Iterable[float], most: int = 8) -> Scale:
    """An axis over `values` with the finest of STEPS that gives at most `most` ticks."""
    values = list(values)
    low, high = min(values), max(values)
    pad = max((high / low) ** 0.06, 1.15, 2 * math.sqrt(low / high))
    low, high = low / pad, high * pad
    candidates = [_decimals(low, high, steps) for steps in STEPS]
    ticks = next((ticks for ticks in candidates if len(ticks) <= most), candidates[-1])
    return Scale(low, high, ticks[:: math.ceil(len(ticks) / most)])


def _decimals(low, high, steps):
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    # Parsed from text: 1e-3 is the float nearest to the decimal, 10.0**-3 may not be.
    ticks = [float(f"{step}e{exponent}") for exponent in exponents for step in steps]
    return [tick for tick in ticks if low <= tick <= high]
