"""Distance from initialisation and gradient norms by batch size (Hoffer 2017, Fig. 2)."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from scaling.limits import Limits
from scaling.studies import recipes_config as recipes

LIMITS = {
    "generalization.resolution": Limits(0.001, 10, "[]"),
}


def section(c: ConfigDict) -> None:
    """Add its keys, at their defaults."""
    recipes.section(c, "naive")
    c.generalization = ConfigDict()
    c.generalization.resolution = 0.15  # steps of the evaluations grow by this share
    # The fits of distance against log t begin here, or with the end of the warmup.
    c.generalization.fit_from = "10 steps"
    c.generalization.fit_to = placeholder(str)  # and end here; None: with the first learning rate
    c.generalization.layers = True  # ||w|| and ||g|| of every layer, after the first step and last
