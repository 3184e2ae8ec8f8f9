"""Large-batch training from the weights along a small-batch run (Keskar 2016, Fig. 5)."""

from ml_collections import ConfigDict

from scaling.limits import COUNT, Limits

LIMITS = {
    "warm_start.batch": COUNT,
    "warm_start.seeds": Limits(1, 1000, "[]"),
    "warm_start.examples": COUNT,
    "warm_start.eps": Limits(0, 1, "(]"),
    "warm_start.steps": Limits(2, 10_000, "[]"),
}


def section(c: ConfigDict) -> None:
    """Add its keys, at their defaults."""
    c.eval.test = False
    c.warm_start = ConfigDict()
    c.warm_start.batch = 1024  # the large one; global_batch is the small one
    c.warm_start.every = "1 epoch"  # of the small batch's run, from one start to the next
    c.warm_start.duration = "10 epochs"  # of training with the large batch, from each
    c.warm_start.seeds = 3  # runs of the small batch
    # Of the measures of sharpness, see scaling/studies/sharpness/config.py.
    c.warm_start.examples = 2000
    c.warm_start.statistics = "recomputed"
    c.warm_start.eps = (1e-3,)
    c.warm_start.steps = 40
