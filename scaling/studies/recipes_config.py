"""Recipes for large batches, of the studies that compare them; see scaling/recipes.py."""

from ml_collections import ConfigDict

from scaling.limits import POSITIVE, RATE, Limits
from scaling.recipes import RATES

TUNING = {"trials": Limits(0, 10_000, "[]"), "span": POSITIVE, "widen": Limits(0, 100, "[]")}
LIMITS = {"recipes.seeds": Limits(1, 10_000, "[]"), "recipes.rates": RATE}
HOLDS = {"recipes.all": str, "recipes.changed": str}


def section(c: ConfigDict, *names: str) -> None:
    """Add its keys, at their defaults.

    Args:
      names: of the recipes.
    """
    c.recipes = ConfigDict()
    c.recipes.names = names  # a point each, at every batch size; pieces joined by "+"
    c.recipes.all = ()  # those of the whole study, in their order; set by the study
    c.recipes.changed = ()  # "section.key=value" of what a point's recipe sets; set by the study
    c.recipes.seeds = 5  # runs of every point, the same seeds for all
    c.recipes.warmup = "5 epochs"
    # Learning rates at optim.base_batch of optimizers whose rates mean something else than SGD's.
    c.recipes.rates = ConfigDict(RATES)
    # More pieces: name -> the sections and keys that it sets, {"hot": {"optim": {"base_lr": 1.0}}}.
    c.recipes.pieces = ConfigDict()


def tuning(section: ConfigDict) -> None:
    """Add the keys of scaling/studies/tuning.py to a study's section, at their defaults; `TUNING`
    are their limits."""
    # Learning rates to try for every recipe and batch, before the runs, as multiples of the
    # recipe's own; the best validation metric at the end wins. 0: the recipe's own is taken.
    section.trials = 0
    section.span = (0.1, 10.0)
    section.widen = 2  # how often to go on beyond that, while the best is at the edge
