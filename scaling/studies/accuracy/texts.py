"""How errors, differences and settings are written."""

import shlex
from collections.abc import Sequence
from typing import Any

from scaling.paired import Paired
from scaling.report.wording import NOTHING, count, listed, number
from scaling.studies.accuracy.records import Point, Study

EXPONENTS = {"none": 0.0, "linear": 1.0, "sqrt": 0.5}  # of scaling/optim/rules.py, which needs JAX


def percent(value: float | None) -> str:
    """11.30%"""
    return NOTHING if value is None else f"{100 * value:.2f}%"


def percent_tick(value: float) -> str:
    """On axes: 11.5%"""
    return f"{100 * value:.4g}%"


def points_text(difference: float | None) -> str:
    """In percentage points: +1.20"""
    if difference is None:
        return NOTHING
    text = f"{100 * difference:+.2f}".replace("-", "−")
    return "0.00" if text.strip("+−") == "0.00" else text


def spread(mean: float | None, deviation: float | None) -> str:
    """11.30% ± 0.12"""
    return percent(mean) + ("" if deviation is None else f" ± {100 * deviation:.2f}")


def error_text(point: Point, split: str) -> str:
    """11.30% ± 0.12 over seeds"""
    return spread(point.mean(split), point.deviation(split))


def interval(found: Paired | None) -> str:
    """+1.20 (+0.80 to +1.60)"""
    if found is None or found.difference is None:
        return NOTHING
    middle = points_text(found.difference)
    if found.low is None:
        return middle
    return f"{middle} ({points_text(found.low)} to {points_text(found.high)})"


def p_text(p: float | None) -> str:
    """0.031"""
    if p is None:
        return NOTHING
    return f"{p:.2g}" if p >= 0.001 else "< 0.001"


def flags(point: Point) -> str:
    """What to add to a command to train with a point's recipe."""
    settings = {"global_batch": point.global_batch} | point.settings | _tuned(point)
    # A flag cannot take a value away.
    unset = [key for key, value in settings.items() if value in (None, "None")]
    text = " ".join(
        shlex.quote(f"--config.{key}={_value(value)}")
        for key, value in settings.items()
        if key not in unset
    )
    return text + (f" and, in the config, None for {listed(unset)}" if unset else "")


def _tuned(point: Point) -> dict[str, Any]:
    """The learning rate that was chosen, as it is: it holds for its batch and for no rule.

    A warmup starts from the same share of it as of the recipe's own.
    """
    if not point.tuning or not point.learning_rate:
        return {}
    found = {"optim.base_lr": point.learning_rate, "optim.scaling_rule": "none"}
    config = point.directory.config
    start = config.get("schedule", {}).get("warmup_init")
    if start:
        optim = config["optim"]
        ratio = point.global_batch / optim["base_batch"]
        own = optim["base_lr"] * ratio ** EXPONENTS[optim["scaling_rule"]]
        found["schedule.warmup_init"] = start * point.learning_rate / own
    return found


def _value(value: Any) -> str:
    if isinstance(value, list):
        return repr(tuple(value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def tolerance_text(study: Study) -> str:
    """0.5 points"""
    return f"{number(100 * study.tolerance)} points"


def place(point: Point) -> str:
    """linear at batch 8,192"""
    return f"{point.recipe} at batch {count(point.global_batch)}"


def some(items: Sequence[str], most: int = 8) -> str:
    """All of a few, the first of many."""
    if len(items) <= most + 1:
        return listed(list(items))
    return f"{', '.join(items[:most])} and {count(len(items) - most)} others"


def seeds_text(point: Point, unit: str = " seeds") -> str:
    """5 seeds; 3 of 5 seeds, where others diverged"""
    done, begun = len(point.errors("test")), len(point.runs)
    if done == begun == 1 and unit:
        return "one seed"
    return f"{count(done)}{f' of {count(begun)}' if done < begun else ''}{unit}"
