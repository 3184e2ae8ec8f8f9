"""The compiled programs of a population: some updates of all its trials, and an evaluation of them.

A trial is one set of hyperparameters and a seed. Everything about it is data, so K of them train in
one program, and a single run is a population of one. On each device, block after block of trials
runs through all updates of a call, those of a block side by side under `vmap`. A block of one is
not mapped: convolutions would become grouped ones.

The number of updates in a call is an argument of the program, not a shape. So a run compiles once,
and where it was cut into calls leaves no trace in its numbers.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from scaling.batch import BatchPlan
from scaling.train.feed import evaluation_shapes
from scaling.train.feed import shapes_of as shapes_of_examples
from scaling.train.point import Point
from scaling.train.step import (
    AXIS,
    TrainState,
    init_state,
    lowered,
    make_update,
    noise_every,
    on_devices,
)

# Indices of examples that one call may hold, over all trials. Every call sends as many, and most
# are short: with 2**23, one update of 64 trials and their evaluation took four to eight times as
# long.
MAX_CALL_EXAMPLES = 2**20
MAX_CALL_STEPS = 4096


@flax.struct.dataclass
class Trial:
    """One trial's training, or a stack of them."""

    state: TrainState
    alive: jax.Array  # bool [], false once a loss was not finite: the trial stays as it was before


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the trials are: `devices` x `blocks` x `block`, the first only if they are spread.

    Attributes:
      spread: "trials", every device trains trials of its own, without communication; or "batch",
        all devices hold all trials and share the batch of each.
      count: trials asked for; the places beyond it hold copies that never count.
      plan: of one trial's batch, over the devices that share it.
    """

    spread: str
    devices: int
    blocks: int
    block: int
    count: int
    plan: BatchPlan

    @property
    def shape(self) -> tuple[int, ...]:
        """Leading axes of everything that every trial has of its own."""
        inner = (self.blocks, self.block)
        return (self.devices, *inner) if self.spread == "trials" else inner

    @property
    def axes(self) -> tuple[int | None, int | None]:
        """Over which axis the devices divide what every trial has of its own, and what all share:
        the input of streams and of evaluations."""
        return (0, None) if self.spread == "trials" else (None, 0)

    @property
    def each(self) -> int:
        """Trials on every device."""
        return -(-self.count // self.devices) if self.spread == "trials" else self.count

    @property
    def examples_at_once(self) -> int:
        """What activations are held of, on each device."""
        return self.block * self.plan.micro_batch


@dataclasses.dataclass(frozen=True)
class Program:
    """What trains a layout's trials, compiled; and what evaluates them, compiled when first used.

    Attributes:
      method: for convolutions; None: the model's own.
      train: see `make_train`.
      capacity: the most updates it can do in one call.
      step_bytes: memory that one device needs while `train` runs, data set included.
      state_bytes: of the trials, on one device.
      seconds: that the compilation of `train` took.
    """

    layout: Layout
    method: str | None
    train: Callable
    capacity: int
    step_bytes: int
    state_bytes: int
    seconds: float
    compile_evaluate: Callable[[], Callable]

    @property
    def plan(self) -> BatchPlan:
        """Of one trial's batch."""
        return self.layout.plan

    @functools.cached_property
    def evaluate(self) -> Callable:
        """See `make_evaluate`."""
        return self.compile_evaluate()


def capacity_of(point: Point, layout: Layout) -> int:
    """Updates in one call, at most."""
    if point.info.streaming:
        return 1
    examples = MAX_CALL_EXAMPLES // (math.prod(layout.shape) * point.global_batch)
    return max(1, min(MAX_CALL_STEPS, examples, point.total_steps))


