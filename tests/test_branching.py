"""The critical factor of a batch size from branches, on losses that are known."""

import math

import numpy as np
import pytest

from scaling.branching import critical_factor, warmup

FACTORS = (1, 2, 4, 8, 16)


def test_by_hand():
    # Excess 0, 0.005, 0.015 at factors 1, 2, 4: the tolerance is passed half-way, at 2^1.5.
    losses = [[1.0, 1.2], [1.005, 1.205], [1.015, 1.215], [1.5, 1.7], [2.0, 2.2]]
    found = critical_factor(FACTORS, losses, 0.01)
    assert found.excess == pytest.approx([0, 0.005, 0.015, 0.5, 1.0])
    # Equal differences in both seeds: no spread, but nothing is known between 2 and 4.
    assert (found.factor, found.low, found.high) == pytest.approx([2**1.5, 2, 4])


def test_an_interval_by_hand():
    losses = [[1.0, 1.0, 1.0], [1.0, 1.01, 1.02]]
    (low, high) = critical_factor((1, 2), losses, 0.01).ends[1]
    half = 4.302653 * 0.01 / math.sqrt(3)  # Student's quantile for 2 degrees of freedom
    assert (low, high) == pytest.approx((0.01 - half, 0.01 + half))


def test_every_branch_within_the_tolerance():
    losses = [[1.0, 1.1], [1.001, 1.101]]
    found = critical_factor((1, 2), losses, 0.01)
    assert (found.factor, found.low, found.high) == (math.inf, 2, math.inf)


def test_a_branch_that_diverged_ends_it():
    losses = [[1.0, 1.1], [1.002, 1.102], [math.inf, 1.0]]
    found = critical_factor((1, 2, 4), losses, 0.01)
    assert (found.factor, found.low, found.high) == (2, 2, 4)
    assert found.excess[2] == math.inf


def test_a_seed_that_diverged_at_the_runs_own_batch_says_nothing():
    losses = [[1.0, math.inf, 1.1], [1.002, 1.0, 1.102], [1.1, 1.0, 1.2]]
    found = critical_factor((1, 2, 4), losses, 0.01)
    without = critical_factor((1, 2, 4), [[row[0], row[2]] for row in losses], 0.01)
    assert found == without and 2 < found.factor < 4
    unknown = critical_factor((1, 2, 4), [row[:2] for row in losses], 0.01)
    assert (unknown.factor, unknown.low, unknown.high) == (1.0, 0.0, math.inf)


@pytest.mark.parametrize("power", [1, 2, 4])
@pytest.mark.parametrize("sd", [0.0003, 0.001, 0.01])
@pytest.mark.parametrize("critical", [3.0, 4.0, 10.0])
def test_coverage(critical, sd, power):
    """Excess tol ((k - 1) / (critical - 1))^power, seeds with levels of their own, noise that grows
    with the factor: the interval holds the truth of the smooth curve in 90% of the draws."""
    rng = np.random.default_rng(power)
    factors = np.array([1.0, 2, 4, 8, 16, 32])
    mean, held = 0.01 * ((factors - 1) / (critical - 1)) ** power, 0
    for _ in range(200):
        noise = sd * np.sqrt(factors)[:, None] * rng.normal(size=(len(factors), 5))
        found = critical_factor(factors, mean[:, None] + rng.normal(size=5) + noise, 0.01)
        held += found.low <= critical <= found.high
    assert held >= 180


def test_coverage_where_a_factor_diverges_in_half_of_the_seeds():
    rng = np.random.default_rng(0)
    factors, held = np.array([1.0, 2, 4, 8, 16, 32]), 0
    for _ in range(200):
        losses = 0.01 * (factors[:, None] - 1) / 23 + 0.001 * rng.normal(size=(6, 5))
        losses[-1, rng.random(5) < 0.5] = math.inf
        found = critical_factor(factors, losses, 0.01)
        held += found.low <= 24 <= found.high
    assert held >= 190


def test_the_warmup_follows_the_critical_batch():
    schedule = warmup([0, 100, 300, 900], [2.5, 1.0, 7.9, math.inf], 8, FACTORS)
    assert schedule == [(0, 16), (300, 32), (900, 128)]
    assert warmup([50], [0.9], 8, FACTORS) == [(0, 8)]
