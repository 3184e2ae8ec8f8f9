"""Test error by batch size and recipe, at a fixed budget (You, Goyal, Hoffer 2017)."""

from ml_collections import ConfigDict

from scaling.limits import POSITIVE, UP_TO_ONE, Limits
from scaling.studies import recipes_config as recipes

LIMITS = {
    "accuracy.tolerance": UP_TO_ONE,
    "accuracy.trials": Limits(0, 10_000, "[]"),
    "accuracy.span": POSITIVE,
    "accuracy.widen": Limits(0, 100, "[]"),
}


def section(c: ConfigDict) -> None:
    """Add its keys, at their defaults."""
    recipes.section(c, "naive", "sqrt", "linear+warmup")
    c.accuracy = ConfigDict()
    # A recipe holds where its test error, or the headline metric of another task, is worse than the
    # base batch's by less than this.
    c.accuracy.tolerance = 0.005
    # Learning rates to try for every recipe and batch, before the runs, as multiples of the
    # recipe's own; the lowest validation error at the end wins. 0: the recipe's own is taken.
    c.accuracy.trials = 0
    c.accuracy.span = (0.1, 10.0)
    c.accuracy.widen = 2  # how often to go on beyond that, while the best is at the edge