def make_train(
    point: Point,
    layout: Layout,
    method: str | None = None,
    tracked: Sequence[str] | None = None,
) -> Callable:
    """Many updates of all trials in one call.

    Args:
      method: for convolutions; None: the model's own.
      tracked: the metrics to give; None: all. Then a trial that diverges goes on, since the metrics
        show where it did, and freezing it would take 15% longer on a small model.

    Returns `train(trials, fixed, data, batches, count) -> (trials, rows)`, mapped over the devices:
      trials: a `Trial` whose leaves have `layout.shape` in front; donated.
      fixed: (hparams, key, initial weights or None) of every trial, likewise.
      data: the training set, None of streams.
      batches: of resident data every trial has its own order, [devices, blocks, block, capacity,
        accum_steps, micro_batch]; of streamed data all share [devices, capacity, accum_steps,
        micro_batch, ...], without the first axis where trials are spread.
      count: updates to make, at most the capacity.
      rows: metrics of `make_update` by name, [*layout.shape, capacity, ...]; the first `count` of
        the capacity are valid.
    """
    task, streamed = _task(point, layout, method), point.info.streaming
    every = noise_every(point.config, layout.plan)
    update = make_update(task, point.make_optimizer, layout.plan, point.preprocess, every)

    def one_update(trial, data, batch, hparams, key, initial):
        state, metrics = update(trial.state, data, batch, hparams, key, initial)
        alive = trial.alive & jnp.isfinite(metrics["loss"])
        if tracked is None:
            return Trial(state, alive), metrics
        state = jax.tree.map(lambda new, old: jnp.where(alive, new, old), state, trial.state)
        return Trial(state, alive), {name: metrics[name] for name in tracked}

    side_by_side = layout.block > 1
    lead = int(side_by_side)  # axes before those of a trial's own

    def train(trials, fixed, data, batches, count):
        def block(inputs):
            trials, fixed, own = inputs
            of_all, axis = (batches, 0) if streamed else (own, lead)
            capacity = jax.tree.leaves(of_all)[0].shape[axis]

            def step(trials, i):
                batch = jax.tree.map(
                    lambda leaf: lax.dynamic_index_in_dim(leaf, i, axis, keepdims=False), of_all
                )
                one = lambda trial, batch, fixed: one_update(trial, data, batch, *fixed)
                if side_by_side:
                    one = jax.vmap(one, (0, None if streamed else 0, 0))
                return one(trials, batch, fixed)

            def body(i, carry):
                trials, metrics = step(carry[0], i)
                place = lambda row, value: lax.dynamic_update_index_in_dim(row, value, i, lead)
                return trials, jax.tree.map(place, carry[1], metrics)

            _, shapes = jax.eval_shape(step, trials, 0)
            shape = lambda s: (*s.shape[:lead], capacity, *s.shape[lead:])
            rows = jax.tree.map(lambda s: jnp.zeros(shape(s), s.dtype), shapes)
            return lax.fori_loop(0, count, body, (trials, rows))

        return _blocks(layout, block, (trials, fixed, None if streamed else batches))

    own, shared = layout.axes
    in_axes = (own, own, None, shared if streamed else 0, None)
    return on_devices(train, point.devices, in_axes, own, donate=(0,))


def make_evaluate(point: Point, layout: Layout | None = None, method: str | None = None):
    """The task's sums of all trials over an evaluation's examples.

    Args:
      layout: None: one trial, its examples over all devices.

    Returns `evaluate(weights, data, batches) -> sums`: weights (params, batch_stats) with
    `layout.shape` in front, and so are the sums; batches [devices, steps, rows, ...], without the
    first axis where trials are spread. Their "mask" is 1 on examples and 0 on padding.
    """
    layout = layout or Layout("batch", len(point.devices), 1, 1, 1, None)
    task = _task(point, layout, method)

    def evaluate(weights, data, batches):
        def one(weights):
            of = lambda batch: task.sums(*weights, point.preprocess(data, batch), batch["mask"])
            return jax.tree.map(lambda leaf: leaf.sum(0), lax.map(of, batches))

        sums = _blocks(layout, jax.vmap(one) if layout.block > 1 else one, weights)
        return lax.psum(sums, AXIS) if layout.spread == "batch" else sums

    own, shared = layout.axes
    return on_devices(evaluate, point.devices, (own, None, shared), own)


