"""The records of advise as plain dataclasses."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scaling import advice
from scaling.errors import UserError
from scaling.report import records
from scaling.report.records import Directory, Workdir, from_keys, read_points

UNITS = (("days", 1 / 24), ("hours", 1.0), ("minutes", 60.0), ("seconds", 3600.0))


@dataclass(frozen=True)
class Option:
    """One way to train; where S_min is unknown, hours and cost are for S_min = 1."""

    devices: int
    global_batch: int
    steps: float
    step_seconds: float
    compute_seconds: float
    all_reduce_seconds: float
    hours: float
    hours_low: float
    hours_high: float | None
    cost: float
    cost_low: float
    cost_high: float | None
    efficiency: float
    extrapolated: list[str]  # why

    @property
    def device_hours(self) -> float:
        """What the cost is a multiple of."""
        return self.hours * self.devices


@dataclass(frozen=True)
class Fitting:
    """The memory of one update at a per-device batch."""

    per_device_batch: int
    bytes: int
    fits: bool


@dataclass(frozen=True)
class Speed:
    """The measured time of one update at a per-device batch."""

    per_device_batch: int
    seconds: float
    examples_per_second: float
    spread: float  # (slowest - fastest) / median


@dataclass(frozen=True)
class Critical:
    """A critical batch size; None: not resolved, or unbounded."""

    value: float | None
    low: float | None
    high: float | None
    range: list[float]  # the global batches that it rests on


@dataclass(frozen=True, eq=False)
class Point:
    """The advice, and what it rests on."""

    directory: Directory
    paragraph: str
    memory: list[Fitting]
    limit_bytes: int | None
    throughput: list[Speed]
    throughput_knee: int | None
    critical: dict[str, Critical | None]  # by "noise_scale" and "fit"
    options: list[Option]
    recommended: dict[str, Option | None]  # "least_time", "least_cost", "knee"
    price_per_device_hour: float | None
    currency: str
    unit_hours: bool
    network: str

    @property
    def priced(self) -> bool:
        """Whether devices cost anything; else cost is told in device-hours."""
        return bool(self.price_per_device_hour)

    @property
    def time_unit(self) -> tuple[str, float]:
        """(name, how many to an hour) in which the options' times are neither tiny nor huge."""
        hours = [option.hours for option in self.options]
        typical = statistics.geometric_mean(hours) if hours else 1.0
        fitting = [unit for unit in UNITS if typical * unit[1] >= 1]
        return fitting[0] if fitting else UNITS[-1]

    @property
    def front(self) -> list[Option]:
        """Options that no other beats in time and cost, the fastest first."""
        return advice.front(self.options)

    @property
    def largest_fitting(self) -> int | None:
        """The largest per-device batch that fits the memory, where a larger one does not."""
        fitting = [row.per_device_batch for row in self.memory if row.fits]
        return max(fitting) if fitting and len(fitting) < len(self.memory) else None


@dataclass(frozen=True, eq=False)
class Study(records.Study):
    """One task on one machine."""

    points: list[Point]

    @property
    def point(self) -> Point:
        """The advice."""
        return self.points[0]


def read(workdir: Workdir) -> Study:
    """The study in one work directory.

    Raises:
      UserError: records that cannot be read, or more than one.
    """
    points = read_points(workdir, _read_point)
    if len(points) > 1:
        names = " and ".join(point.directory.name for point in points[:2])
        raise UserError(f"{names} in {workdir.path} both hold advice; keep one of them.")
    return Study(workdir.path, points, workdir.unfinished)


def _read_point(directory: Directory) -> Point:
    result = directory.result
    read_some = lambda cls, record: None if record is None else from_keys(cls, record)
    lists = {"memory": Fitting, "throughput": Speed, "options": Option}
    read_in: dict[str, Any] = {"directory": directory}
    for key, cls in lists.items():
        read_in[key] = [from_keys(cls, record) for record in result[key]]
    for key, cls in (("critical", Critical), ("recommended", Option)):
        read_in[key] = {name: read_some(cls, record) for name, record in result[key].items()}
    return from_keys(Point, result | read_in)


def check_together(studies: Sequence[Study]) -> None:
    """UserError for costs in different currencies."""
    currencies = sorted({study.point.currency for study in studies})
    if len(currencies) > 1:
        raise UserError(
            f"Costs are in {' and '.join(currencies)}, which cannot share an axis; report them "
            "apart."
        )
