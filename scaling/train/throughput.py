"""What one device can do: memory and speed over per-device batch sizes, and the all-reduce."""

import dataclasses
import functools
import math
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from ml_collections import ConfigDict

from scaling.advice import Fit, Speed
from scaling.errors import UserError
from scaling.models import smallest_group
from scaling.train import planning
from scaling.train.memory import memory_limit
from scaling.train.point import Point, data_info, inputs_of, resolve, task_of
from scaling.train.population import Population
from scaling.train.program import compile_program
from scaling.train.step import AXIS, on_devices, shard

REPEATS = 3
# Elements of the float32 arrays whose all-reduce is timed.
ALL_REDUCE_SIZES = (2**8, 2**14, 2**18, 2**22, 2**24)


def alone(config: ConfigDict, per_device_batch: int, micro_batch: int | None = None) -> Point:
    """The point that one device trains by itself at that batch.

    Raises:
      UserError: the batch cannot be laid out, as with ghost batches that do not divide it.
    """
    point = config.copy_and_resolve_references()
    point.global_batch, point.devices, point.micro_batch = per_device_batch, 1, micro_batch
    point.noise_scale, point.batch_sizes = False, ()
    point.metrics.weight_distance = False
    point.duration = "4096 steps"
    point.schedule.warmup = "0 steps"
    point.schedule.boundaries = point.schedule.decay_factors = ()
    return resolve(point)


def memory(config: ConfigDict, largest: int) -> list[Fit]:
    """Powers of two of the smallest batch that the model allows, `smallest_batch`, in one
    microbatch, up to the first that does not fit or to `largest`; nothing runs.

    Raises:
      UserError: `largest` is below a ghost batch.
    """
    smallest = smallest_batch(config)
    if largest < smallest:
        raise UserError(
            f"The largest batch to try is {largest} and the smallest {smallest}; try more."
        )
    rows = []
    for exponent in range((largest // smallest).bit_length()):
        batch = smallest * 2**exponent
        point = alone(config, batch, micro_batch=batch)
        need = step_bytes(point)
        fits = need is not None and need <= memory_limit(point)
        rows.append(Fit(batch, need, fits))
        if not fits:
            break
    return rows


def smallest_batch(config: ConfigDict) -> int:
    """The first batch to try: a ghost batch, what batch norm needs as a power of two, or 1."""
    norm = config.model.get("norm")
    if norm == "ghost":
        return config.model.ghost_batch
    if norm != "batch":
        return 1
    task = task_of(config, data_info(config.data))
    fewest = smallest_group(task.model, inputs_of(task))
    return 2 ** math.ceil(math.log2(fewest))


def step_bytes(point: Point) -> int | None:
    """Memory of an update with the batch in one microbatch on one device, by the compiler; None:
    too large even to be compiled."""
    hparams = planning.stacked(point, [{}])
    try:
        return compile_program(point, planning.layout_of(point, 1), hparams).step_bytes
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            return None
        raise


def speeds(config: ConfigDict, batches: Sequence[int], seconds: float) -> list[Speed]:
    """The time of an update at each per-device batch, on the data set's own examples.

    A batch that the compiler let pass and that runs out of memory all the same ends the list.

    Args:
      batches: increasing.
      seconds: to spend on each repeat, at least.
    """
    found, feed = [], None
    for batch in batches:
        try:
            population = Population(alone(config, batch), [{}], [0], feed=feed)
            found.append(_speed(population, seconds))
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" in str(error) and found:
                break
            raise
        if not population.point.info.streaming:
            feed = population.feed
    return found


def _speed(population, at_least):
    batch, program = population.point.global_batch, population.program
    population.time(program)
    count = round(at_least / population.time(program))
    count = max(1, min(program.capacity, count))
    times = []
    for _ in range(REPEATS):
        calls, start = [], time.perf_counter()
        while not calls or time.perf_counter() - start < at_least:
            calls.append(population.time(program, count) / count)
        times.append(float(np.mean(calls)))
    median = float(np.median(times))
    return Speed(batch, median, batch / median, (max(times) - min(times)) / median)


def all_reduce_seconds(devices: Sequence, sizes: Sequence[int] = ALL_REDUCE_SIZES):
    """(bytes, seconds) of the mean over `devices` of float32 arrays of some sizes, measured."""
    mean = on_devices(lambda x: lax.pmean(x, AXIS), devices, 0, 0)
    arrays = [shard(np.ones((len(devices), size), np.float32), devices) for size in sizes]
    calls = [functools.partial(mean, array) for array in arrays]
    return [(4 * size, planning.least_seconds(f)) for size, f in zip(sizes, calls, strict=True)]


def limit_bytes(point: Point) -> float:
    """What one device alone may use."""
    return memory_limit(dataclasses.replace(point, devices=point.devices[:1]))


def as_rows(found: Sequence) -> list[dict[str, Any]]:
    """JSON."""
    return [dataclasses.asdict(row) for row in found]
