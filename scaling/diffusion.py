"""How far weights walk from where they began (Hoffer 2017, section 3). Plain numbers only.

Hoffer et al. model the first phase of training, at a high learning rate, as a random walk on a
random potential: E ||w_t - w_0||^2 ~ (log t)^(4 / alpha), and find alpha = 2, that is
||w_t - w_0|| ~ log t, "ultra-slow diffusion". Ordinary diffusion would be sqrt(t).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy


@dataclasses.dataclass(frozen=True)
class Line:
    """y = intercept + slope x, by least squares; r2 is the share of the variance it explains."""

    slope: float
    intercept: float
    r2: float
    points: int


@dataclasses.dataclass(frozen=True)
class Diffusion:
    """Three laws of the distance d(t) with two numbers each, all by least squares of d itself, so
    that their R^2 compare.

    Attributes:
      log: d = intercept + slope ln t.
      root: d = intercept + slope sqrt(t).
      power: d = exp(intercept) t^slope.
    """

    log: Line
    root: Line
    power: Line


def fit_line(x: Sequence[float], y: Sequence[float]) -> Line | None:
    """Least squares; None from fewer than three points or where x or y does not vary."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    centred = x - x.mean()
    slope = float(centred @ (y - y.mean()) / (centred @ centred))
    intercept = float(y.mean() - slope * x.mean())
    return Line(slope, intercept, _r2(y, intercept + slope * x), len(x))


def fit_diffusion(steps: Sequence[float], distances: Sequence[float]) -> Diffusion | None:
    """The three laws on the same points; None where they are too few (see `fit_line`).

    Args:
      steps: updates done, t > 0.
      distances: ||w_t - w_0|| at each; points at which it is 0 are left out.
    """
    t, d = np.asarray(steps, float), np.asarray(distances, float)
    t, d = t[d > 0], d[d > 0]
    log, root = fit_line(np.log(t), d), fit_line(np.sqrt(t), d)
    if log is None or root is None:
        return None
    return Diffusion(log, root, _fit_power(t, d))


def _fit_power(t, d) -> Line:
    """The exponent by a search that begins at the fit to the logarithms; the factor follows."""
    begin = fit_line(np.log(t), np.log(d)).slope
    # In t over its geometric mean, so that no power of it overflows.
    middle = np.exp(np.log(t).mean())
    powers = lambda exponent: (t / middle) ** exponent
    factor = lambda exponent: powers(exponent) @ d / (powers(exponent) @ powers(exponent))
    residual = lambda exponent: np.sum((d - factor(exponent) * powers(exponent)) ** 2)
    exponent = float(scipy.optimize.minimize_scalar(residual, bracket=(begin, begin + 0.1)).x)
    walked = factor(exponent) * powers(exponent)
    intercept = float(np.log(factor(exponent)) - exponent * np.log(middle))
    return Line(exponent, intercept, _r2(d, walked), len(t))


def _r2(values, fitted) -> float:
    """1 - residual over total sum of squares; negative for a law worse than the mean."""
    residual, total = values - fitted, values - values.mean()
    return float(1 - residual @ residual / (total @ total))
