"""A race: a population trains until no trial can change the answer, recorded and resumable."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scaling.crossings import Curve, first_crossing, next_evaluation
from scaling.progress import Progress
from scaling.record import RunDir, metric_lines
from scaling.signals import Interrupted, Signals
from scaling.train.checkpoint import Checkpoints, folder_of
from scaling.train.point import Point
from scaling.train.population import placed


@dataclasses.dataclass(frozen=True)
class Rules:
    """When to evaluate and when to stop.

    Attributes:
      metric, goal: reached means strictly below.
      resolution: evaluations are on a grid of steps that grows by this share, `next_evaluation`.
      budget: updates after which to give up.
      margin: stop at this multiple of the first crossing; None: when all have crossed.
      within: first crossing of an earlier race of the same point: it bounds this one.
      split: what is evaluated: "validation", or "train" for the first training examples.
    """

    metric: str
    goal: float
    resolution: float
    budget: int
    margin: float | None
    within: int | None = None
    split: str = "validation"


@dataclasses.dataclass
class _Standing:
    """Where a race is, JSON; saved with every checkpoint."""

    curves: list[Curve]
    evaluated: int | None = None  # step of the last evaluation
    lines: int = 0  # of metrics.jsonl
    saves: int = 0
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    @staticmethod
    def of(values: Mapping[str, Any]) -> "_Standing":
        """From JSON."""
        curves = [Curve(**curve) for curve in values["curves"]]
        return _Standing(**{**values, "curves": curves})


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a race came to.

    Attributes:
      curves: one per trial.
      stopped_at: updates done.
      trial_steps: updates of all trials together.
      winner: (params, batch_stats) of the first trial to cross, at its crossing; None without.
      seconds: {"compile", "train", "eval"}.
    """

    curves: list[Curve]
    stopped_at: int
    trial_steps: int
    winner: Any
    seconds: dict[str, float]


