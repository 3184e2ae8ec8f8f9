"""The form of result.json."""

from dataclasses import dataclass
from typing import Any

from scaling.studies.measure_records import Measure


@dataclass(frozen=True)
class Net:
    """Weights at one place."""

    loss: float | None  # of the examples measured on
    score: float | None  # the task's headline metric, on `Record.split`; None: not finite
    measures: list[Measure]  # none where the loss is not finite near the weights

    def value(self, name: str) -> float | None:
        """Of a measure."""
        return next((m.value for m in self.measures if m.name == name), None)


@dataclass(frozen=True)
class Start:
    """A place of one small-batch run."""

    seed: int
    step: int
    small: Net  # there
    warm: Net | None  # after training with the large batch from there; None: it diverged


@dataclass(frozen=True, eq=False)
class Record:
    """The runs of a small batch, and large-batch training from their places."""

    study: str
    status: str  # complete, or diverged: no large-batch training came to its end
    global_batch: int  # the small one
    large_batch: int
    steps: int  # of the small batch's runs
    large_steps: int  # of large-batch training, from every start
    learning_rate: float
    large_learning_rate: float
    metric: str  # of the scores
    split: str
    examples: int  # of the training set, the first ones, whose loss is measured
    statistics: str  # of batch norm: recomputed over these, frozen, or none
    starts: list[Start]  # by step, then by seed; none of a seed that had diverged by then
    train_size: int
    seconds: dict[str, float]
    devices: dict[str, Any]

    def epochs(self, step: int) -> float:
        """Of the small batch's run."""
        return step * self.global_batch / self.train_size
