"""The form of result.json, and means over its seeds."""

import math
import statistics
from dataclasses import dataclass

from scaling.diffusion import Diffusion
from scaling.studies import recipe_records

LAWS = ("log", "root", "power")
COLUMNS = ("weight_distance", "grad_norm", "train_loss", "validation_error", "validation_loss")


@dataclass(frozen=True)
class Curve:
    """A run's evaluations; None where there is no number."""

    step: list[int]
    weight_distance: list[float | None]  # ||w - w_0||
    grad_norm: list[float | None]  # root mean square over the updates since the evaluation before
    train_loss: list[float | None]  # mean over those updates
    validation_error: list[float | None]  # or the headline metric of another task
    validation_loss: list[float | None]

    def __post_init__(self):
        for name in COLUMNS:
            if len(getattr(self, name)) != len(self.step):
                raise ValueError(f"{len(getattr(self, name))} values of {name}, not one per step")

    def column(self, name: str) -> dict[int, float]:
        """Step -> value, where there is one."""
        pairs = zip(self.step, getattr(self, name), strict=True)
        return {step: v for step, v in pairs if v is not None and math.isfinite(v)}

    def last(self, name: str) -> float | None:
        """The value at the last step that has one."""
        return next(reversed(self.column(name).values()), None)


@dataclass(frozen=True, kw_only=True)
class Run(recipe_records.Run):
    """One seed."""

    curve: Curve
    diffusion: Diffusion | None  # None: it diverged, or has too few evaluations for a fit


@dataclass(frozen=True)
class Norms:
    """Of one layer at one time, means over seeds."""

    weight_norm: float | None
    grad_norm: float | None  # of the mean gradient of a training batch

    @property
    def ratio(self) -> float | None:
        """||w|| / ||g||; None where the gradient is zero."""
        known = self.weight_norm is not None and self.grad_norm
        return self.weight_norm / self.grad_norm if known else None


@dataclass(frozen=True)
class Layer:
    """One array of parameters, after the first update and after the last."""

    name: str
    size: int
    start: Norms
    end: Norms


@dataclass(frozen=True, eq=False, kw_only=True)
class Record(recipe_records.Record):
    """One batch size under one recipe."""

    fit_steps: tuple[int, int]  # first and last update of the fits
    runs: list[Run]
    layers: list[Layer] | None  # None: not recorded

    @property
    def complete(self) -> list[Run]:
        """Seeds that did not diverge: all numbers are of these."""
        return [run for run in self.runs if not run.diverged]

    @property
    def fits(self) -> dict[int, Diffusion]:
        """Seed -> how its distance grows."""
        return {run.seed: run.diffusion for run in self.complete if run.diffusion}

    def fitted(self, law: str, what: str) -> list[float]:
        """A law's "slope", "intercept" or "r2", seed by seed."""
        return [getattr(getattr(fit, law), what) for fit in self.fits.values()]

    def mean_of(self, law: str, what: str) -> float | None:
        """Mean over seeds of a law's "slope", "intercept" or "r2"."""
        return statistics.mean(self.fitted(law, what)) if self.fits else None

    @property
    def slope(self) -> float | None:
        """Of the distance against ln t, mean over seeds."""
        return self.mean_of("log", "slope")

    def mean(self, column: str) -> dict[int, float]:
        """Step -> mean over seeds, at the steps at which all of them have a value."""
        curves = [curve for run in self.complete if (curve := run.curve.column(column))]
        steps = [step for step in curves[0] if all(step in c for c in curves)] if curves else []
        return {step: statistics.mean(curve[step] for curve in curves) for step in steps}

    def finals(self, column: str) -> list[float]:
        """The last value of each seed."""
        values = (run.curve.last(column) for run in self.complete)
        return [value for value in values if value is not None]

    @property
    def kernels(self) -> list[Layer]:
        """Matrices of weights or of filters, not biases and scales of normalisations."""
        return [layer for layer in self.layers or [] if layer.name.endswith("kernel")]
