"""How goals, intervals and edges are written, the same on the page, in figures, on the terminal."""

from scaling.report import wording
from scaling.report.wording import NOTHING, number, parameter_text
from scaling.studies.steps_to_target.records import Point, Study


def interval_text(interval: tuple[int, int] | None) -> str:
    """26 to 31."""
    return "{:,} to {:,}".format(*interval) if interval else NOTHING


def goal_text(study: Study | Point) -> str:
    """What its goal is, of the data that it is measured on: 2.5% validation error."""
    return wording.goal_text(study.metric, study.goal, study.split)


def measure_text(study: Study | Point) -> str:
    """What its goal is about: validation error."""
    return wording.measure_text(study.metric, study.split)


def shared_goal(studies: list[Study]) -> str:
    """The goal of all, or "the goal" where they differ."""
    one = len({study.goal for study in studies}) == 1
    return goal_text(studies[0]) if one else "the goal"


def study_label(study: Study, studies: list[Study]) -> str:
    """The study's label among others, with its goal where the goals differ."""
    differ = len({other.goal for other in studies}) > 1
    return f"{study.label}, to {goal_text(study)}" if differ else study.label


def edge_text(point: Point, edge: list[str]) -> str:
    """Learning rate at the high edge of 0.001 to 10."""
    name, side = edge
    low, high = (number(end) for end in point.ranges[name][1:])
    return f"{parameter_text(name)} at the {side} edge of {low} to {high}"


def budget_text(budget, study: Study) -> str:
    """46,900 examples (0.853 epochs), or 1,024 steps."""
    text = f"{budget.amount:,} {budget.kind}"
    if budget.kind == "steps":
        return text
    return f"{text} ({budget.amount / study.points[0].train_size:.3g} epochs)"


def two_lines(name: str) -> tuple[str, str]:
    """A regime's name, broken before its last word."""
    head, _, tail = name.rpartition(" ")
    return head, tail
