"""Many trials of one point in one program.

A trial is one set of hyperparameters and a seed; everything about it is data, so K of them train in
one compiled program. On each device, block after block of trials runs through all updates of a
call, those of a block side by side under `vmap`; `layout` says which trials go where.

Every trial of a resident data set has an order of examples of its own. A streamed one is decoded
once for all: its trials see the same images in the same order, that of `config.seed` (common random
numbers), and differ by initialisation and dropout only.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from scaling.data.resident import EpochOrder
from scaling.errors import UserError
from scaling.record import RunDir
from scaling.train import planning
from scaling.train.clock import Clock
from scaling.train.evaluate import metric_sums
from scaling.train.feed import make_feed
from scaling.train.layout import Layout, layouts
from scaling.train.point import Point
from scaling.train.step import (
    AXIS,
    TrainState,
    init_state,
    make_update,
    on_devices,
    replicate,
    shard,
)

# Indices of examples that one call may hold, over all trials. Every call prepares and sends as
# many, and most are short: with 2**23, one update and evaluation of 64 trials took four to eight
# times as long.
MAX_CALL_EXAMPLES = 2**20
MAX_CALL_STEPS = 4096
# Ways to compute convolutions of several trials at once: as grouped ones, or patch by patch as
# batched matrix products. Which is faster depends on the device and the model, so both are timed.
SIDE_BY_SIDE_METHODS = ("xla", "patches")
CALL_SECONDS = 1.0  # aimed at per call: short enough for Ctrl-C


@flax.struct.dataclass
class Trial:
    """One trial's training, or a stack of them."""

    state: TrainState
    alive: jax.Array  # bool []; a trial whose loss was not finite stays as it was before
    # Metrics by name, float32 []; sums over the updates since the last evaluation. Here, and not
    # added up outside, for where a run was cut into calls must leave no trace in them.
    sums: dict[str, jax.Array]


def make_advance(
    point: Point,
    layout: Layout,
    conv_method: str | None = None,
    tracked: Sequence[str] = ("loss",),
) -> Callable:
    """The program of a population, its convolutions by `conv_method` if one is given.

    Returns `advance(trials, fixed, data, batches, count, held_out, held_out_batches, evaluate) ->
    (trials, trained, sums)`, mapped over the devices:
      trials: a `Trial` whose leaves have `layout.shape` in front.
      fixed: (hparams, key) of every trial, likewise.
      data, batches: as in `step.make_chunk`. Of resident data every trial has its own order,
        [devices, blocks, block, capacity, accum_steps, micro_batch]; of streamed data all share
        [devices, capacity, ...], without the first axis where trials are spread.
      count: updates to make, a traced number.
      evaluate: whether to evaluate afterwards on (held_out, held_out_batches), the latter [devices,
        steps, rows, ...], likewise.
      trained: of every trial, the sums of its `tracked` metrics over the updates since the last
        evaluation.
      sums: of the evaluation's metrics, zeros without one.
    """
    model, streamed = point.task.model, point.info.streaming
    if layout.spread == "trials":  # no axis is shared: nothing may be reduced over devices
        model = model.clone(axis_name=None)
    if conv_method is not None:
        model = model.clone(conv_method=conv_method)
    task = dataclasses.replace(point.task, model=model)
    update = make_update(task, point.make_optimizer, layout.plan, point.preprocess)
    sums_of = metric_sums(task, point.preprocess)
    side_by_side = jax.vmap if layout.block > 1 else _for_one

    def one_update(trial, data, batch, hparams, key):
        state, metrics = update(trial.state, data, batch, hparams, key, None)
        alive = trial.alive & jnp.isfinite(metrics["loss"])
        state = jax.tree.map(lambda new, old: jnp.where(alive, new, old), state, trial.state)
        sums = {k: trial.sums[k] + jnp.where(alive, metrics[k], 0.0) for k in tracked}
        return Trial(state, alive, sums)

    def advance(trials, fixed, data, batches, count, held_out, held_out_batches, evaluate):
        def evaluated(state):
            return sums_of(state.params, state.batch_stats, held_out, held_out_batches)

        def block(inputs):
            trials, (hparams, keys), own = inputs
            of_all, axis, mapped = (batches, 0, None) if streamed else (own, 1, 0)

            def body(i, trials):
                batch = jax.tree.map(
                    lambda leaf: lax.dynamic_index_in_dim(leaf, i, axis, keepdims=False), of_all
                )
                step = lambda trial, batch, hparams, key: one_update(
                    trial, data, batch, hparams, key
                )
                return side_by_side(step, (0, mapped, 0, 0))(trials, batch, hparams, keys)

            trials = lax.fori_loop(0, count, body, trials)
            trained = trials.sums
            cleared = {k: jnp.where(evaluate, 0.0, total) for k, total in trained.items()}
            trials = trials.replace(sums=cleared)
            measure = side_by_side(evaluated, (0,))
            shapes = jax.eval_shape(measure, trials.state)
            nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
            sums = lax.cond(evaluate, measure, lambda _: nothing, trials.state)
            return trials, trained, sums

        own = None if streamed else batches
        trials, trained, sums = lax.map(block, (trials, fixed, own))
        if layout.spread == "batch":
            sums = lax.psum(sums, AXIS)
        return trials, trained, sums

    own, shared = _axes(layout)
    in_axes = (own, own, None, shared if streamed else 0, None, None, shared, None)
    return on_devices(advance, point.devices, in_axes, own, donate=(0,))


