"""The form of result.json."""

import functools
import math
from dataclasses import dataclass
from typing import Any

from scaling import branching
from scaling.noise import Estimate


@dataclass(frozen=True)
class Branch:
    """A factor of the batch size and a multiple of its learning rate, from one snapshot."""

    factor: int
    global_batch: int
    steps: int
    rate: float  # multiple of the learning rate of the rule
    learning_rate: float
    losses: list[float | None]  # validation loss at its end, by seed; None: diverged

    @property
    def mean(self) -> float:
        """Of the losses; inf where a seed diverged."""
        if None in self.losses:
            return math.inf
        return math.fsum(self.losses) / len(self.losses)


@dataclass(frozen=True)
class Snapshot:
    """A place in the run, and what trained on from there."""

    step: int
    examples: int
    loss: float  # validation
    noise: Estimate  # B_simple of the run around this step
    branches: list[Branch]

    @functools.cached_property
    def best(self) -> list[Branch]:
        """The branch with the best rate, by factor, ascending."""
        factors = sorted({branch.factor for branch in self.branches})
        of = lambda factor: [branch for branch in self.branches if branch.factor == factor]
        return [min(of(factor), key=lambda branch: branch.mean) for factor in factors]

    def critical(self, tolerance: float) -> branching.Critical:
        """The critical factor here."""
        losses = [[math.inf if v is None else v for v in b.losses] for b in self.best]
        return branching.critical_factor([b.factor for b in self.best], losses, tolerance)


@dataclass(frozen=True)
class Trained:
    """The whole run again, from other initial weights, at a schedule of batch sizes."""

    schedule: list[tuple[int, int]]  # (examples at which it begins, batch size)
    steps: int
    losses: list[float | None]  # validation loss at its end, by seed; None: diverged


@dataclass(frozen=True, eq=False)
class Record:
    """One run and its branches."""

    study: str
    status: str  # complete or diverged
    global_batch: int
    learning_rate: float
    steps: int
    examples: int
    window: int  # examples of a branch
    tolerance: float
    snapshots: list[Snapshot]  # in order
    constant: Trained | None  # at the run's batch size, the seeds of `warmup`
    warmup: Trained | None  # at the batch sizes that the branches allow
    train_size: int
    seconds: dict[str, float]
    devices: dict[str, Any]
