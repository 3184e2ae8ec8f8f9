"""Loss surfaces around trained nets, and between small- and large-batch ones."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from scaling.limits import COUNT, NOT_NEGATIVE, POSITIVE, Limits

LIMITS = {
    "landscape.weight_decays": NOT_NEGATIVE,
    "landscape.examples": COUNT,
    "landscape.group": COUNT,
    "landscape.directions": Limits(2, 1000, "[]"),
    "landscape.reach": POSITIVE,
    "landscape.line": Limits(3, 10_001, "[]"),
    "landscape.plane": Limits(1, 1001, "[]"),
    "landscape.path": Limits(7, 10_003, "[]"),
    "landscape.trajectory": Limits(0, 10_000, "[]"),
    "landscape.map": Limits(0, 1001, "[]"),
    "landscape.map_steps": Limits(2, 10_000, "[]"),
    "landscape.map_examples": COUNT,
}
HOLDS = {"landscape.of": str, "landscape.durations": str}


def section(c: ConfigDict) -> None:
    """Add its keys, at their defaults."""
    c.landscape = ConfigDict()
    # A point each: nets of all batch_sizes are trained with it. (): with optim.weight_decay.
    c.landscape.weight_decays = (0.0, 5e-4)
    c.landscape.durations = ()  # one for each of batch_sizes; (): config.duration for all
    # Folders of finished training runs, "runs/my_config/bs256", whose last weights are looked at,
    # or files of weights that other studies keep, "runs/my_study/bs256/weights0_end.npz"; nothing
    # is trained, and data and model are theirs.
    c.landscape.of = ()
    c.landscape.statistics = "recomputed"  # of batch norm, see scaling/train/surface.py
    c.landscape.examples = placeholder(int)  # of each split; None: as many as an evaluation reads
    c.landscape.group = 5000  # training examples that batch statistics are recomputed over
    c.landscape.directions = 3  # random ones, the same for all nets; the first two span the plane
    c.landscape.reach = 1.0  # lines and planes go so far in both directions; 1 is the filters' norm
    c.landscape.line = 51  # points of a line, odd
    c.landscape.plane = 25  # points of a side of a plane, odd; 1: no plane
    c.landscape.path = (
        25  # points of a path from -1 to 2, where 0 and 1 are nets; a multiple of 6, + 1
    )
    # Weights are noted so often along a training; the plane in which they moved the most is
    # evaluated too. 0: not.
    c.landscape.trajectory = 20
    # Eigenvalues of the Hessian on the plane of the first two directions: points of a side, odd; 0:
    # no map. Each takes `map_steps` products with the Hessian of `map_examples` training examples.
    c.landscape.map = 0
    c.landscape.map_steps = 40
    c.landscape.map_examples = 1000
