"""A batch that follows the noise scale, against batches that stay (McCandlish 2018, App. D)."""

from ml_collections import ConfigDict

from scaling.limits import POSITIVE, RATE, Limits

LIMITS = {
    "adaptive.batches": Limits(2, 2**30, "[]"),
    "adaptive.r": POSITIVE,
    "adaptive.first_batch": Limits(2, 2**30, "[]"),
    "adaptive.smallest": Limits(2, 2**30, "[]"),
    "adaptive.largest": Limits(2, 2**30, "[]"),
    "adaptive.seeds": Limits(1, 10_000, "[]"),
    "adaptive.goals": POSITIVE,
    "adaptive.resolution": Limits(0.001, 1, "[]"),
    "adaptive.parts": Limits(2, 1024, "[]"),
    "adaptive.memory": Limits(1, 1_000_000, "[]"),
    "adaptive.rate_star": RATE,
    "adaptive.batch_star": Limits(0, 1e12, "[]"),
    "adaptive.alpha": Limits(0, 2, "[]"),
}
HOLDS = {"adaptive.batches": int}


def section(c: ConfigDict) -> None:
    """Add its keys, at their defaults."""
    c.noise_scale = True
    c.eval.test = False
    c.adaptive = ConfigDict()
    c.adaptive.batches = ()  # fixed global batches, a point each
    c.adaptive.r = (64.0,)  # a point each: the batch is sqrt(r B_simple)
    c.adaptive.first_batch = 16  # of the adaptive runs, until the noise scale is resolved
    c.adaptive.smallest, c.adaptive.largest = 2, 1024  # of the adaptive runs' batches
    c.adaptive.seeds = 3  # runs of every point
    c.adaptive.metric = "loss"  # of the data set's task, on training examples
    c.adaptive.goals = (1.0, 0.5)  # of that metric; reached means strictly better
    c.adaptive.resolution = 0.03  # of the steps to a goal, as a share
    c.adaptive.parts = 8  # microbatches whose gradients give the noise
    c.adaptive.memory = 100.0  # updates that the live noise scale is an average of, about
    # The learning rate at batch B is rate_star / (1 + batch_star / B)^alpha.
    c.adaptive.rate_star, c.adaptive.batch_star, c.adaptive.alpha = 0.5, 64.0, 1.0
