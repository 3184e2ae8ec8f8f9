"""Test error by batch size and recipe, at a fixed budget (You, Goyal and Hoffer 2017).

A point is one batch size and one recipe (scaling/recipes.py). Its runs differ by their seed and
train side by side; recipe by recipe the seeds are the same, and with them the initial weights and
the order of examples, so recipes compare pair by pair. The validation error is followed; the test
split is read once, after the last update.

With `accuracy.trials` the learning rate of every point is tuned first (scaling/studies/tuning.py).
"""

from ml_collections import ConfigDict

from scaling.record import RunDir
from scaling.signals import Signals
from scaling.studies import recipe_points, tuning
from scaling.studies.accuracy.record import Record
from scaling.studies.recipe_records import Run
from scaling.train.phases import train_parts
from scaling.train.trials import seconds_of

points, name = recipe_points.points, recipe_points.name


def check_values(config: ConfigDict) -> None:
    """The config can be used, wherever its data are.

    Raises:
      UserError: a value that cannot be.
    """
    tuning.check(config)


def check(config: ConfigDict) -> None:
    """The same, and it fits this machine, and its data set is there.

    Raises:
      UserError: it does not, or it is not.
    """
    check_values(config)
    recipe_points.check(config, max(config.accuracy.trials, config.recipes.seeds))


def measure(config: ConfigDict, run: RunDir, name: str, signals: Signals) -> Record:
    """One batch size and recipe: the trials of its learning rate, then its runs."""
    points = recipe_points.resolved(config)
    fields = recipe_points.begin(points, run)
    outcomes, found, rate = tuning.tune(points, run, name, signals)
    runs = []
    if rate is not None:
        seeds = [config.seed + k for k in range(config.recipes.seeds)]
        lines = outcomes[-1].lines if outcomes else 0
        values = [tuning.at_rate(points[0], rate)] * len(seeds)
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
        tuning=found,
        runs=runs,
        seconds=seconds_of(outcomes),
    )


def dry_run(points: dict[str, ConfigDict]) -> str:
    """What the study would do and cost, as text. Reads no data and trains nothing.

    Raises:
      UserError: a config cannot be used.
    """
    first = next(iter(points.values()))
    tuned, seeds = tuning.text(first.accuracy), first.recipes.seeds
    each = f"{tuned}{seeds} seeds, evaluated every {first.eval.every}, tested once"
    return recipe_points.dry_run(points, first.accuracy.trials + seeds, each)
