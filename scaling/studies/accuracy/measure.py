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

from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from scaling.errors import UserError
from scaling.record import RunDir
from scaling.signals import Signals
from scaling.studies import recipe_points
from scaling.studies.accuracy.record import Record, Trial, Tuning
from scaling.studies.recipe_records import Run
from scaling.train.phases import train_parts
from scaling.train.point import Point
from scaling.train.trials import Outcome, seconds_of

# Seeds of the trials of learning rates lie beyond those of any run.
TUNING_SEED = 1_000_000

points, name = recipe_points.points, recipe_points.name


def check(config: ConfigDict) -> None:
    """The config can be used here, and its data set is there."""
    settings = config.accuracy
    if settings.trials == 1:
        raise UserError("accuracy.trials is 1, which is no choice; set it to 0, or to 2 or more.")
    span = settings.span
    if len(span) != 2 or not span[0] < span[1]:
        raise UserError(
            f"accuracy.span is {span}; give the lowest and the highest multiple of the "
            "learning rate, such as (0.1, 10.0)."
        )
    recipe_points.check(config, max(settings.trials, config.recipes.seeds))


def measure(config: ConfigDict, run: RunDir, name: str, signals: Signals) -> Record:
    """One batch size and recipe: the trials of its learning rate, then its runs."""
    points = recipe_points.resolved(config)
    fields = recipe_points.begin(points, run)
    outcomes, tuning, rate = [], None, points[0].peak
    if config.accuracy.trials:
        outcomes, tuning = tune(points, run, name, signals)
        rate = tuning.chosen and tuning.chosen.learning_rate
    runs = []
    if rate is not None:
        seeds = [config.seed + k for k in range(config.recipes.seeds)]
        lines = outcomes[-1].lines if outcomes else 0
        values = [_at_rate(points[0], rate)] * len(seeds)
        look = {"lines": lines, "signals": signals, "label": f"{name} runs"}
        look["ends"] = recipe_points.ends_of(config)
        trials = values, seeds, run, "runs", "validation", 0
        outcomes = [*outcomes, train_parts(points, *trials, **look)]
        runs = [
            Run(seed=seed, **recipe_points.end_of(points[0], outcomes[-1], k))
            for k, seed in enumerate(seeds)
        ]
    fields |= {"learning_rate": rate, "status": recipe_points.status_of(runs)}
    return Record(
        **fields,
        tolerance=config.accuracy.tolerance,
        tuning=tuning,
        runs=runs,
        seconds=seconds_of(outcomes),
    )


def _at_rate(point: Point, rate: float) -> dict[str, float]:
    """A trial's values: the peak, and a warmup that starts from the same share of it."""
    share = rate / point.peak if point.peak else 1.0
    return {"peak": rate, "warmup_init": point.hparams["warmup_init"] * share}


def tuning_of(trials: Sequence[Trial], widened: int, better: str = "lower") -> Tuning:
    """What the trials found: the best, of equals that of the lowest rate, and the side of the range
    on which it lies; low where all diverged."""
    rates = [trial.learning_rate for trial in trials]
    low, high, sign = min(rates), max(rates), -1 if better == "higher" else 1
    known = [
        (sign * trial.validation_error, trial.learning_rate, place)
        for place, trial in enumerate(trials)
        if trial.validation_error is not None
    ]
    best = min(known)[2] if known else None
    edge = "low" if best is None else {low: "low", high: "high"}.get(rates[best])
    return Tuning((low, high), list(trials), best, edge, widened)


def beyond(tuning: Tuning, count: int) -> list[float]:
    """`count` rates beyond the edge, spaced as those before."""
    low, high = tuning.range
    ratio = (high / low) ** (1 / (len(tuning.trials) - 1))
    start, ratio = (low, 1 / ratio) if tuning.at_edge == "low" else (high, ratio)
    return [start * ratio**k for k in range(1, count + 1)]


def tune(
    points: Sequence[Point], run: RunDir, name: str, signals: Signals
) -> tuple[list[Outcome], Tuning]:
    """Rounds of learning rates, beyond the range while the best is at its edge.

    Returns:
      The outcome of each round, and what they found.
    """
    point, config = points[0], points[0].config
    settings, metric = config.accuracy, point.task.headline
    low, high = (point.peak * multiple for multiple in settings.span)
    rates = np.geomspace(low, high, settings.trials).tolist()
    outcomes: list[Outcome] = []
    trials: list[Trial] = []
    while True:
        first, label = len(trials), f"tuning{len(outcomes)}"
        seeds = [config.seed + TUNING_SEED + first + k for k in range(len(rates))]
        values = [_at_rate(point, rate) for rate in rates]
        lines = outcomes[-1].lines if outcomes else 0
        look = {"lines": lines, "signals": signals, "label": f"{name} {label}"}
        outcomes.append(train_parts(points, values, seeds, run, label, "tuning", first, **look))
        for rate, history in zip(rates, outcomes[-1].histories, strict=True):
            lost = history.diverged_at is not None
            value, status = (None, "diverged") if lost else (history.last[metric], "complete")
            trials.append(Trial(rate, value, status))
        tuning = tuning_of(trials, len(outcomes) - 1, point.task.metrics[metric].better)
        if tuning.at_edge is None or tuning.widened == settings.widen:
            return outcomes, tuning
        rates = beyond(tuning, settings.trials // 2)


def dry_run(points: dict[str, ConfigDict]) -> str:
    """What the study would do and cost, as text. Reads no data and trains nothing.

    Raises:
      UserError: a config cannot be used.
    """
    first = next(iter(points.values()))
    tuned, seeds = first.accuracy.trials, first.recipes.seeds
    trials = f"{tuned} learning rates tried (more where the best is at the edge), then "
    each = f"{trials * bool(tuned)}{seeds} seeds, evaluated every {first.eval.every}, tested once"
    return recipe_points.dry_run(points, tuned + seeds, each)