def _task(point, layout, method):
    """What the trials learn, as this layout computes it."""
    model = point.task.model
    if layout.spread == "trials":  # no axis is shared: nothing may be reduced over devices
        model = model.clone(axis_name=None)
    if method is not None:
        model = model.clone(conv_method=method)
    return dataclasses.replace(point.task, model=model)


def _blocks(layout, function, inputs):
    """`function` of one block after another. What has a single one of an axis, be it of trials or
    of blocks, is not mapped over it."""
    if layout.block == 1:
        function = _of_one(function)
    return lax.map(function, inputs) if layout.blocks > 1 else _of_one(function)(inputs)


def _of_one(function):
    """`jax.vmap` over an axis of length 1."""

    def mapped(inputs):
        out = function(jax.tree.map(lambda leaf: leaf[0], inputs))
        return jax.tree.map(lambda leaf: leaf[None], out)

    return mapped


def initial_trials(point: Point, keys: jax.Array, hparams: Mapping[str, Any]) -> Trial:
    """All trials before their first update, [K, ...].

    Args:
      keys: [K, 2], for the weights and for the updates.
      hparams: by name, [K, ...].
    """
    one = lambda keys, h: init_state(point.task, point.make_optimizer, h, keys[0])
    return Trial(jax.vmap(one)(keys, hparams), jnp.ones(len(keys), bool))


def shapes_of(point: Point, layout: Layout, hparams: Mapping[str, Any]) -> tuple[Any, ...]:
    """Shapes of what `train` takes.

    Args:
      hparams: of all trials by name, [K, ...].
    """
    shape = jax.ShapeDtypeStruct
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), (layout.count, 2)))

    def of_all(keys, hparams):
        trials = initial_trials(point, keys, hparams)
        initial = trials.state.params if point.config.metrics.weight_distance else None
        return trials, (hparams, keys[:, 1], initial)

    trials, fixed = jax.tree.map(
        lambda leaf: shape((*layout.shape, *leaf.shape[1:]), leaf.dtype),
        jax.eval_shape(of_all, keys, hparams),
    )
    plan, capacity, info = layout.plan, capacity_of(point, layout), point.info
    if info.streaming:
        rows = (capacity, plan.accum_steps, plan.micro_batch)
        rows = rows if layout.spread == "trials" else (plan.devices, *rows)
        data, batches = None, shapes_of_examples(point, rows)
    else:
        data, _ = evaluation_shapes(point, "train")
        places = layout.shape if layout.spread == "trials" else (plan.devices, *layout.shape)
        index = (*places, capacity, plan.accum_steps, plan.micro_batch)
        batches = {"index": shape(index, np.int32)}
    return trials, fixed, data, batches, shape((), np.int32)


def compile_program(
    point: Point,
    layout: Layout,
    hparams: Mapping[str, Any],
    method: str | None = None,
    split: str = "validation",
    tracked: Sequence[str] | None = None,
) -> Program:
    """Compile the programs of a layout, without any data.

    Args:
      hparams: of all trials by name, [K, ...].
      split: that `evaluate` is for.

    Raises:
      JaxRuntimeError: RESOURCE_EXHAUSTED, the program is too large even to be compiled.
    """
    start, shapes = time.perf_counter(), shapes_of(point, layout, hparams)
    train = lowered(make_train(point, layout, method, tracked), *shapes).compile()
    seconds = time.perf_counter() - start
    trials = shapes[0]

    def compile_evaluate():
        weights = trials.state.params, trials.state.batch_stats
        data, rows = evaluation_shapes(point, split, layout.plan.devices)
        if layout.spread == "trials":
            rows = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape[1:], s.dtype), rows)
        return lowered(make_evaluate(point, layout, method), weights, data, rows).compile()

    state = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(trials))
    return Program(
        layout,
        method,
        train,
        capacity_of(point, layout),
        program_bytes(train),
        state // layout.devices if layout.spread == "trials" else state,
        seconds,
        compile_evaluate,
    )


def program_bytes(compiled) -> int:
    """Memory of one device that a compiled program needs while it runs, arguments included."""
    memory = compiled.memory_analysis()
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )
