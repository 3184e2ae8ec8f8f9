"""Steps to several goals of the training loss, and the noise of the best runs beside them."""

from ml_collections import ConfigDict

from scaling.limits import POSITIVE
from scaling.studies.steps_to_target import config as steps_to_target

LIMITS = {
    "pareto.goals": POSITIVE,
}


def section(c: ConfigDict) -> None:
    """Add its keys, at their defaults."""
    steps_to_target.section(c)
    c.target.split = "train"
    c.target.metric = "loss"
    c.target.repeats = 0
    c.pareto = ConfigDict()
    c.pareto.goals = (1.0, 0.5)  # of target.metric; the hardest is the target.goal
