"""What devices can do: memory and speed over batch sizes, their input, and the all-reduce.

What is compared takes turns, round after round, so that a machine that slows down slows all of it
(`rounds`). Three rates are told apart: of the devices alone, with their examples on them; of the
input alone; and of both, as a run trains.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax import lax
from ml_collections import ConfigDict

from scaling.advice import Fit, Speed
from scaling.errors import UserError
from scaling.models import smallest_group
from scaling.train import planning
from scaling.train.feed import ResidentFeed, StreamFeed, make_feed
from scaling.train.memory import memory_limit
from scaling.train.point import Point, data_info, inputs_of, resolve, task_of
from scaling.train.population import Population
from scaling.train.step import AXIS, on_devices, shard

K = TypeVar("K")
ROUNDS = 6  # of which the first is dropped: it is slower than all others
NEVER = 2**40  # steps, a limit that is not reached
# Elements of the float32 arrays whose all-reduce is timed.
ALL_REDUCE_SIZES = (2**8, 2**14, 2**18, 2**22, 2**24)


def alone(
    config: ConfigDict, per_device_batch: int, micro_batch: int | None = None, devices: int = 1
) -> Point:
    """The point that one device trains by itself at that batch, or several together with so many
    examples on each.

    Raises:
      UserError: the batch cannot be laid out, as with ghost batches that do not divide it.
    """
    point = config.copy_and_resolve_references()
    point.global_batch, point.devices = per_device_batch * devices, devices
    point.micro_batch = micro_batch
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
    layout, hparams = planning.layout_of(point, 1), planning.stacked(point, [{}])
    program = planning.compiled(point, layout, hparams)
    return program and program.step_bytes


def speeds(
    config: ConfigDict,
    batches: Sequence[int],
    seconds: float,
    between: Callable[[], None] = lambda: None,
) -> list[Speed]:
    """The time of an update at each per-device batch, on the data set's own examples.

    A batch that the compiler let pass and that runs out of memory all the same ends the list.

    Args:
      batches: increasing.
      seconds: to spend on each timing, at least.
      between: called after every compilation and every timing.
    """
    calls = {}
    for batch, racer in racers(config, batches, seconds):
        calls[batch] = racer.device
        between()
    times = rounds(calls, note=lambda batch, value: between())
    return [_speed(batch, found) for batch, found in times.items()]


def racers(
    config: ConfigDict,
    batches: Sequence[int],
    seconds: float,
    devices: int = 1,
    whole: bool = False,
) -> Iterator[tuple[int, "Racer"]]:
    """One after another, (per-device batch, what trains it), up to the first that does not fit.

    Args:
      batches: increasing.
      seconds: to spend on each timing, at least.
      whole: each batch in one microbatch, whatever runs fastest.

    Raises:
      UserError, JaxRuntimeError: not even the first fits.
    """
    feed = None
    for index, batch in enumerate(batches):
        try:
            racer = Racer(alone(config, batch, batch if whole else None, devices), seconds, feed)
        except (UserError, jax.errors.JaxRuntimeError) as error:
            if index and unfit(error):
                return
            raise
        feed = racer.shared_feed
        yield batch, racer


def unfit(error: Exception) -> bool:
    """Whether it says that a point cannot be laid out, or does not fit the memory."""
    return isinstance(error, UserError) or planning.exhausts_memory(error)


def _speed(batch, times):
    median = float(np.median(times))
    return Speed(batch, median, batch / median, (max(times) - min(times)) / median)


def rounds(
    calls: Mapping[K, Callable[[], float]],
    count: int = ROUNDS,
    note: Callable[[K, float], None] = lambda key, value: None,
) -> dict[K, list[float]]:
    """What each of the calls gives in every round but the first; in a round they take turns.

    Args:
      note: called with each of them and what it gave, before all are over.
    """
    found = []
    for _ in range(count):
        found.append({})
        for key, call in calls.items():
            found[-1][key] = call()
            note(key, found[-1][key])
    return {key: [each[key] for each in found[1:]] for key in calls}


class Racer:
    """One that takes its turn: an update of a point, compiled and run.

    Args:
      at_least: seconds to spend on each timing.
      feed: of another point with the same devices and resident data, to be used again.
      separate: every device trains by itself, with the point's batch each: nothing is exchanged.
    """

    def __init__(
        self,
        point: Point,
        at_least: float,
        feed: ResidentFeed | None = None,
        separate: bool = False,
    ):
        trials = len(point.devices) if separate else 1
        seeds = [point.config.seed] * trials
        self.population = Population(point, [{}] * trials, seeds, tracked=None, feed=feed)
        self._at_least, self._input, self._count = at_least, None, 1
        self.population.time(self.program)
        while (seconds := self.population.time(self.program, self._count)) < at_least:
            if self._count == self.program.capacity:
                break
            more = max(2 * self._count, round(self._count * at_least / seconds))
            self._count = min(self.program.capacity, more)

    @property
    def program(self):
        """That makes the updates."""
        return self.population.program

    @property
    def shared_feed(self) -> ResidentFeed | None:
        """For others of the same devices; None: streamed, so each has its own."""
        return None if self.population.point.info.streaming else self.population.feed

    def device(self) -> float:
        """Seconds of an update whose examples are on the devices."""
        return self._mean(lambda: self.population.time(self.program, self._count), self._count)

    def input(self) -> float:
        """Seconds to make the examples of an update and bring them to the devices."""
        if self._input is None:
            self._input = self._inputs()
        return self._mean(lambda: next(self._input), self._count)

    def both(self) -> float:
        """Seconds of an update of a run that reads its examples meanwhile."""
        count, start = 0, time.perf_counter()
        while not count or time.perf_counter() - start < self._at_least:
            (row, *_) = self.population.advance(NEVER).values()
            count += row.shape[1]
        return (time.perf_counter() - start) / count

    def _mean(self, call, count):
        """Seconds of an update, of calls that make so many each and give their seconds."""
        calls, start = [], time.perf_counter()
        while not calls or time.perf_counter() - start < self._at_least:
            calls.append(call() / count)
        return float(np.mean(calls))

    def _inputs(self):
        """Seconds of one call's examples after another; of a stream, what is read ahead too."""
        held = self.population
        feed = held.feed
        if isinstance(feed, StreamFeed):
            feed = make_feed(held.point, held.layout.plan)
        for step in range(0, NEVER, self._count):
            start = time.perf_counter()
            jax.block_until_ready(held.input(step, self._count, feed))
            yield time.perf_counter() - start


