"""The layout of a global batch: devices x microbatches x examples.

Batches are divided only here. The global batch is the subject of the experiment and never changed:
one that does not divide is an error with the nearest sizes that do.

One update reads `global_batch` consecutive positions of the example order. Position
`k * devices * micro_batch + d * micro_batch + r` is row `r` of microbatch `k` on device `d`, so
every microbatch covers consecutive positions for any number of devices.
"""

import dataclasses
import math

from scaling.errors import UserError


@dataclasses.dataclass(frozen=True)
class BatchPlan:
    """`global_batch == accum_steps * devices * micro_batch`, always."""

    global_batch: int
    devices: int
    accum_steps: int  # sequential microbatches per optimizer update
    micro_batch: int  # examples per device in one microbatch

    @property
    def per_device_batch(self) -> int:
        """Examples per device and update."""
        return self.accum_steps * self.micro_batch

    @property
    def layout(self) -> tuple[int, int, int]:
        """(accum_steps, devices, micro_batch): the shape of one update's positions."""
        return self.accum_steps, self.devices, self.micro_batch

    def __str__(self) -> str:
        return (
            f"{self.global_batch:,} = {self.devices} device{'s' * (self.devices > 1)} x "
            f"{self.accum_steps} microbatch{'es' * (self.accum_steps > 1)} x "
            f"{self.micro_batch} examples"
        )


def plans(global_batch: int, devices: int, ghost_batch: int | None = None) -> list[BatchPlan]:
    """Every way to lay out the batch, largest microbatch first.

    Args:
      global_batch: examples per optimizer update.
      devices: number of devices.
      ghost_batch: consecutive examples that share normalisation statistics; a microbatch, over all
        devices, must consist of whole groups. None where examples do not interact.

    Raises:
      UserError: a size below 1, or no layout exists.
    """
    for name, value in (("global batch", global_batch), ("device count", devices)):
        if value < 1:
            raise UserError(f"The {name} is {value}; it must be at least 1.")
    if global_batch % devices:
        below = global_batch - global_batch % devices
        nearest = [str(b) for b in (below, below + devices) if b]
        raise UserError(
            f"Global batch {global_batch} does not divide over {devices} devices; the nearest that "
            f"do are {' and '.join(nearest)}, or use a device count that divides {global_batch}."
        )
    if ghost_batch is not None:
        _check_ghost(global_batch, ghost_batch)
    per_device = global_batch // devices
    layouts = [
        BatchPlan(global_batch, devices, accum, per_device // accum)
        for accum in _divisors(per_device)
        if _whole_groups(per_device // accum, devices, ghost_batch)
    ]
    if not layouts:
        raise UserError(
            f"Ghost batches of {ghost_batch} do not fit {per_device} examples on each of {devices} "
            f"devices: one of the two numbers must divide the other; "
            f"use a ghost batch that divides {per_device}."
        )
    return layouts


def plan_by_hand(
    global_batch: int, devices: int, micro_batch: int, ghost_batch: int | None = None
) -> BatchPlan:
    """The layout with `micro_batch` examples per device and microbatch.

    Raises:
      UserError: that size does not divide the batch.
    """
    layouts = plans(global_batch, devices, ghost_batch)
    for plan in layouts:
        if plan.micro_batch == micro_batch:
            return plan
    near = sorted(layouts, key=lambda p: abs(p.micro_batch - micro_batch))[:2]
    raise UserError(
        f"Microbatch {micro_batch} does not divide global batch {global_batch} on {devices} "
        f"device{'s' * (devices > 1)}"
        + (f" into whole ghost batches of {ghost_batch}" if ghost_batch else "")
        + f"; the nearest that do are {' and '.join(str(p.micro_batch) for p in near)}."
    )


def _check_ghost(global_batch: int, ghost_batch: int) -> None:
    if ghost_batch < 1:
        raise UserError(f"The ghost batch is {ghost_batch}; it must be at least 1.")
    if global_batch % ghost_batch:
        near = sorted(_divisors(global_batch), key=lambda g: abs(g - ghost_batch))[:2]
        raise UserError(
            f"Ghost batch {ghost_batch} does not divide global batch {global_batch}; "
            f"the nearest that do are {' and '.join(map(str, sorted(near)))}."
        )


def _divisors(number: int) -> list[int]:
    """All divisors, ascending."""
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def _whole_groups(micro_batch: int, devices: int, ghost_batch: int | None) -> bool:
    """Whether each group lies within one device's rows, or spans whole devices."""
    if ghost_batch is None or micro_batch % ghost_batch == 0:
        return True
    return ghost_batch % micro_batch == 0 and (devices * micro_batch) % ghost_batch == 0
