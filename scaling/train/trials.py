"""Trainings: the trials of a point train under a rule, recorded and resumable.

A training evaluates its trials at the steps that its rule names, until the rule says that it is
over. Every evaluation of every trial is a line of metrics.jsonl, and a trial's `History` is made of
those lines alone. A checkpoint holds the trials and where the training is, so a training resumes
bit for bit, however it was cut into launches and calls. A single run is a training of one trial
whose updates are recorded too (`scaling.train.single`).
"""

import abc
import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from scaling import hosts
from scaling.crossings import EWA, History, Metric, best_of, first_crossing, next_evaluation
from scaling.errors import UserError
from scaling.progress import Progress
from scaling.record import RunDir, metric_lines
from scaling.signals import Interrupted, Signals
from scaling.train.checkpoint import Checkpoints, folder_of, forget
from scaling.train.evaluate import HeldOut
from scaling.train.point import Point
from scaling.train.population import Population, placed

MUST_BE_FINITE = ("loss", "grad_sq_norm", "local_grad_sq_norm")  # of every recorded update


class Rule(abc.ABC):
    """When to evaluate, and when a training is over.

    Attributes:
      budget: updates after which it is over.
      keeps_winner: whether the weights of the first trial to cross are kept as they were then.
      kind: of those weights, see `Population.kinds`.
    """

    budget: int
    keeps_winner = False
    kind = ""

    def first(self, histories: Sequence[History]) -> tuple[int, int] | None:
        """(step, trial) of the first crossing."""
        return None

    @abc.abstractmethod
    def next(self, training: "Training", evaluated: int | None) -> int:
        """The step of the evaluation after the one at step `evaluated`; None: of the first."""

    @abc.abstractmethod
    def over(self, training: "Training") -> bool:
        """Whether no further update is to be made."""


@dataclasses.dataclass(frozen=True)
class ToTheEnd(Rule):
    """All trials train to the end.

    Attributes:
      after: step of an evaluation -> that of the next; the last step is evaluated anyway.
      begin: step of the first evaluation.
    """

    budget: int
    after: Callable[[int], int]
    begin: int = 0

    def next(self, training, evaluated):
        return self.begin if evaluated is None else self.after(evaluated)

    def over(self, training):
        return training.step >= self.budget or training.all_diverged


@dataclasses.dataclass(frozen=True)
class FirstCrossing(Rule):
    """Trials train until none can be the first to reach a goal any more.

    Attributes:
      metric, goal: reached means strictly better.
      resolution: evaluations are on a grid of steps that grows by this share, `next_evaluation`.
      margin: stop at this multiple of the first crossing; None: when all have crossed.
      within: first crossing of an earlier training of the same point: it bounds this one.
      better: of the metric, lower or higher.
    """

    metric: str
    goal: float
    resolution: float
    budget: int
    margin: float | None
    within: int | None = None
    better: str = "lower"

    @property
    def keeps_winner(self):
        return self.margin is not None

    @property
    def kind(self):
        return EWA if self.metric.startswith(EWA) else ""

    def first(self, histories):
        return first_crossing(histories, self.metric, self.goal, self.better)

    def next(self, training, evaluated):
        after = 0 if evaluated is None else next_evaluation(evaluated, self.resolution)
        # Only a crossing of this training cuts its grid: up to there, `margin` must not change it.
        return min(after, self._bound(training) if training.first else self.budget)

    def _bound(self, training):
        """The last step that can matter."""
        steps = [training.first and training.first[0], self.within]
        steps = [step for step in steps if step is not None]
        if self.margin is None or not steps:
            return self.budget
        return min(self.budget, math.floor(min(steps) * self.margin))

    def over(self, training):
        if training.step >= self._bound(training) and training.evaluated == training.step:
            return True
        if self.margin is None and training.evaluated is not None:
            of = lambda history: history.outcome(self.metric, self.goal, self.better)
            return "missed" not in map(of, training.histories)
        return training.all_diverged


