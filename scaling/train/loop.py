"""Train one point: compile, run chunk after chunk, evaluate, checkpoint, record."""

import contextlib
import dataclasses
import json
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from scaling.batch import BatchPlan
from scaling.progress import Progress
from scaling.record import RunDir, metric_lines
from scaling.signals import Interrupted, Signals
from scaling.train import planning
from scaling.train.checkpoint import Checkpoints
from scaling.train.evaluate import make_evaluate, means
from scaling.train.feed import make_feed
from scaling.train.point import Point, resolve
from scaling.train.resolved import device_values, plan_text, resolved_values
from scaling.train.step import TrainState, init_state, replicate
from scaling.train.tensorboard import TensorBoard
from scaling.train.tracking import NoiseTracker, noise_of_run

CHUNK_SECONDS = 0.5  # aimed at per call: short enough for Ctrl-C and the live line
MUST_BE_FINITE = ("loss", "grad_sq_norm", "local_grad_sq_norm")


@dataclasses.dataclass
class Tally:
    """What a run has come to so far; saved with every checkpoint.

    `seconds`: compile and load, train (input waited for included), eval, input_wait (at most: time
    spent preparing input while the devices had nothing to do).
    """

    seconds: dict[str, float] = dataclasses.field(
        default_factory=lambda: dict.fromkeys(("compile", "train", "eval", "input_wait"), 0.0)
    )
    train: dict[str, float] | None = None  # metrics of the last update
    validation: dict[str, float] | None = None  # of the last evaluation, with its step
    diverged_at: int | None = None
    noise: dict[str, Any] | None = None  # state of the live noise scale

    @contextlib.contextmanager
    def timed(self, part: str):
        """Add the time of a block to one part."""
        start = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - start


def train_point(
    config: ConfigDict, run: RunDir, name: str, signals: Signals | None = None
) -> dict[str, Any]:
    """Train to the end, or from where an earlier launch stopped.

    Args:
      signals: what notes that the run is asked to stop; None: nothing does.

    Returns:
      The result, JSON: status "complete" or "diverged", the metrics, the times.

    Raises:
      UserError: the config or the data cannot be used, or a file not be written.
      Interrupted: by a signal, after saving.
    """
    point = resolve(config)
    checkpoints = Checkpoints(run.path / "checkpoints", config.checkpoint.keep)
    with contextlib.closing(checkpoints):
        training = _Training(point, run, checkpoints)
        first = training.step
        with (
            contextlib.closing(training.tensorboard),
            Progress(name, point.total_steps, point.global_batch, first) as progress,
        ):
            training.loop(signals or Signals(), progress)
            return training.result()


def train_inside(config: ConfigDict, run: RunDir, name: str, signals: Signals) -> dict[str, Any]:
    """`train_point` in the folder "tracked" of a run that needs it; its result, now or before.

    Raises:
      UserError, Interrupted: as `train_point`.
    """
    with RunDir(run.path / "tracked") as inner:
        inner.begin(json.loads(config.to_json_best_effort()))
        if inner.result is None:
            inner.finish(train_point(config, inner, name, signals))
        return inner.result


def last_weights(run: RunDir, like: TrainState) -> TrainState:
    """The newest state that a run saved.

    Args:
      like: a state of its shapes, returned where none was saved.
    """
    with contextlib.closing(Checkpoints(run.path / "checkpoints", 1)) as checkpoints:
        restored = checkpoints.restore(like)
    return restored[1] if restored else like


