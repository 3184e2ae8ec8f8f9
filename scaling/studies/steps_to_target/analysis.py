"""The searches of a study as a report reads them, and what follows from their records alone."""

import functools
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from scaling import fits
from scaling.crossings import best_of, fewest_of
from scaling.errors import UserError
from scaling.minima import noise_of
from scaling.ratios import Ratio, critical_batch_ratio
from scaling.report import records, wording
from scaling.report.reading import jsonl
from scaling.report.records import Directory, Workdir, check_alike, read_points
from scaling.report.wording import parameter_text
from scaling.studies.steps_to_target.record import Log, Record

E_MIN = "E_min"  # among the sizes of studies
SPARSE = 0.25  # of the usual number of trials: too few to be compared with it


@dataclass(frozen=True, eq=False, kw_only=True)
class Point(Record):
    """One batch size."""

    directory: Directory
    # Trial -> [2, n], steps in rising order and the metric there; nan where it was not finite.
    evaluations: dict[int, np.ndarray]

    @property
    def shown_trial(self) -> int | None:
        """The best trial; where none reached the goal, the one that came closest to it."""
        if self.best_trial is not None:
            return self.best_trial
        missed = [t for t in self.trials if t.outcome == "missed" and t.best_metric is not None]
        closest = best_of(missed, self.better, key=lambda trial: trial.best_metric)
        return closest and closest.trial

    @property
    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Steps and finite values of the metric along the shown trial, after the first step."""
        steps, values = self.evaluations.get(self.shown_trial, np.empty((2, 0)))
        keep = (steps > 0) & np.isfinite(values)
        return steps[keep], values[keep]

    def best_within(self, steps: int) -> float | None:
        """The best metric of any trial that did not diverge; None before the first evaluation."""
        complete = [trial.trial for trial in self.trials if trial.outcome != "infeasible"]
        rows = [self.evaluations[trial] for trial in complete if trial in self.evaluations]
        step, value = np.hstack([np.empty((2, 0)), *rows])
        values = value[(step <= steps) & np.isfinite(value)]
        return best_of(values.tolist(), self.better)


@dataclass(frozen=True, eq=False)
class Study(records.Study):
    """One question asked at several batch sizes, in rising order."""

    points: list[Point]

    @property
    def goal(self) -> float:
        """What the metric must be better than."""
        return self.points[0].goal

    @property
    def split(self) -> str:
        """The data that the goal is measured on: validation or train."""
        return self.points[0].split

    @property
    def measure_text(self) -> str:
        """validation error"""
        return wording.measure_text(self.measure, self.split)

    @property
    def best_metric(self) -> str:
        """best validation error"""
        return f"best {self.measure_text}"

    @property
    def log(self) -> Log | None:
        """Where the runs are another program's."""
        return self.points[0].log

    @property
    def subject(self) -> str:
        """On digits with an MLP; In runs.csv"""
        return f"In {self.recipe['data set']}" if self.log else wording.subject(self)

    @property
    def unit(self) -> str:
        """What a batch size counts."""
        return self.log.unit if self.log else self.rows

    @property
    def called(self) -> str:
        """What examples are called."""
        return self.log.unit if self.log else super().called

    @property
    def per_row(self) -> float | None:
        """Tokens of a row, also of a log that tells them."""
        return self.log.tokens_per_example if self.log else super().per_row

    @property
    def holds(self) -> str:
        """What counts."""
        return "tokens" if self.log and self.per_row else super().holds

    @property
    def sizes(self) -> dict[str, float | None]:
        """Of data and model, by name; and what the goal takes at small batches, `E_MIN`."""
        point = self.points[0]
        own = {"training examples": point.train_size, "parameters": point.directory.parameters}
        sizes = self.log.sizes if self.log else own
        return sizes | {E_MIN: self.fit and self.fit.e_min}

    @property
    def overhead_title(self) -> str:
        """Of the batch size that takes 20% more than the log's reference, "" where it has none."""
        reference = self.log and self.log.reference
        return f"batch of 20% more {self.unit} than at {reference:,}" if reference else ""

    @property
    def goal_text(self) -> str:
        """2.5% validation error"""
        return wording.goal_text(self.measure, self.goal, self.split)

    @property
    def recipe(self) -> dict:
        """With the goal."""
        return super().recipe | {"goal": self.goal_text}

    @property
    def reached(self) -> list[Point]:
        """Points whose training reached the goal."""
        return [point for point in self.points if point.reached]

    @property
    def measured(self) -> list[Point]:
        """Points that reached the goal or spent their budget of steps without."""
        return [point for point in self.points if point.reached or point.censored_at is not None]

    def fewest(self, point: Point) -> float | None:
        """Its fewest steps, to be compared: of as many trials as every batch size has had."""
        if not point.reached:
            return None
        return fewest_of([trial.steps_to_target for trial in point.trials], self.least)

    @functools.cached_property
    def sparse(self) -> list[Point]:
        """Of too few trials to be compared with the others: the fit does without them."""
        usual = statistics.median(len(point.trials) for point in self.points)
        return [point for point in self.points if len(point.trials) < SPARSE * usual]

    @property
    def least(self) -> int:
        """Trials that every other batch size has had."""
        return min(len(point.trials) for point in self.points if point not in self.sparse)

    @functools.cached_property
    def _fitted(self) -> tuple[fits.StepsFit | None, str]:
        points = [point for point in self.measured if point not in self.sparse]
        noise = noise_of(
            ([trial.steps_to_target for trial in point.trials], point.resolution[0], point.until)
            for point in points
            if point.reached
        )
        try:
            fit = fits.fit_steps(
                [point.global_batch for point in points],
                [self.fewest(point) for point in points],
                censored_at=[point.censored_at for point in points],
                noise=noise if noise[1] else None,
            )
        except UserError as error:
            return None, str(error)
        return fit, ""

    @property
    def fit(self) -> fits.StepsFit | None:
        """Of steps against batch."""
        return self._fitted[0]

    @property
    def no_fit(self) -> str:
        """Why there is none, in a sentence."""
        return self._fitted[1]

    @property
    def breakpoints(self) -> dict[str, fits.Breakpoint]:
        """Where perfect scaling and useful batch sizes end; empty without a fit."""
        if not self.fit:
            return {}
        return {
            fits.PERFECT_END: self.fit.perfect_scaling_end,
            fits.MAX_USEFUL: self.fit.max_useful_batch,
        }

    @property
    def read_off(self) -> dict[str, fits.Interval]:
        """The measured batch sizes around each breakpoint, by the points that the fit is of."""
        last = self.fit.measured[1]
        points = [p for p in self.reached if p.global_batch <= last and p not in self.sparse]
        pairs = fits.read_off([p.global_batch for p in points], [self.fewest(p) for p in points])
        return dict(zip(self.breakpoints, pairs, strict=True))

    @property
    def regimes(self) -> list[tuple[str, float, float]]:
        """(name, low, high) of the ranges of batch sizes between the breakpoints.

        0 and infinity stand for what lies outside the batch sizes measured. Empty where a
        breakpoint is not determined.
        """
        if not self.fit or not all(turn.determined for turn in self.breakpoints.values()):
            return []
        first, *_, last = [point.global_batch for point in self.measured]
        inside = lambda batch: 0 if batch <= first else math.inf if batch >= last else batch
        ends = [0, *(inside(turn.batch) for turn in self.breakpoints.values()), math.inf]
        ranges = zip((fits.PERFECT, fits.DIMINISHING, fits.MAXIMAL), ends, ends[1:], strict=False)
        return [(name, low, high) for name, low, high in ranges if low < high]

    def ratio_to(self, first: "Study") -> Ratio | None:
        """Critical batch size over that of `first`; None where one of them has no fit."""
        return critical_batch_ratio(self.fit, first.fit) if self.fit and first.fit else None


