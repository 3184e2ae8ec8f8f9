"""Sharpness of trained nets by batch size, raw and invariant, beside their test error."""

from ml_collections import ConfigDict

from scaling.limits import COUNT, POSITIVE, Limits
from scaling.studies import recipes_config as recipes

LIMITS = {
    "sharpness.losses": POSITIVE,
    "sharpness.resolution": Limits(0.001, 10, "[]"),
    "sharpness.examples": COUNT,
    "sharpness.batch": COUNT,
    "sharpness.eps": Limits(0, 1, "(]"),
    "sharpness.subspace": Limits(1, 10_000, "[]"),
    "sharpness.average_rho": POSITIVE,
    "sharpness.worst_rho": POSITIVE,
    "sharpness.draws": Limits(2, 10_000, "[]"),
    "sharpness.steps": Limits(2, 10_000, "[]"),
    "sharpness.products": Limits(6, 10_000, "[]"),
    "sharpness.probes": Limits(0, 1000, "[]"),
} | {f"sharpness.{key}": limits for key, limits in recipes.TUNING.items()}


def section(c: ConfigDict) -> None:
    """Add its keys, at their defaults."""
    recipes.section(c, "naive", "sqrt+gbn", "lars")
    # Nets are measured where the training loss is first seen at or below each of these, which makes
    # batch sizes comparable, and after the last update.
    c.sharpness.losses = (0.01,)
    c.sharpness.resolution = 0.05  # steps of the evaluations grow by this share
    c.sharpness.examples = 2000  # the first so many of the training set are what is measured on
    # Batch statistics: recomputed over these examples, or frozen, as evaluations have them.
    c.sharpness.statistics = "recomputed"
    c.sharpness.eps = (1e-3, 5e-4)  # of Keskar's box
    c.sharpness.subspace = 100  # dimensions of Keskar's random subspace
    c.sharpness.average_rho = (0.05, 0.2)  # each weight moves by N(0, (rho w)^2)
    c.sharpness.draws = 20  # of such moves
    c.sharpness.worst_rho = (0.25, 1.0)  # the norm of the moves over the weights, at most
    c.sharpness.batch = 128  # examples of each worst case
    c.sharpness.steps = 40  # of Lanczos, products with the Hessian
    c.sharpness.products = 30  # with the Hessian for a trace
    # Runs of Lanczos for the density of eigenvalues, of the nets of the first seed; 0: none.
    c.sharpness.probes = 2
    recipes.tuning(c.sharpness)
