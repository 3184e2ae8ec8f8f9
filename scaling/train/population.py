"""Many trials of one point in one program.

A trial is one set of hyperparameters and a seed; everything about it is data, so K of them train in
one compiled program. Two ways to use several devices:

    trials   every device trains trials of its own: no communication.
    batch    all devices hold all trials and share the batch of each, as in `step`; for batches or
             models that one device could not hold.

On a device, trials go in blocks: those of a block advance side by side under `vmap`, and block
after block runs through all updates of a call. On a CPU a block is as large as fits the cache
(benchmarks/results/population.json); on other devices it is all trials, if memory allows.
"""

import contextlib
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

from scaling.batch import BatchPlan, plan_by_hand, plans
from scaling.data.resident import EpochOrder
from scaling.data.sources import DataInfo
from scaling.errors import UserError
from scaling.train import planning
from scaling.train.evaluate import index_batches, metric_sums
from scaling.train.feed import ResidentFeed
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

# Weights, gradients and optimizer state of a block, and its activations, should fit the
# second-level cache of one core.
CPU_CACHE_BYTES = 2**20
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
    # float32 []; sum over the updates since the last evaluation. Here, and not added up outside,
    # for where a run was cut into calls must leave no trace in it.
    loss: jax.Array


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the trials are: `devices` x `blocks` x `block`, the first only if they are spread.

    Attributes:
      spread: "trials" or "batch", see above.
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


