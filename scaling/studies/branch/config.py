"""The critical batch size along a run, by training on from snapshots (Merrill et al. 2025)."""

from ml_collections import ConfigDict

from scaling.limits import POSITIVE, Limits

LIMITS = {
    "branch.factors": Limits(1, 2**20, "[]"),
    "branch.rates": POSITIVE,
    "branch.seeds": Limits(2, 1000, "[]"),
    "branch.tolerance": POSITIVE,
}
HOLDS = {"branch.snapshots": str}


def section(c: ConfigDict) -> None:
    """Add its keys, at their defaults."""
    c.eval.test = False
    c.branch = ConfigDict()
    c.branch.snapshots = ("1 epoch", "4 epochs")  # of the run: where branches begin
    c.branch.factors = (1, 2, 4, 8, 16)  # of global_batch, one branch each
    c.branch.window = "1 epoch"  # length of a branch
    c.branch.seeds = 5  # orders of examples of every branch
    # Multiples of the learning rate that optim.scaling_rule gives; the best of each branch counts.
    c.branch.rates = (1.0,)
    c.branch.tolerance = 0.01  # of the validation loss, above that of the run's own batch size
    c.branch.warmup = True  # train the batch warmup that follows, too