class _Training:
    """The moving parts of one point's training."""

    def __init__(self, point: Point, run: RunDir, checkpoints: Checkpoints):
        self.point, self.run, self.checkpoints = point, run, checkpoints
        self.tally = Tally()
        with self.tally.timed("compile"):
            recorded = (run.resolved or {}).get("plan")
            self.program = planning.choose(point, BatchPlan(**recorded) if recorded else None)
            self.feed = make_feed(point, self.program.plan, self.program.capacity)
            self.evaluator = make_evaluate(point.task, point.preprocess, point.devices)
            init_key, step_key = jax.random.split(jax.random.key(point.config.seed))
            make = point.make_optimizer, point.hparams
            initial = planning.run_once(lambda key: init_state(point.task, *make, key), init_key)
        print(plan_text(point, self.program), flush=True)
        run.launched(resolved_values(point, self.program))

        self.step, state = 0, initial
        if restored := checkpoints.restore(initial):
            self.step, state, tally = restored
            tally["seconds"]["compile"] += self.tally.seconds["compile"]
            self.tally = Tally(**tally)
            print(f"    resumed  after step {self.step:,}", flush=True)
        run.rewind(self.step, point.eval_every)
        # A copy, for the state's own buffers are donated to the first call.
        track = point.config.metrics.weight_distance
        w_0 = jax.tree.map(jnp.copy, initial.params) if track else None
        self.state = replicate(state, point.devices)
        self.fixed = replicate((point.hparams, step_key, w_0), point.devices)
        folder = run.path / "tensorboard" if point.config.metrics.tensorboard else None
        self.tensorboard = TensorBoard(folder, self.step)
        self.noise = None
        if point.config.noise_scale:
            self.noise = NoiseTracker(point.global_batch, self.tally.noise)
        self._unwritten = None  # (first step, metrics) of the last chunk
        self._saved = self.step

    def loop(self, signals: Signals, progress: Progress) -> None:
        """Chunk after chunk, to the last step, divergence or a signal."""
        config, tally, total = self.point.config, self.tally, self.point.total_steps
        count, saved, per_step = 1, time.perf_counter(), CHUNK_SECONDS
        batches = self.feed.batches(self.step, count) if self.step < total else None
        while self.step < total and tally.diverged_at is None:
            if signals.received:
                self._save()
                self.checkpoints.wait()
                step = f"after step {self.step:,}; what was done is saved."
                raise Interrupted(signals.received, step)
            start = time.perf_counter()
            count, batches = self._chunk(count, batches, per_step)
            per_step = (time.perf_counter() - start) / (self.step - self._unwritten[0] + 1)
            progress.step(self.step, tally.train["loss"])
            if self.noise:
                progress.noise_scale(self.noise.noise_scale)
            if self.step % self.point.eval_every == 0:
                self._validate()
                progress.validation(tally.validation["error"])
            if time.perf_counter() - saved > config.checkpoint.every_seconds:
                self._save()
                saved = time.perf_counter()
        self._write()
        if tally.diverged_at is None:
            self._save()  # the trained weights, and the way back if the rest is cut short
            self.checkpoints.wait()

    def result(self) -> dict[str, Any]:
        """The finished point, JSON. What is evaluated at the end alone comes after the last
        checkpoint, so that a longer run can go on from it as if it had not stopped there."""
        tally, point = self.tally, self.point
        if tally.diverged_at is None and self.step % point.eval_every:
            self._validate()
        test = None
        if tally.diverged_at is None and point.config.eval.test:
            test = self._evaluate("test")
            self.run.append(metric_lines("test", self.step, _rows(test)))
            self.tensorboard.scalars("test", self.step, test)
        examples = self.step * point.global_batch
        return {
            "status": "complete" if tally.diverged_at is None else "diverged",
            "global_batch": point.global_batch,
            "steps": self.step,
            "examples": examples,
            "learning_rate": point.peak,
            "train": _finite(tally.train),
            "validation": _finite(tally.validation),
            "test": _finite(test),
            "noise_scale": noise_of_run(point, self.program.plan, self.run),
            "seconds": tally.seconds,
            "examples_per_second": examples / tally.seconds["train"],
            "devices": device_values(point.devices),
        }

    def _chunk(self, count, batches, per_step):
        """Run `count` updates; meanwhile write the last ones' metrics and prepare the next."""
        tally, first = self.tally, self.step + 1
        with tally.timed("train"):
            self.state, metrics = self.program.chunk(
                self.state, self.feed.data, batches, np.int32(count), *self.fixed
            )
            self.step += count
            self._write()
            start = time.perf_counter()
            next_count = self._next_count(per_step, count)
            next_batches = self.feed.batches(self.step, next_count) if next_count else None
            if metrics["loss"].is_ready():
                tally.seconds["input_wait"] += time.perf_counter() - start
            metrics = {k: np.asarray(v)[:count] for k, v in jax.device_get(metrics).items()}

        finite = np.all([np.isfinite(_flat(metrics[k])).all(1) for k in MUST_BE_FINITE], axis=0)
        if not finite.all():
            valid = int(finite.argmin()) + 1  # the first row that is not finite ends the curve
            metrics = {k: v[:valid] for k, v in metrics.items()}
            self.step = tally.diverged_at = first + valid - 1
        self._unwritten = first, metrics
        tally.train = {k: float(v[-1]) for k, v in metrics.items() if v.ndim == 1}
        if self.noise:
            self.noise.add(metrics)
            tally.noise = self.noise.state
        return next_count, next_batches

    def _next_count(self, per_step, last):
        """Updates for the next call: about CHUNK_SECONDS, never past an evaluation or the end."""
        boundary = self.step - self.step % self.point.eval_every + self.point.eval_every
        wanted = max(1, min(int(CHUNK_SECONDS / per_step), 8 * last, self.program.capacity))
        return min(wanted, boundary - self.step, self.point.total_steps - self.step)

    def _write(self):
        """Record the metrics of the last chunk, if that is not done."""
        if self._unwritten is None:
            return
        first, metrics = self._unwritten
        self.run.append(metric_lines("train", first, metrics))
        newest = {k: v for k, v in self.tally.train.items() if math.isfinite(v)}
        if self.noise and self.noise.noise_scale is not None:
            newest["noise_scale"] = self.noise.noise_scale
        self.tensorboard.scalars("train", first + len(metrics["loss"]) - 1, newest)
        self._unwritten = None

    def _validate(self):
        self._write()
        metrics = self._evaluate("validation")
        self.run.append(metric_lines("validation", self.step, _rows(metrics)))
        self.tensorboard.scalars("validation", self.step, metrics)
        self.tally.validation = {"step": self.step, **metrics}
        if not all(map(math.isfinite, metrics.values())):
            self.tally.diverged_at = self.step

    def _evaluate(self, split):
        with self.tally.timed("eval"):
            params, batch_stats = self.state.params, self.state.batch_stats
            calls = self.feed.evaluation(split)
            return means(self.evaluator(params, batch_stats, *call) for call in calls)

    def _save(self):
        self._write()
        if self.step != self._saved:
            self.run.sync()
            self.checkpoints.save(self.step, self.state, dataclasses.asdict(self.tally))
            self._saved = self.step


def _flat(values):
    return values.reshape(len(values), -1)


def _rows(metrics):
    return {name: np.asarray([value]) for name, value in metrics.items()}


def _finite(metrics):
    """JSON has no infinity and no NaN."""
    return metrics and {k: v if math.isfinite(v) else None for k, v in metrics.items()}
