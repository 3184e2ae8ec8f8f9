"""A cohort: trials of one point that all train to the end, recorded and resumable.

Where a race stops as soon as its answer is known, a cohort is asked what its trials come to: the
seeds of a recipe, the learning rates among which one is chosen.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from scaling.progress import Progress
from scaling.record import RunDir, metric_lines
from scaling.signals import Interrupted, Signals
from scaling.train.checkpoint import Checkpoints, folder_of, forget
from scaling.train.held_out import HeldOut
from scaling.train.point import Point
from scaling.train.population import Population, placed

# population -> (more columns of an evaluation, [K] each; notes to be kept, JSON, by name).
Observe = Callable[[Population], tuple[dict[str, np.ndarray], dict[str, Any]]]


@dataclasses.dataclass
class History:
    """What is known of one trial; JSON with `dataclasses.asdict`.

    Attributes:
      curve: column -> value at each evaluation; the columns are "step", the metrics of the split,
        "train_loss" and whatever else is tracked, None where there is no number.
      diverged_at: step of the evaluation at which a loss was no longer finite.
    """

    curve: dict[str, list] = dataclasses.field(default_factory=dict)
    diverged_at: int | None = None

    @property
    def last(self) -> dict[str, float]:
        """The last evaluation."""
        return {name: values[-1] for name, values in self.curve.items()}


@dataclasses.dataclass
class _Standing:
    """Where a cohort is, JSON; saved with every checkpoint."""

    histories: list[History]
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)
    evaluated: int | None = None  # step of the last evaluation
    lines: int = 0  # of metrics.jsonl
    saves: int = 0
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a cohort came to; JSON with `dataclasses.asdict`.

    Attributes:
      histories: one per trial.
      ends: split -> metrics of each trial after its last update, None for one that diverged.
      notes: what `observe` and `conclude` noted.
      trial_steps: updates of all trials together.
      lines: of metrics.jsonl by now.
      seconds: {"compile", "train", "eval"}.
    """

    histories: list[History]
    ends: dict[str, list[dict[str, float] | None]]
    notes: dict[str, Any]
    trial_steps: int
    lines: int
    seconds: dict[str, float]


