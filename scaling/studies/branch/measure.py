"""The critical batch size along a run, by training on from snapshots of it (Merrill et al. 2025).

A point is one run. From each of its snapshots, and for every factor of its batch size, training
goes on for the same number of examples, the seeds (orders of examples) side by side. The noise
scale of a snapshot is measured with the learning rate at 0, over one epoch or less. Then the batch
warmup that the critical batch sizes allow is trained from the beginning, and the run's
constant batch size beside it, under the same seeds.
"""

import math

import jax
import numpy as np
from ml_collections import ConfigDict

from scaling import branching, durations, noise
from scaling.crossings import History
from scaling.data import sources
from scaling.errors import UserError
from scaling.record import RunDir
from scaling.signals import Signals
from scaling.studies.branch.record import Branch, Record, Snapshot, Trained
from scaling.studies.shared import (
    batch_name,
    by_batch_size,
    in_parts,
    priced_plan,
    refuse_keys_of_single_runs,
    single_run,
)
from scaling.train.point import Point, data_info, resolve
from scaling.train.population import Population
from scaling.train.resolved import point_values
from scaling.train.tracking import noise_terms
from scaling.train.trials import Observer, ToTheEnd, Training, seconds_of

points, name = by_batch_size, batch_name
# Batches whose gradients give the noise scale of a snapshot: at least, where the training set has
# as many, and at most.
BATCHES = 16, 64
NORMS = "grad_sq_norm", "part_grad_sq_norm", "part_batch"


def check_values(config: ConfigDict) -> None:
    """The config can be used, wherever its data are.

    Raises:
      UserError: a value that cannot be.
    """
    branch, info = config.branch, data_info(config.data)
    refuse_keys_of_single_runs(config)
    if config.eval.test:
        raise UserError("eval.test is True; this study reads the validation split only.")
    if config.schedule.name != "constant":
        raise UserError(
            f"schedule.name is {config.schedule.name!r}; branches go on at a constant learning "
            "rate, so leave it 'constant'."
        )
    if 1 not in branch.factors or len(set(branch.factors)) < len(branch.factors):
        raise UserError(
            f"branch.factors is {tuple(branch.factors)}; name each factor once, and 1, to which "
            "the others are compared."
        )
    if info.streaming:
        raise UserError(f"{info.name} is streamed; this study needs a data set in memory.")
    if not branch.snapshots:
        raise UserError("branch.snapshots is empty; name at least one place of the run.")
    places = places_of(config)
    if branch.warmup and not places[-1]:
        raise UserError(
            f"branch.snapshots is {tuple(branch.snapshots)}, and branch.warmup trains to the last "
            "of them; name a later one, or set branch.warmup to False."
        )
    warmup = resolve(run_of(config)).hparams["warmup_steps"]
    if places[0] < warmup:
        raise UserError(
            f"branch.snapshots begins at step {places[0]}, within the warmup of {warmup} steps; "
            "begin after it."
        )
    for factor in branch.factors:
        resolve(branch_of(config, factor))


def check(config: ConfigDict) -> None:
    """The same, and it fits this machine, and its data set is there.

    Raises:
      UserError: it does not, or it is not.
    """
    check_values(config)
    sources.check_available(config.data.name, config.data.dir)


def places_of(config: ConfigDict) -> list[int]:
    """Steps of the snapshots, ascending."""
    size = data_info(config.data).sizes["train"]
    steps = lambda duration: durations.to_steps(duration, config.global_batch, size)
    return sorted({steps(duration) for duration in config.branch.snapshots})


def window_of(config: ConfigDict) -> int:
    """Examples of a branch.

    Raises:
      UserError: they are not a whole number of updates of every branch.
    """
    size, largest = data_info(config.data).sizes["train"], max(config.branch.factors)
    batch = config.global_batch
    window = durations.to_steps(config.branch.window, 1, size)
    updates = max(1, round(window / (batch * math.lcm(*config.branch.factors))))
    whole = updates * batch * math.lcm(*config.branch.factors)
    if not window / 1.5 <= whole <= window * 1.5:
        raise UserError(
            f"branch.window is {config.branch.window!r}, {window:,} examples, and the largest "
            f"branch has a batch of {largest * batch:,}; make the window {whole:,} examples, or "
            "branch.factors smaller."
        )
    return whole


