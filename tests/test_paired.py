"""Paired comparisons against SciPy and by hand."""

import numpy as np
import pytest
from scipy import stats

from scaling.paired import holm, mean_and_deviation, median_ratio, paired

FIRST = [0.110, 0.121, 0.115, 0.118, 0.109]
SECOND = [0.131, 0.128, 0.136, 0.127, 0.125]


def test_the_paired_test_is_scipys():
    found, expected = paired(FIRST, SECOND), stats.ttest_rel(SECOND, FIRST)
    interval = expected.confidence_interval(0.95)
    assert found.pairs == 5
    assert found.difference == pytest.approx(np.mean(SECOND) - np.mean(FIRST))
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.p == pytest.approx(expected.pvalue)


def test_a_pair_that_lacks_a_value_is_left_out():
    gap = [None, *SECOND[1:3], None, SECOND[4]]
    kept = [FIRST[i] for i in (1, 2, 4)], [SECOND[i] for i in (1, 2, 4)]
    assert paired(FIRST, gap) == paired(*kept)


def test_too_few_pairs_have_no_interval():
    assert paired([0.1], [0.2]).difference == pytest.approx(0.1)
    assert paired([0.1], [0.2]).p is paired([0.1], [0.2]).low is None
    assert paired([None], [0.2]).difference is None and paired([], []).pairs == 0


def test_differences_without_spread():
    """Two test errors of 300 examples that are three images better each: chance enough."""
    same = paired([0.04, 0.05], [0.03, 0.04])
    assert same.pairs == 2 and same.difference == pytest.approx(-0.01)
    assert same.low is same.high is same.p is None
    assert paired([0.1, 0.2], [0.1, 0.2]).low is None


@pytest.mark.parametrize(
    "draws, off", [(400, 0.03), pytest.param(2000, 0.015, marks=pytest.mark.slow)]
)
def test_intervals_cover(draws, off):
    generator, hits = np.random.default_rng(0), 0
    for _ in range(draws):
        shared = generator.normal(0, 1, 5)  # what a seed does to both recipes
        first, second = shared, shared + generator.normal(0.3, 0.2, 5)
        found = paired(first.tolist(), second.tolist())
        hits += found.low <= 0.3 <= found.high
    assert 0.95 - off < hits / draws < 0.95 + off


def test_holm_is_the_worked_example():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, made monotone.
    assert holm([0.01, 0.04, None, 0.03, 0.005]) == pytest.approx([0.03, 0.06, None, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0] and holm([]) == []


def test_mean_and_deviation():
    assert mean_and_deviation([1.0, None, 3.0]) == (2.0, pytest.approx(2**0.5))
    assert mean_and_deviation([1.0]) == (1.0, None)
    assert mean_and_deviation([None]) == (None, None)


def test_what_slows_a_round_cancels_in_the_ratio():
    first = [1.0, 5.0, 1.2, 2.0, 0.9]
    ratio, low, high = median_ratio(first, [1.5 * value for value in first])
    assert (ratio, low, high) == pytest.approx((1.5, 1.5, 1.5))


def test_the_interval_of_the_ratio_covers():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(200):
        machine = np.exp(0.5 * rng.standard_normal(9))
        first, second = machine * np.exp(0.02 * rng.standard_normal((2, 9)))
        _, low, high = median_ratio(first, 1.3 * second)
        covered += low <= 1.3 <= high
    assert covered > 180
