"""Test error by batch size and recipe, at a fixed budget (You, Goyal and Hoffer 2017).

A point is one batch size and one recipe (scaling/recipes.py). Its runs differ by their seed and
train side by side; recipe by recipe the seeds are the same, and with them the initial weights and
the order of examples, so recipes compare pair by pair. The validation error is followed; the test
split is read once, after the last update.

Whoever tunes one recipe and not the other finds what he tuned (Shallue 2018, section 4.8). With
`accuracy.trials` every recipe at every batch is given as many learning rates to try, spread evenly
over as wide a range around its own, each for the whole budget; the one with the lowest validation
error at the end is taken to the runs, whose seeds are others. Where that is the edge of the range,
half as many more are tried beyond it.
"""

import dataclasses
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from scaling.data import sources
from scaling.errors import UserError
from scaling.paired import mean_and_deviation
from scaling.record import RunDir
from scaling.signals import Signals
from scaling.studies import recipe_points
from scaling.studies.shared import text_table
from scaling.train.memory import check_population
from scaling.train.planning import layout_of
from scaling.train.point import Point, resolve
from scaling.train.trials import Outcome, ToTheEnd, Training, seconds_of

# Seeds of the trials of learning rates lie beyond those of any run.
TUNING_SEED = 1_000_000

points, name = recipe_points.points, recipe_points.name


def check(config: ConfigDict) -> None:
    """The config can be used here, and its data set is there."""
    point, wanted = recipe_points.check(config), config.accuracy
    if wanted.trials == 1:
        raise UserError("accuracy.trials is 1, which is no choice; set it to 0, or to 2 or more.")
    span = wanted.span
    if len(span) != 2 or not span[0] < span[1]:
        raise UserError(
            f"accuracy.span is {span}; give the lowest and the highest multiple of the "
            "learning rate, such as (0.1, 10.0)."
        )
    runs = max(wanted.trials, config.recipes.seeds)
    layout_of(point, runs)
    check_population(point, runs)
    sources.check_available(config.data.name, config.data.dir)


def measure(config: ConfigDict, run: RunDir, name: str, signals: Signals) -> dict[str, Any]:
    """One batch size and recipe: the trials of its learning rate, then its runs.

    Returns:
      The result, JSON; docs/architecture.md lists its keys.
    """
    point = resolve(config, ("peak",))
    result = recipe_points.begin(point, run)
    result["tolerance"] = config.accuracy.tolerance
    outcomes, tuning, rate = [], None, point.peak
    if config.accuracy.trials:
        outcomes, tuning = tune(point, run, name, signals)
        rate = None if tuning["best"] is None else tuning["trials"][tuning["best"]]["learning_rate"]
    runs = []
    if rate is not None:
        seeds = [config.seed + k for k in range(config.recipes.seeds)]
        lines = outcomes[-1].lines if outcomes else 0
        values = [_at_rate(point, rate)] * len(seeds)
        rule, ends = every(point), recipe_points.ends_of(config)
        training = Training(point, rule, values, seeds, run, "runs", "validation", ends=ends)
        outcomes = [*outcomes, training.run(lines, signals, f"{name} runs")]
        runs = [
            {"seed": seed, **recipe_points.end_of(outcomes[-1], k)} for k, seed in enumerate(seeds)
        ]
    seconds = seconds_of(outcomes)
    complete = any(each["status"] == "complete" for each in runs)
    return result | {
        "status": "complete" if complete else "diverged",
        "learning_rate": rate,
        "tuning": tuning,
        "runs": runs,
        "seconds": seconds,
        "trial_steps_per_second": sum(o.trial_steps for o in outcomes)
        / max(seconds["train"], 1e-9),
    }


def every(point: Point) -> ToTheEnd:
    """All trials to the end, evaluated at multiples of `eval.every`."""
    every = point.eval_every
    return ToTheEnd(point.total_steps, lambda step: step - step % every + every)


def _at_rate(point: Point, rate: float) -> dict[str, float]:
    """A trial's values: the peak, and a warmup that starts from the same share of it."""
    share = rate / point.peak if point.peak else 1.0
    return {"peak": rate, "warmup_init": point.hparams["warmup_init"] * share}


