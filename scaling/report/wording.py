"""Formats of numbers, goals and subjects, for page, figures and terminal."""

import math
import re
from collections.abc import Callable

from scaling.crossings import Metric
from scaling.report.records import Study

NOTHING = "–"
DATA = {
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "imagenet": "ImageNet",
    "kjv": "the King James Bible",
    "open_images": "Open Images",
    "openclipart": "drawings with tags",
}
MODELS = {
    "mlp": "an MLP",
    "simple_cnn": "a simple CNN",
    "resnet": "a ResNet",
    "vgg": "a VGG",
    "transformer": "a Transformer",
    "lstm": "an LSTM",
    "tiramisu": "Tiramisu",
    "deeplab": "DeepLabv3+",
    "deepcam": "DeepCAM's net",
}
SPLITS = {"validation": "validation", "train": "training", "": ""}  # "": of a log, not known
SYMBOL = re.compile(r"\b([SEB])_(min|crit|simple|noise)\b")  # typeset with subscripts


def capital(text: str) -> str:
    """With a capital first; unlike `str.capitalize`, "mean IoU" keeps its own."""
    return text[:1].upper() + text[1:]


def count(value: int | None) -> str:
    """1,024"""
    return NOTHING if value is None else f"{value:,}"


def number(value: float | None) -> str:
    """Three significant digits: 0.0312, 4.4, 1,230."""
    if value is None:
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{float(f'{value:.3g}'):,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"


def steps_label(steps: float) -> str:
    """On axes: 1,024; 0.5."""
    return count(int(steps)) if steps >= 1 else f"{steps:g}"


def batch_label(batch: float) -> str:
    """On axes: 256, 8k."""
    for size, letter in ((2**20, "M"), (2**10, "k")):
        if batch >= size and batch % size == 0:
            return f"{batch // size:.0f}{letter}"
    return f"{batch:g}"


def decimal_label(value: float) -> str:
    """On axes of decimal ticks: 0.003, 2,000, 5 million, 10 billion."""
    for size, name in ((1e9, "billion"), (1e6, "million")):
        if size <= value < 1000 * size:
            return f"{value / size:g} {name}"
    return number(value)


def metric_value(metric: Metric, value: float | None) -> str:
    """An error as a percentage, a loss as a number."""
    if value is None:
        return NOTHING
    return f"{100 * value:.3g}%" if metric.form == "percent" else f"{value:.3g}"


def measure_text(metric: Metric, split: str = "validation") -> str:
    """validation error"""
    return f"{SPLITS[split]} {metric.words}".strip()


def axis_text(metric: Metric, words: str) -> str:
    """validation loss (nats per token)"""
    return f"{words} ({metric.unit})" if metric.unit else words


def goal_text(metric: Metric, goal: float | None, split: str = "validation") -> str:
    """2.5% validation error; a training loss of 0.3; a validation loss below 3.9 nats per token; a
    validation average precision above 0.31; the goal, of a log that does not name it"""
    if goal is None:
        return "the goal"
    measure, value = measure_text(metric, split), metric_value(metric, goal)
    if metric.better == "lower" and metric.form == "percent":
        return f"{value} {measure}"
    of = "above" if metric.better == "higher" else "below" if metric.unit else "of"
    return f"a {measure} {of} {value} {metric.unit}".rstrip()


def percent(share: float | None) -> str:
    """2.1%; −4.9%; 31%"""
    if share is None:
        return NOTHING
    text = f"{100 * share:.1f}" if abs(share) < 0.1 else f"{100 * share:.0f}"
    return f"{text}%".replace("-", "−")


def interval(low: float | None, high: float | None, text: Callable = number) -> str:
    """(95%: 12 to 30), after a value; empty if there is none"""
    return "" if low is None or high is None else f" (95%: {text(low)} to {text(high)})"


def between(low: float | None, high: float | None) -> str:
    """12 to 30; 12 or more; at most 30; or NOTHING."""
    if low is None:
        return NOTHING if high is None else f"at most {number(high)}"
    return f"{number(low)} or more" if high is None else f"{number(low)} to {number(high)}"


def times(ratio: float) -> str:
    """4.5 times"""
    return f"{ratio:.2g} times" if ratio < 99.5 else f"{number(ratio)} times"


def listed(items: list[str]) -> str:
    """a, b and c"""
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))


def parameter_text(name: str) -> str:
    """learning_rate -> learning rate; validation/loss of a tag -> validation loss"""
    return re.sub("[_/]", " ", name)


def subject(study: Study) -> str:
    """On Fashion-MNIST with an MLP"""
    data, model = study.recipe["data set"], study.recipe["model"]["name"]
    return f"On {DATA.get(data, data)} with {MODELS.get(model, model)}"


def subscripts(escaped: str) -> str:
    """S_min, B_crit and the like with subscripts, in escaped HTML."""
    return SYMBOL.sub(r"\1<sub>\2</sub>", escaped)