class Race:
    """One race of a point. `run` goes on where an earlier launch of the same race stopped.

    Args:
      name: of its checkpoints, and of its population in resolved.json.
      recorded_as: what its lines in metrics.jsonl are of, their "split".
      first_trial: number of the first trial there.
    """

    def __init__(
        self,
        point: Point,
        rules: Rules,
        values: Sequence[Mapping[str, float]],
        seeds: Sequence[int],
        run: RunDir,
        name: str,
        recorded_as: str,
        first_trial: int = 0,
    ):
        self.rules, self.run_dir, self.point, self.name = rules, run, point, name
        self.recorded_as, self.first_trial, self.count = recorded_as, first_trial, len(values)
        self.population = placed(run, name, point, values, seeds, split=rules.split)

    def run(self, lines: int, signals: Signals, label: str) -> Outcome:
        """Train to the end of the race.

        Args:
          lines: of metrics.jsonl that earlier races of the point wrote.
          label: of the progress line.

        Raises:
          UserError: a file cannot be written.
          Interrupted: by a signal, after saving.
        """
        folder = folder_of(self.run_dir, self.name)
        checkpoints = Checkpoints(folder, self.point.config.checkpoint.keep)
        with contextlib.closing(checkpoints):
            self._start(checkpoints, lines)
            total, batch = self.rules.budget, self.point.global_batch
            with Progress(label, total, batch, self.population.step) as progress:
                self._loop(checkpoints, signals, progress)
        standing = self.standing
        winner = None if first_crossing(standing.curves) is None else self._winner
        step = self.population.step
        return Outcome(standing.curves, step, step * self.count, winner, self._seconds())

    def _start(self, checkpoints, lines):
        population = self.population
        self.standing = _Standing([Curve() for _ in range(self.count)], lines=lines)
        self._winner = population.variables(0)  # of no meaning until a trial crosses
        like = {"now": population.packed(), "winner": self._winner}
        if restored := checkpoints.restore(like):
            _, arrays, extra = restored
            population.restore(extra.pop("step"), arrays["now"])
            self.standing = _Standing.of(extra)
            self._winner = arrays["winner"]
        self.run_dir.truncate(self.standing.lines)
        self._saved = time.perf_counter()

    def _seconds(self):
        """Of all launches."""
        before = self.standing.seconds
        return {k: v + before.get(k, 0.0) for k, v in self.population.seconds.items()}

    def _loop(self, checkpoints, signals, progress):
        standing, population = self.standing, self.population
        if standing.evaluated is None:
            self._record(*population.advance(0))
        while not self._finished():
            if signals.received:
                self._save(checkpoints)
                checkpoints.wait()
                step = f"after step {population.step:,}; what was done is saved."
                raise Interrupted(signals.received, step)
            trained, metrics = population.advance(self._next())
            if metrics is not None:
                self._record(trained, metrics)
            finite = [c.last_train_loss for c in standing.curves if c.last_train_loss is not None]
            progress.step(population.step, min(finite, default=math.nan))
            best = [c.best for c in standing.curves if c.best is not None]
            progress.validation(min(best, default=math.nan))
            if time.perf_counter() - self._saved > self.point.config.checkpoint.every_seconds:
                self._save(checkpoints)

    def _next(self):
        """The step of the next evaluation: on the grid, or where the race ends."""
        after = next_evaluation(self.standing.evaluated, self.rules.resolution)
        # Only a crossing of this race cuts its grid: up to there, `margin` must not change it.
        crossed = first_crossing(self.standing.curves) is not None
        return min(after, self._bound() if crossed else self.rules.budget)

    def _bound(self):
        """The last step that can matter."""
        rules, first = self.rules, first_crossing(self.standing.curves)
        known = [step for step in (first and first[0], rules.within) if step is not None]
        if rules.margin is None or not known:
            return rules.budget
        return min(rules.budget, math.floor(min(known) * rules.margin))

    def _finished(self):
        curves, step = self.standing.curves, self.population.step
        if step >= self._bound() and self.standing.evaluated == step:
            return True
        if self.rules.margin is None and all(c.outcome != "missed" for c in curves):
            return True
        return all(c.diverged for c in curves)

    def _finite(self, metrics):
        """Which trials have had nothing but finite losses up to this evaluation, bool [K]."""
        before = np.asarray([not curve.diverged for curve in self.standing.curves])
        now = np.isfinite(list(metrics.values())).all(0)
        return before & self.population.alive & now

    def _record(self, trained, metrics):
        """One evaluation of every trial that has not diverged."""
        standing, step = self.standing, self.population.step
        finite = self._finite(metrics)
        updates = step - (standing.evaluated or 0)
        mean = trained["loss"] / updates if updates else np.full(self.count, np.nan)
        rows = {k: np.where(finite, v, np.nan) for k, v in (metrics | {"train_loss": mean}).items()}
        lines, before = [], first_crossing(standing.curves)
        for k, curve in enumerate(standing.curves):
            if curve.diverged:
                continue
            row = {name: values[k : k + 1] for name, values in rows.items()}
            metric, train_loss = row[self.rules.metric].item(), row["train_loss"].item()
            curve.add(step, metric, train_loss, bool(finite[k]), self.rules.goal)
            lines.append(metric_lines(self.recorded_as, step, row, trial=self.first_trial + k))
        self.run_dir.append("".join(lines))
        standing.lines += len(lines)
        standing.evaluated = step
        if before is None and (first := first_crossing(standing.curves)):
            self._winner = self.population.variables(first[1])

    def _save(self, checkpoints):
        self.run_dir.sync()
        population, standing = self.population, self.standing
        standing.saves += 1  # a checkpoint's number: a signal may come twice at one step
        extra = dataclasses.asdict(standing) | {"seconds": self._seconds(), "step": population.step}
        arrays = {"now": population.packed(), "winner": self._winner}
        checkpoints.save(standing.saves, arrays, extra)
        self._saved = time.perf_counter()
