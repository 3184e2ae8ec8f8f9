"""The form of result.json. The surfaces themselves are arrays in files beside it.

NAME.npz holds the places [P, D] and then each of `metrics` [P], float32. Names are
    net0_train   of the first net, a line along each of the D directions, then the plane of the
                 first two, whose first coordinate varies slowest. Likewise other nets, and the
                 held-out split, which has no plane.
    line_train   the line from the first net, at 0, to the last, at 1; arc_train the arc.
    track0       of the first net, the plane in which its weights moved the most.
    map0         of the first net, `EIGENVALUES` in place of metrics, on the plane of net0_train.
"""

from dataclasses import dataclass
from typing import Any

BINS = 81  # of a histogram of weights
# Of the Hessian of the training loss, with the error bound of each.
EIGENVALUES = "least", "least_bound", "largest", "largest_bound"

Metrics = dict[str, float | None]  # None: not finite


@dataclass(frozen=True, eq=False)
class Track:
    """Where the weights were along a training, on the plane of their first two principal
    components (Li 2018, section 7); the last are the origin."""

    steps: list[int]
    coordinates: list[list[float]]  # [T, 2]
    explained: list[float]  # [2], the share of the variance along each axis


@dataclass(frozen=True, eq=False)
class Histogram:
    """Of the weights of kernels, in equal bins from -edge to edge; those beyond are in the
    outermost bins."""

    edge: float
    counts: list[int]


@dataclass(frozen=True, eq=False, kw_only=True)
class Net:
    """One net."""

    name: str  # "batch 128", or the folder of the run
    global_batch: int
    learning_rate: float  # the peak
    steps: int | None  # updates made; None of a file of weights
    diverged: bool  # then there is no surface of it
    train: Metrics | None  # as trained, with the running batch statistics
    held_out: Metrics | None
    norm: float | None  # of the weights
    direction_norms: list[float]  # of the directions, over that of the weights
    track: Track | None  # of nets that were trained here
    histogram: Histogram | None  # None where it diverged


@dataclass(frozen=True, eq=False, kw_only=True)
class Record:
    """Nets that differ in the batch size, or runs that were named."""

    study: str
    weight_decay: float | None
    nets: list[Net]
    splits: list[str]  # train, and the one that is held out
    metrics: list[str]
    statistics: str  # one of surface.STATISTICS; "none" where the model has no batch norm
    group: int  # training examples that they were recomputed over
    examples: dict[str, int]  # of each split
    seeds: list[int]  # of the directions
    line: int  # points of each line
    plane: int  # points of a side of a plane
    reach: float
    map: int  # points of a side of a map of eigenvalues; 0: none
    map_steps: int  # of Lanczos, at every place of it
    map_examples: int  # training examples of its Hessian
    train_size: int
    seconds: dict[str, float]
    devices: dict[str, Any]
