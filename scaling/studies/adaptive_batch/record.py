"""The form of result.json."""

import statistics
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Crossing:
    """The first evaluation strictly better than a goal; None where there was none."""

    goal: float
    steps: int | None
    examples: int | None


@dataclass(frozen=True)
class Run:
    """One seed."""

    seed: int
    status: str  # reached (all goals), target_not_reached or diverged
    goals: list[Crossing]  # the easiest first
    schedule: list[tuple[int, int]]  # (first step, batch)
    noise_scale: list[tuple[int, float | None]]  # (step, B_simple; None: not resolved)

    @property
    def last(self) -> Crossing | None:
        """The hardest goal, if it was reached."""
        hardest = self.goals[-1]
        return hardest if hardest.steps is not None else None


@dataclass(frozen=True, eq=False)
class Record:
    """One fixed batch size, or one price r of a step in examples at which the batch follows
    sqrt(r B_simple)."""

    study: str
    kind: str  # fixed or adaptive
    status: str  # of its worst run
    global_batch: int | None  # fixed
    r: float | None  # adaptive
    goals: list[float]  # the easiest first
    runs: list[Run]
    gamma: float | None  # of eq. D.5, mean over runs that reached all goals; adaptive
    train_size: int
    learning_rates: dict[str, float]  # batch -> learning rate, eq. A.3
    seconds: dict[str, float]
    devices: dict[str, Any]
    metric: str = "loss"  # on training data, that the goals are of

    @property
    def ends(self) -> list[Crossing]:
        """The hardest goal, of the seeds that reached it."""
        return [run.last for run in self.runs if run.last]

    @property
    def steps(self) -> float | None:
        """To the hardest goal, median over those seeds."""
        return statistics.median(end.steps for end in self.ends) if self.ends else None

    @property
    def examples(self) -> float | None:
        """To the hardest goal, median over those seeds."""
        return statistics.median(end.examples for end in self.ends) if self.ends else None
