"""Training whose batch size changes on the way: the batch follows the noise scale, or stays.

McCandlish, Kaplan, Amodei et al. 2018 (arXiv:1812.06162), App. D. A run is a series of phases of
one global batch each. Parameters, the optimizer's state, the number of updates and the position in
the order of examples go on from phase to phase: the first update of a phase reads the examples
after those that the last one read. Every batch size has a program of its own, compiled when first
used.

Between the updates of a call nothing is decided. Goals are judged and the batch is chosen at
evaluations, whose steps do not depend on how the run was cut into calls.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from scaling import noise
from scaling.crossings import next_evaluation
from scaling.data.resident import EpochOrder
from scaling.errors import UserError
from scaling.progress import Progress
from scaling.record import RunDir, metric_lines
from scaling.signals import Interrupted, Signals
from scaling.train import planning
from scaling.train.checkpoint import Checkpoints
from scaling.train.evaluate import make_evaluate, means
from scaling.train.feed import ResidentFeed, index_chunk
from scaling.train.loop import CHUNK_SECONDS, MUST_BE_FINITE
from scaling.train.planning import Compiled
from scaling.train.point import Point
from scaling.train.step import init_state, replicate
from scaling.train.tracking import NoiseTracker

# The batch moves when the wanted one is more than so many octaves away. Half an octave is where
# the nearest power of two changes; the quarter more keeps a noise scale near there from moving the
# batch to and fro.
OCTAVES = 0.75


@dataclasses.dataclass(frozen=True)
class Rules:
    """How a run goes.

    Attributes:
      first_batch: global batch of the first phase.
      goals: of the training loss; reached means strictly below. A run ends when all are.
      resolution: evaluations are on a grid of steps that grows by this share, `next_evaluation`.
      budget: examples after which to give up.
      r: the batch is sqrt(r B_simple), eq. D.6; None: it stays.
      smallest, largest: bounds of the batch.
      memory: updates that the live noise scale is an average of, about; the newest count most.
    """

    first_batch: int
    goals: tuple[float, ...]
    resolution: float
    budget: int
    r: float | None = None
    smallest: int = 2
    largest: int = 2**30
    memory: float = 100.0


def next_batch(batch: int, noise_scale: float | None, rules: Rules) -> int:
    """The batch after an evaluation: the power of two next to sqrt(r B_simple), or the present one.

    It stays where it is not to follow the noise scale, where that is not resolved, and where the
    wanted batch is within `OCTAVES` of it.
    """
    if rules.r is None or noise_scale is None:
        return batch
    wanted = 0.5 * math.log2(rules.r * noise_scale)
    if abs(wanted - math.log2(batch)) <= OCTAVES:
        return batch
    return noise.adaptive_batch(noise_scale, rules.r, rules.smallest, rules.largest)


@dataclasses.dataclass
class Trajectory:
    """What one seed's run came to so far; JSON with `dataclasses.asdict`.

    Attributes:
      schedule: [[first step, batch], ...] of its phases; the first update is step 1.
      tracker: state of the live noise scale.
      goals: {"goal", "steps", "examples"} of those reached, in the order they were.
      noise_scale: [[step, B_simple or None], ...] at the evaluations.
      diverged_at: the first step whose numbers are not finite.
      done: all goals are reached, it diverged, or the budget allows no further update.
    """

    seed: int
    schedule: list[list[int]]
    tracker: dict[str, Any]
    step: int = 0
    examples: int = 0
    goals: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    noise_scale: list[list[Any]] = dataclasses.field(default_factory=list)
    diverged_at: int | None = None
    done: bool = False

    @property
    def batch(self) -> int:
        """Of the present phase."""
        return self.schedule[-1][1]


@dataclasses.dataclass(frozen=True)
class _Phase:
    """What trains at one batch size."""

    program: Compiled
    hparams: Any  # on the devices


def train_phases(
    point_at: Callable[[int], Point],
    rules: Rules,
    seeds: Sequence[int],
    run: RunDir,
    name: str,
    signals: Signals | None = None,
) -> tuple[list[Trajectory], dict[str, float]]:
    """Train every seed, one after another, or go on where an earlier launch stopped.

    Recorded in metrics.jsonl, "trial" being the place of the seed in `seeds`: every update under
    "train" with its batch, every evaluation of the first training examples under "train_eval" with
    the examples so far and the live B_simple.

    Args:
      point_at: the resolved point of a global batch. Its points differ in batch, microbatch and
        learning rate; their data are resident, and their noise is measured at every update.
      run: holds nothing in checkpoints/ or metrics.jsonl but of these trajectories.
      name: of the progress line.
      signals: what notes that the run is asked to stop; None: nothing does.

    Returns:
      One trajectory per seed, all done; {"compile", "train", "eval"} in seconds, of all launches.

    Raises:
      UserError: a batch does not divide over the devices or fit their memory, or a file cannot be
        written.
      Interrupted: by a signal, after saving.
    """
    point = point_at(rules.first_batch)
    keep = point.config.checkpoint.keep
    with contextlib.closing(Checkpoints(run.path / "checkpoints", keep)) as checkpoints:
        training = _Training(point_at, point, rules, run, checkpoints)
        training.resume()
        for trial, seed in enumerate(seeds):
            if trial == len(training.trajectories):
                training.begin(seed)
            if not training.trajectories[trial].done:
                training.loop(trial, f"{name}, seed {seed}", signals or Signals())
    return training.trajectories, training.seconds


class _Training:
    """The moving parts: the last trajectory, its state, and the programs of all batch sizes."""

    def __init__(self, point_at, point, rules, run, checkpoints):
        self.point_at, self.point, self.rules = point_at, point, rules
        self.run, self.checkpoints = run, checkpoints
        self.trajectories: list[Trajectory] = []
        self.seconds = dict.fromkeys(("compile", "train", "eval"), 0.0)
        self.lines, self.saves = 0, 0
        self._phases: dict[int, _Phase] = {}
        self._saved = time.perf_counter()
        with self._timed("compile"):
            self.feed = ResidentFeed(point, None, 1)  # its data; the order is every seed's own
            self.evaluator = make_evaluate(point.task, point.preprocess, point.devices)

    def resume(self) -> None:
        """Restore what an earlier launch saved, if one did."""
        shapes = jax.eval_shape(self._init, jax.random.key(0))
        if restored := self.checkpoints.restore(shapes):
            _, state, extra = restored
            self.trajectories = [Trajectory(**values) for values in extra["trajectories"]]
            self.lines, self.saves = extra["lines"], extra["saves"]
            self.seconds = {k: v + extra["seconds"][k] for k, v in self.seconds.items()}
            self._take(self.trajectories[-1].seed, state)
        self.run.truncate(self.lines)

    def begin(self, seed: int) -> None:
        """A new trajectory, before its first update."""
        tracker = noise.Tracker(decay=1 - 1 / self.rules.memory).as_dict()
        schedule = [[1, self.rules.first_batch]]
        self.trajectories.append(Trajectory(seed, schedule, tracker))
        init_key, _ = jax.random.split(jax.random.key(seed))
        with self._timed("compile"):
            self._take(seed, planning.run_once(self._init, init_key))

    def _take(self, seed, state):
        """Make a seed's state, keys and order of examples the present ones."""
        _, step_key = jax.random.split(jax.random.key(seed))
        self.state, self.step_key = replicate((state, step_key), self.point.devices)
        self.order = EpochOrder(seed, self.point.info.sizes["train"])

    def _init(self, key):
        return init_state(self.point.task, self.point.make_optimizer, self.point.hparams, key)

    def loop(self, trial: int, label: str, signals: Signals) -> None:
        """Call after call, evaluation after evaluation, until the last trajectory is done."""
        now = self.trajectories[trial]
        per_step = CHUNK_SECONDS
        every_seconds = self.point.config.checkpoint.every_seconds
        # What a step is changes on the way, so progress is counted in examples.
        with Progress(f"{label}, in examples:", self.rules.budget, 1, now.examples) as progress:
            while not now.done:
                if signals.received:
                    self._save()
                    self.checkpoints.wait()
                    when = f"after step {now.step:,} of {label}; what was done is saved."
                    raise Interrupted(signals.received, when)
                if self._due(now) > now.step:
                    per_step, loss = self._advance(trial, per_step)
                    progress.step(now.examples, loss)
                if not now.done and self._due(now) == now.step:
                    self._evaluate(trial)
                    progress.noise_scale(now.noise_scale[-1][1])
                if time.perf_counter() - self._saved > every_seconds:
                    self._save()

    def _due(self, now):
        """The step of the next evaluation: on the grid, or where the budget ends."""
        if not now.noise_scale:
            return 0
        last = now.step + (self.rules.budget - now.examples) // now.batch
        return min(next_evaluation(now.noise_scale[-1][0], self.rules.resolution), last)

    def _advance(self, trial, per_step):
        """Updates up to the next evaluation, or for about CHUNK_SECONDS; (seconds each, loss)."""
        now, phase = self.trajectories[trial], self._phase(self.trajectories[trial].batch)
        wanted = max(1, int(CHUNK_SECONDS / per_step))
        program = phase.program
        count = min(self._due(now) - now.step, program.capacity, wanted)
        start = time.perf_counter()
        with self._timed("train"):
            self.state, metrics = program.chunk(
                self.state,
                self.feed.data,
                index_chunk(self.order, now.examples, count, program.plan, program.capacity),
                np.int32(count),
                phase.hparams,
                self.step_key,
                None,
            )
            metrics = {k: np.asarray(v)[:count] for k, v in jax.device_get(metrics).items()}
        seconds = time.perf_counter() - start
        norms = np.stack([metrics[name].reshape(count, -1).sum(1) for name in MUST_BE_FINITE])
        finite = np.isfinite(norms).all(0)
        if not finite.all():
            count = int(finite.argmin()) + 1  # the first row that is not finite ends the curve
            metrics = {k: v[:count] for k, v in metrics.items()}
            now.diverged_at, now.done = now.step + count, True
        else:
            tracker = NoiseTracker(now.batch, now.tracker)
            tracker.add(metrics)
            now.tracker = tracker.state
        self._record("train", trial, now.step + 1, metrics | {"batch": np.full(count, now.batch)})
        now.step += count
        now.examples += count * now.batch
        return seconds / count, float(metrics["loss"][-1])

    def _phase(self, batch):
        if batch not in self._phases:
            with self._timed("compile"):
                point = self.point_at(batch)
                program = planning.choose(point)
                need, limit = program.step_bytes, planning.memory_limit(point)
                if need > limit:
                    raise UserError(
                        f"Batch {batch} in microbatches of {program.plan.micro_batch} needs "
                        f"{need / 2**30:.2g} GiB and a device may use {limit / 2**30:.2g} GiB; "
                        "use a larger adaptive.parts, or smaller batches."
                    )
                self._phases[batch] = _Phase(program, replicate(point.hparams, point.devices))
        return self._phases[batch]

    def _evaluate(self, trial):
        """Judge the goals, then choose the batch of what follows."""
        now, rules = self.trajectories[trial], self.rules
        with self._timed("eval"):
            variables = self.state.params, self.state.batch_stats
            metrics = means(
                self.evaluator(*variables, *call) for call in self.feed.evaluation("train")
            )
        scale = NoiseTracker(now.batch, now.tracker).noise_scale
        row = metrics | {"batch": now.batch, "examples": now.examples}
        row["noise_scale"] = math.nan if scale is None else scale
        self._record("train_eval", trial, now.step, {k: np.asarray([v]) for k, v in row.items()})
        now.noise_scale.append([now.step, scale])
        if not all(map(math.isfinite, metrics.values())):
            now.diverged_at, now.done = now.step, True
            return
        reached = {entry["goal"] for entry in now.goals}
        now.goals += [
            {"goal": goal, "steps": now.step, "examples": now.examples}
            for goal in rules.goals
            if metrics["loss"] < goal and goal not in reached
        ]
        left = rules.budget - now.examples
        now.done = len(now.goals) == len(rules.goals) or left < now.batch
        wanted = next_batch(now.batch, scale, rules)
        if not now.done and wanted != now.batch and wanted <= left:
            now.schedule.append([now.step + 1, wanted])

    def _record(self, split, trial, first_step, metrics: Mapping[str, np.ndarray]):
        self.run.append(metric_lines(split, first_step, metrics, trial))
        self.lines += len(next(iter(metrics.values())))

    def _save(self):
        self.run.sync()
        self.saves += 1  # a checkpoint's number: steps begin anew with every seed
        extra = {
            "trajectories": [dataclasses.asdict(each) for each in self.trajectories],
            "lines": self.lines,
            "saves": self.saves,
            "seconds": self.seconds,
        }
        self.checkpoints.save(self.saves, self.state, extra)
        self._saved = time.perf_counter()

    @contextlib.contextmanager
    def _timed(self, part):
        """Add the time of a block to one part."""
        start = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - start
