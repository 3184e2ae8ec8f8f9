"""How numbers and goals are written, the same on the page, in figures and on the terminal."""

import math

from scaling.report.records import Point, Study

NOTHING = "–"
DATA = {
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "imagenet": "ImageNet",
}
MODELS = {"mlp": "an MLP", "cnn": "a CNN", "resnet": "a ResNet", "vgg": "a VGG"}


def count(value: int | None) -> str:
    """1,024"""
    return NOTHING if value is None else f"{value:,}"


def number(value: float | None) -> str:
    """Three digits: 0.0312, 4.4, 1,230."""
    if value is None:
        return NOTHING
    if math.isinf(value):
        return "∞"
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


def metric_value(metric: str, value: float | None) -> str:
    """An error as a percentage, a loss as it is."""
    if value is None:
        return NOTHING
    return f"{100 * value:.3g}%" if metric == "error" else f"{value:.3g}"


def goal_text(metric: str, goal: float) -> str:
    """2.5% validation error"""
    if metric == "error":
        return f"{metric_value(metric, goal)} validation error"
    return f"a validation {metric} of {metric_value(metric, goal)}"


def interval_text(interval: list[int | None] | None) -> str:
    """26 to 31, or 26 or more."""
    if interval is None:
        return NOTHING
    low, high = interval
    return f"{low:,} or more" if high is None else f"{low:,} to {high:,}"


def listed(items: list[str]) -> str:
    """a, b and c"""
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))


def parameter_text(name: str) -> str:
    """learning_rate -> learning rate"""
    return name.replace("_", " ")


def subject(study: Study) -> str:
    """On Fashion-MNIST with an MLP"""
    data, model = study.recipe["data set"], study.recipe["model"]["name"]
    return f"On {DATA.get(data, data)} with {MODELS.get(model, model)}"


def shared_goal(studies: list[Study]) -> str:
    """The goal of all, or "the goal" where they differ."""
    one = len({study.goal for study in studies}) == 1
    return goal_text(studies[0].metric, studies[0].goal) if one else "the goal"


def study_label(study: Study, studies: list[Study]) -> str:
    """The study's label among others, with its goal where the goals differ."""
    differ = len({other.goal for other in studies}) > 1
    return f"{study.label}, to {goal_text(study.metric, study.goal)}" if differ else study.label


def edge_text(point: Point, edge: list[str]) -> str:
    """Learning rate at the high edge of 0.001 to 10."""
    name, side = edge
    low, high = (number(end) for end in point.ranges[name][1:])
    return f"{parameter_text(name)} at the {side} edge of {low} to {high}"


def two_lines(name: str) -> tuple[str, str]:
    """A regime's name, broken before its last word."""
    head, _, tail = name.rpartition(" ")
    return head, tail