def _axes(layout):
    """Over which axis the devices divide what every trial has of its own, and what all share."""
    return (0, None) if layout.spread == "trials" else (None, 0)


def _for_one(function, in_axes):
    """`jax.vmap` over an axis of length 1, without turning convolutions into grouped ones."""

    def mapped(*args):
        first = lambda arg, axis: arg if axis is None else jax.tree.map(lambda a: a[0], arg)
        out = function(*map(first, args, in_axes))
        return jax.tree.map(lambda leaf: leaf[None], out)

    return mapped


class Population:
    """K trials of a point, from initialisation to any later step, compiled once.

    Args:
      point: resolved; its own values stand for every hyperparameter that a trial does not set.
      values: of every trial, hyperparameters by the names of `point.hparams`.
      seeds: of every trial: initialisation, order of examples, augmentation and dropout, as
        `config.seed` in a run of its own. The order of streamed examples is that of `config.seed`.
      block: trials side by side, see `layout_of`.
      split: that it is evaluated on, "validation" or "train", see `feed.evaluation_size`.
      tracked: metrics of the updates to be summed between evaluations, see `step.make_update`.
      placement: of an earlier launch. It is used again on the same kind and number of devices, for
        then a resumed run adds its numbers in the same order.

    Attributes:
      placement: how the trials are laid out and computed here, JSON.
      step: updates done.
      seconds: {"compile", "train", "eval"}, see `Clock`.

    Raises:
      UserError: the batch cannot be laid out, or nothing in `layouts` fits the memory.
    """

    def __init__(
        self,
        point: Point,
        values: Sequence[Mapping[str, float]],
        seeds: Sequence[int],
        block: int | None = None,
        split: str = "validation",
        tracked: Sequence[str] = ("loss",),
        placement: Mapping[str, Any] | None = None,
    ):
        start = time.perf_counter()
        self.point, self.split, self.step = point, split, 0
        self._tracked = tuple(tracked)
        hparams = [point.hparams | trial for trial in values]
        self._hparams = {name: np.asarray([h[name] for h in hparams]) for name in point.hparams}
        self._keys = jax.vmap(lambda seed: jax.random.split(jax.random.key(seed)))(
            np.asarray(seeds)
        )
        self._orders = [EpochOrder(seed, point.info.sizes["train"]) for seed in seeds]

        programs = self._programs_that_fit(layouts(point, len(values), block), placement)
        self._load()
        self._fixed = self._put(self._spread((self._hparams, self._keys[:, 1])))
        initial = planning.run_once(self._initial, self._keys, self._hparams)
        self._take(jax.tree.map(np.asarray, initial))
        method = self._fastest(programs)
        self._advance = programs[method]
        self.placement = _placement(point, self.layout, method)
        self.seconds = {"compile": time.perf_counter() - start, "train": 0.0, "eval": 0.0}
        self._clock, self._per_step = Clock(), math.inf  # not known yet: one update

    def _initial(self, keys, hparams):
        """All trials before their first update, [K, ...]."""
        one = lambda keys, h: init_state(self.point.task, self.point.make_optimizer, h, keys[0])
        count = len(self._orders)
        sums = {name: jnp.zeros(count) for name in self._tracked}
        return Trial(jax.vmap(one)(keys, hparams), jnp.ones(count, bool), sums)

    def _programs_that_fit(self, candidates, before):
        """Those of the first layout that has any, by their method for convolutions."""
        limit, per_example, needed = planning.memory_limit(self.point), 0.0, {}
        known = lambda layout: (
            before and before == _placement(self.point, layout, before.get("conv_method"))
        )
        candidates = sorted(candidates, key=lambda layout: not known(layout))
        for self.layout in candidates:
            # Memory grows with the examples at most in proportion: what cannot fit is not compiled.
            too_large = per_example * self.layout.examples_at_once > limit
            if too_large and self.layout is not candidates[-1]:
                continue
            methods = (before["conv_method"],) if known(self.layout) else self._methods()
            programs = {method: self._program(method) for method in methods}
            needs = {method: self._bytes(program) for method, program in programs.items()}
            if fitting := {k: program for k, program in programs.items() if needs[k] <= limit}:
                return fitting
            needed[self.layout] = need = min(needs.values())
            if math.isfinite(need):
                per_example = max(per_example, need / self.layout.examples_at_once)
        layout = min(needed, key=needed.get)
        raise self._does_not_fit(layout, needed[layout], limit)

    def _does_not_fit(self, layout, need, limit):
        config = self.point.config
        advice = ["search fewer trials, use a smaller model or more devices"]
        if config.micro_batch is not None:
            advice.append("leave micro_batch None")
        if config.memory_limit_gib is not None:
            advice.append("raise memory_limit_gib")
        shared = f" with the batch shared by {layout.devices} devices" * (layout.plan.devices > 1)
        return UserError(
            f"{layout.count} trials of batch {self.point.global_batch:,} do not fit: the least of "
            f"what was tried, {layout.block} at a time in microbatches of "
            f"{layout.plan.micro_batch}{shared}, needs {need / 2**30:.3g} GiB on each device, "
            f"which may use {limit / 2**30:.3g} GiB; {', or '.join(advice)}."
        )

    def _methods(self):
        """Ways to compute convolutions that are worth timing."""
        auto = getattr(self.point.task.model, "conv_method", None) == "auto"
        return SIDE_BY_SIDE_METHODS if auto and self.layout.block > 1 else (None,)

    def _program(self, method):
        """Compiled for this layout; None if it is too large even for that."""
        advance = make_advance(self.point, self.layout, method, self._tracked)
        try:
            return advance.lower(*self._shapes()).compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" in str(error):
                return None
            raise

    def _bytes(self, program):
        """Memory that one device needs."""
        if program is None:
            return math.inf
        # Timing a program, and restoring a checkpoint, hold the trials once more.
        trials, *_ = self._shapes()
        state = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(trials))
        if self.layout.spread == "trials":
            state /= self.layout.devices
        return planning.program_bytes(program) + state

    def _shapes(self):
        """Of what `advance` takes."""
        layout, scalar = self.layout, jax.ShapeDtypeStruct
        feed = make_feed(self.point, layout.plan, 1)
        _, data, batches, *_ = planning.shapes_of(self.point, layout.plan)
        if self.point.info.streaming:
            batches = jax.eval_shape(self._shared, batches)
        else:
            own = (layout.devices, layout.blocks, layout.block, self.capacity)
            accum, _, micro = layout.plan.layout
            batches = {"index": scalar((*own, accum, micro), np.int32)}
        held_out, rows = feed.evaluation_shapes(self.split, layout.plan.devices)
        of_all = jax.eval_shape(
            lambda keys, h: (self._initial(keys, h), (h, keys[:, 1])), self._keys, self._hparams
        )
        trials, fixed = jax.tree.map(
            lambda leaf: scalar((*layout.shape, *leaf.shape[1:]), leaf.dtype), of_all
        )
        count, evaluate = scalar((), np.int32), scalar((), np.bool_)
        rows = jax.eval_shape(self._shared, rows)
        return trials, fixed, data, batches, count, held_out, rows, evaluate

    def _load(self):
        """Data that stays on the devices, and zeros for the part of a call that does nothing."""
        self._feed = make_feed(self.point, self.layout.plan, 1)
        self.data = self._feed.data
        *_, batches, _, _, rows, _ = self._shapes()
        zeros = lambda shapes: jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)
        self._no_batches = zeros(batches)
        if self.point.info.streaming:
            self._no_batches = self._put(self._no_batches, shared=True)
            self._idle = None, self._put(zeros(rows), shared=True)
        else:
            ((held_out, rows),) = self._feed.evaluation(self.split, self.layout.plan.devices)
            self._idle = held_out, self._put(self._shared(rows), shared=True)

    def _evaluation_calls(self):
        """(data, batches) of every call that an evaluation takes."""
        if not self.point.info.streaming:
            return [self._idle]
        pairs = self._feed.evaluation(self.split, self.layout.plan.devices)
        return ((data, self._shared(rows)) for data, rows in pairs)

    def _put(self, tree, shared=False):
        """On the devices: what every trial has of its own, or what all share."""
        axis = _axes(self.layout)[shared]
        return (replicate if axis is None else shard)(tree, self.point.devices)

    def _shared(self, tree):
        """[devices, ...] as the program takes it: where trials are spread, without that axis."""
        if self.layout.spread == "batch":
            return tree
        return jax.tree.map(lambda leaf: leaf[0], tree)

    @property
    def capacity(self) -> int:
        """Updates in one call, at most."""
        if self.point.info.streaming:
            return 1
        trials = math.prod(self.layout.shape)
        return max(1, min(MAX_CALL_STEPS, MAX_CALL_EXAMPLES // (trials * self.point.global_batch)))

    def _fastest(self, programs):
        """The method for convolutions whose program runs fastest here."""
        if len(programs) == 1:
            return next(iter(programs))
        seconds = {method: self._seconds(program) for method, program in programs.items()}
        return min(seconds, key=seconds.get)

    def _seconds(self, program):
        """Of one update of all trials."""
        times = []
        for _ in range(3):
            trials = jax.tree.map(jnp.copy, self.trials)
            args = trials, self._fixed, self.data, self._no_batches, np.int32(1)
            start = time.perf_counter()
            jax.block_until_ready(program(*args, *self._idle, np.bool_(False)))
            times.append(time.perf_counter() - start)
        return min(times)

    def _batches(self, step, count):
        """What `count` updates from `step` on read."""
        if count == 0:
            return self._no_batches
        if self.point.info.streaming:
            return self._shared(self._feed.batches(step, count))
        plan, batch = self.layout.plan, self.point.global_batch
        accum, devices, micro = plan.layout
        places = math.prod(self.layout.shape)
        index = np.zeros((places, self.capacity, accum, devices, micro), np.int32)
        for row, order in zip(index, self._orders, strict=False):  # the rest are copies: no matter
            part = order[step * batch : (step + count) * batch]
            row[:count] = part.reshape(count, accum, devices, micro)
        if self.layout.spread == "trials":
            return {"index": index.reshape(*self.layout.shape, self.capacity, accum, micro)}
        index = np.moveaxis(index, 3, 0)  # [devices, trials, capacity, accum, micro]
        return {"index": index.reshape(devices, *self.layout.shape, self.capacity, accum, micro)}

    def advance(self, limit: int, evaluate: bool = True) -> tuple[dict, dict | None]:
        """Train towards step `limit`, for about a second, and evaluate if it is reached.

        Returns:
          The sums of the tracked metrics over the updates since the last evaluation, name -> [K];
          and the metrics of the split, name -> float64 [K], or None if `limit` was not reached or
          no evaluation asked for.
        """
        start = time.perf_counter()
        most = min(self.capacity, max(1, int(CALL_SECONDS / self._per_step)))
        count = min(limit - self.step, most)
        evaluate = evaluate and self.step + count == limit
        trained, sums = self._call(self._batches(self.step, count), count, evaluate)
        self.step += count
        elapsed = time.perf_counter() - start
        if count:
            self._per_step = elapsed / count
        updating, evaluating = self._clock.add(elapsed, count, evaluate)
        self.seconds["train"] += updating
        self.seconds["eval"] += evaluating
        if not evaluate:
            return trained, None
        # In float64: as a float32, six errors in 300 are fewer than 2%.
        total = np.float64(sums.pop("count"))
        return trained, {name: value / total for name, value in sums.items()}

    def _call(self, batches, count, evaluate):
        """The sums of training and of the evaluation, after one call or, of streams, one for every
        batch of the evaluation, of which the first also trains."""
        trained, total = None, None
        for held_out in self._evaluation_calls() if evaluate else [self._idle]:
            self.trials, more, sums = self._advance(
                self.trials,
                self._fixed,
                self.data,
                batches,
                np.int32(count),
                *held_out,
                np.bool_(evaluate),
            )
            sums = jax.tree.map(self._flat, sums)
            trained = jax.tree.map(self._flat, more) if trained is None else trained
            total = sums if total is None else jax.tree.map(np.add, total, sums)
            batches, count = self._no_batches, 0
        return trained, total

    def _flat(self, leaf):
        """One row per trial, in order, on the host."""
        leaf = np.asarray(leaf)
        flat = leaf.reshape(-1, *leaf.shape[len(self.layout.shape) :])
        return flat[: self.layout.count]

    def _spread(self, tree):
        """What has one row per trial, [K, ...], in the places of the layout; those beyond the last
        trial hold copies of it."""
        shape = self.layout.shape
        rows = np.minimum(np.arange(math.prod(shape)), self.layout.count - 1)
        return jax.tree.map(lambda leaf: leaf[rows].reshape(*shape, *leaf.shape[1:]), tree)

    @property
    def alive(self) -> np.ndarray:
        """Which trials have had finite losses so far, bool [K]."""
        return self._flat(self.trials.alive)

    def variables(self, trial: int) -> tuple[Any, Any]:
        """Parameters and batch statistics of one trial, on the host."""
        state = self.trials.state
        return jax.tree.map(lambda leaf: self._flat(leaf)[trial], (state.params, state.batch_stats))

    def weights(self) -> Any:
        """Parameters of all trials, leaves [K, ...] on the host."""
        return jax.tree.map(self._flat, self.trials.state.params)

    def initial_weights(self) -> Any:
        """Those before the first update, whatever the step now is."""
        initial = planning.run_once(self._initial, self._keys, self._hparams)
        return jax.tree.map(np.asarray, initial.state.params)

    def packed(self) -> Trial:
        """The trials in order, leaves [K, ...] on the host: for checkpoints, which do not depend
        on the devices."""
        return jax.tree.map(self._flat, self.trials)

    def restore(self, step: int, packed: Trial) -> None:
        """Go to where `packed` was taken, perhaps on other devices, after `step` updates."""
        self.step = step
        self._take(packed)

    def _take(self, packed):
        full, shape = self._spread(packed), self.layout.shape
        # Copies are dead from the start, and never train.
        own = np.arange(math.prod(shape)).reshape(shape) < self.layout.count
        self.trials = self._put(full.replace(alive=full.alive & own))


def placed(run: RunDir, name: str, *args, **kwargs) -> Population:
    """`Population(*args, **kwargs)`, placed as an earlier launch of the run placed the one of that
    name; its placement is recorded."""
    known = placements(run)
    population = Population(*args, **kwargs, placement=known.get(name))
    run.resolve((run.resolved or {}) | {"populations": known | {name: population.placement}})
    return population


def placements(run: RunDir) -> dict[str, Any]:
    """How the populations of a run were placed by its launches so far, by name."""
    return (run.resolved or {}).get("populations", {})


def _placement(point, layout, conv_method):
    """How a population is computed: what the order of its additions depends on, JSON."""
    return {
        "kind": point.devices[0].device_kind,
        "devices": layout.devices,
        "spread": layout.spread,
        "block": layout.block,
        "micro_batch": layout.plan.micro_batch,
        "conv_method": conv_method,
    }
