"""The form of result.json."""

from dataclasses import dataclass, field
from typing import Any

from scaling.advice import CriticalBatch, Fit, Option, Speed
from scaling.studies.noise_records import Noise


@dataclass(frozen=True, eq=False, kw_only=True)
class Record:
    """What was measured of one task on one machine, and the options that follow."""

    study: str
    status: str = "complete"
    memory: list[Fit]  # per-device batches in rising order, up to the first that does not fit
    limit_bytes: float | None  # of one device
    throughput: list[Speed]
    throughput_knee: int | None  # smallest per-device batch with 90% of the best examples/s
    noise_scale: Noise | None  # of the tracked run
    tracked_status: str = "complete"  # of that run: complete or diverged
    critical: dict[str, CriticalBatch | None]  # by "noise_scale" and by "fit"
    doubts: list[str] = field(default_factory=list)  # what speaks against the hyperbola of the fit
    searched: list[str] = field(default_factory=list)  # hyperparameters, in the records
    goal: str = ""  # that the steps are to, "" where there is none
    unit_hours: bool  # False: S_min is unknown, and steps, hours and cost are for S_min = 1
    s_min: float | None
    options: list[Option]
    recommended: dict[str, Option | None]  # least_time, least_cost, knee; None: none within limits
    price_per_device_hour: float | None
    currency: str
    network: str
    all_reduce: list[tuple[float, float]] | None = None  # measured (bytes, seconds)
    gradient_bytes: int | None = None
    devices: dict[str, Any]
    train_size: int | None = None