@dataclasses.dataclass
class Tuning:
    """Learning rates tried so far, and the validation error of each at the end; None: diverged."""

    low: float
    high: float
    trials: int  # in the first round
    rates: list[float] = dataclasses.field(default_factory=list)
    errors: list[float | None] = dataclasses.field(default_factory=list)

    @property
    def best(self) -> int | None:
        """The trial of the lowest error, of equals the one of the lowest rate."""
        known = [(e, r, k) for k, (e, r) in enumerate(self._tried) if e is not None]
        return min(known)[2] if known else None

    @property
    def _tried(self):
        return list(zip(self.errors, self.rates, strict=True))

    @property
    def edge(self) -> str | None:
        """The side of the range on which the best lies; low where all diverged."""
        if self.best is None:
            return "low"
        rate = self.rates[self.best]
        if len(self.rates) == 1 or min(self.rates) < rate < max(self.rates):
            return None
        return "low" if rate == min(self.rates) else "high"

    def next_rates(self) -> list[float]:
        """The first round, evenly spread; then half as many beyond the edge, spaced alike."""
        if not self.rates:
            return [float(r) for r in np.geomspace(self.low, self.high, self.trials)]
        ratio = (self.high / self.low) ** (1 / max(self.trials - 1, 1))
        steps = range(1, max(1, self.trials // 2) + 1)
        if self.edge == "low":
            return [min(self.rates) / ratio**k for k in steps]
        return [max(self.rates) * ratio**k for k in steps]

    def result(self, widened: int) -> dict[str, Any]:
        """ "tuning" of the point's result."""
        status = lambda error: "diverged" if error is None else "complete"
        return {
            "range": [min(self.rates), max(self.rates)],
            "trials": [
                {"learning_rate": rate, "validation_error": error, "status": status(error)}
                for error, rate in self._tried
            ],
            "best": self.best,
            "at_edge": self.edge,
            "widened": widened,
        }


def tune(
    point: Point, run: RunDir, name: str, signals: Signals
) -> tuple[list[Outcome], dict[str, Any]]:
    """Rounds of learning rates, beyond the range while the best is at its edge.

    Returns:
      The outcome of each round; and "tuning" of the result.
    """
    config, wanted = point.config, point.config.accuracy
    tuning = Tuning(*(point.peak * multiple for multiple in wanted.span), wanted.trials)
    outcomes: list[Outcome] = []
    while True:
        rates, first = tuning.next_rates(), len(tuning.rates)
        seeds = [config.seed + TUNING_SEED + first + k for k in range(len(rates))]
        values = [_at_rate(point, rate) for rate in rates]
        label = f"tuning{len(outcomes)}"
        training = Training(point, every(point), values, seeds, run, label, "tuning", first)
        lines = outcomes[-1].lines if outcomes else 0
        outcomes.append(training.run(lines, signals, f"{name} {label}"))
        tuning.rates += rates
        tuning.errors += [
            None if history.diverged_at is not None else history.last["error"]
            for history in outcomes[-1].histories
        ]
        widened = len(outcomes) - 1
        if tuning.edge is None or widened == wanted.widen:
            return outcomes, tuning.result(widened)


def sentence(result: dict[str, Any]) -> str:
    """What a finished point came to."""
    if result["status"] == "diverged":
        return "all runs diverged"
    mean, deviation = mean_and_deviation(_errors(result, "test") or _errors(result, "validation"))
    split = "test" if _errors(result, "test") else "validation"
    spread = "" if deviation is None else f" +- {deviation:.2%}"
    diverged = sum(run["status"] == "diverged" for run in result["runs"])
    text = f"{mean:.2%}{spread} {split} error at learning rate {result['learning_rate']:.4g}"
    return text + (f"; {diverged} of {len(result['runs'])} runs diverged" if diverged else "")


def _errors(result, split):
    return [run[split]["error"] for run in result["runs"] if run[split]]


def summarize(results: dict[str, dict[str, Any]]) -> str:
    """A table of the finished points, by name."""
    rows = [("point", "steps", "learning rate", "runs", "train", "validation", "test", "tuning")]
    for name, result in results.items():
        complete = sum(run["status"] == "complete" for run in result["runs"])
        rate, tuning = result["learning_rate"], result["tuning"]
        edge = tuning and tuning["at_edge"]
        rows.append(
            (
                name,
                f"{result['steps']:,}",
                "-" if rate is None else f"{rate:.4g}",
                f"{complete}/{len(result['runs'])}",
                *(_spread(_errors(result, split)) for split in ("train", "validation", "test")),
                "-"
                if not tuning
                else f"{len(tuning['trials'])} rates" + (f", {edge} edge" * bool(edge)),
            )
        )
    return text_table(rows)


def _spread(values):
    mean, deviation = mean_and_deviation(values)
    if mean is None:
        return "-"
    return f"{mean:.2%}" + ("" if deviation is None else f" +- {deviation:.2%}")


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