P = TypeVar("P", bound=Point)


def read(workdir: Workdir) -> Study:
    """The study in one work directory.

    Raises:
      UserError: records that cannot be read, or points that do not belong together.
    """
    return Study(workdir.path, read_by_batch(workdir, Point), workdir.unfinished)


def read_by_batch(workdir: Workdir, kind: type[P]) -> list[P]:
    """The points in rising order of batch size, of one question."""
    points = read_points(workdir, kind, evaluations=_evaluations)
    points.sort(key=lambda point: point.global_batch)
    for before, point in itertools.pairwise(points):
        if before.global_batch == point.global_batch:
            raise UserError(
                f"{before.directory.name} and {point.directory.name} in {workdir.path} are both of "
                f"batch {point.global_batch:,}; keep one of them."
            )
    goal = lambda point: {"goal": (point.metric, point.goal), "split": point.split}
    check_alike(workdir.path, points, lambda point: goal(point) | point.directory.recipe)
    return points


def _evaluations(directory: Directory) -> dict[int, np.ndarray]:
    """Of the goal's split."""
    metric, split = directory.result["metric"], directory.result.get("split", "validation")
    trials: dict[int, list] = {}
    for row in jsonl(directory.path / "metrics.jsonl"):
        if row["split"] == split:
            trials.setdefault(row["trial"], []).append((row["step"], row[metric]))
    by_step = lambda rows: sorted(rows, key=lambda row: row[0])
    return {trial: np.array(by_step(rows), float).T for trial, rows in trials.items()}


