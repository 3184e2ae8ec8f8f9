"""Training whose batch size changes on the way: it follows the noise scale, or a plan.

McCandlish, Kaplan, Amodei et al. 2018 (arXiv:1812.06162), App. D. A run is a series of phases of
one global batch each. Parameters, the optimizer's state, the number of updates and the position in
the order of examples are handed on from phase to phase: the first update of a phase reads the
examples after those that the last one read. Every batch size has a program of its own, compiled
when first used.

Between the updates of a call nothing is decided. Goals are judged and the batch is chosen at
evaluations, whose steps do not depend on how the run was cut into calls.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from scaling import noise
from scaling.crossings import History, next_evaluation
from scaling.errors import UserError
from scaling.optim import scale_learning_rate
from scaling.progress import Progress
from scaling.record import RunDir
from scaling.signals import Signals
from scaling.train.checkpoint import saved_steps
from scaling.train.feed import ResidentFeed
from scaling.train.point import Point, data_info
from scaling.train.population import Population
from scaling.train.program import Program
from scaling.train.tracking import NoiseTracker
from scaling.train.trials import Observer, Outcome, Rule, ToTheEnd, Training

# The batch moves when the wanted one is more than so many octaves away. Half an octave is where
# the nearest power of two changes; the quarter more keeps a noise scale near there from moving the
# batch to and fro.
OCTAVES = 0.75


@dataclasses.dataclass(frozen=True)
class Rules(Rule):
    """How a run goes.

    Attributes:
      first_batch: global batch of the first phase.
      goals: of a metric; reached means strictly better. A run ends when all are.
      resolution: evaluations are on a grid of steps that grows by this share, `next_evaluation`.
      budget: examples after which to give up.
      r: the batch is sqrt(r B_simple), eq. D.6; None: it stays.
      smallest, largest: bounds of the batch.
      memory: updates that the live noise scale is an average of, about; the newest count most.
      metric, better: that the goals are of, on the training split, and its direction.
    """

    first_batch: int
    goals: tuple[float, ...]
    resolution: float
    budget: int
    r: float | None = None
    smallest: int = 2
    largest: int = 2**30
    memory: float = 100.0
    metric: str = "loss"
    better: str = "lower"

    def crossing(self, history: History, goal: float) -> tuple[int, int] | None:
        """Of a goal, see `History.crossing`."""
        return history.crossing(self.metric, goal, self.better)

    def next(self, training, evaluated):
        """On the grid, or where the budget ends."""
        if evaluated is None:
            return 0
        left = self.budget - training.population.examples
        last = training.step + left // training.batch
        return min(next_evaluation(evaluated, self.resolution), last)

    def over(self, training):
        """All goals are reached, it diverged, or the budget allows no further update."""
        if training.all_diverged or training.evaluated != training.step:
            return training.all_diverged
        (history,) = training.histories
        reached = all(self.crossing(history, goal) for goal in self.goals)
        return reached or self.budget - training.population.examples < training.batch


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


def train_phases(
    point_at: Callable[[int], Point],
    rules: Rules,
    seeds: Sequence[int],
    run: RunDir,
    name: str,
    signals: Signals | None = None,
) -> list[Outcome]:
    """Train every seed, one after another, or resume where an earlier launch stopped.

    Recorded in metrics.jsonl, "trial" being the place of the seed in `seeds`: every update under
    "train" with its batch, every evaluation of the first training examples under "train_eval" with
    the examples so far and the live B_simple.

    Args:
      point_at: the resolved point of a global batch. Its points differ in batch, microbatch and
        learning rate; their data are resident, and their noise is measured at every update.
      run: holds nothing in checkpoints/ or metrics.jsonl but of these trainings.
      name: of the progress line.
      signals: what notes that the run is asked to stop; None: nothing does.

    Returns:
      Of every seed; what is observed has the "schedule", [[first step, batch], ...] of its phases.

    Raises:
      UserError: a batch does not divide over the devices or fit their memory, or a file cannot be
        written.
      Interrupted: by a signal, after saving.
    """
    if saved_steps(run):
        raise UserError(
            f"{run.path} holds checkpoints of an older version of this program; delete it to "
            "measure this point anew."
        )
    known: dict[int, tuple[Point, Program, ResidentFeed]] = {}
    outcomes: list[Outcome] = []
    for trial, seed in enumerate(seeds):
        training = _Phases(point_at, rules, trial, seed, run, known)
        lines = outcomes[-1].lines if outcomes else 0
        label = f"{name}, seed {seed}"
        outcomes.append(training.run(lines, signals or Signals(), label))
    return outcomes


class _Phases(Training):
    """One seed's training, whose population is replaced where the batch changes.

    Args:
      known: (point, program, data) of every batch size so far.
    """

    def __init__(self, point_at, rules, trial, seed, run, known):
        self.point_at, self.known, self.follower = point_at, known, _Follower(rules)
        super().__init__(
            point_at(rules.first_batch),
            rules,
            [{}],
            [seed],
            run,
            f"seed{trial}",
            "train_eval",
            first_trial=trial,
            split="train",
            means=(),
            updates=True,
            observers=[self.follower],
        )

    @property
    def batch(self) -> int:
        """Of the present phase."""
        return self.population.point.global_batch

    def place(self):
        self.population = self._population(self.rule.first_batch)

    def _population(self, batch):
        """That of a batch size, with the program and the data of earlier ones."""
        point, program, feed = self.known.get(batch) or (self.point_at(batch), None, None)
        if self.known:
            feed = next(iter(self.known.values()))[2]
        population = Population(
            point, [{}], self.seeds, split=self.split, tracked=None, program=program, feed=feed
        )
        self.known[batch] = point, population.program, population.feed
        return population

    def _move(self, batch, trials, step, examples):
        """Go on at a batch size."""
        before = self.population
        if batch != self.batch:
            self.population = self._population(batch)
            for part, seconds in before.seconds.items():
                self.population.seconds[part] += seconds
        self.follower.global_batch = batch
        self.population.restore(step, trials, examples)

    def _place(self):
        return {"step": self.step, "examples": self.population.examples, "batch": self.batch}

    def _restore(self, trials, step, examples, batch):
        self._move(batch, trials, step, examples)

    def _take_updates(self, first, rows):
        batch = np.full(len(rows["loss"]), self.batch)
        super()._take_updates(first, rows | {"batch": batch})

    def _evaluate(self):
        """Judge the goals, then choose the batch of what follows."""
        super()._evaluate()
        if self.rule.over(self):
            return
        examples = self.population.examples
        batch = next_batch(self.batch, self.follower.noise_scale, self.rule)
        if batch != self.batch and batch <= self.rule.budget - examples:
            self.follower.schedule.append([self.step + 1, batch])
            self._move(batch, self.population.packed(), self.step, examples)

    def progress(self, label):
        # What a step is changes on the way, so progress is counted in examples.
        self.label, rows = label, self.point.task.rows
        label = f"{label}, in {rows}:"
        return Progress(label, self.rule.budget, 1, self.done(), self.headline[1], rows)

    def done(self):
        return self.population.examples

    def stopped(self):
        return f"after step {self.step:,} of {self.label}; progress is saved."


class _Follower(NoiseTracker):
    """The noise scale that the batch follows, and how it did."""

    def __init__(self, rules):
        super().__init__(rules.first_batch, rules.memory)
        self.schedule = [[1, rules.first_batch]]

    @property
    def state(self):
        return {"tracker": self._average.as_dict(), "schedule": self.schedule}

    @state.setter
    def state(self, state):
        self._average, self.schedule = noise.Tracker(**state["tracker"]), state["schedule"]

    def columns(self, population):
        scale = math.nan if self.noise_scale is None else self.noise_scale
        columns = {"batch": population.point.global_batch, "examples": population.examples}
        return {name: np.asarray([v]) for name, v in (columns | {"noise_scale": scale}).items()}


def parts_of(config: ConfigDict) -> list[ConfigDict]:
    """The configs of the parts of a run, each of one batch size and of as many steps as it says.

    Where `schedule.batch_factors` is empty that is the config alone. Else the batch is multiplied
    by them at the boundaries of the step schedule, and the rate by the `decay_factors`. Every part
    reads the examples after those of the part before, whole batches, and has a constant rate after
    the warmup of the first.

    Raises:
      UserError: the boundaries and the factors do not belong together, or a part has no update.
    """
    schedule, factors = config.schedule, config.schedule.batch_factors
    if not factors:
        return [config]
    if (config.optim.echo or 1) > 1:
        raise UserError(
            f"optim.echo is {config.optim.echo}, and schedule.batch_factors changes the batch on "
            "the way; drop the recipe piece 'conservative' or 'seesaw'."
        )
    info = data_info(config.data)
    examples = lambda duration: info.steps(duration, config.global_batch) * config.global_batch
    starts = [0, *map(examples, schedule.boundaries)]
    lengths = [b - a for a, b in itertools.pairwise([*starts, examples(config.duration)])]
    rates = schedule.decay_factors
    if schedule.name != "step" or not len(factors) == len(rates) == len(starts) - 1:
        raise UserError(
            "schedule.batch_factors multiplies the batch at the boundaries of the schedule 'step', "
            "beside the rate; give schedule.boundaries, decay_factors and batch_factors of one "
            "length."
        )
    scaled = lambda base_lr, batch: scale_learning_rate(
        base_lr, config.optim.scaling_rule, batch, config.optim.base_batch
    )
    batch, rate, parts = config.global_batch, scaled(config.optim.base_lr, config.global_batch), []
    for length, more, factor in zip(lengths, (1, *factors), (1, *rates), strict=True):
        c, batch, rate = (
            config.copy_and_resolve_references(),
            max(1, round(batch * more)),
            rate * factor,
        )
        c.schedule.boundaries = c.schedule.decay_factors = c.schedule.batch_factors = ()
        c.schedule.name, c.global_batch = "constant", batch
        c.optim.base_lr = rate / scaled(1.0, batch)
        c.duration = f"{length // batch} steps"
        if parts:
            c.schedule.warmup = "0 steps"
        parts.append(c)
    return parts


@dataclasses.dataclass
class _Keep(Observer):
    """Saves the trials after the last update, as `name`."""

    run: RunDir
    name: str

    def end(self, population):
        self.run.save_arrays(self.name, jax.tree.leaves(population.packed()))


def train_parts(
    points: Sequence[Point],
    values: Sequence[Mapping[str, float]],
    *trials: Any,
    lines: int,
    signals: Signals,
    label: str,
    ends: Sequence[str] = (),
) -> Outcome:
    """Train the parts of a run one after another, see `parts_of`, evaluated every `eval.every`.

    Args:
      points: of each part.
      values: of every trial, see `Population`; a "peak" is that of the first part.
      trials: seeds, run_dir, name, recorded_as and first_trial of `Training`.
      lines, signals, label: see `Training.run`.
      ends: splits that are evaluated after the last update.

    Returns:
      Of all parts together.
    """
    (seeds, run, name, *recorded), outcomes, begins, read, start = trials, [], 0, 0, None
    for k, point in enumerate(points):
        every, share, last = point.eval_every, point.peak / points[0].peak, k == len(points) - 1
        after = lambda step, every=every: step - step % every + every
        rule = ToTheEnd(begins + point.total_steps, after, after(begins) if k else 0)
        own = [v | ({"peak": v["peak"] * share} if "peak" in v else {}) for v in values]
        part, end = (f"{name}_part{k}" if k else name), f"{name}_until_part{k + 1}"
        training = Training(
            *(point, rule, own, seeds, run, part, *recorded),
            ends=ends if last else (),
            observers=() if last else [_Keep(run, end)],
            start=start,
            begins=begins,
            read=read,
        )
        outcomes.append(training.run(lines, signals, label))
        start, lines, begins = end, outcomes[-1].lines, rule.budget
        read += point.total_steps * point.global_batch
    for path in run.path.glob(f"{name}_until_part*.npz"):
        path.unlink()
    return _joined(outcomes)


def _joined(outcomes):
    """The last of some parts, with the divergences and the times of all."""
    seconds = {part: sum(o.seconds[part] for o in outcomes) for part in outcomes[0].seconds}
    histories = [
        next((part for part in parts if part.diverged_at is not None), parts[-1])
        for parts in zip(*(outcome.histories for outcome in outcomes), strict=True)
    ]
    return dataclasses.replace(outcomes[-1], histories=histories, seconds=seconds)
