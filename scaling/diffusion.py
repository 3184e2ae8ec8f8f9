"""How the distance from initialisation grows in training (Hoffer 2017, section 3), without JAX.

Hoffer et al. model the first phase of training, at a high learning rate, as diffusion in a random
potential: E ||w_t - w_0||^2 ~ (log t)^(4 / alpha). They find alpha = 2, i.e. ||w_t - w_0|| ~ log t,
"ultra-slow diffusion". Ordinary diffusion would give sqrt(t).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy


@dataclasses.dataclass(frozen=True)
class Line:
    """y = intercept + slope x, by least squares; r2 is the fraction of variance explained."""

    slope: float
    intercept: float
    r2: float
    points: int


@dataclasses.dataclass(frozen=True)
class Diffusion:
    """Three two-parameter laws of the distance d(t), all by least squares of d itself, so that
    their R^2 are comparable.

    Attributes:
      log: d = intercept + slope ln t.
      root: d = intercept + slope sqrt(t).
      power: d = exp(intercept) t^slope.
    """

    log: Line
    root: Line
    power: Line


def fit_line(x: Sequence[float], y: Sequence[float]) -> Line | None:
    """Least squares; None for fewer than three points or constant x or y."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    centred = x - x.mean()
    slope = float(centred @ (y - y.mean()) / (centred @ centred))
    intercept = float(y.mean() - slope * x.mean())
    return Line(slope, intercept, _r2(y, intercept + slope * x), len(x))


def fit_diffusion(steps: Sequence[float], distances: Sequence[float]) -> Diffusion | None:
    """The three laws on the same points; None where `fit_line` is.

    Args:
      steps: updates, t > 0.
      distances: ||w_t - w_0|| at each; zeros are left out.
    """
    t, d = np.asarray(steps, float), np.asarray(distances, float)
    t, d = t[d > 0], d[d > 0]
    log, root = fit_line(np.log(t), d), fit_line(np.sqrt(t), d)
    if log is None or root is None:
        return None
    return Diffusion(log, root, _fit_power(t, d))


def _fit_power(t, d) -> Line:
    """A one-dimensional search for the exponent, from the fit in logs; the factor is linear."""
    start = fit_line(np.log(t), np.log(d)).slope
    # t relative to its geometric mean, so that no power overflows.
    middle = np.exp(np.log(t).mean())
    powers = lambda exponent: (t / middle) ** exponent
    factor = lambda exponent: powers(exponent) @ d / (powers(exponent) @ powers(exponent))
    residual = lambda exponent: np.sum((d - factor(exponent) * powers(exponent)) ** 2)
    exponent = float(scipy.optimize.minimize_scalar(residual, bracket=(start, start + 0.1)).x)
    intercept = float(np.log(factor(exponent)) - exponent * np.log(middle))
    return Line(exponent, intercept, _r2(d, factor(exponent) * powers(exponent)), len(t))


def _r2(values, fitted) -> float:
    """1 - residual / total sum of squares; negative for a law worse than the mean."""
    residual, total = values - fitted, values - values.mean()
    return float(1 - residual @ residual / (total @ total))
