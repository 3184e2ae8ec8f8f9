"""The interval of the fewest steps, against answers from another way and against searches drawn."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import integrate, optimize, stats

from scaling.errors import UserError
from scaling.minima import SPACINGS, fewest_interval, noise_of
from scaling.report.reading import from_json
from scaling.studies.steps_to_target.record import Record

RESULTS = Path(__file__).parent.parent / "docs" / "results"
HUGE = 1e9  # so many steps that one step more or less is nothing


def test_two_crossings_against_the_integral():
    """P(T > t) = E[P(Gamma_2 > log 2 e^((1 + t) E))], E the only spacing, exponential and
    independent of Gamma_2, the second arrival."""
    trials = 1000

    def exceeds(t):
        tail = lambda e: stats.gamma.sf(math.log(2) * math.exp(min((1 + t) * e, 700)), 2)
        return integrate.quad(lambda e: tail(e) * math.exp(-e), 0, 2, limit=500)[0]

    above = stats.binom.sf(3, trials, 1 - 2 ** (-1 / trials))  # P(theta above the fourth)
    t = optimize.brentq(lambda t: exceeds(t) - (0.05 - above), 1, 100)
    low, high = fewest_interval([HUGE, 1.1 * HUGE, *[None] * (trials - 2)])
    assert math.log(HUGE / low) == pytest.approx(t * math.log(1.1), rel=0.03)
    assert high == math.inf


def test_the_upper_end_is_an_order_statistic():
    rng = np.random.default_rng(0)
    steps = np.sort(rng.uniform(100, 1000, 64))
    assert fewest_interval(rng.permutation(steps))[1] == steps[3]
    assert fewest_interval(steps[:8])[1] == steps[2]
    # Eight trials are below the median of their minimum with probability 1 - 2^(-1/8) each.
    share = 1 - 2 ** (-1 / 8)
    misses = [stats.binom.sf(j, 8, share) for j in (1, 2)]
    assert misses[0] > 0.025 > misses[1]
    below = (np.sort(rng.uniform(size=(200_000, 8)), axis=1)[:, 2] < share).mean()
    assert below == pytest.approx(misses[1], abs=0.002)


OUTCOMES = {
    "log-normal": (lambda rng, size: 0.6 * rng.standard_normal(size), stats.norm(0, 0.6).ppf),
    "heavy tail": (lambda rng, size: 0.5 * rng.standard_t(3, size), stats.t(3, 0, 0.5).ppf),
    "power": (lambda rng, size: -0.4 * rng.exponential(size=size), lambda q: 0.4 * np.log(q)),
    "bounded": (lambda rng, size: np.log1p(rng.uniform(size=size)), lambda q: np.log1p(q)),
}


@pytest.mark.parametrize("missed", [0.0, 0.6])
@pytest.mark.parametrize("grid", [False, True])
@pytest.mark.parametrize("outcome", OUTCOMES)
def test_it_holds_the_median_of_fresh_searches(outcome, grid, missed):
    draw, quantile = OUTCOMES[outcome]
    rng = np.random.default_rng(1)
    trials, margin = 32, 2.0
    looks = 50 * 1.08 ** np.arange(-200, 300)
    seen = lambda logs: looks[np.searchsorted(looks, 1000 * np.exp(logs))]
    take = seen if grid else lambda logs: HUGE * np.exp(logs)
    truth = float(take(quantile((1 - 2 ** (-1 / trials)) / (1 - missed))))
    held = []
    for logs in draw(rng, (300, trials)):
        steps = np.where(rng.uniform(size=trials) < missed, np.inf, take(logs))
        steps[steps > margin * steps.min()] = np.inf
        first = steps.min()
        before = first / 1.08 if grid else None
        low, high = fewest_interval(steps, until=margin * first, before=before)
        held.append(low <= truth <= high)
    assert np.mean(held) > 0.9


def test_it_scales_with_the_steps():
    steps = np.random.default_rng(2).lognormal(8, 0.5, 40).round()
    first = steps.min()
    low, high = fewest_interval(steps, before=0.9 * first)
    scaled = fewest_interval(7 * steps, before=6.3 * first)
    assert scaled == pytest.approx((7 * low, 7 * high)) and 0 < low < first < high


def test_few_crossings():
    missed = [None] * 20 + [math.inf] * 20 + [math.nan] * 20
    assert fewest_interval([7]) == fewest_interval([7, *missed]) == (0, math.inf)
    assert fewest_interval(missed) == (0, math.inf)
    low, high = fewest_interval([500, 600, *missed])
    assert 0 < low < 100 and high == math.inf
    wider = fewest_interval([500, 600, 720, *missed])[0]
    assert low < wider < 400
    assert fewest_interval([500, 600, 720, 864, *missed])[1] == 864


def test_a_spacing_cut_short_widens_it():
    """Yule process: births over the time that all lines lived, the last time included."""
    steps, missed = [HUGE, 1.1 * HUGE, 1.2 * HUGE, 1.3 * HUGE], [None] * 60
    low, high = fewest_interval(steps + missed)
    cut_low, cut_high = fewest_interval(steps + missed, until=1.5 * HUGE)
    logs = np.log([1.1, 1.2 / 1.1, 1.3 / 1.2, 1.5 / 1.3])
    ratio = math.log(HUGE / cut_low) / math.log(HUGE / low)
    assert ratio == pytest.approx(logs @ [1, 2, 3, 4] / (logs[:3] @ [1, 2, 3]))
    assert cut_high == high == steps[3]
    beyond = fewest_interval([*steps, 1.6 * HUGE, *missed[1:]], until=1.5 * HUGE)
    assert beyond == pytest.approx((cut_low, cut_high))


def test_ties_leave_an_interval():
    """All trials between the same two evaluations: what is there is not known to be one number."""
    low, high = fewest_interval([500] * 8 + [None] * 8, before=460)
    assert 300 < low < 500 and high == 500
    narrower = fewest_interval([500] * 8 + [None] * 8)[0]
    assert low < narrower < 500
    assert fewest_interval([1] * 8)[0] > 0


def test_fewer_steps_at_one_trial_widen_it():
    steps = [*range(300, 330, 2)] + [None] * 20
    low = fewest_interval(steps)[0]
    lucky = fewest_interval([200, *steps[1:]])[0]
    assert lucky / 200 < low / 300


def test_less_confidence_is_narrower():
    steps = [*range(300, 400, 4)]
    low, high = fewest_interval(steps)
    inner_low, inner_high = fewest_interval(steps, confidence=0.5)
    assert low < inner_low <= 300 <= inner_high < high


def test_of_a_record():
    path = RESULTS / "quickstart" / "bs64" / "result.json"
    record = from_json(Record, json.loads(path.read_text()))
    low, high = record.steps_interval
    steps = sorted(t.steps_to_target for t in record.trials if t.steps_to_target)
    assert isinstance(low, int) and 1 <= low < steps[0] == record.steps_to_target
    assert high == steps[3]
    few = [replace(t, steps_to_target=None) for t in record.trials if t.outcome == "missed"]
    reached = [t for t in record.trials if t.outcome == "reached"]
    assert replace(record, trials=few + reached[:3]).steps_interval is None
    assert replace(record, trials=few + reached[:4]).steps_interval is not None
    assert replace(record, status="met_at_start").steps_interval is None


@pytest.mark.parametrize(
    "steps, options, word",
    [
        ([], {}, "no trials"),
        ([5, 0], {}, "steps is 0"),
        ([5, -2, None], {}, "steps is -2"),
        ([5, 6], {"confidence": 95}, "confidence is 95"),
    ],
)
def test_what_has_no_interval(steps, options, word):
    with pytest.raises(UserError, match=word):
        fewest_interval(steps, **options)


def test_the_noise_of_the_fewest_steps_is_that_of_searches_drawn_anew():
    """An exponential lower tail, its scale 0.3: the log of the minimum is Gumbel's, of sd 0.385."""
    rng = np.random.default_rng(5)
    searches = np.exp(-0.3 * rng.exponential(size=(400, 32)))  # F(s) = s^(1 / 0.3) up to 1
    sd, freedom = noise_of((1e6 * steps, None, math.inf) for steps in searches)
    assert sd == pytest.approx(np.log(searches.min(1)).std(), rel=0.08)
    assert sd == pytest.approx(0.3 * math.pi / math.sqrt(6), rel=0.05)
    assert freedom == 400 * SPACINGS / 2
    assert noise_of([([5, None], 4, math.inf)])[1] == 0
    # Where trainings stop soon after the fewest, and some of what came later is known.
    stopped = [(1e6 * steps, None, 1.1e6 * steps.min()) for steps in searches]
    sd, freedom = noise_of(stopped)
    assert sd == pytest.approx(0.3 * math.pi / math.sqrt(6), rel=0.2)
    assert 30 < freedom < 200 * SPACINGS / 2
