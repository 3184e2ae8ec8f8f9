"""A single run: a training of one trial whose every update is recorded."""

import contextlib
import json
import math
from typing import Any

import jax
from ml_collections import ConfigDict

from scaling import hosts
from scaling.record import RunDir
from scaling.signals import Signals
from scaling.train.checkpoint import Checkpoints
from scaling.train.gradients import SharpnessTracker
from scaling.train.planning import stacked
from scaling.train.point import Point, resolve
from scaling.train.population import placements
from scaling.train.program import initial_trials
from scaling.train.resolved import device_values, plan_text, resolved_values
from scaling.train.tensorboard import TensorBoard
from scaling.train.tracking import NoiseTracker, noise_of_run
from scaling.train.trials import Observer, ToTheEnd, Training


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
    updates = _LastUpdate()
    noise = NoiseTracker(point.global_batch) if config.noise_scale else None
    sharpness = SharpnessTracker(point) if config.sharpness.track else None
    folder = run.path / "tensorboard" if config.metrics.tensorboard else None
    board = TensorBoard(folder, noise) if folder and hosts.leads() else folder and Observer()
    training = Training(
        point,
        every(point),
        [{}],
        [config.seed],
        run,
        "run",
        "validation",
        first_trial=None,
        means=(),
        updates=True,
        ends=("test",) if config.eval.test else (),
        observers=[each for each in (updates, noise, sharpness, board) if each],
        folder="",
    )
    training.place()
    program = training.population.program
    print(plan_text(point, program), flush=True)
    run.launched(resolved_values(point, program) | {"populations": placements(run)})
    outcome = training.train(0, signals or Signals(), name)
    (history,) = outcome.histories
    complete, examples = history.diverged_at is None, outcome.steps * point.global_batch
    held_out = ("step", *point.metrics)
    return {
        "status": "complete" if complete else "diverged",
        "global_batch": point.global_batch,
        "steps": outcome.steps,
        "examples": examples,
        "learning_rate": point.peak,
        "train": updates.state and _finite(updates.state),
        "validation": {key: history.last[key] for key in held_out} if history.columns else None,
        "test": outcome.ends["test"][0] if outcome.ends else None,
        "noise_scale": hosts.by_leader(noise_of_run)(point, program.plan, run),
        "seconds": outcome.seconds,
        "clock": updates.clock,
        "examples_per_second": examples / outcome.seconds["train"],
        "devices": device_values(point.devices),
    }


def every(point: Point) -> ToTheEnd:
    """To the end, evaluated at multiples of `eval.every`, not before the first update."""
    every = point.eval_every
    return ToTheEnd(point.total_steps, lambda step: step - step % every + every, begin=every)


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


def last_variables(run: RunDir, point: Point) -> tuple[Any, Any]:
    """The parameters and batch statistics that a finished run saved last."""
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), (1, 2)))
    hparams = stacked(point, [{}])
    shapes = jax.eval_shape(lambda keys: initial_trials(point, keys, hparams), keys)
    with contextlib.closing(Checkpoints(run.path / "checkpoints", 1)) as checkpoints:
        _, arrays, _ = checkpoints.restore({"trials": shapes})
    state = arrays["trials"].state
    return jax.tree.map(lambda leaf: leaf[0], (state.params, state.batch_stats))


class _LastUpdate(Observer):
    """The metrics of the last update are its state. It also writes down when evaluations were, in
    seconds of training, for which it needs no checkpoint."""

    def begin(self, training):
        self._training, known = training, training.run_dir.load_json("clock") or []
        self.clock = [each for each in known if each[0] <= (training.evaluated or 0)]
        if training.step:
            print(f"    resumed  after step {training.step:,}", flush=True)

    def updates(self, first_step, rows):
        self.state = {name: float(v[-1]) for name, v in rows.items() if v.ndim == 1}

    def evaluated(self, split, step, metrics):
        if split == "validation":
            self.clock.append([step, self._training.seconds()["train"]])
            self._training.run_dir.save_json("clock", self.clock)


def _finite(metrics):
    """JSON has no infinity and no NaN."""
    return {k: v if math.isfinite(v) else None for k, v in metrics.items()}
