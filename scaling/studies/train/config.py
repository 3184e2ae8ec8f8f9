"""One run per batch size: what every other study is made of."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from scaling.limits import POSITIVE, Limits

LIMITS = {"train.goal": POSITIVE, "train.patience": Limits(1, 1000, "[]")}
ONE_PER_CORE = False


def section(c: ConfigDict) -> None:
    """Add its keys, at their defaults."""
    c.train = ConfigDict()
    # Of the headline metric on validation: the record tells when `patience` evaluations in a row
    # were as good.
    c.train.goal = placeholder(float)
    c.train.patience = 1
