"""The answer, for the terminal and the head of the page: one sentence, and one for every doubt."""

import math
from collections import Counter

from scaling.fits import Breakpoint
from scaling.report.wording import count, listed, subject
from scaling.studies.steps_to_target.analysis import (
    critical_batch_against,
    fit_of,
    reached_points,
)
from scaling.studies.steps_to_target.records import Study
from scaling.studies.steps_to_target.wording import goal_text, study_label


def answer(study: Study) -> str:
    """How far the batch can grow, or honestly why the study does not tell."""
    reached = reached_points(study)
    goal = goal_text(study)
    if not reached:
        return f"{subject(study)}, {_nothing_reached(study, goal)}"
    fit, _ = fit_of(study)
    doubts = [f" {doubt}" for doubt in fit.doubts] if fit else []
    if fit:
        says = f"steps to {goal} {_perfect(fit.perfect_scaling_end)}; {_useful(fit)}"
    elif len(reached) == 1:
        says = (
            f"{goal} takes {count(reached[0].steps_to_target)} steps at batch "
            f"{count(reached[0].global_batch)}; one batch size does not tell how steps change"
        )
    else:
        first, last = reached[0], reached[-1]
        says = (
            f"steps to {goal} go from {count(first.steps_to_target)} at batch "
            f"{count(first.global_batch)} to {count(last.steps_to_target)} at "
            f"{count(last.global_batch)}; two batch sizes do not tell where that ends"
        )
    return f"{subject(study)}, {says}{_others(study)}.{''.join(doubts)}"


def compared(study: Study, first: Study) -> str:
    """Whether the batch can grow further than in `first`, which the others are held against."""
    ratio = critical_batch_against(study, first)
    if ratio is None:
        return ""
    that = f"that of {study_label(first, [study, first])}"
    if ratio.interval == (0, math.inf):
        return f"How its critical batch size compares with {that} is not told by these batch sizes."
    if ratio.known and ratio.differs:
        return f"Its critical batch size is {ratio.describe()} times {that}."
    if ratio.known:
        size = f"{ratio.describe()} times it"
        return f"Its critical batch size cannot be told from {that}: {size}."
    which = "larger" if ratio.value > 1 else "smaller"
    is_or_not = f"is {which} than" if ratio.differs else "cannot be told from"
    return f"Its critical batch size {is_or_not} {that} ({ratio.interval_text} times it)."


def _perfect(turn: Breakpoint) -> str:
    smallest, largest = map(count, map(int, turn.measured))
    if turn.where == "inside":
        return f"fall in proportion to the batch up to {turn.describe()}"
    end = f"(end of that, {turn.interval_text})"
    if turn.where == "above":
        return f"fall in proportion to the batch all the way from {smallest} to {largest} {end}"
    end = f"(end of perfect scaling, {turn.interval_text})"
    return f"fall more slowly than the batch grows from {smallest}, the smallest measured, on {end}"


def _useful(fit) -> str:
    turn, saving = fit.max_useful_batch, f"{fit.least_saving:.0%} of the steps"
    largest = count(int(turn.measured[1]))
    if turn.where == "inside":
        return f"beyond {turn.describe()} doubling the batch saves less than {saving}"
    end = f"(end of that, {turn.interval_text})"
    if turn.where == "above":
        return f"doubling the batch still saves more than {saving} at {largest}, the largest {end}"
    end = f"(maximum useful batch, {turn.interval_text})"
    return f"doubling the batch saves less than {saving} at every batch measured {end}"


def _others(study):
    """What became of the batch sizes that have no steps to show."""
    parts = []
    for status, what in (
        ("target_not_reached", "did not reach it within the steps tried"),
        ("all_diverged", "diverged in every trial"),
        ("met_at_start", "met it before training"),
    ):
        batches = [point.global_batch for point in study.points if point.status == status]
        if batches:
            parts.append(f"; {_batches(batches)} {what}")
    return "".join(parts)


def _nothing_reached(study, goal):
    statuses = Counter(point.status for point in study.points)
    batches = _batches([point.global_batch for point in study.points])
    if statuses["met_at_start"] == len(study.points):
        return f"{goal} is met before training at {batches}; choose a harder goal."
    if statuses["all_diverged"] == len(study.points):
        return f"every trial diverged at {batches}; search smaller learning rates."
    if statuses["target_not_reached"] == len(study.points):
        most = max(point.censored_at for point in study.points)
        return (
            f"{goal} was not reached at {batches} within the steps tried, up to {count(most)}; "
            "ease the goal or give more steps."
        )
    return f"no batch size was trained to {goal}{_others(study)}."


def _batches(batches):
    """batch 64; batches 1 and 2; or 9 batch sizes from 64 to 16,384"""
    if len(batches) <= 3:
        return f"batch{'es' * (len(batches) > 1)} {listed([count(batch) for batch in batches])}"
    return f"{len(batches)} batch sizes from {count(min(batches))} to {count(max(batches))}"
