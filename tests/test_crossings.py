"""Crossings against written-out answers."""

import dataclasses
import itertools
import json
import math

import pytest

from scaling.crossings import Curve, first_crossing, next_evaluation


def curve(*metrics, goal=0.5, steps=None):
    """A curve of evaluations at steps 0, 1, 2... or `steps`; None stands for a trial that died."""
    added = Curve()
    for step, metric in zip(steps or range(len(metrics)), metrics, strict=True):
        alive = metric is not None
        added.add(step, metric if alive else math.nan, 1.0 / (step + 1), alive, goal)
    return added


@pytest.mark.parametrize("ratio", [0.001, 0.03, 0.12, 1.0])
def test_the_grid_grows_by_the_ratio_and_by_one_at_least(ratio):
    steps = [0]
    while steps[-1] < 5000:
        steps.append(next_evaluation(steps[-1], ratio))
    for step, after in itertools.pairwise(steps):
        gap = after - step
        assert gap == 1 or step * ratio - 1 < gap <= step * ratio


def test_a_grid_written_out():
    steps = list(itertools.accumulate(range(9), lambda step, _: next_evaluation(step, 0.5)))
    assert steps == [0, 1, 2, 3, 4, 6, 9, 13, 19]


def test_reached_is_strictly_below_the_goal_and_the_first_time_counts():
    assert curve(0.9, 0.5).crossed is None
    assert curve(0.9, 0.5, 0.49, 0.6, 0.3).crossed == 2
    assert curve(0.1).crossed == 0


def test_what_is_known_of_a_trial():
    known = curve(0.9, 0.7, 0.4, 0.6, steps=(0, 10, 25, 40))
    assert (known.crossed, known.before, known.best, known.last_step) == (25, 10, 0.4, 40)
    assert known.outcome == "reached" and known.last_train_loss == 1 / 41
    missed = curve(0.9, 0.7, steps=(0, 10))
    assert (missed.crossed, missed.before, missed.outcome) == (None, None, "missed")


def test_divergence_before_the_goal_is_infeasible_and_after_it_is_not():
    for end in ((None, 0.1), (math.nan, 0.1), (math.inf,)):
        died = curve(0.9, 0.8, *end)
        assert (died.outcome, died.crossed, died.best) == ("infeasible", None, 0.8)
        assert died.last_step == 1
    late = curve(0.9, 0.4, None, 0.1)
    assert (late.outcome, late.crossed, late.diverged, late.best) == ("reached", 1, True, 0.4)
    at_once = curve(None)
    assert (at_once.outcome, at_once.best) == ("infeasible", None)


def test_a_training_loss_that_is_not_known_leaves_the_last_one():
    known = Curve()
    known.add(0, 0.9, math.nan, True, 0.5)
    assert known.last_train_loss is None
    known.add(1, 0.8, 2.5, True, 0.5)
    known.add(2, 0.7, math.nan, True, 0.5)
    assert known.last_train_loss == 2.5


def test_curves_are_json():
    known = curve(0.9, 0.7, 0.4)
    assert Curve(**json.loads(json.dumps(dataclasses.asdict(known)))) == known


def test_the_first_crossing_of_all_and_ties_to_the_lower_trial():
    slow, fast, as_fast = curve(0.9, 0.9, 0.4), curve(0.9, 0.4, 0.4), curve(0.9, 0.2)
    assert first_crossing([slow, fast, as_fast]) == (1, 1)
    assert first_crossing([slow, as_fast, fast]) == (1, 1)
    assert first_crossing([slow]) == (2, 0)
    assert first_crossing([curve(0.9), curve(None)]) is None and first_crossing([]) is None
