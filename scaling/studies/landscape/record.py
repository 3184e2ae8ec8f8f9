"""The form of result.json. The surfaces themselves are arrays in files beside it.

NAME.npz holds the places [P, D] and then each of `metrics` [P], float32. Names are
    net0_train   of the first net, a line along each of the D directions, then the plane of the
                 first two, whose first coordinate varies slowest. Likewise other nets, and the
                 held-out split, which has no plane.
    line_train   the line from the first net, at 0, to the last, at 1; arc_train the arc.
"""

from dataclasses import dataclass
from typing import Any

Metrics = dict[str, float | None]  # None: not finite


@dataclass(frozen=True, eq=False, kw_only=True)
class Net:
    """One net."""

    name: str  # "batch 128", or the folder of the run
    global_batch: int
    learning_rate: float  # the peak
    steps: int  # updates made
    diverged: bool  # then there is no surface of it
    train: Metrics | None  # as trained, with the running batch statistics
    held_out: Metrics | None
    norm: float | None  # of the weights
    direction_norms: list[float]  # of the directions, over that of the weights


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
    train_size: int
    seconds: dict[str, float]
    devices: dict[str, Any]
