"""The form of result.json."""

from dataclasses import dataclass, field
from typing import Any

from scaling.studies.noise_records import Noise

Metrics = dict[str, float | None]  # None: not finite


@dataclass(frozen=True, eq=False, kw_only=True)
class Record:
    """One run."""

    study: str = "train"  # older records do not name it
    status: str  # complete or diverged
    global_batch: int
    steps: int  # updates made
    examples: int  # of all updates
    learning_rate: float  # the peak
    train: Metrics | None  # of the last update
    validation: Metrics | None  # of the last evaluation, with its "step"
    test: Metrics | None  # once, after the last update
    noise_scale: Noise | None = None  # where it was tracked
    seconds: dict[str, float]  # compile, train (with input_wait), eval
    clock: list[tuple[int, float]] = field(default_factory=list)  # (step, seconds of training by
    # then) of every evaluation
    reached: tuple[int, float] | None = None  # the same, of when the goal of `train.goal` held
    examples_per_second: float
    devices: dict[str, Any]