def run_of(config: ConfigDict) -> ConfigDict:
    """The config of the run."""
    c = single_run(config)
    c.duration = f"{max(places_of(config)[-1], 1)} steps"
    return c


def noise_of(config: ConfigDict) -> ConfigDict:
    """The config of the noise at a snapshot: batches up to the largest branch's."""
    fewest, most = BATCHES
    size, batch = data_info(config.data).sizes["train"], config.global_batch
    factor = max(1, min(max(config.branch.factors), size // (fewest * batch)))
    updates = min(most, max(fewest, size // (factor * batch)))
    c = branch_of(config, factor, updates * factor * batch)
    c.noise_every = 1
    return in_parts(c)


def branch_of(config: ConfigDict, factor: int, examples: int | None = None) -> ConfigDict:
    """The config of a branch, of `examples` or of the window."""
    c = single_run(config)
    c.global_batch, c.micro_batch = config.global_batch * factor, None
    c.schedule.warmup = "0 steps"
    examples = window_of(config) if examples is None else examples
    c.duration = f"{max(1, examples // c.global_batch)} steps"
    return c


class _Keep(Observer):
    """Saves the trials at every evaluation."""

    def __init__(self, run, name):
        self.run, self.name = run, name

    def columns(self, population):
        leaves = jax.tree.leaves(population.packed())
        self.run.save_arrays(f"{self.name}{population.step}", leaves)
        return {}


class _Again(Training):
    """A training that shares programs and data.

    Args:
      known: populations so far, whose programs and data are used again.
    """

    def __init__(self, *args, known, **kwargs):
        super().__init__(*args, **kwargs)
        self.known = known

    def place(self):
        key = self.point.global_batch, self.point.total_steps, len(self.seeds), self.updates
        if key in self.known:
            shared = {"program": self.known[key].program, "feed": self.known[key].feed}
            tracked = None if self.updates else self.means
            self.population = Population(
                self.point, self.values, self.seeds, split=self.split, tracked=tracked, **shared
            )
        super().place()
        self.known[key] = self.population


def at_end(point: Point) -> ToTheEnd:
    """Evaluated after the last update."""
    end = point.total_steps
    return ToTheEnd(end, after=lambda step: end, begin=end)


def measure(config: ConfigDict, run: RunDir, name: str, signals: Signals) -> Record:
    """The run, its branches, and the batch warmup."""
    point = resolve(run_of(config))
    values = point_values(point)
    run.launched(values)
    study = _Measurement(config, run, name, signals)
    history = study.run_itself(point)
    losses = dict(zip(history.columns["step"], history.columns["loss"], strict=True))
    snapshots = [study.snapshot(step, losses[step]) for step in places_of(config) if step in losses]
    complete, again = history.diverged_at is None, {"constant": None, "warmup": None}
    if config.branch.warmup and complete:
        before = snapshots[:-1]  # the last is the end of the run
        critical = [snapshot.critical(config.branch.tolerance).factor for snapshot in before]
        places, factors = [s.examples for s in before], config.branch.factors
        schedule = branching.warmup(places, critical, point.global_batch, factors)
        again["constant"] = study.train([(0, point.global_batch)], "constant")
        again["warmup"] = study.train(schedule, "warmup")
    for path in run.path.glob("*.npz"):  # snapshots
        path.unlink()
    steps = point.total_steps if complete else history.diverged_at
    return Record(
        study=config.study,
        status="complete" if complete else "diverged",
        global_batch=point.global_batch,
        learning_rate=point.peak,
        steps=steps,
        examples=steps * point.global_batch,
        window=window_of(config),
        tolerance=config.branch.tolerance,
        snapshots=snapshots,
        **again,
        train_size=point.info.sizes["train"],
        seconds=seconds_of(study.outcomes),
        devices=values["devices"],
    )


class _Measurement:
    """The trainings of one point, one after another."""

    def __init__(self, config: ConfigDict, run: RunDir, name: str, signals: Signals):
        self.config, self.run, self.name, self.signals = config, run, name, signals
        self.seeds = [config.seed + 1 + k for k in range(config.branch.seeds)]
        self.outcomes, self.known = [], {}

    def _train(self, label, *training, **look):
        training = _Again(*training, known=self.known, **look)
        lines = self.outcomes[-1].lines if self.outcomes else 0
        self.outcomes.append(training.run(lines, self.signals, f"{self.name}{label}"))
        return self.outcomes[-1]

    def run_itself(self, point: Point) -> History:
        """The run, saved at its snapshots."""
        places = places_of(self.config)
        after = lambda step: min((p for p in places if p > step), default=point.total_steps)
        rule = ToTheEnd(point.total_steps, after=after, begin=places[0])
        trial = point, rule, [{}], [self.config.seed], self.run, "run", "run"
        (history,) = self._train("", *trial, observers=[_Keep(self.run, "snapshot")]).histories
        return history

    def snapshot(self, step: int, loss: float) -> Snapshot:
        """The noise and the branches from one snapshot."""
        scale, branches = self._noise(step), []
        for factor in sorted(self.config.branch.factors):
            branches += self._branches(step, factor)
        return Snapshot(step, step * self.config.global_batch, loss, scale, branches)

    def _noise(self, step) -> noise.Estimate:
        """B_simple, measured at a learning rate of 0: the weights stay as they are."""
        point, name = resolve(noise_of(self.config)), f"from{step}_noise"
        trial = point, at_end(point), [{"peak": 0.0}], self.seeds[:1], self.run, name, name
        look = {"start": f"snapshot{step}", "means": (), "updates": True}
        first = self.outcomes[-1].lines
        last = self._train(f" from step {step:,}, noise", *trial, **look).lines
        rows, names = self.run.rows("train", first, last), NORMS
        columns = {name: np.asarray([row[name] for row in rows], float) for name in names}
        return noise.noise_scale(*noise_terms(columns, point.global_batch))

    def _branches(self, step, factor) -> list[Branch]:
        """Every rate of a factor, seed by seed: one population."""
        point, count = resolve(branch_of(self.config, factor)), len(self.seeds)
        rates, name = list(self.config.branch.rates), f"from{step}_x{factor}"
        values = [{"peak": point.peak * rate} for rate in rates for _ in self.seeds]
        trials = point, at_end(point), values, self.seeds * len(rates), self.run, name, name
        label = f" from step {step:,}, x{factor}"
        losses = _losses(self._train(label, *trials, start=f"snapshot{step}"))
        sizes = factor, point.global_batch, point.total_steps
        return [
            Branch(*sizes, rate, point.peak * rate, losses[k * count : (k + 1) * count])
            for k, rate in enumerate(rates)
        ]

    def train(self, schedule: list[tuple[int, int]], kind: str) -> Trained:
        """The run from the beginning at a schedule of batch sizes, all seeds side by side."""
        batch, steps, start = self.config.global_batch, 0, None
        ends = [place for place, _ in schedule[1:]] + [places_of(self.config)[-1] * batch]
        for (place, size), until in zip(schedule, ends, strict=True):
            if until - place < size:
                continue
            c, name = branch_of(self.config, size // batch, until - place), f"{kind}{place}"
            if not place:
                c.schedule.warmup = self.config.schedule.warmup
            point = resolve(c)
            values = [{}] * len(self.seeds)
            trials = point, at_end(point), values, self.seeds, self.run, name, kind
            look = {"observers": [_Keep(self.run, f"{name}_")], "start": start, "read": place}
            outcome = self._train(f", {kind} at batch {size:,}", *trials, **look)
            steps, start = steps + point.total_steps, f"{name}_{point.total_steps}"
        return Trained(schedule, steps, _losses(outcome))


def _losses(outcome) -> list[float | None]:
    """The last loss of every trial; None of one that diverged."""
    return [h.last["loss"] if h.diverged_at is None else None for h in outcome.histories]


def dry_run(points: dict[str, ConfigDict]) -> str:
    """What would be trained, and what it takes."""
    first = next(iter(points.values())).branch
    rows = {
        "from": f"{', '.join(first.snapshots)}; {first.seeds} seeds of {first.window} at "
        f"{', '.join(f'{factor:g}' for factor in sorted(first.factors))} times the batch",
    }
    configs = {name: resolve(run_of(config)) for name, config in points.items()}

    def runs_of(point):
        config = next(c for c in points.values() if c.global_batch == point.global_batch)
        branch, examples = config.branch, point.total_steps * point.global_batch
        each = len(branch.factors) * len(branch.rates) * branch.seeds * window_of(config)
        again = 2 * branch.seeds if branch.warmup else 0
        return 1 + again + len(places_of(config)) * each / examples

    line = lambda name, point, price: f"{name:>7}  a run of {point.total_steps:,} steps; {price}"
    return priced_plan(configs, runs_of, rows, line, "at most ")
