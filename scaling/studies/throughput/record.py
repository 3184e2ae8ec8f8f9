"""The form of result.json."""

import statistics
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, eq=False)
class Row:
    """An update of one per-device batch on a number of devices, seconds in every round."""

    devices: int
    per_device_batch: int
    accum_steps: int  # microbatches
    device: list[float]  # the examples are on the devices
    input: list[float]  # to make the examples and bring them there
    both: list[float]  # of a run that does one while the other
    bytes: int  # of one device, by the compiler
    peak_bytes: int | None = None  # in use, as the device tells; None: it does not, or held more

    @property
    def global_batch(self) -> int:
        """Examples of an update."""
        return self.devices * self.per_device_batch

    def rate(self, what: str = "device") -> float:
        """Examples per second of all devices, by the median."""
        return self.global_batch / statistics.median(getattr(self, what))


@dataclass(frozen=True, eq=False)
class Variant:
    """Another way to make the same update: in microbatches, or with activations computed again."""

    accum_steps: int
    remat: bool
    seconds: list[float]
    bytes: int


@dataclass(frozen=True, eq=False)
class Overlap:
    """Seconds of an update on several devices with the mean of their gradients, without it, and of
    that mean alone, in every round."""

    devices: int
    per_device_batch: int
    together: list[float]
    apart: list[float]
    alone: list[float]


@dataclass(frozen=True, eq=False, kw_only=True)
class Record:
    """What was measured of one model on one machine."""

    study: str
    rows: list[Row]
    variant_batch: int | None = None  # on one device
    variants: list[Variant] = field(default_factory=list)
    overlap: Overlap | None = None
    flops_per_example: int  # of convolutions and matrix products in training
    peak_flops: float | None  # of one device, dense, in the model's dtype; None: not known
    gradient_bytes: int
    limit_bytes: float | None  # of one device
    network: str
    projected: list[int]  # numbers of devices
    load_average: float  # of the machine, before
    devices: dict[str, Any]
    train_size: int
