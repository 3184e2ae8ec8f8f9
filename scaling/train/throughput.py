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
from scaling.train.feed import make_feed
from scaling.train.point import Point, data_info, resolve, task_of
from scaling.train.step import AXIS, init_state, on_devices, replicate, shard

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
        fits = need is not None and need <= planning.memory_limit(point)
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
    info = data_info(config.data)
    fewest = smallest_group(task_of(config, info).model, info.image_shape)
    return 2 ** math.ceil(math.log2(fewest))


def step_bytes(point: Point) -> int | None:
    """Memory of an update with the batch in one microbatch on one device, by the compiler; None:
    too large even to be compiled."""
    plan = planning.plan_by_hand(point.global_batch, 1, point.global_batch, point.ghost_batch)
    try:
        return planning.compile_plan(point, plan).step_bytes
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
    found, data = [], None
    for batch in batches:
        point = alone(config, batch)
        try:
            program = planning.choose(point)
            feed = make_feed(point, program.plan, program.capacity)
            data = feed.data if data is None else data
            found.append(_speed(point, program, feed, data, seconds))
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" in str(error) and found:
                break
            raise
    return found


def _speed(point, program, feed, data, at_least):
    key = jax.random.key(0)
    make = point.make_optimizer, point.hparams
    state = planning.run_once(lambda key: init_state(point.task, *make, key), key)
    state = replicate(state, point.devices)
    fixed = replicate((point.hparams, key, None), point.devices)
    if point.info.streaming:
        batches = _stand_in(point, program.plan)
    else:
        batches = feed.batches(0, program.capacity)
    batches = shard(batches, point.devices)

    def call(state, count):
        start = time.perf_counter()
        state, metrics = program.chunk(state, data, batches, np.int32(count), *fixed)
        jax.block_until_ready(metrics)
        return state, (time.perf_counter() - start) / count

    state, _ = call(state, 1)
    state, guess = call(state, 1)
    count = max(1, min(program.capacity, round(at_least / guess)))
    times = []
    for _ in range(REPEATS):
        calls, start = [], time.perf_counter()
        while not calls or time.perf_counter() - start < at_least:
            state, each = call(state, count)
            calls.append(each)
        times.append(float(np.mean(calls)))
    median = float(np.median(times))
    spread = (max(times) - min(times)) / median
    return Speed(point.global_batch, median, point.global_batch / median, spread)


def _stand_in(point, plan):
    """A made-up batch of a streamed set: what a device can do with input that is always there."""
    rows = (plan.devices, 1, plan.accum_steps, plan.micro_batch)
    images = np.random.default_rng(0).integers(0, 256, (*rows, *point.info.image_shape), np.uint8)
    return {"image": images, "label": np.zeros(rows, np.int32)}


def all_reduce_seconds(devices: Sequence, sizes: Sequence[int] = ALL_REDUCE_SIZES):
    """(bytes, seconds) of the mean over `devices` of float32 arrays of some sizes, measured."""
    mean = on_devices(lambda x: lax.pmean(x, AXIS), devices, 0, 0)
    arrays = [shard(np.ones((len(devices), size), np.float32), devices) for size in sizes]
    calls = [functools.partial(mean, array) for array in arrays]
    return [(4 * size, planning.least_seconds(f)) for size, f in zip(sizes, calls, strict=True)]


def limit_bytes(point: Point) -> float:
    """What one device alone may use."""
    return planning.memory_limit(dataclasses.replace(point, devices=point.devices[:1]))


def as_rows(found: Sequence) -> list[dict[str, Any]]:
    """JSON."""
    return [dataclasses.asdict(row) for row in found]
