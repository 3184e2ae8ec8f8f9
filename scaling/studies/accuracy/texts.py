"""How metrics, differences and settings are written."""

import shlex
from functools import partial
from typing import Any

from scaling.crossings import Metric
from scaling.paired import Paired
from scaling.report.wording import NOTHING, count, listed, number, times
from scaling.studies.accuracy.judging import REFERENCE, Point, Study
from scaling.studies.accuracy.record import Record
from scaling.studies.recipe_records import Spread

EXPONENTS = {"none": 0.0, "linear": 1.0, "sqrt": 0.5}  # of scaling/optim/rules.py, which needs JAX


def value_text(metric: Metric, value: float) -> str:
    """11.30%; 3.912"""
    return f"{100 * value:.2f}%" if metric.form == "percent" else f"{value:.4g}"


def points_text(metric: Metric, difference: float) -> str:
    """In percentage points, +1.20; or as the metric is, +0.012"""
    text = f"{100 * difference:+.2f}" if metric.form == "percent" else f"{difference:+.3g}"
    return (text if float(text) else text.strip("+-")).replace("-", "−")


def spread_text(metric: Metric, spread: Spread) -> str:
    """11.30% ± 0.12; 3.912 ± 0.021"""
    text = value_text(metric, spread.mean)
    if spread.sd is None:
        return text
    percent = metric.form == "percent"
    return f"{text} ± {f'{100 * spread.sd:.2f}' if percent else f'{spread.sd:.2g}'}"


def added_text(metric: Metric, added: Paired) -> str:
    """+1.20 (+0.80 to +1.60), in points"""
    if added.difference is None:
        return NOTHING
    text = partial(points_text, metric)
    ends = "" if added.low is None else f" ({text(added.low)} to {text(added.high)})"
    return text(added.difference) + ends


def unit_of(metric: Metric) -> str:
    """Of differences: points; nats per token"""
    return "points" if metric.form == "percent" else metric.unit


def tolerance_text(study: Study) -> str:
    """0.5 points"""
    metric = study.measure
    scale = 100 if metric.form == "percent" else 1
    return f"{number(scale * study.tolerance)} {unit_of(metric)}".rstrip()


def seeds_text(point: Record) -> str:
    """5; 3 of 5, where others diverged"""
    done, begun = len(point.scores("test")), len(point.runs)
    return count(done) + (f" of {count(begun)}" if done < begun else "")


def point_text(study: Study, point: Point) -> str:
    """sqrt+gbn 17.31% ± 0.40, +6.63 (+5.99 to +7.27) points, worse"""
    ratio = study.times_longer(point)
    name = point.recipe + (f" ({times(ratio)} the epochs)" if ratio else "")
    if point.failure:
        return f"{name} diverged ({point.failure})"
    spread, added = point.spread("test"), study.added(point)
    if spread is None:
        return f"{name} has no test {study.measure.words}"
    metric, judged = study.measure, study.verdict(point)
    text = f"{name} {spread_text(metric, spread)}"
    if added and added.difference is not None:
        more = f"{added_text(metric, added)} {unit_of(metric)}".rstrip()
        return f"{text}, {'worse by ' * (study.sign < 0)}{more}, {judged}"
    seeds = f" over {count(len(point.runs))} seeds"
    return text + seeds * (judged == REFERENCE and len(point.runs) > 1)


def flags(point: Point) -> str:
    """What to add to a command to train with a point's recipe."""
    settings = {"global_batch": point.global_batch} | point.settings | _tuned(point)
    unset = [key for key, value in settings.items() if value == "None"]  # no flag can unset a key
    text = " ".join(
        shlex.quote(f"--config.{key}={f'{v:.6g}' if isinstance(v, float) else v}")
        for key, v in settings.items()
        if key not in unset
    )
    return text + (f" and, in the config, None for {listed(unset)}" if unset else "")


def _tuned(point: Point) -> dict[str, Any]:
    """The learning rate that was chosen, as it is: it is of its batch, and follows no rule.

    A warmup starts from the same share of it as of the recipe's own.
    """
    if not point.tuning or not point.learning_rate:
        return {}
    changes = {"optim.base_lr": point.learning_rate, "optim.scaling_rule": "none"}
    config = point.directory.config
    start = config.get("schedule", {}).get("warmup_init")
    if start:
        optim = config["optim"]
        ratio = point.global_batch / optim["base_batch"]
        own = optim["base_lr"] * ratio ** EXPONENTS[optim["scaling_rule"]]
        changes["schedule.warmup_init"] = start * point.learning_rate / own
    return changes