def layout_of(point: Point, count: int, block: int | None = None) -> Layout:
    """How `count` trials go on the point's devices.

    Args:
      block: trials side by side; None: all of them, or on a CPU those that fit its cache.

    Raises:
      UserError: the batch cannot be laid out.
    """
    devices = len(point.devices)
    spread, plan = "trials", None
    if count < devices:
        # Where the batch does not divide over the devices, some of them train copies instead.
        with contextlib.suppress(UserError):
            spread, plan = "batch", _plan(point, devices)
    plan = plan or _plan(point, 1)
    each = -(-count // devices) if spread == "trials" else count
    if block is None:
        on_cpu = point.devices[0].platform == "cpu"
        block = max(1, CPU_CACHE_BYTES // working_set(point, plan)) if on_cpu else each
    blocks = -(-each // min(block, each))
    block = -(-each // blocks)
    return Layout(spread, devices, blocks, block, count, plan)


def _plan(point, sharing):
    """One trial's batch over `sharing` devices; UserError if it does not divide."""
    if point.config.micro_batch is not None:
        return plan_by_hand(
            point.global_batch, sharing, point.config.micro_batch, point.ghost_batch
        )
    return planning.for_the_cache(point, plans(point.global_batch, sharing, point.ghost_batch))


def check_resident(info: DataInfo) -> None:
    """The data set can be on the devices.

    Raises:
      UserError: it is streamed.
    """
    if info.streaming:
        raise UserError(
            f"{info.name} is streamed from disk, and trials side by side need their data on the "
            "devices; use a set that fits, or --dry_run to see what this would cost."
        )


def working_set(point: Point, plan: BatchPlan) -> int:
    """Bytes that one trial goes through in an update: three times its weights, and the inputs and
    outputs of its layers forward and backward."""
    params, batch_stats = point.variables()
    image = jax.ShapeDtypeStruct((1, *point.info.image_shape), jnp.float32)

    def activations(params, batch_stats, image):
        variables = {"params": params, "batch_stats": batch_stats}
        return point.task.model.apply(variables, image, train=False, capture_intermediates=True)[1]

    outputs = jax.eval_shape(activations, params, batch_stats, image)
    size = lambda tree: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
    return 4 * (3 * size(params) + 2 * plan.micro_batch * (size(image) + size(outputs)))


def make_advance(point: Point, layout: Layout, conv_method: str | None = None) -> Callable:
    """The program of a population, its convolutions by `conv_method` if one is given.

    Returns `advance(trials, fixed, data, batches, count, held_out, held_out_batches, evaluate) ->
    (trials, loss, sums)`, mapped over the devices:
      trials: a `Trial` whose leaves have `layout.shape` in front.
      fixed: (hparams, key) of every trial, likewise.
      data, batches: as in `step.make_chunk`, every trial with its own order: [devices, blocks,
        block, capacity, accum_steps, micro_batch].
      count: updates to make, a traced number.
      evaluate: whether to evaluate afterwards on (held_out, held_out_batches).
      loss: of every trial, the sum of its training losses since the last evaluation.
      sums: of the evaluation's metrics, zeros without one.
    """
    model = point.task.model
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
        return Trial(state, alive, trial.loss + jnp.where(alive, metrics["loss"], 0.0))

    def advance(trials, fixed, data, batches, count, held_out, held_out_batches, evaluate):
        def evaluated(state):
            return sums_of(state.params, state.batch_stats, held_out, held_out_batches)

        def block(inputs):
            trials, (hparams, keys), batches = inputs

            def body(i, trials):
                batch = jax.tree.map(
                    lambda leaf: lax.dynamic_index_in_dim(leaf, i, 1, keepdims=False), batches
                )
                step = lambda trial, batch, hparams, key: one_update(
                    trial, data, batch, hparams, key
                )
                return side_by_side(step)(trials, batch, hparams, keys)

            trials = lax.fori_loop(0, count, body, trials)
            loss = trials.loss
            trials = trials.replace(loss=jnp.where(evaluate, 0.0, loss))
            measure = side_by_side(evaluated)
            shapes = jax.eval_shape(measure, trials.state)
            nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
            sums = lax.cond(evaluate, measure, lambda _: nothing, trials.state)
            return trials, loss, sums

        trials, loss, sums = lax.map(block, (trials, fixed, batches))
        if layout.spread == "batch":
            sums = lax.psum(sums, AXIS)
        return trials, loss, sums

    own = 0 if layout.spread == "trials" else None
    in_axes = (own, own, None, 0, None, None, 0, None)
    return on_devices(advance, point.devices, in_axes, own, donate=(0,))


def _for_one(function):
    """`jax.vmap` over an axis of length 1, without turning convolutions into grouped ones."""

    def mapped(*args):
        out = function(*jax.tree.map(lambda leaf: leaf[0], args))
        return jax.tree.map(lambda leaf: leaf[None], out)

    return mapped


class Population:
    """K trials of a point, from initialisation to any later step, compiled once.

    Args:
      point: resolved; its own values stand for every hyperparameter that a trial does not set.
      values: of every trial, hyperparameters by the names of `point.hparams`.
      seeds: of every trial: initialisation, order of examples, augmentation and dropout, as
        `config.seed` in a run of its own.

    Attributes:
      step: updates done.
      seconds: {"compile", "train", "eval"}; an evaluation after updates, in the same call, is
        taken to last as long as one without.
    """

    def __init__(
        self,
        point: Point,
        values: Sequence[Mapping[str, float]],
        seeds: Sequence[int],
        block: int | None = None,
    ):
        start = time.perf_counter()
        check_resident(point.info)
        self.point, self.layout = point, layout_of(point, len(values), block)
        self.step = 0
        shape, places = self.layout.shape, math.prod(self.layout.shape)
        padded = [*range(len(values)), *[len(values) - 1] * (places - len(values))]
        # Those beyond the last trial are dead from the start.
        self._alive = np.arange(places) < len(values)
        self._orders = [EpochOrder(seeds[k], point.info.sizes["train"]) for k in padded]
        hparams = [point.hparams | values[k] for k in padded]
        stacked = {
            name: np.asarray([h[name] for h in hparams]).reshape(*shape, *np.shape(value))
            for name, value in point.hparams.items()
        }
        keys = jax.vmap(lambda seed: jax.random.split(jax.random.key(seed)))(
            np.asarray([seeds[k] for k in padded])
        )
        self._place = shard if self.layout.spread == "trials" else replicate
        self._init_keys = keys[:, 0]
        self._fixed = self._put((stacked, keys[:, 1].reshape(shape)))
        self._hparams = stacked

        feed = ResidentFeed(point, self.layout.plan, 1)
        self.data = feed.data
        ((self._held_out, batches),) = feed.evaluation("validation")
        if self.layout.spread == "trials":
            size, rows = point.info.sizes["validation"], point.config.eval.batch
            one = index_batches(size, rows, 1)
            batches = {k: np.repeat(v, self.layout.devices, axis=0) for k, v in one.items()}
        self._held_out_batches = batches
        self.capacity = self._capacity()
        self.trials = self._initial()
        self._advance = self._compiled()
        self.seconds = {"compile": time.perf_counter() - start, "train": 0.0, "eval": 0.0}
        self._evaluation, self._per_step = 0.0, math.inf  # not known yet: one update

    def _put(self, tree):
        return self._place(tree, self.point.devices)

    def _capacity(self):
        """Updates in one call."""
        trials = math.prod(self.layout.shape)
        return max(1, min(MAX_CALL_STEPS, MAX_CALL_EXAMPLES // (trials * self.point.global_batch)))

    def _initial(self):
        point, shape = self.point, self.layout.shape

        def init(keys, hparams):
            one = lambda key, h: init_state(point.task, point.make_optimizer, h, key)
            flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[len(shape) :]), hparams)
            return jax.vmap(one)(keys, flat)

        quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
        program = jax.jit(init).lower(self._init_keys, self._hparams)
        state = program.compile(compiler_options=quick)(self._init_keys, self._hparams)
        trials = Trial(state, self._alive, np.zeros(len(self._alive), np.float32))
        return self._put(
            jax.tree.map(lambda leaf: np.asarray(leaf).reshape(*shape, *leaf.shape[1:]), trials)
        )

    def _compiled(self):
        """The program, by the method for convolutions that runs fastest side by side here."""
        model = self.point.task.model
        if self.layout.block == 1 or getattr(model, "conv_method", None) != "auto":
            return self._program(None)
        programs = {method: self._program(method) for method in SIDE_BY_SIDE_METHODS}
        seconds = {method: self._seconds(program) for method, program in programs.items()}
        return programs[min(seconds, key=seconds.get)]

    def _arguments(self, trials, count):
        args = (trials, self._fixed, self.data, self._batches(0, 1), np.int32(count))
        return *args, self._held_out, self._held_out_batches, np.bool_(False)

    def _seconds(self, program):
        """Of one update of all trials."""
        times = []
        for _ in range(3):
            trials = jax.tree.map(jnp.copy, self.trials)
            start = time.perf_counter()
            jax.block_until_ready(program(*self._arguments(trials, 1)))
            times.append(time.perf_counter() - start)
        return min(times)

    def _program(self, conv_method):
        """The compiled program, if the devices have memory for it."""
        advance = make_advance(self.point, self.layout, conv_method)
        program = advance.lower(*self._arguments(self.trials, 0)).compile()
        # A snapshot and its restoration hold the trials twice more.
        state = sum(leaf.nbytes for leaf in jax.tree.leaves(self.trials))
        if self.layout.spread == "trials":
            state /= self.layout.devices
        need, limit = planning.program_bytes(program) + 2 * state, planning.memory_limit(self.point)
        if need > limit:
            raise UserError(
                f"{self.layout.count} trials of {self.layout.plan} need {need / 2**30:.2f} GiB on "
                f"each device, which may use {limit / 2**30:.2f} GiB; set a smaller micro_batch, "
                "or search fewer trials."
            )
        return program

    def _batches(self, step, count):
        """Example indices of `count` updates from `step` on, of every trial."""
        plan, batch = self.layout.plan, self.point.global_batch
        accum, devices, micro = plan.layout
        index = np.zeros((len(self._orders), self.capacity, accum, devices, micro), np.int32)
        for row, order, alive in zip(index, self._orders, self._alive, strict=True):
            if alive:
                part = order[step * batch : (step + count) * batch]
                row[:count] = part.reshape(count, accum, devices, micro)
        if self.layout.spread == "trials":
            return {"index": index.reshape(*self.layout.shape, self.capacity, accum, micro)}
        index = np.moveaxis(index, 3, 0)  # [devices, trials, capacity, accum, micro]
        return {"index": index.reshape(devices, *self.layout.shape, self.capacity, accum, micro)}

    def advance(self, limit: int, evaluate: bool = True) -> tuple[np.ndarray, dict | None]:
        """Train towards step `limit`, for about a second, and evaluate if it is reached.

        Returns:
          The sum of every trial's training losses since the last evaluation, [K]; and the
          validation metrics, name -> [K], or None if `limit` was not reached or no evaluation
          asked for.
        """
        start = time.perf_counter()
        most = min(self.capacity, max(1, int(CALL_SECONDS / self._per_step)))
        count = min(limit - self.step, most)
        evaluate = evaluate and self.step + count == limit
        self.trials, loss, sums = self._advance(
            self.trials,
            self._fixed,
            self.data,
            self._batches(self.step, count),
            np.int32(count),
            self._held_out,
            self._held_out_batches,
            np.bool_(evaluate),
        )
        loss, sums = self._flat(loss), jax.tree.map(self._flat, sums)
        self.step += count
        elapsed = time.perf_counter() - start
        if count:
            self._per_step = elapsed / count
        elif evaluate:
            self._evaluation = elapsed
        evaluating = min(elapsed, self._evaluation) if evaluate else 0.0
        self.seconds["train"] += elapsed - evaluating
        self.seconds["eval"] += evaluating
        if not evaluate:
            return loss, None
        total = sums.pop("count")
        return loss, {name: value / total for name, value in sums.items()}

    def _flat(self, leaf):
        """One row per trial, in order, on the host."""
        leaf = np.asarray(leaf)
        flat = leaf.reshape(-1, *leaf.shape[len(self.layout.shape) :])
        return flat[: self.layout.count]

    @property
    def alive(self) -> np.ndarray:
        """Which trials have had finite losses so far, bool [K]."""
        return self._flat(self.trials.alive)

    def variables(self, trial: int) -> tuple[Any, Any]:
        """Parameters and batch statistics of one trial, on the host."""
        state = self.trials.state
        return jax.tree.map(lambda leaf: self._flat(leaf)[trial], (state.params, state.batch_stats))

    def snapshot(self) -> tuple[int, Trial]:
        """(step, trials): where `restore` can go back to. Copies, for calls donate the trials."""
        return self.step, jax.tree.map(jnp.copy, self.trials)

    def restore(self, snapshot: tuple[int, Trial]) -> None:
        """Go back to a snapshot."""
        self.step, trials = snapshot
        self.trials = self._put(jax.tree.map(np.asarray, trials))

    def packed(self, trials: Trial) -> Trial:
        """The trials of a snapshot in order, leaves [K, ...] on the host: for checkpoints, which do
        not depend on the devices."""
        return jax.tree.map(self._flat, trials)

    def unpacked(self, trials: Trial) -> Trial:
        """What `packed` gave, perhaps on other devices, for a snapshot of this population."""
        shape, count = self.layout.shape, self.layout.count
        rows = np.minimum(np.arange(math.prod(shape)), count - 1)
        full = jax.tree.map(lambda leaf: leaf[rows], trials)
        full = full.replace(alive=full.alive & self._alive)
        return jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), full)
