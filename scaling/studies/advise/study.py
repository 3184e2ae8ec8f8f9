"""The advice as it is read, and how its options are written."""

import statistics
from dataclasses import dataclass

from scaling.advice import RECOMMENDED, Option, front
from scaling.errors import UserError
from scaling.report import records
from scaling.report.records import Directory, Workdir, read_points
from scaling.report.wording import between, count, number
from scaling.studies.advise.record import Record

UNITS = (("days", 1 / 24), ("hours", 1.0), ("minutes", 60.0), ("seconds", 3600.0))


@dataclass(frozen=True, eq=False, kw_only=True)
class Point(Record):
    """The advice, and what it rests on."""

    directory: Directory

    @property
    def priced(self) -> bool:
        """Whether devices cost anything; else cost is in device-hours."""
        return bool(self.price_per_device_hour)

    @property
    def per_s_min(self) -> str:
        """Nothing, or what times and costs are for where S_min is not known."""
        return "" if self.unit_hours else " for each step of S_min"

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
        return front(self.options)

    @property
    def largest_fitting(self) -> int | None:
        """The largest per-device batch that fits the memory, where a larger one does not."""
        fitting = [row.per_device_batch for row in self.memory if row.fits]
        return max(fitting) if fitting and len(fitting) < len(self.memory) else None

    def names(self, option: Option) -> list[str]:
        """What an option is recommended for, of RECOMMENDED."""
        place = lambda o: o and (o.devices, o.global_batch)
        return [n for n in RECOMMENDED if place(self.recommended.get(n)) == place(option)]


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
    points = read_points(workdir, Point)
    if len(points) > 1:
        names = " and ".join(point.directory.name for point in points[:2])
        raise UserError(f"{names} in {workdir.path} both hold advice; keep one of them.")
    return Study(workdir.path, points, workdir.unfinished)


def layout(option: Option) -> str:
    """batch 512 on 8 devices"""
    devices = f"{count(option.devices)} device{'s' * (option.devices > 1)}"
    return f"batch {count(option.global_batch)} on {devices}"


def time_text(point: Point, option: Option) -> str:
    """32 (25 to 46) minutes"""
    unit, per_hour = point.time_unit
    high = None if option.hours_high is None else option.hours_high * per_hour
    span = between(option.hours_low * per_hour, high)
    return f"{number(option.hours * per_hour)} ({span}) {unit}"


def cost_text(point: Point, option: Option) -> str:
    """4.2 USD; 3 device-hours where devices are free"""
    if not point.priced:
        return f"{number(option.device_hours)} device-hours"
    return f"{number(option.cost)} {point.currency}"
