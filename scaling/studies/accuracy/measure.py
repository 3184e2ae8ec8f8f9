"""Test error by batch size and recipe, at a fixed budget (You, Goyal and Hoffer 2017).

A point is one batch size and one recipe (scaling/recipes.py). Its runs differ by their seed and
train side by side; recipe by recipe the seeds are the same, and with them the initial weights and
the order of examples, so recipes compare pair by pair. The validation error is followed; the test
split is read once, after the last update.

Comparisons favour the recipe that was tuned (Shallue 2018, section 4.8). With
`accuracy.trials` every recipe at every batch is given as many learning rates to try, spread evenly
over as wide a range around its own, each for the whole budget; the one with the lowest validation
error at the end is taken to the runs, whose seeds are others. Where that is the edge of the range,
half as many more are tried beyond it.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from scaling.data import sources
from scaling.errors import UserError
from scaling.record import RunDir
from scaling.signals import Signals
from scaling.studies import recipe_points
from scaling.studies.accuracy.record import Record, Trial, Tuning
from scaling.studies.recipe_records import Run
from scaling.train.memory import check_population
from scaling.train.planning import layout_of
from scaling.train.point import Point, resolve
from scaling.train.trials import Outcome, ToTheEnd, Training, seconds_of

# Seeds of the trials of learning rates lie beyond those of any run.
TUNING_SEED = 1_000_000

points, name = recipe_points.points, recipe_points.name


def check(config: ConfigDict) -> None:
    """The config can be used here, and its data set is there."""
    point, settings = recipe_points.check(config), config.accuracy
    if settings.trials == 1:
        raise UserError("accuracy.trials is 1, which is no choice; set it to 0, or to 2 or more.")
    span = settings.span
    if len(span) != 2 or not span[0] < span[1]:
        raise UserError(
            f"accuracy.span is {span}; give the lowest and the highest multiple of the "
            "learning rate, such as (0.1, 10.0)."
        )
    runs = max(settings.trials, config.recipes.seeds)
    layout_of(point, runs)
    check_population(point, runs)
    sources.check_available(config.data.name, config.data.dir)


def measure(config: ConfigDict, run: RunDir, name: str, signals: Signals) -> Record:
    """One batch size and recipe: the trials of its learning rate, then its runs."""
    point = resolve(config, ("peak",))
    fields = recipe_points.begin(point, run)
    outcomes, tuning, rate = [], None, point.peak
    if config.accuracy.trials:
        outcomes, tuning = tune(point, run, name, signals)
        rate = tuning.chosen and tuning.chosen.learning_rate
    runs = []
    if rate is not None:
        seeds = [config.seed + k for k in range(config.recipes.seeds)]
        lines = outcomes[-1].lines if outcomes else 0
        values = [_at_rate(point, rate)] * len(seeds)
        rule, ends = every(point), recipe_points.ends_of(config)
        training = Training(point, rule, values, seeds, run, "runs", "validation", ends=ends)
        outcomes = [*outcomes, training.run(lines, signals, f"{name} runs")]
        runs = [
            Run(seed=seed, **recipe_points.end_of(outcomes[-1], k)) for k, seed in enumerate(seeds)
        ]
    fields |= {"learning_rate": rate, "status": recipe_points.status_of(runs)}
    return Record(
        **fields,
        tolerance=config.accuracy.tolerance,
        tuning=tuning,
        runs=runs,
        seconds=seconds_of(outcomes),
    )


def every(point: Point) -> ToTheEnd:
    """All trials to the end, evaluated at multiples of `eval.every`."""
    every = point.eval_every
    return ToTheEnd(point.total_steps, lambda step: step - step % every + every)


def _at_rate(point: Point, rate: float) -> dict[str, float]:
    """A trial's values: the peak, and a warmup that starts from the same share of it."""
    share = rate / point.peak if point.peak else 1.0
    return {"peak": rate, "warmup_init": point.hparams["warmup_init"] * share}


@dataclasses.dataclass
class Search:
    """Rounds of learning rates from `low` to `high`, and beyond."""

    low: float
    high: float
    count: int  # in the first round
    trials: list[Trial] = dataclasses.field(default_factory=list)

    @property
    def rates(self) -> list[float]:
        """Tried so far."""
        return [trial.learning_rate for trial in self.trials]

    @property
    def best(self) -> int | None:
        """The trial of the lowest error, of equals the one of the lowest rate."""
        known = [
            (trial.validation_error, trial.learning_rate, place)
            for place, trial in enumerate(self.trials)
            if trial.validation_error is not None
        ]
        return min(known)[2] if known else None

    @property
    def edge(self) -> str | None:
        """The side of the range on which the best lies; low where all diverged."""
        if self.best is None:
            return "low"
        rates = self.rates
        rate = rates[self.best]
        if len(rates) == 1 or min(rates) < rate < max(rates):
            return None
        return "low" if rate == min(rates) else "high"

    def next_rates(self) -> list[float]:
        """The first round, evenly spread; then half as many beyond the edge, spaced alike."""
        rates = self.rates
        if not rates:
            return [float(r) for r in np.geomspace(self.low, self.high, self.count)]
        ratio = (self.high / self.low) ** (1 / max(self.count - 1, 1))
        steps = range(1, max(1, self.count // 2) + 1)
        if self.edge == "low":
            return [min(rates) / ratio**k for k in steps]
        return [max(rates) * ratio**k for k in steps]

    def add(self, rates: Sequence[float], errors: Sequence[float | None]) -> None:
        """A round; an error of None: diverged."""
        self.trials += [
            Trial(rate, error, "diverged" if error is None else "complete")
            for rate, error in zip(rates, errors, strict=True)
        ]

    def result(self, widened: int) -> Tuning:
        """For the record."""
        ends = min(self.rates), max(self.rates)
        return Tuning(ends, self.trials, self.best, self.edge, widened)


def tune(point: Point, run: RunDir, name: str, signals: Signals) -> tuple[list[Outcome], Tuning]:
    """Rounds of learning rates, beyond the range while the best is at its edge.

    Returns:
      The outcome of each round, and what they found.
    """
    config, settings = point.config, point.config.accuracy
    search = Search(*(point.peak * multiple for multiple in settings.span), settings.trials)
    outcomes: list[Outcome] = []
    while True:
        rates, first = search.next_rates(), len(search.trials)
        seeds = [config.seed + TUNING_SEED + first + k for k in range(len(rates))]
        values = [_at_rate(point, rate) for rate in rates]
        label = f"tuning{len(outcomes)}"
        training = Training(point, every(point), values, seeds, run, label, "tuning", first)
        lines = outcomes[-1].lines if outcomes else 0
        outcomes.append(training.run(lines, signals, f"{name} {label}"))
        histories = outcomes[-1].histories
        search.add(
            rates, [None if h.diverged_at is not None else h.last["error"] for h in histories]
        )
        widened = len(outcomes) - 1
        if search.edge is None or widened == settings.widen:
            return outcomes, search.result(widened)


def dry_run(points: dict[str, ConfigDict]) -> str:
    """What the study would do and cost, as text. Reads no data and trains nothing.

    Raises:
      UserError: a config cannot be used.
    """
    first = next(iter(points.values()))
    tuned, seeds = first.accuracy.trials, first.recipes.seeds
    trials = f"{tuned} learning rates tried (more where the best is at the edge), then "
    each = f"{trials * bool(tuned)}{seeds} seeds, evaluated every {first.eval.every}, tested once"
    return recipe_points.dry_run(points, lambda point: tuned + seeds, {"each": each})
