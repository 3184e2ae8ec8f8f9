"""Power laws over studies: B_crit = c D^a, or c D^a N^b, of data size D and model size N.

Least squares of the log values on the log sizes, weighted by 1 / (s^2 + tau^2): s is the standard
error of a study's own value, tau the scatter of the studies around the law beyond that. tau^2 is
what brings the weighted sum of squares down to its degrees of freedom, studies minus parameters, 0
where it is lower already (Paule and Mandel 1982). The intervals are those of Knapp and Hartung 2003
(doi:10.1002/sim.1482): Student's t on those degrees of freedom, times standard errors that are
scaled by the weighted residuals. Where all s are equal this is ordinary least squares, so only the
ratios of the s matter there, not their size.

Coverage of an exponent's 95% interval (`tests/test_laws.py`, 5 and 8 studies, s between 3 and 30%,
no or 20% scatter beyond): 93 to 96%.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike

from scaling.curves import Array, Interval
from scaling.errors import UserError
from scaling.fits import interval_text, rounded

COLLINEAR = 1e-6  # smallest singular value of the scaled log sizes over the largest


@dataclass(frozen=True)
class Law:
    """value = exp(constant) prod_k sizes_k^exponents_k.

    Attributes:
      exponents: of each size, by name.
      intervals: of the exponents.
      scatter: standard deviation of the log values around the law beyond their own errors, tau.
    """

    exponents: dict[str, float]
    intervals: dict[str, Interval]
    constant: float
    scatter: float
    studies: int
    confidence: float

    def at(self, sizes: Mapping[str, ArrayLike]) -> Array:
        """The law's value at sizes of any shape."""
        logs = [a * np.log(np.asarray(sizes[name], float)) for name, a in self.exponents.items()]
        return np.exp(self.constant + sum(logs))

    def describe(self) -> str:
        """Such as "tokens^0.46 (95%: 0.4 to 0.52)"."""
        parts = [
            f"{name}^{rounded(exponent)} ({interval_text(ends, self.confidence, 'any')})"
            for (name, exponent), ends in zip(
                self.exponents.items(), self.intervals.values(), strict=True
            )
        ]
        return " ".join(parts)


def standard_error(ends: Interval, dof: int, confidence: float) -> float:
    """Of the log of a value whose interval is Student's t with `dof` degrees of freedom."""
    low, high = ends
    return math.log(high / low) / (2 * float(scipy.stats.t.ppf((1 + confidence) / 2, dof)))


def fit_law(
    sizes: Mapping[str, ArrayLike],
    values: ArrayLike,
    errors: ArrayLike,
    confidence: float = 0.95,
) -> Law:
    """The law of positive values in positive sizes.

    Args:
      sizes: [n] of each size, by name.
      values: [n].
      errors: [n] standard errors of the log values, above 0.

    Raises:
      UserError: too few studies, or sizes that do not vary independently.
    """
    y, s = np.log(np.asarray(values, float)), np.asarray(errors, float)
    logs = np.log(np.array([np.asarray(sizes[name], float) for name in sizes])).T
    middle = logs.mean(0)
    x = np.column_stack([np.ones(len(y)), logs - middle])
    dof = len(y) - x.shape[1]
    names = " and ".join(sizes)
    if dof < 1:
        raise UserError(
            f"A power law in {names} takes at least {x.shape[1] + 1} studies with a bounded "
            f"critical batch size, and {len(y)} have one."
        )
    spread = np.linalg.svd(x[:, 1:], compute_uv=False)
    if spread[-1] <= COLLINEAR * max(spread[0], 1.0):
        raise UserError(f"{names} do not vary, or not independently, over these studies.")
    excess = _excess(x, y, s, dof)
    coefficients, squares, covariance = _weighted(x, y, s**2 + excess)
    half = scipy.stats.t.ppf((1 + confidence) / 2, dof)
    half *= np.sqrt(squares / dof * np.diagonal(covariance))[1:]
    exponents = coefficients[1:]
    ends = [(float(a - h), float(a + h)) for a, h in zip(exponents, half, strict=True)]
    return Law(
        exponents=dict(zip(sizes, exponents.tolist(), strict=True)),
        intervals=dict(zip(sizes, ends, strict=True)),
        constant=float(coefficients[0] - middle @ exponents),
        scatter=math.sqrt(excess),
        studies=len(y),
        confidence=confidence,
    )


def _weighted(x, y, variance):
    """(coefficients, weighted sum of squared residuals, inverse of the information)."""
    covariance = np.linalg.inv(x.T @ (x / variance[:, None]))
    coefficients = covariance @ x.T @ (y / variance)
    return coefficients, float(((y - x @ coefficients) ** 2 / variance).sum()), covariance


def _excess(x, y, s, dof):
    """tau^2. The sum of squares falls with it, and is at most dof at that of plain least squares
    with s = 0."""
    surplus = lambda excess: _weighted(x, y, s**2 + excess)[1] - dof
    if surplus(0.0) <= 0:
        return 0.0
    most = _weighted(x, y, np.ones(len(y)))[1] / dof
    return float(scipy.optimize.brentq(surplus, 0.0, most, xtol=1e-12 * most))