class Observer:
    """Looks on at a training; this one does nothing.

    Attributes:
      state: JSON, saved with every checkpoint and given back on resuming.
    """

    state: Any = None

    def begin(self, training: "Training") -> None:
        """Before the first call of a launch."""

    def updates(self, first_step: int, rows: Mapping[str, np.ndarray]) -> None:
        """Metrics of consecutive updates of the one trial whose updates are recorded."""

    def columns(self, population: Population) -> dict[str, np.ndarray]:
        """More columns of an evaluation, [K] each."""
        return {}

    def evaluated(self, split: str, step: int, metrics: Mapping[str, float]) -> None:
        """An evaluation of the one trial whose updates are recorded."""

    def end(self, population: Population) -> None:
        """After the last update; what it adds to `state` is in the outcome."""

    def show(self, progress: Progress) -> None:
        """After every call."""

    def close(self) -> None:
        """However the launch ends."""


@dataclasses.dataclass
class _State:
    """Where a training is, JSON; saved with every checkpoint.

    Attributes:
      evaluated: step of the last evaluation.
      lines: of metrics.jsonl; this training's begin after `first_line`.
      sums: of the metrics whose means are recorded, over the updates since that evaluation, [K].
      seconds: of the launches before.
    """

    first_line: int
    lines: int
    evaluated: int | None = None
    sums: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A finished training.

    Attributes:
      histories: one per trial.
      steps: updates of each trial.
      ends: split -> metrics of each trial after its last update, None for one that diverged.
      observed: the observers' states.
      winner: (params, batch_stats) of the first trial to cross, at its crossing; None without.
      lines: of metrics.jsonl by now.
      seconds: {"compile", "train", "eval", "input_wait"}; the last at most: input was prepared
        while the devices had nothing to do.
    """

    histories: list[History]
    steps: int
    ends: dict[str, list[dict[str, float] | None]]
    observed: list[Any]
    winner: Any
    lines: int
    seconds: dict[str, float]

    @property
    def trial_steps(self) -> int:
        """Updates of all trials together."""
        return self.steps * len(self.histories)


def seconds_of(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """{"compile", "train", "eval"} of several trainings together."""
    parts = ("compile", "train", "eval")
    return {part: sum(outcome.seconds[part] for outcome in outcomes) for part in parts}


@dataclasses.dataclass
class Training:
    """One training of a point. `run` resumes where an earlier launch of it stopped.

    Args:
      values, seeds: of every trial, see `Population`.
      name: of its record and of its population in resolved.json.
      recorded_as: the "split" of its evaluations in metrics.jsonl.
      first_trial: number of the first trial there; None: the one trial has none.
      split: that is evaluated, see `Population`.
      means: metrics of the updates whose means since the evaluation before are recorded with it.
      updates: record every update of the one trial, with all its metrics, as split "train".
      ends: splits that the trained trials are evaluated on, once.
      folder: of its checkpoints in the run directory's; None: one of its name.
      start: saved arrays of the trials that these begin as, one for all or as many; None: anew.
      begins, read: updates and examples before the first of these.
    """

    point: Point
    rule: Rule
    values: Sequence[Mapping[str, float]]
    seeds: Sequence[int]
    run_dir: RunDir
    name: str
    recorded_as: str
    first_trial: int | None = 0
    split: str = "validation"
    means: Sequence[str] = ("loss",)
    updates: bool = False
    ends: Sequence[str] = ()
    observers: Sequence[Observer] = ()
    folder: str | None = None
    start: str | None = None
    begins: int = 0
    read: int = 0

    def __post_init__(self):
        assert not self.updates or len(self.values) == 1
        self.path = folder_of(self.run_dir, self.name if self.folder is None else self.folder)
        self.histories = [History() for _ in self.values]
        self.population: Population | None = None

    # ---- What rules and observers ask ----

    @property
    def step(self) -> int:
        """Updates done."""
        return self.population.step

    @property
    def evaluated(self) -> int | None:
        """Step of the last evaluation."""
        return self.state.evaluated

    @property
    def all_diverged(self) -> bool:
        """Whether no trial is left to train."""
        return all(history.diverged_at is not None for history in self.histories)

    @property
    def headline(self) -> tuple[str, Metric]:
        """The task's first metric."""
        return next(iter(self.point.task.metrics.items()))

    # ---- From beginning to end ----

    def run(self, lines: int, signals: Signals, label: str) -> Outcome:
        """Train, or read the record of a training that is over.

        Args:
          lines: of metrics.jsonl that earlier trainings of the point wrote.
          label: of the progress line.

        Raises:
          UserError: the trials do not fit the memory, or a file cannot be written.
          Interrupted: by a signal, after saving.
        """
        record = self.run_dir.load_json(self.name)
        if record is None:
            outcome = self.train(lines, signals, label)
            record = self._record_of(outcome)
            self.run_dir.sync()  # the record must not be ahead of the lines that it counts
            self.run_dir.save_json(self.name, record)
        else:
            outcome = self._recorded(record)
        forget(self.path)
        return outcome

    def train(self, lines: int, signals: Signals, label: str) -> Outcome:
        """`run` without a record: the checkpoints stay."""
        self.place()
        checkpoints = Checkpoints(self.path, self.point.config.checkpoint.keep)
        with contextlib.ExitStack() as stack:
            stack.callback(checkpoints.close)
            self._start(checkpoints, lines)
            for observer in self.observers:
                observer.begin(self)
                stack.callback(observer.close)
            with self.progress(label) as progress:
                self._loop(checkpoints, signals, progress)
            if not self.all_diverged and (self.ends or self.observers):
                # What a longer run resumes from, and the way back if the rest is cut short.
                self._save(checkpoints)
                checkpoints.wait()
            return self._outcome()

    def place(self) -> None:
        """Make the population, if that is not done."""
        if self.population is None:
            self.population = placed(
                self.run_dir,
                self.name,
                self.point,
                self.values,
                self.seeds,
                split=self.split,
                tracked=None if self.updates else self.means,
            )
        if self.start is not None:
            packed, count = self.population.like()[0], len(self.seeds)
            leaves = self.run_dir.load_arrays(self.start)
            leaves = [np.repeat(x, count // len(x), axis=0) for x in leaves]
            self._restore(jax.tree.unflatten(jax.tree.structure(packed), leaves), self.begins)

    def progress(self, label: str) -> Progress:
        """The live line."""
        batch, task = self.point.global_batch, self.point.task
        each, unit = (batch * task.per_row, task.unit) if task.per_row else (batch, task.rows)
        return Progress(label, self.rule.budget, each, self.step, self.headline[1], unit)

    def _start(self, checkpoints, lines):
        """From the newest checkpoint, or from the beginning."""
        self.state = _State(lines, lines)
        trials, self._winner = self.population.like()
        restored = checkpoints.restore(self._arrays(trials))
        if restored:
            _, arrays, extra = restored
            self.state = _State(**extra["state"])
            self._winner = arrays.get("winner")
            self._restore(arrays["trials"], **extra["place"])
            for observer, state in zip(self.observers, extra["observers"], strict=True):
                observer.state = state
        self.run_dir.truncate(self.state.lines)
        for row in self.run_dir.rows(self.recorded_as, self.state.first_line):
            self._add(row)
        self.first = self.rule.first(self.histories)
        self._unwritten, self._saved_at = None, self._number() if restored else None
        self._saved = time.perf_counter()

    def _loop(self, checkpoints, signals, progress):
        """Call after call, evaluation after evaluation."""
        while not self.rule.over(self):
            late = time.perf_counter() - self._saved > self.point.config.checkpoint.every_seconds
            signum, late, self.population.per_step = hosts.before_call(
                signals.received, late, self.population.per_step
            )
            if signum or late:
                self._save(checkpoints)
            if signum:
                checkpoints.wait()
                raise Interrupted(signum, self.stopped())
            due = self.rule.next(self, self.evaluated)
            if self.step < due:
                self._advance(due, progress)
            if self.step == due and not self.all_diverged:
                self._evaluate()
                name, metric = self.headline
                values = [h.last[name] for h in self.histories if h.diverged_at is None]
                progress.validation(best_of(values, metric.better))
            for observer in self.observers:
                observer.show(progress)
        self._write()

    def stopped(self) -> str:
        """Where a signal stopped it: the end of a sentence."""
        return f"after step {self.step:,}; progress is saved."

    def _advance(self, due, progress):
        """One call of the program, towards the next evaluation or the end."""
        budget, first = self.rule.budget, self.step + 1
        then = min(self.rule.next(self, due), budget) if due < budget else 0
        rows = self.population.advance(min(due, budget), then, self._write)
        for name in self.means:
            values = np.where(np.isfinite(rows[name]), rows[name], 0.0)
            before = np.reshape(self.state.sums.get(name, [0.0] * len(values)), (-1, 1))
            # One after another: where a run was cut into calls must leave no trace.
            sums = np.add.accumulate(np.concatenate([before, values], 1), axis=1)
            self.state.sums[name] = sums[:, -1].tolist()
        if self.updates:
            self._take_updates(first, {name: values[0] for name, values in rows.items()})
        losses = rows["loss"][:, -1]
        progress.step(self.done(), np.min(losses[np.isfinite(losses)], initial=math.inf))

    def done(self) -> int:
        """What the live line counts."""
        return self.step

    def _take_updates(self, first, rows):
        """Metrics of the one trial; the first that are not finite are its last."""
        norms = [rows[name].reshape(len(rows[name]), -1) for name in MUST_BE_FINITE]
        finite = np.isfinite(np.concatenate(norms, 1)).all(1)
        if not finite.all():
            count = int(finite.argmin()) + 1
            rows = {name: values[:count] for name, values in rows.items()}
            self.histories[0].diverged_at = first + count - 1
        self._unwritten = first, rows
        for observer in self.observers:
            observer.updates(first, rows)

    def _write(self):
        """Record the updates of the last call, if that is not done."""
        if self._unwritten is not None:
            first, rows = self._unwritten
            self._append(metric_lines("train", first, rows, trial=self.first_trial))
            self._unwritten = None

    def _append(self, text):
        self.run_dir.append(text)
        self.state.lines += text.count("\n")

    def _evaluate(self):
        """One evaluation of every trial that has not diverged, recorded."""
        self._write()
        step, count = self.step, len(self.histories)
        metrics = self.population.evaluate()
        finite = self.population.alive & np.isfinite(list(metrics.values())).all(0)
        updates = step - (self.begins if self.evaluated is None else self.evaluated)
        for name in self.means:
            total = np.asarray(self.state.sums.pop(name, np.zeros(count)))
            metrics[f"train_{name}"] = total / updates if updates else np.full(count, np.nan)
        for observer in self.observers:
            metrics |= observer.columns(self.population)
        # What a diverged trial was before its bad update is not what it is at this step.
        metrics = {name: np.where(finite, values, np.nan) for name, values in metrics.items()}
        lines = []
        for k, history in enumerate(self.histories):
            if history.diverged_at is None:
                row = {name: values[k : k + 1] for name, values in metrics.items()}
                lines.append(metric_lines(self.recorded_as, step, row, self._number_of(k)))
                self._add(json.loads(lines[-1]))
        self._append("".join(lines))
        self.state.evaluated = step
        if self.updates:
            self._tell(self.recorded_as, self.histories[0].last)
        if self.first is None and (first := self.rule.first(self.histories)):
            self.first = first
            if self.rule.keeps_winner:
                self._winner = self.population.variables(first[1], self.rule.kind)

    def _tell(self, split, metrics):
        """The observers, of an evaluation."""
        known = {k: v for k, v in metrics.items() if k != "step" and v is not None}
        for observer in self.observers:
            observer.evaluated(split, self.step, known)

    def _number_of(self, trial):
        return None if self.first_trial is None else self.first_trial + trial

    def _add(self, row):
        """One line of metrics.jsonl to its trial's history."""
        del row["split"]
        self.histories[row.pop("trial", 0) - (self.first_trial or 0)].add(row)

    # ---- Checkpoints and records ----

    def _number(self):
        """Of a checkpoint: later ones have higher numbers."""
        return self.step

    def _arrays(self, trials):
        """What a checkpoint holds."""
        return {"trials": trials} | ({"winner": self._winner} if self.rule.keeps_winner else {})

    def _place(self):
        """Where the population is, JSON; the arguments of `_restore`."""
        return {"step": self.step}

    def _restore(self, trials, step):
        examples = self.read + (step - self.begins) * self.point.global_batch
        self.population.restore(step, trials, examples)

    def _save(self, checkpoints):
        self._write()
        self._saved = time.perf_counter()
        if self._number() == self._saved_at:
            return
        self.run_dir.sync()
        extra = {
            "state": dataclasses.asdict(self.state) | {"seconds": self.seconds()},
            "place": self._place(),
            "observers": [observer.state for observer in self.observers],
        }
        self._saved_at = self._number()
        checkpoints.save(self._saved_at, self._arrays(self.population.packed()), extra)

    def seconds(self) -> dict[str, float]:
        """Of all launches."""
        before = self.state.seconds
        return {k: v + before.get(k, 0.0) for k, v in self.population.seconds.items()}

    def _outcome(self):
        """After the last update and the last checkpoint."""
        if self.evaluated != self.step and not self.all_diverged:
            self._evaluate()
        for observer in self.observers:
            observer.end(self.population)
        ends = {split: self._end(split) for split in self.ends}
        steps = self.histories[0].diverged_at if self.updates else None
        return Outcome(
            histories=self.histories,
            steps=self.step if steps is None else steps,
            ends=ends,
            observed=[observer.state for observer in self.observers],
            winner=self._winner if self.rule.keeps_winner and self.first else None,
            lines=self.state.lines,
            seconds=self.seconds(),
        )

    def _end(self, split):
        """The metrics of every trial on a split, recorded; None of those that diverged."""
        start, ends = time.perf_counter(), []
        held_out = HeldOut(self.point, split, self.population.feed)
        for k, history in enumerate(self.histories):
            if history.diverged_at is not None:
                ends.append(None)
                continue
            variables = {kind: self.population.variables(k, kind) for kind in self.population.kinds}
            metrics = held_out.record(variables, self.run_dir, self.step, self._number_of(k))
            # JSON has no infinity: a loss may be one where the weights are not.
            ends.append({k: v if math.isfinite(v) else None for k, v in metrics.items()})
            self.state.lines += 1
            if self.updates:
                self._tell(split, ends[-1])
        self.population.seconds["eval"] += time.perf_counter() - start
        return ends

    def _record_of(self, outcome):
        """JSON; the winner's weights go beside it, and the histories are in metrics.jsonl."""
        if outcome.winner is not None:
            self.run_dir.save_arrays(self.name, jax.tree.leaves(outcome.winner))
        return {
            "first_line": self.state.first_line,
            "lines": outcome.lines,
            "steps": outcome.steps,
            "diverged_at": [history.diverged_at for history in outcome.histories],
            "ends": outcome.ends,
            "observed": outcome.observed,
            "winner": outcome.winner is not None,
            "seconds": outcome.seconds,
        }

    def _recorded(self, record):
        """The outcome that a record is of."""
        if "first_line" not in record:
            raise UserError(
                f"{self.run_dir.path / self.name}.json is from an older version of this program; "
                f"delete {self.run_dir.path} to measure this point anew."
            )
        for row in self.run_dir.rows(self.recorded_as, record["first_line"], record["lines"]):
            self._add(row)
        for history, step in zip(self.histories, record["diverged_at"], strict=True):
            history.diverged_at = step
        winner = None
        if record["winner"]:
            leaves = self.run_dir.load_arrays(self.name)
            winner = jax.tree.unflatten(jax.tree.structure(self.point.variables()), leaves)
        kept = ("steps", "ends", "observed", "lines", "seconds")
        return Outcome(self.histories, winner=winner, **{key: record[key] for key in kept})