def overlap_of(config: ConfigDict, per_device_batch: int, devices: int, seconds: float, count: int):
    """Seconds of an update on several devices in every round: "with" their mean, "without" any
    exchange, and of the mean of the gradients "alone".

    Args:
      seconds: of each timing, at least.
      count: of rounds.
    """
    together = Racer(alone(config, per_device_batch, devices=devices), seconds)
    point = alone(config, per_device_batch)
    point = dataclasses.replace(point, devices=together.population.point.devices)
    apart = Racer(point, seconds, together.shared_feed, separate=True)
    gradients = together.population.initial_weights()
    mean = mean_over(point.devices, jax.tree.map(lambda leaf: np.asarray(leaf[0]), gradients))
    return rounds({"with": together.device, "without": apart.device, "alone": mean}, count)


def mean_over(devices: Sequence, tree: Any) -> Callable[[], float]:
    """() -> seconds of the mean over devices of a tree of arrays, one copy on each."""
    mean = on_devices(lambda x: lax.pmean(x, AXIS), devices, 0, 0)
    copies = shard(jax.tree.map(lambda leaf: np.stack([leaf] * len(devices)), tree), devices)
    return lambda: planning.least_seconds(functools.partial(mean, copies))


def all_reduce_seconds(devices: Sequence, sizes: Sequence[int] = ALL_REDUCE_SIZES):
    """(bytes, seconds) of the mean over `devices` of float32 arrays of some sizes, measured."""
    return [(4 * size, mean_over(devices, np.ones(size, np.float32))()) for size in sizes]


def peak_bytes(device) -> int | None:
    """The most memory of a device that was in use so far; None where it does not tell."""
    return (device.memory_stats() or {}).get("peak_bytes_in_use")


def limit_bytes(point: Point) -> float:
    """What one device alone may use."""
    return memory_limit(dataclasses.replace(point, devices=point.devices[:1]))
