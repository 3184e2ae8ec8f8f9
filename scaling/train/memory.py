"""How much memory a device may use, and what a point takes of it whatever its layout."""

import math
import os
from pathlib import Path

from scaling import hosts
from scaling.errors import UserError
from scaling.train.step import rows_here

# What to leave of the device's memory to the allocator and its fragments.
MEMORY_SHARE = 0.9


def memory_limit(point) -> float:
    """Bytes that a step may use on one device."""
    if point.config.memory_limit_gib is not None:
        return point.config.memory_limit_gib * 2**30
    return _held_by_a_device(point)


def _held_by_a_device(point):
    """The least of all hosts."""
    devices = [point.devices[i] for i in rows_here(point.devices)]
    statistics = devices[0].memory_stats() or {}
    memory = statistics.get("bytes_limit") or _host_memory() / len(devices)
    return min(hosts.everyones(MEMORY_SHARE * memory))


def _host_memory():
    """Bytes of main memory that can be had; all of it where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _most(point):
    """The larger of what a device has and what the config allows, which plans may be made for: what
    fits the one and not the other is told where a layout is chosen."""
    return max(memory_limit(point), _held_by_a_device(point))


def check_size(point) -> None:
    """Nothing, if the model and the data are of a size that can be trained here.

    Raises:
      UserError: one of them is not; says what it would take.
    """
    info = point.info
    each, task = info.bytes_each, point.task
    numbers = sum(math.prod(shape) for shape, _ in info.example.values())
    numbers += math.prod(task.output_shape)
    at_once = point.config.eval.batch
    if not info.streaming:
        at_once = min(at_once, max(info.sizes.values()))
    held = 0 if info.streaming else sum(info.sizes.values()) * each
    limit = _most(point)
    weights = f"{point.parameter_count:,} parameters, with their gradients,"
    examples = f"The examples of {info.name} ({sum(info.sizes.values()):,} of {each:,} bytes)"
    smaller = "make them fewer or smaller"
    fewer = "take fewer, data.train_size and fewer files of the set, or smaller ones"
    streams = "read them from disk, data.streamed=True" if info.folder else fewer
    for what, need, remedy in (
        (weights, 8 * point.parameter_count, smaller),
        (examples, held, streams),
        (f"eval.batch is {at_once:,}: as many inputs and outputs", 4 * numbers * at_once, smaller),
    ):
        if need > limit:
            raise UserError(
                f"{what} take {need / 2**30:,.3g} GiB, and a device may use {limit / 2**30:,.3g} "
                f"GiB; {remedy}."
            )


def check_population(point, trials: int) -> None:
    """Nothing, if the weights of so many trials and their orders of examples fit the memory.

    Raises:
      UserError: they do not.
    """
    devices = len(point.devices)
    # Weights twice more in a snapshot; of every order of examples, an epoch.
    each = 12 * point.parameter_count + 4 * point.info.sizes["train"] * (not point.info.streaming)
    limit = _most(point) * devices
    if trials * each > limit:
        raise UserError(
            f"{trials:,} trials of {point.parameter_count:,} parameters take "
            f"{trials * each / 2**30:,.3g} GiB with their orders of examples, and the devices may "
            f"use {limit / 2**30:,.3g} GiB; search fewer trials at once or use a smaller model."
        )
