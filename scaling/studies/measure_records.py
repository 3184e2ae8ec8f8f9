"""The form of the measures of a net in result.json, and their names; see gauge.py."""

from dataclasses import dataclass

# Names of measures.
TOP, LEAST, TRACE = "largest eigenvalue", "smallest eigenvalue", "trace"  # of the Hessian
ADAPTIVE_TOP = "largest eigenvalue of |w| H |w|"
FLATNESS = "relative flatness"  # Petzka 2021, summed over the kernels
NORMALISED = ", logits normalised"


def keskar(eps: float, dimensions: int | None) -> str:
    """Keskar 2016, Metric 2.1, in all directions or a random subspace."""
    return f"φ, ε {eps:g}" + (f", {dimensions} directions" if dimensions else "")


def average(rho: float, normalised: bool) -> str:
    """Mean rise of the loss when each weight w moves by N(0, (rho w)^2) (Andriushchenko 2023)."""
    return f"average rise, ρ {rho:g}" + NORMALISED * normalised


def worst(rho: float, normalised: bool) -> str:
    """Largest rise of the loss when the moves over the weights have norm rho (Kwon 2021)."""
    return f"worst rise, ρ {rho:g}" + NORMALISED * normalised


@dataclass(frozen=True)
class Measure:
    """One measure of one net; None where it is not finite.

    Attributes:
      invariant: the same after a layer in front of batch norm is rescaled.
      low, high: 95% interval of a random estimate, bounds of an eigenvalue; None: neither.
    """

    name: str
    invariant: bool
    value: float | None
    low: float | None = None
    high: float | None = None
