"""Test error by batch size and recipe, at a fixed budget (You, Goyal, Hoffer 2017)."""

from ml_collections import ConfigDict

from scaling.limits import UP_TO_ONE
from scaling.studies import recipes_config as recipes

LIMITS = {"accuracy.tolerance": UP_TO_ONE} | {
    f"accuracy.{key}": limits for key, limits in recipes.TUNING.items()
}


def section(c: ConfigDict) -> None:
    """Add its keys, at their defaults."""
    recipes.section(c, "naive", "sqrt", "linear+warmup")
    c.accuracy = ConfigDict()
    # A recipe holds where its test error, or the headline metric of another task, is worse than the
    # base batch's by less than this.
    c.accuracy.tolerance = 0.005
    recipes.tuning(c.accuracy)
