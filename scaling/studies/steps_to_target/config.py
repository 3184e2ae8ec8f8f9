"""Steps to a goal, with hyperparameters searched for every batch size (Shallue 2018)."""

from ml_collections import ConfigDict

from scaling.limits import POSITIVE, Limits

LIMITS = {
    "search.trials": Limits(1, 100_000, "[]"),
    "search.widen": Limits(0, 100, "[]"),
    "target.goal": POSITIVE,
    "target.margin": Limits(1, 1_000_000, "[]"),
    "target.resolution": Limits(0.001, 1, "[]"),
    "target.repeats": Limits(0, 10_000, "[]"),
}


def section(c: ConfigDict) -> None:
    """Add its keys, at their defaults."""
    c.search = ConfigDict()
    c.search.trials = 64  # per batch size
    c.search.sampler = "sobol"  # or halton
    # Hyperparameter -> (scale, low, high) or ("discrete", value, ...), see scaling/search.py.
    c.search.space = ConfigDict(
        {"learning_rate": ("log", 1e-3, 10.0), "momentum": ("reverse_log", 0.0, 0.999)}
    )
    c.search.widen = 0  # how often to search on beyond a range at whose edge the best trial sits

    c.target = ConfigDict()
    # Of the data set's task, see scaling/tasks.py; "ewa_error" is that of the averaged weights.
    c.target.metric = "error"
    # Of the validation split; "train": of as many training examples, the first ones, without
    # dropout, augmentation or smoothing.
    c.target.split = "validation"
    c.target.goal = 0.1  # reached means strictly better
    # Training stops at this multiple of the first crossing. 1.0 finds the minimum and no more; its
    # interval has an upper end where about four trials cross until then.
    c.target.margin = 2.0
    # By how much the steps of the evaluations grow, on one grid for all trials and repeats: 0.08 is
    # 9 in every doubling. A dip below the goal between two is not seen; a finer grid misses fewer.
    c.target.resolution = 0.08
    # Steps after which to give up: the sum of these. Steps for the part of the curve that does not
    # fall with the batch, epochs or examples for the part that falls as 1/batch.
    c.target.budget = ("1000 steps", "20 epochs")
    c.target.repeats = 5  # fresh seeds of the best trial, for its spread
