"""The density of eigenvalues, from what stochastic Lanczos quadrature found of them."""

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

MISSING = 1e-3  # of the mass of a density on its grid


def density(
    nodes: ArrayLike, weights: ArrayLike, grid: ArrayLike, width: float = 0.01
) -> NDArray[np.float64]:
    """The density of eigenvalues on an ascending grid [G], smoothed by a normal kernel.

    Args:
      nodes, weights: [probes, steps], see `curvature.Quadrature`.
      width: standard deviation of the kernel, as a share of the length of the grid.

    Raises:
      ValueError: the grid holds another mass than 1: it is too short or too coarse.
    """
    nodes, weights, grid = (np.asarray(values, float) for values in (nodes, weights, grid))
    deviation = width * (grid[-1] - grid[0])
    held, shares = weights > 0, weights / len(weights)
    found = scipy.stats.norm.pdf(grid[:, None], nodes[held], deviation) @ shares[held]
    mass = float(scipy.integrate.trapezoid(found, grid))
    if abs(mass - 1) > MISSING:
        raise ValueError(
            f"The grid of {grid.size} points from {grid[0]:g} to {grid[-1]:g} holds {mass:.4f} of "
            f"the eigenvalues, which lie from {nodes[held].min():g} to {nodes[held].max():g}; make "
            "it longer by some widths, or finer."
        )
    return found
