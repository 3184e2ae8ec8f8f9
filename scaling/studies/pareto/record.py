"""The form of result.json."""

from dataclasses import dataclass

from scaling.studies.noise_records import Noise
from scaling.studies.steps_to_target import record


@dataclass(frozen=True)
class Crossing:
    """The first evaluation strictly below a goal, over all trials; None where there was none."""

    goal: float
    steps: int | None
    before: int | None  # that trial's evaluation before
    examples: int | None


@dataclass(frozen=True, eq=False, kw_only=True)
class Record(record.Record):
    """The search at one batch size, whose own goal is the hardest; its evaluations are of the
    training split."""

    goals: list[Crossing]  # the easiest first
    tracked: Noise | None  # of the best trial, run again up to its crossing
    tracked_status: str | None = None  # of that run
