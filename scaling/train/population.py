"""A population: K trials of one point, from initialisation to any later step, compiled once.

Every trial of a resident data set has an order of examples of its own. A streamed one is decoded
once for all: its trials see the same images in the same order, that of `config.seed` (common random
numbers), and differ by initialisation and dropout only.
"""

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from scaling.crossings import EWA
from scaling.data.resident import EpochOrder
from scaling.record import RunDir
from scaling.train import planning
from scaling.train.evaluate import metrics_of
from scaling.train.feed import ResidentFeed, make_feed
from scaling.train.point import Point
from scaling.train.program import Program, Trial, initial_trials, shapes_of
from scaling.train.step import TrainState, replicate, shard

CALL_SECONDS = 0.5  # aimed at per call: short enough for Ctrl-C and the live line


class Population:
    """K trials that train side by side; a single run is a population of one.

    Args:
      values: of every trial, hyperparameters by the names of `Point.hparams`; others are the
        point's.
      seeds: of every trial, for its initial weights and its order of examples.
      block: trials side by side on a device; None: chosen, see `planning`.
      placement: how an earlier launch placed it: kept if the devices are the same.
      split: what `evaluate` is about; "train": the first training examples, as many as the
        validation split has.
      tracked: metrics that `advance` gives; None: all.
      program, feed: of another population of the same point, to be used again.

    Raises:
      UserError: the batch cannot be laid out, or does not fit the memory.
    """

    def __init__(
        self,
        point: Point,
        values: Sequence[Mapping[str, float]],
        seeds: Sequence[int],
        block: int | None = None,
        placement: Mapping[str, Any] | None = None,
        split: str = "validation",
        tracked: Sequence[str] | None = ("loss",),
        program: Program | None = None,
        feed: ResidentFeed | None = None,
    ):
        self.seconds = dict.fromkeys(("compile", "train", "eval", "input_wait"), 0.0)
        with self._timed("compile"):
            self.point, self.split = point, split
            self._hparams = planning.stacked(point, values)
            self._keys = jax.vmap(lambda seed: jax.random.split(jax.random.key(seed)))(
                np.asarray(seeds)
            )
            self._orders = [EpochOrder(seed, point.info.sizes["train"]) for seed in seeds]
            programs = (
                [program]
                if program
                else planning.fitting(
                    point,
                    len(values),
                    block,
                    placement,
                    hparams=self._hparams,
                    split=split,
                    tracked=tracked,
                )
            )
            self.layout = programs[0].layout
            self.feed = feed or make_feed(point, self.layout.plan)
            self.data, self._held_out = self.feed.data, None
            # Seconds of an update; not known yet: the first call makes one.
            self.per_step = math.inf
            weights = self.initial_weights() if point.config.metrics.weight_distance else None
            self._fixed = self._put(self._spread((self._hparams, self._keys[:, 1], weights)))
            self.step, self.examples, self._ahead, self._trials = 0, 0, None, None
        self.program = programs[0]
        self.program = self._fastest(programs)

    @contextlib.contextmanager
    def _timed(self, part):
        """Add the time of a block to one part."""
        start = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - start

    def _initial(self):
        """All trials before their first update, [K, ...]."""
        initial = lambda keys, hparams: initial_trials(self.point, keys, hparams)
        return planning.run_once(initial, self._keys, self._hparams)

    @property
    def trials(self) -> Trial:
        """On the devices; made when first used, for those of a checkpoint may take their place."""
        if self._trials is None:
            with self._timed("compile"):
                self.restore(0, jax.tree.map(np.asarray, self._initial()))
        return self._trials

    def like(self) -> tuple[Trial, Any]:
        """Zeros of the shapes of `packed` and of `variables`."""
        initial = lambda keys, hparams: initial_trials(self.point, keys, hparams)
        shapes = jax.eval_shape(initial, self._keys, self._hparams)
        packed = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)
        one = packed.state.params, packed.state.batch_stats
        return packed, jax.tree.map(lambda leaf: leaf[0], one)

    @property
    def placement(self) -> dict[str, Any]:
        """See `planning.placement_of`."""
        return planning.placement_of(self.point, self.layout, self.program.method)

    def _put(self, tree, shared=False):
        """On the devices: what every trial has of its own, or what all share."""
        return (replicate if self.layout.axes[shared] is None else shard)(tree, self.point.devices)

    def _shared(self, tree):
        """[devices, ...] as the program takes it: where trials are spread, without that axis."""
        if self.layout.spread == "batch":
            return tree
        return jax.tree.map(lambda leaf: leaf[0], tree)

    def _fastest(self, programs):
        """The one that makes an update in the least time here."""
        if len(programs) == 1:
            return programs[0]
        return min(programs, key=lambda program: min(self.time(program) for _ in range(3)))

    def time(self, program: Program, count: int = 1) -> float:
        """Seconds of `count` updates by a program of this layout, their input on the devices; no
        trial is changed, and no stream is read."""
        trials = jax.tree.map(lambda leaf: leaf.copy(), self.trials)
        if self.point.info.streaming:
            *_, batches, _ = shapes_of(self.point, self.layout, self._hparams)
            batches = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), batches)
        else:
            batches = self._batches(self.step, count)
        args = trials, self._fixed, self.data, *self._placed(batches, count)
        start = time.perf_counter()
        jax.block_until_ready(program.train(*args))
        return time.perf_counter() - start

    def input(self, step: int, count: int, feed: ResidentFeed | None = None) -> Any:
        """What `count` updates from `step` on read, on the devices.

        Args:
          feed: to read it from; None: the population's own, which goes on from there.
        """
        return self._placed(self._batches(step, count, feed), count)[0]

    def _placed(self, batches, count):
        """The input of one call, on the devices."""
        streamed, devices = self.point.info.streaming, self.point.devices
        batches = self._put(batches, shared=True) if streamed else shard(batches, devices)
        return batches, replicate(np.int32(count), devices)

    def _batches(self, step, count, feed=None):
        """What `count` updates from `step` on read."""
        if self.point.info.streaming:
            return self._shared((feed or self.feed).batches(step))
        plan, capacity = self.layout.plan, self.program.capacity
        accum, devices, micro = plan.layout
        first = self.examples + (step - self.step) * plan.global_batch
        places = math.prod(self.layout.shape)
        index = np.zeros((places, capacity, accum, devices, micro), np.int32)
        for row, order in zip(index, self._orders, strict=False):  # the rest are copies: no matter
            part = order.batches(first, count, plan.global_batch, self.point.echo)
            row[:count] = part.reshape(count, accum, devices, micro)
        if self.layout.spread == "trials":
            return {"index": index.reshape(*self.layout.shape, capacity, accum, micro)}
        index = np.moveaxis(index, 3, 0)  # [devices, trials, capacity, accum, micro]
        return {"index": index.reshape(devices, *self.layout.shape, capacity, accum, micro)}

    def _prepared(self, step, limit):
        """(step, count, batches) of a call from `step` towards `limit`; None if it is there."""
        count = max(1, min(self.program.capacity, int(CALL_SECONDS / self.per_step)))
        count = min(count, limit - step)
        return (step, count, self._batches(step, count)) if count > 0 else None

    def advance(
        self, limit: int, then: int = 0, meanwhile: Callable[[], Any] = lambda: None
    ) -> dict[str, np.ndarray]:
        """Train towards step `limit`, above the present one, for about `CALL_SECONDS`.

        Args:
          then: the limit of the call after `limit` is reached: its input is prepared early.
          meanwhile: called while the devices compute.

        Returns:
          The tracked metrics of every update made, name -> [K, updates, ...].
        """
        trials, start = self.trials, time.perf_counter()
        step, count, batches = self._ahead or (None, 0, None)
        if step != self.step or count > limit - step:
            _, count, batches = self._prepared(self.step, limit)
        self._trials, rows = self.program.train(
            trials, self._fixed, self.data, *self._placed(batches, count)
        )
        self.step += count
        self.examples += count * self.point.global_batch
        meanwhile()
        prepared = time.perf_counter()
        self._ahead = self._prepared(self.step, limit if self.step < limit else then)
        if jax.tree.leaves(rows)[0].is_ready():
            self.seconds["input_wait"] += time.perf_counter() - prepared
        rows = {name: self._flat(leaf)[:, :count] for name, leaf in rows.items()}
        elapsed = time.perf_counter() - start
        self.seconds["train"] += elapsed
        self.per_step = elapsed / count
        return rows

    def evaluate(self) -> dict[str, np.ndarray]:
        """The metrics of the split, name -> float64 [K], those of the averaged weights last."""
        with self._timed("eval"):
            return {
                kind + name: values
                for kind in self.kinds
                for name, values in metrics_of(self.point.task, self._sums(kind)).items()
            }

    def _sums(self, kind):
        """Of the split, call by call."""
        calls = (self.program.evaluate(self._held(kind), *call) for call in self._evaluation())
        return (jax.tree.map(self._flat, each) for each in calls)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Which weights there are to evaluate: the last, "", and averaged ones, `EWA`."""
        return ("", EWA) if "ewa_decay" in self._hparams else ("",)

    def _held(self, kind):
        """Parameters and batch statistics of a kind, on the devices."""
        state = self.trials.state
        return state.opt_state.average if kind else state.params, state.batch_stats

    def _evaluation(self):
        """(data, batches) of every call that an evaluation takes."""
        if self._held_out is None or self.point.info.streaming:
            pairs = self.feed.evaluation(self.split, self.layout.plan.devices)
            put = lambda rows: self._put(self._shared(rows), shared=True)
            pairs = ((data, put(rows)) for data, rows in pairs)
            if self.point.info.streaming:
                return pairs
            self._held_out = list(pairs)
        return self._held_out

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

    def variables(self, trial: int, kind: str = "") -> tuple[Any, Any]:
        """Parameters and batch statistics of one trial, on the host; see `kinds`."""
        return jax.tree.map(lambda leaf: self._flat(leaf)[trial], self._held(kind))

    def weights(self) -> Any:
        """Parameters of all trials, leaves [K, ...] on the host."""
        return jax.tree.map(self._flat, self.trials.state.params)

    def initial_weights(self) -> Any:
        """Those before the first update, whatever the step now is."""
        return jax.tree.map(np.asarray, self._initial().state.params)

    def packed(self) -> Trial:
        """The trials in order, leaves [K, ...] on the host: for checkpoints, which do not depend
        on the devices."""
        return jax.tree.map(self._flat, self.trials)

    def begin(self, params: Any, batch_stats: Any) -> None:
        """Go to before the first update, from other weights, leaves [K, ...]; the optimizer's state
        is a new one."""
        make = lambda hparams, params: self.point.make_optimizer(hparams)[0].init(params)
        opt_state = planning.run_once(jax.vmap(make), self._hparams, params)
        steps, alive = np.zeros(self.layout.count, np.int32), np.ones(self.layout.count, bool)
        state = TrainState(steps, params, batch_stats, opt_state)
        self.restore(0, Trial(jax.tree.map(np.asarray, state), alive))

    def restore(self, step: int, packed: Trial, examples: int | None = None) -> None:
        """Go to where `packed` was taken, perhaps on other devices, after `step` updates.

        Args:
          examples: that were read by then; None: a batch in each update.
        """
        self.step, self._ahead = step, None
        self.examples = step * self.point.global_batch if examples is None else examples
        full, shape = self._spread(packed), self.layout.shape
        # Copies are dead from the start, and never train.
        own = np.arange(math.prod(shape)).reshape(shape) < self.layout.count
        self._trials = self._put(full.replace(alive=full.alive & own))


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
