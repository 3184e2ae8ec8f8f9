"""The learning rate of a point, tuned before its runs.

Comparisons favour the recipe that was tuned (Shallue 2018, section 4.8). So every recipe at every
batch is given as many learning rates to try, spread evenly over as wide a range around its own,
each for the whole budget. The one with the best validation metric at the end is taken to the runs,
whose seeds are others. Where that is the edge of the range, half as many more are tried beyond it.
The keys are in the section of the study.
"""

from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from scaling.errors import UserError
from scaling.record import RunDir
from scaling.signals import Signals
from scaling.studies.recipe_records import Trial, Tuning
from scaling.train.phases import train_parts
from scaling.train.point import Point
from scaling.train.trials import Outcome

# Seeds of the trials of learning rates lie beyond those of any run.
SEED = 1_000_000


def check(config: ConfigDict) -> None:
    """UserError unless the keys of the study's section go together."""
    study, settings = config.study, config[config.study]
    if settings.trials == 1:
        raise UserError(f"{study}.trials is 1, which is no choice; set it to 0, or to 2 or more.")
    span = settings.span
    if len(span) != 2 or not span[0] < span[1]:
        raise UserError(
            f"{study}.span is {span}; give the lowest and the highest multiple of the "
            "learning rate, such as (0.1, 10.0)."
        )


def at_rate(point: Point, rate: float) -> dict[str, float]:
    """A trial's values: the peak, and a warmup that starts from the same share of it."""
    return {"peak": rate, "warmup_init": point.hparams["warmup_init"] * rate / point.peak}


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
) -> tuple[list[Outcome], Tuning | None, float | None]:
    """Rounds of learning rates, beyond the range while the best is at its edge.

    Args:
      points: the parts of one point.

    Returns:
      The outcome of each round; what they found, None where the study tries none; and the rate for
      the runs, None where all diverged.
    """
    point, config = points[0], points[0].config
    settings, metric = config[config.study], point.task.headline
    if not settings.trials:
        return [], None, point.peak
    low, high = (point.peak * multiple for multiple in settings.span)
    rates = np.geomspace(low, high, settings.trials).tolist()
    outcomes: list[Outcome] = []
    trials: list[Trial] = []
    while True:
        first, label = len(trials), f"tuning{len(outcomes)}"
        seeds = [config.seed + SEED + first + k for k in range(len(rates))]
        values = [at_rate(point, rate) for rate in rates]
        lines = outcomes[-1].lines if outcomes else 0
        look = {"lines": lines, "signals": signals, "label": f"{name} {label}"}
        outcomes.append(train_parts(points, values, seeds, run, label, "tuning", first, **look))
        for rate, history in zip(rates, outcomes[-1].histories, strict=True):
            lost = history.diverged_at is not None
            value, status = (None, "diverged") if lost else (history.last[metric], "complete")
            trials.append(Trial(rate, value, status))
        found = tuning_of(trials, len(outcomes) - 1, point.task.metrics[metric].better)
        if found.widened == settings.widen or found.at_edge is None:
            return outcomes, found, found.chosen and found.chosen.learning_rate
        rates = beyond(found, settings.trials // 2)


def text(settings: ConfigDict) -> str:
    """Of a dry run; "" where none are tried.

    Args:
      settings: the section of the study.
    """
    if not settings.trials:
        return ""
    return f"{settings.trials} learning rates tried (more where the best is at the edge), then "
