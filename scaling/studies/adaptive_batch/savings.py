"""What an adaptive batch saves over fixed ones (McCandlish 2018, Appendix D)."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from scaling import noise
from scaling.fits import StepsFit


def gamma_of(schedule: Sequence[Sequence[int]], noise_scales: Sequence[Sequence]) -> float | None:
    """gamma of eq. D.5 from B_simple as one run measured it; None from fewer than two values.

    Progress is ds = dS / (1 + B_simple / B), B_simple at the end of each interval of dS steps.
    Where it was not resolved the batch stayed, so the next interval includes that one.

    Args:
      schedule: [[first step, batch], ...].
      noise_scales: [[step, B_simple or None], ...], as the run was evaluated.
    """
    measured = [(step, scale) for step, scale in noise_scales if scale is not None]
    if len(measured) < 2:
        return None
    progress = [0.0]
    for (before, _), (step, scale) in itertools.pairwise(measured):
        batch = [b for first, b in schedule if first <= step][-1]
        progress.append(progress[-1] + (step - before) / (1 + scale / batch))
    return noise.gamma([scale for _, scale in measured], progress)


def allowed(gamma: float) -> float:
    """The share of steps and of examples that eq. D.4 lets an adaptive batch save.

    At r = E_min / S_min both S / S_min and E / E_min are 1 + sqrt(gamma); of a fixed batch 2.
    """
    return (1 - gamma**0.5) / 2


@dataclass(frozen=True)
class Saving:
    """The share of steps and of examples that runs save against a fixed batch of their mean size.

    Negative where they need more. `low` and `high` are the ends of a 95% interval, from how the
    runs differ and how well the fit is known, put together by the method of variance estimates
    recovery (Zou and Donner 2008); None for a single run.
    """

    share: float
    low: float | None
    high: float | None


def saving(fit: StepsFit, ends: Sequence[tuple[int, int]]) -> Saving:
    """What runs of (steps S, examples E) save: 1 - S / S_fixed, at the fixed batch E / S.

    S_fixed is of the fitted curve: by the hyperbola of eq. 2.11 fixed batches would save something
    too where it does not hold. Averaged over runs as logarithms.

    Args:
      fit: of the fixed batches, its intervals at 95%.
      ends: of each run, all positive.
    """
    steps, examples = np.asarray(ends, float).T
    logs = np.log(fit.steps(examples / steps) / steps)
    middle = logs.mean()
    if logs.size == 1:
        return Saving(float(-np.expm1(-middle)), None, None)
    mean_batch = np.exp(np.log(examples / steps).mean())
    over_runs = stats.t.ppf(0.975, logs.size - 1) * stats.sem(logs)
    with np.errstate(divide="ignore"):  # a curve that may be zero
        low, high = np.log(fit.band(mean_batch)) - np.log(fit.steps(mean_batch))
    low, high = middle - np.hypot(over_runs, low), middle + np.hypot(over_runs, high)
    return Saving(*(float(-np.expm1(-x)) for x in (middle, low, high)))