class Cohort:
    """One cohort of a point. `run` goes on where an earlier launch of the same one stopped.

    Args:
      values, seeds: of every trial, see `Population`.
      name: of its checkpoints, its record and its population in resolved.json.
      recorded_as: what its lines in metrics.jsonl are of, their "split".
      next_evaluation: step -> the step of the evaluation after it; one at the last step comes
        anyway.
      ends: splits that the trained trials are evaluated on, once.
      first_trial: number of the first trial in metrics.jsonl.
      tracked: metrics of the updates whose mean since the evaluation before is recorded.
      observe: called at every evaluation.
      conclude: called with the trained population; what it returns is noted too.
    """

    def __init__(
        self,
        point: Point,
        values: Sequence[Mapping[str, float]],
        seeds: Sequence[int],
        run: RunDir,
        name: str,
        recorded_as: str,
        next_evaluation: Callable[[int], int],
        ends: Sequence[str] = (),
        first_trial: int = 0,
        tracked: Sequence[str] = ("loss",),
        observe: Observe | None = None,
        conclude: Callable[[Population], dict[str, Any]] | None = None,
    ):
        self.point, self.values, self.seeds = point, values, seeds
        self.run_dir, self.name, self.recorded_as = run, name, recorded_as
        self.next_evaluation, self.splits, self.tracked = next_evaluation, ends, tracked
        self.first_trial, self.observe, self.conclude = first_trial, observe, conclude

    def run(self, lines: int, signals: Signals, label: str) -> Outcome:
        """Train to the end, or read the record of a cohort that is over.

        Args:
          lines: of metrics.jsonl that earlier cohorts of the point wrote.
          label: of the progress line.

        Raises:
          UserError: the trials do not fit the memory, or a file cannot be written.
          Interrupted: by a signal, after saving.
        """
        kept = self.run_dir.kept(self.name)
        if kept is None:
            kept = dataclasses.asdict(self._train(lines, signals, label))
            self.run_dir.sync()  # the record must not be ahead of the lines that it counts
            self.run_dir.keep(self.name, kept)
        forget(self.run_dir, self.name)
        return Outcome(**{**kept, "histories": [History(**h) for h in kept["histories"]]})

    def _train(self, lines, signals, label):
        self.population = placed(
            self.run_dir, self.name, self.point, self.values, self.seeds, tracked=self.tracked
        )
        folder = folder_of(self.run_dir, self.name)
        checkpoints = Checkpoints(folder, self.point.config.checkpoint.keep)
        with contextlib.closing(checkpoints):
            self._start(checkpoints, lines)
            total, batch = self.point.total_steps, self.point.global_batch
            with Progress(label, total, batch, self.population.step) as progress:
                self._loop(checkpoints, signals, progress)
            self._save(checkpoints)  # the way back if the rest is cut short
            checkpoints.wait()
            return self._outcome()

    def _start(self, checkpoints, lines):
        population = self.population
        self.standing = _Standing([History() for _ in self.values], lines=lines)
        if restored := checkpoints.restore(population.packed()):
            _, trials, extra = restored
            population.restore(extra.pop("step"), trials)
            histories = [History(**history) for history in extra["histories"]]
            self.standing = _Standing(**{**extra, "histories": histories})
        self.run_dir.truncate(self.standing.lines)
        self._saved = time.perf_counter()

    def _loop(self, checkpoints, signals, progress):
        standing, population, end = self.standing, self.population, self.point.total_steps
        if standing.evaluated is None:
            self._record(*population.advance(0))
        while population.step < end and any(h.diverged_at is None for h in standing.histories):
            if signals.received:
                self._save(checkpoints)
                checkpoints.wait()
                step = f"after step {population.step:,}; what was done is saved."
                raise Interrupted(signals.received, step)
            trained, metrics = population.advance(
                min(end, self.next_evaluation(standing.evaluated))
            )
            if metrics is not None:
                self._record(trained, metrics)
            alive = [h.last for h in standing.histories if h.diverged_at is None]
            losses = [row["train_loss"] for row in alive if row["train_loss"] is not None]
            progress.step(population.step, min(losses, default=math.nan))
            progress.validation(min((row["error"] for row in alive), default=math.nan))
            if time.perf_counter() - self._saved > self.point.config.checkpoint.every_seconds:
                self._save(checkpoints)

    def _record(self, trained, metrics):
        """One evaluation of every trial that has not diverged."""
        standing, step = self.standing, self.population.step
        updates = step - (standing.evaluated or 0)
        count = len(self.values)
        average = lambda total: total / updates if updates else np.full(count, np.nan)
        columns = metrics | {f"train_{name}": average(total) for name, total in trained.items()}
        if self.observe:
            more, notes = self.observe(self.population)
            columns, standing.notes = columns | more, standing.notes | notes
        finite = self.population.alive & np.isfinite(list(metrics.values())).all(0)
        # What a diverged trial was before its bad update is not what it is at this step.
        columns = {name: np.where(finite, values, np.nan) for name, values in columns.items()}
        lines = []
        for k, history in enumerate(standing.histories):
            if history.diverged_at is not None:
                continue
            if not finite[k]:
                history.diverged_at = step
            row = {name: np.float32(values[k : k + 1]) for name, values in columns.items()}
            for name, value in {"step": step, **row}.items():
                value = value if name == "step" else float(value[0])
                history.curve.setdefault(name, []).append(value if math.isfinite(value) else None)
            lines.append(metric_lines(self.recorded_as, step, row, trial=self.first_trial + k))
        self.run_dir.append("".join(lines))
        standing.lines += len(lines)
        standing.evaluated = step

    def _outcome(self):
        standing, population = self.standing, self.population
        notes = standing.notes | (self.conclude(population) if self.conclude else {})
        ends = {split: self._end(split) for split in self.splits}
        last = population.step
        steps = [last if h.diverged_at is None else h.diverged_at for h in standing.histories]
        return Outcome(
            histories=standing.histories,
            ends=ends,
            notes=notes,
            trial_steps=sum(steps),
            lines=standing.lines,
            seconds=self._seconds(),
        )

    def _end(self, split):
        """The metrics of every trial on a split, recorded."""
        start, found, held_out = time.perf_counter(), [], HeldOut(self.point, split)
        for k, history in enumerate(self.standing.histories):
            if history.diverged_at is not None:
                found.append(None)
                continue
            at = self.population.step, self.first_trial + k
            metrics = held_out.record(self.population.variables(k), self.run_dir, *at)
            # JSON has no infinity: a loss may be one where the weights are not.
            found.append({k: v if math.isfinite(v) else None for k, v in metrics.items()})
            self.standing.lines += 1
        self.population.seconds["eval"] += time.perf_counter() - start
        return found

    def _seconds(self):
        """Of all launches."""
        before = self.standing.seconds
        return {k: v + before.get(k, 0.0) for k, v in self.population.seconds.items()}

    def _save(self, checkpoints):
        self.run_dir.sync()
        population, standing = self.population, self.standing
        standing.saves += 1
        extra = dataclasses.asdict(standing) | {"seconds": self._seconds(), "step": population.step}
        checkpoints.save(standing.saves, population.packed(), extra)
        self._saved = time.perf_counter()
