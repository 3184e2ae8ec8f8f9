"""Crossings against written-out answers."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from scaling.crossings import (
    History,
    best_of,
    better_than,
    constant_metrics,
    fewest_of,
    first_crossing,
    next_evaluation,
)


def history(*metrics, steps=None):
    """Of evaluations at steps 0, 1, 2... or `steps`; None stands for a trial that died."""
    added = History()
    for step, metric in zip(steps or range(len(metrics)), metrics, strict=True):
        added.add({"step": step, "error": metric, "loss": metric})
    return added


def crossing(*metrics, goal=0.5):
    return history(*metrics).crossing("error", goal)


# ---- The grid ----

RATIOS = [0.001, 0.02, 0.08, 0.15, 0.5, 1.0, 10.0]


def grid(ratio, last):
    """The steps of the grid up to the first above `last`, one after the other from 0."""
    steps = [0]
    while steps[-1] <= last:
        steps.append(next_evaluation(steps[-1], ratio))
    return steps


def test_a_grid_written_out():
    # 1, 1.5, 2.25, 3.375, 5.0625, 7.59, 11.39, 17.09; a half is rounded up.
    assert grid(0.5, 12) == [0, 1, 2, 3, 5, 8, 11, 17]
    assert grid(1.0, 2**30)[1:] == [2**k for k in range(32)]


@pytest.mark.parametrize("ratio", RATIOS)
def test_the_grid_is_every_power_rounded(ratio):
    """By exact arithmetic, and in whole numbers that grow."""
    steps, power, growth, expected = grid(ratio, 3000), Fraction(1), 1 + Fraction(ratio), {0}
    while power < steps[-1] + 1:
        expected.add(math.floor(power + Fraction(1, 2)))
        power *= growth
    assert steps == sorted(step for step in expected if step <= steps[-1])
    assert all(type(step) is int for step in steps)


@pytest.mark.parametrize("ratio", RATIOS)
def test_the_grid_has_no_history(ratio):
    """From wherever: the first of its steps above."""
    steps = grid(ratio, 3000)
    for step in range(3000):
        assert next_evaluation(step, ratio) == next(s for s in steps if s > step)


@pytest.mark.parametrize("ratio", RATIOS)
def test_the_grid_is_equally_dense_wherever_steps_are_large_and_whole_below(ratio):
    whole = math.floor(1 / ratio)
    assert grid(ratio, whole)[: whole + 1] == list(range(whole + 1))
    steps = grid(ratio, 100 * whole + 1e4)
    for start in range(whole + 1, 10 * whole, max(1, whole // 20)):
        for factor in (2, math.e, 10):
            looks = sum(start < step <= start * factor for step in steps)
            assert abs(looks - math.log(factor) / math.log1p(ratio)) <= 1.5


def test_the_grid_far_out():
    for step in (2**31 - 1, 10**12):
        assert step < next_evaluation(step, 0.001) <= step * 1.001 + 1


# ---- Trials ----


def test_reached_is_strictly_below_the_goal_and_the_first_time_counts():
    assert crossing(0.9, 0.5) is None
    assert crossing(0.9, 0.5, 0.49, 0.6, 0.3) == (1, 2)
    assert crossing(0.1) == (0, 0)


def test_what_is_known_of_a_trial():
    known = history(0.9, 0.7, 0.4, 0.6, steps=(0, 10, 25, 40))
    assert known.crossing("error", 0.5) == (10, 25) and known.best("error") == 0.4
    assert known.outcome("error", 0.5) == "reached" and known.last["step"] == 40
    assert known.known("loss") == [(0, 0.9), (10, 0.7), (25, 0.4), (40, 0.6)]
    missed = history(0.9, 0.7)
    assert missed.crossing("error", 0.5) is None and missed.outcome("error", 0.5) == "missed"
    assert History().best("error") is None and History().outcome("error", 0.5) == "missed"


def test_divergence_before_the_goal_is_infeasible_and_after_it_is_not():
    died = history(0.9, 0.8, None)
    assert (died.outcome("error", 0.5), died.best("error")) == ("infeasible", 0.8)
    assert died.diverged_at == 2 and died.known("error")[-1] == (1, 0.8)
    late = history(0.9, 0.4, None)
    assert late.outcome("error", 0.5) == "reached" and late.diverged_at == 2
    assert history(None).outcome("error", 0.5) == "infeasible"


def test_the_first_crossing_of_all_and_ties_to_the_lower_trial():
    first = lambda *histories: first_crossing(histories, "error", 0.5)
    slow, fast, as_fast = history(0.9, 0.9, 0.4), history(0.9, 0.4, 0.4), history(0.9, 0.2)
    assert first(slow, fast, as_fast) == first(slow, as_fast, fast) == (1, 1)
    assert first(slow) == (2, 0)
    assert first(history(0.9), history(None)) is None and first() is None


# ---- The fewest of so many trials ----

OUTCOMES = {
    "spread": (90, 31, 240, 55, 47, 1000, 62),
    "ties": (40, 40, 55, 55, 55, 90),
    "some missed": (90, None, 31, math.inf, 240, 55, None),
    "one reached": (None, 31, None, None, None),
}


@pytest.mark.parametrize("name", OUTCOMES)
def test_the_fewest_of_so_many_is_the_mean_over_all_draws(name):
    """Enumerated; a draw in which all missed counts as the slowest that reached."""
    steps = [math.inf if s is None else s for s in OUTCOMES[name]]
    slowest = max(s for s in steps if s < math.inf)
    for count in range(1, len(steps) + 1):
        draws = [min(*d, slowest) for d in itertools.combinations(steps, count)]
        expected = math.exp(sum(map(math.log, draws)) / len(draws))
        assert fewest_of(OUTCOMES[name], count) == pytest.approx(expected, rel=1e-12)


def test_the_fewest_of_all_trials_or_more_is_the_minimum():
    for count in (3, 4, 64):
        assert fewest_of((90, 31, None), count) == 31
        assert fewest_of((None, math.inf, None), count) == math.inf
    assert fewest_of((None, None), 1) == fewest_of((), 1) == math.inf


def test_the_fewest_of_half_of_many_trials():
    """Uniform on (0, 1): the log of the minimum of n has the mean -(1 + 1/2 + ... + 1/n)."""
    uniform = np.random.default_rng(0).uniform(size=(2000, 128))
    logs = [math.log(fewest_of(row, 64)) for row in uniform]
    assert np.mean(logs) == pytest.approx(-sum(1 / k for k in range(1, 65)), abs=0.06)
    half = math.exp(sum(math.log(k) / 2**k for k in range(1, 60)))  # the k-th is the first drawn
    assert fewest_of(range(1, 100_001), 50_000) == pytest.approx(half, rel=1e-3)


def test_a_metric_that_is_better_higher():
    """The goal is crossed upward, strictly; the best is the highest."""
    rises = history(0.1, 0.3, 0.5, 0.4)
    assert rises.crossing("error", 0.3, "higher") == (1, 2)
    assert rises.crossing("error", 0.5, "higher") is None
    assert rises.outcome("error", 0.3, "higher") == "reached"
    assert rises.best("error", "higher") == 0.5 and rises.best("error") == 0.1
    later = history(0.1, 0.2, 0.2, 0.6)
    assert first_crossing([later, rises], "error", 0.3, "higher") == (2, 1)
    assert better_than(0.3, 0.2, "higher") and not better_than(0.2, 0.2, "higher")
    assert better_than(0.1, 0.2, "lower") and not better_than(math.nan, 0.2, "lower")
    assert best_of([], "lower") is None and best_of([1, 3, 2], "higher") == 3


def test_what_a_constant_answer_comes_to():
    """Against every probability that can be given to the first of two classes."""
    share = np.linspace(0, 1, 10_001)[1:-1]
    losses = -(23 * np.log(share) + 2 * np.log(1 - share)) / 25
    found = constant_metrics([23, 2])
    assert found["error"] == 2 / 25 and found["loss"] == pytest.approx(losses.min(), abs=1e-6)
    even = constant_metrics([3] * 10)
    assert even == {"error": 27 / 30, "loss": pytest.approx(math.log(10))}
    assert constant_metrics([2]) == {"error": 0.0, "loss": 0.0}