@dataclass(frozen=True)
class Quantity:
    """A number by which trials differ, under its name in the records.

    Attributes:
      flipped: whether it is shown as 1 - value, for which no rule says how it follows the batch.
    """

    name: str
    flipped: bool = False

    @property
    def label(self) -> str:
        """1 − momentum"""
        return "1 − " * self.flipped + parameter_text(self.name)

    def of(self, values: Mapping[str, float | None]) -> float | None:
        """As shown; None where the values lack it."""
        value = values.get(self.name)
        return 1 - value if self.flipped and value is not None else value

    def edges(self, point: Point) -> list[float]:
        """Ends of the range searched at a point, in rising order; empty if there is none."""
        ends = point.ranges.get(self.name, [None])[1:]
        return sorted(self.of({self.name: end}) for end in ends)

    def best(self, study: Study) -> list[tuple[Point, float]]:
        """Points that reached the goal and have it, and its value in their best trials."""
        pairs = [(point, self.of(point.best)) for point in study.reached]
        return [(point, value) for point, value in pairs if value is not None]


def quantities(study: Study) -> list[Quantity]:
    """The two that place a study's trials in a scatter plot; empty if nothing was searched.

    Learning rate and momentum go first; where only one range was searched, the second is the best
    value of the metric.
    """
    ranges = study.points[0].ranges
    preferred = ["learning_rate", "momentum", *ranges]
    names = sorted(ranges, key=lambda name: (ranges[name][0] == "discrete", preferred.index(name)))
    near_1 = lambda name: name == "momentum" or ranges[name][0] == "reverse_log"
    searched = [Quantity(name, near_1(name)) for name in names]
    return [*searched, Quantity(study.best_metric)][:2] if searched else []


BEST_VALUES = (
    Quantity("learning_rate"),
    Quantity("momentum", flipped=True),
    Quantity("effective_learning_rate"),
)


def best_values(studies: Sequence[Study]) -> list[Quantity]:
    """Those that were searched; the effective learning rate where it is another than the rate."""
    series = {v: [pair for study in studies for pair in v.best(study)] for v in BEST_VALUES}
    rate, _, effective = BEST_VALUES
    return [v for v, s in series.items() if s and (v is not effective or s != series[rate])]


@dataclass(frozen=True)
class Budget:
    """The best metric of any complete trial within a budget, by batch size.

    Attributes:
      kind: "steps" or "examples", what `amount` counts.
      results: (batch size, best metric, whether its trials ran until the budget was spent). They
        stop soon after the goal; what they reached until then is an upper bound of what the budget
        would give.
    """

    kind: str
    amount: int
    results: list[tuple[int, float, bool]]


def budgets(study: Study) -> list[Budget]:
    """Up to three budgets of steps and of examples, all of them what the goal took at some batch:
    the least, the most and the one in the middle on a log scale."""
    if len(study.reached) < 2:
        return []
    amounts = [("steps", n) for n in _three([p.steps_to_target for p in study.reached])]
    amounts += [("examples", n) for n in _three([p.examples for p in study.reached])]
    all_budgets = [Budget(kind, amount, _within(study, kind, amount)) for kind, amount in amounts]
    return [budget for budget in all_budgets if budget.results]


def _three(amounts):
    least, most = min(amounts), max(amounts)
    middle = min(amounts, key=lambda amount: abs(math.log(amount**2 / (least * most))))
    return sorted({least, middle, most})


def _within(study, kind, amount):
    steps = {p: amount if kind == "steps" else amount // p.global_batch for p in study.points}
    values = [(p, p.best_within(n), n <= p.stopped_at_step) for p, n in steps.items()]
    return [(p.global_batch, value, spent) for p, value, spent in values if value is not None]
