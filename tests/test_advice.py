import dataclasses
import json
import math

import numpy as np
import pytest

from scaling.advice import (
    CriticalBatch,
    Curve,
    Throughput,
    front,
    plans_table,
    recommend,
)
from scaling.comms import JITTER, PERFECT, Link, all_reduce_seconds, expected_maximum
from scaling.errors import UserError
from scaling.fits import fit_steps

S_MIN, B_CRIT = 1000.0, 512.0
BATCHES = [2**k for k in range(3, 14)]  # 8 to 8,192
SLOW = Link(latency=1e-4, bandwidth=1e8)
# A millisecond per example, whatever the batch.
LINEAR = Throughput((1, 1024), (1e-3, 1.024))


def critical(value=B_CRIT, low=None, high=None, source="fit", range=(8, 8192)):
    return CriticalBatch(value, low, high, range, source)


def curve(**bounds):
    """Known where steps tend to S_min."""
    return Curve(critical(**bounds), anchor=(math.inf, S_MIN))


def options(network=PERFECT, throughput=LINEAR, counts=(1,), batches=BATCHES, **more):
    more = {"curve": curve(), "gradient_bytes": 1e6, "price_per_device_hour": 2.0} | more
    return plans_table(
        throughput=throughput, network=network, device_counts=counts, batches=batches, **more
    )


def one(**more):
    (option,) = options(**more)
    return option


# --- throughput ---


def test_compute_is_the_fitted_line():
    throughput = Throughput((16, 64, 256), tuple(0.1 + 0.002 * b for b in (16, 64, 256)))
    for batch in (4, 16, 40, 256):
        plan, seconds = throughput.compute(batch)
        assert seconds == pytest.approx(0.1 + 0.002 * batch)
        assert (plan.accum_steps, plan.micro_batch) == (1, batch)


def test_above_the_largest_the_fewest_microbatches_one_after_another():
    throughput = Throughput((16, 64), (0.1, 0.2))
    line = lambda batch: 0.1 + (batch - 16) * 0.1 / 48
    plan, seconds = throughput.compute(64 * 5)
    assert (plan.accum_steps, plan.micro_batch) == (5, 64)
    assert seconds == pytest.approx(5 * 0.2)
    # 96 = 2 x 48, the largest equal parts that fit.
    assert throughput.compute(96)[1] == pytest.approx(2 * line(48))
    # 67 is prime: only microbatches of one example divide it.
    prime, seconds = throughput.compute(67)
    assert (prime.accum_steps, prime.micro_batch) == (67, 1)
    assert seconds == pytest.approx(67 * line(1))


def test_microbatches_are_whole_ghost_batches():
    throughput = Throughput((32, 64), (0.1, 0.15))
    plan, seconds = throughput.compute(96, multiple=32)  # without them 2 x 48 in 0.25 s
    assert (plan.accum_steps, plan.micro_batch) == (3, 32)
    assert seconds == pytest.approx(3 * 0.1)
    option = one(throughput=throughput, batches=[96], multiple=32)
    assert (option.accum_steps, option.micro_batch) == (3, 32)


def test_throughput_knee():
    throughput = Throughput((1, 2, 4, 8), (1.0, 1.1, 1.3, 2.5))  # 1, 1.8, 3.1, 3.2 examples/s
    assert [throughput.knee(share) for share in (0.01, 0.5, 0.9, 1.0)] == [1, 2, 4, 8]


# --- curves ---


def test_steps_and_their_interval():
    known = curve(low=100, high=1000)
    assert known.steps(B_CRIT) == pytest.approx(2 * S_MIN) and known.s_min == S_MIN
    assert known.steps_interval(100) == pytest.approx((S_MIN * 2, S_MIN * 11))
    assert curve(low=100).steps_interval(100) == (pytest.approx(2 * S_MIN), None)


def test_steps_are_in_units_of_an_unknown_s_min():
    relative = Curve(critical(low=100, high=1000))
    assert relative.s_min is None
    assert relative.steps(B_CRIT) == 2
    assert relative.steps_interval(100) == pytest.approx((2, 11))


def test_a_curve_through_one_run():
    anchored = Curve(critical(500, 200, 1000), anchor=(100, 3000.0))
    s_min = 3000 / (1 + 500 / 100)
    assert anchored.s_min == pytest.approx(s_min)
    for batch in (10, 100, 1000, 1e9):
        assert anchored.steps(batch) == pytest.approx(s_min * (1 + 500 / batch))
    # The run's own steps are known whatever the critical batch; beyond it, steps fall with it.
    assert anchored.steps_interval(100) == pytest.approx((3000, 3000))
    assert anchored.steps_interval(1000) == pytest.approx((3000 * 2 / 11, 3000 * 1.2 / 3))
    assert anchored.steps_interval(10) == pytest.approx((3000 * 21 / 3, 3000 * 101 / 11))
    # With no upper end, perfect scaling is possible; with no lower one, none at all.
    open_ended = Curve(critical(500, None, None), anchor=(100, 3000.0))
    assert open_ended.steps_interval(1000) == pytest.approx((300, 3000))
    assert open_ended.steps_interval(10) == pytest.approx((3000, 30000))


def test_a_fit_gives_its_own_steps_and_band():
    batch = np.array(BATCHES, float)
    steps = S_MIN * (1 + B_CRIT / batch) * np.exp(0.05 * np.cos(batch))
    fit = fit_steps(batch, steps)
    fitted = Curve.of_fit(fit)
    assert fitted.critical.range == (8, 8192)
    assert fitted.steps(100) == float(fit.steps(100))
    assert fitted.steps(100) == pytest.approx(S_MIN * (1 + B_CRIT / 100), rel=0.05)
    low, high = fitted.steps_interval(100)
    assert (low, high) == tuple(float(end) for end in fit.band(100))
    assert low < fitted.steps(100) < high


def test_a_fit_on_the_perfect_scaling_line_has_steps_and_no_critical_batch():
    batch = np.array([8.0, 16, 32, 64])
    fitted = Curve.of_fit(fit_steps(batch, 8e4 / batch))
    assert fitted.critical.value is None and fitted.critical.high is None
    assert fitted.critical.low > 64
    assert fitted.steps(100) == pytest.approx(800)
    assert "not resolved yet (above " in str(fitted.critical)
    option = one(curve=fitted, batches=[32])
    assert option.steps == pytest.approx(2500)
    assert option.hours_low <= option.hours <= option.hours_high


# --- options ---


def test_an_option_written_out():
    option = one(
        network=SLOW, counts=[4], batches=[4096 * 2], overlap=0.5, curve=curve(low=256, high=1024)
    )
    compute, reduce = 2 * 1.024, all_reduce_seconds(1e6, 4, SLOW, "best")
    wait = compute * expected_maximum(4)
    step = compute + reduce / 2 + wait * sum(JITTER) / 2
    soonest, latest = (compute + reduce / 2 + wait * jitter for jitter in JITTER)
    assert (option.accum_steps, option.micro_batch) == (2, 1024)
    assert option.steps == pytest.approx(1000 * (1 + 512 / 8192))
    assert option.compute_seconds == pytest.approx(compute)
    assert option.all_reduce_seconds == pytest.approx(reduce)
    assert option.step_seconds == pytest.approx(step)
    assert option.efficiency == pytest.approx(compute / step)
    assert option.efficiency_interval == pytest.approx((compute / latest, compute / soonest))
    assert option.hours == pytest.approx(option.steps * step / 3600)
    assert option.hours_low == pytest.approx(1000 * (1 + 256 / 8192) * soonest / 3600)
    assert option.hours_high == pytest.approx(1000 * (1 + 1024 / 8192) * latest / 3600)
    assert option.device_hours == pytest.approx(4 * option.hours)
    for end in ("", "_low", "_high"):
        hours, cost = getattr(option, f"hours{end}"), getattr(option, f"cost{end}")
        assert cost == pytest.approx(hours * 4 * 2.0)
    assert json.loads(json.dumps(dataclasses.asdict(option)))["global_batch"] == 8192


def test_only_the_last_microbatch_hides_the_all_reduce():
    # Two microbatches of 0.1 s: no more than 2/3 of one hides an all-reduce of 10 s and more.
    option = one(
        network=Link(1.0, 1e5),
        throughput=Throughput((10,), (0.1,)),
        counts=[2],
        batches=[40],
        overlap=1.0,
        jitter=(0, 0),
    )
    hidden = option.compute_seconds + option.all_reduce_seconds - option.step_seconds
    assert hidden == pytest.approx(0.1 * 2 / 3)


def test_a_wild_fit_leaves_hours_unbounded():
    wild = Curve.of_fit(fit_steps([8, 16, 32], [1e200, 1, 1e200]))
    option = one(curve=wild, batches=[16])
    assert option.hours_high is None and option.cost_high is None
    json.dumps(dataclasses.asdict(option), allow_nan=False)


def test_only_whole_batches_per_device():
    pairs = [(o.devices, o.global_batch) for o in options(counts=[4, 1, 3], batches=[12, 8, 8, 2])]
    assert pairs == [(1, 2), (1, 8), (1, 12), (3, 12), (4, 8), (4, 12)]


def test_what_is_extrapolated_says_so():
    throughput = Throughput((8, 1024), (0.008, 1.024))
    found = options(throughput=throughput, counts=[1, 4], batches=[4, 32, 4096, 16384])
    reasons = {(o.devices, o.global_batch): o.extrapolated for o in found}
    batch = "batch outside the 8 to 8,192 of the fit"
    # 1 / (1 + cv 1.05), with the expected maximum of four normal variables by Blom's formula.
    devices = "4 devices where 1 was measured: efficiency 91% to 97%, for a jitter of 3% to 10%"
    small = "per-device batch below the smallest measured"
    assert reasons == {
        (1, 4): (batch, small),
        (1, 32): (),
        (1, 4096): (),  # accumulated, which is exact
        (1, 16384): (batch,),
        (4, 4): (batch, small, devices),
        (4, 32): (devices,),
        (4, 4096): (devices,),
        (4, 16384): (batch, devices),
    }
    by_noise = Curve(critical(source="noise scale", range=(128, 128)))
    (reason,) = one(batches=[64], curve=by_noise).extrapolated
    assert reason == "batch outside the 128 of the noise scale"


def test_the_interval_of_an_option_grows_with_its_devices():
    found = options(counts=[1, 256, 4096, 32768], batches=[32768])
    widths = [high - low for low, high in (option.efficiency_interval for option in found)]
    assert widths[0] == 0 and widths == sorted(widths)
    (reason,) = [r for r in found[-1].extrapolated if "32,768 devices" in r]
    assert "efficiency 71% to 89%" in reason  # as of the 27,360 GPUs of Kurth 2018


# --- the two ends and the knee, in closed form ---


def proportional(**more):
    """Perfect scaling: the devices grow with the batch, 8 examples on each."""
    return [
        o
        for o in options(counts=[b // 8 for b in BATCHES], jitter=(0, 0), **more)
        if o.global_batch == 8 * o.devices
    ]


def test_at_perfect_scaling_the_knee_is_the_critical_batch():
    found = proportional()
    assert len(front(found)) == len(BATCHES)
    best = recommend(found)
    assert best["least_time"].global_batch == max(BATCHES)
    assert best["least_cost"].global_batch == min(BATCHES)
    assert best["knee"].global_batch == B_CRIT
    # Hours tend to those of S_min steps, cost to that of E_min = S_min B_crit examples.
    assert best["knee"].hours == pytest.approx(2 * S_MIN * 8e-3 / 3600)
    assert best["knee"].cost == pytest.approx(2 * S_MIN * B_CRIT * 1e-3 / 3600 * 2.0)


def test_doubling_the_critical_batch():
    before, after = one(batches=[512]), one(batches=[512], curve=curve(value=2 * B_CRIT))
    assert after.cost / before.cost == pytest.approx(3 / 2)  # (1 + 2) / (1 + 1)
    tiny, twice = (one(batches=[8], curve=curve(value=value)) for value in (1e6, 2e6))
    assert twice.cost / tiny.cost == pytest.approx(2, rel=1e-4)


def test_on_one_device_of_linear_compute_small_batches_win_everything():
    best = recommend(options())
    assert best["least_time"] == best["least_cost"] == best["knee"]
    assert best["knee"].global_batch == min(BATCHES)


def test_on_one_device_of_constant_compute_large_batches_do():
    best = recommend(options(throughput=Throughput((1, 8192), (1.0, 1.0))))
    assert best["least_time"] == best["least_cost"] == best["knee"]
    assert best["knee"].global_batch == max(BATCHES)


def test_ties_go_to_fewer_devices():
    option = one(batches=[64])
    # Equal in hours and device-hours, apart from a rounding: the smaller batch.
    same = dataclasses.replace(option, global_batch=128, hours=option.hours * (1 - 1e-13))
    assert front([same, option]) == front([option, same]) == [option]
    # More devices that make nothing faster.
    wasted = dataclasses.replace(option, devices=8, hours=option.hours * (1 - 1e-13))
    assert front([wasted, option]) == front([option, wasted]) == [option]
    # Half the hours for twice the cost: both are on the front, and their products are equal.
    traded = dataclasses.replace(option, devices=4, hours=option.hours / 2 * (1 - 1e-13))
    assert front([option, traded]) == [traded, option]
    assert recommend([option, traded])["knee"] == recommend([traded, option])["knee"] == option


def test_the_front_is_what_nothing_beats():
    rng = np.random.default_rng(0)
    base = one(batches=[64])
    for _ in range(20):
        found = [
            dataclasses.replace(base, hours=float(h), devices=int(n), global_batch=int(b))
            for h, n, b in zip(
                rng.uniform(1, 10, 30), rng.integers(1, 9, 30), range(30), strict=True
            )
        ]
        beaten = lambda o, others: any(
            p.hours < o.hours and p.device_hours < o.device_hours for p in others
        )
        expected = {o.global_batch for o in found if not beaten(o, found)}
        assert {o.global_batch for o in front(found)} == expected
        knee = min(found, key=lambda o: o.hours * o.device_hours)
        assert recommend(found)["knee"] == knee


@pytest.mark.parametrize("seed", range(5))
def test_more_of_everything_bad_is_never_better(seed):
    rng = np.random.default_rng(seed)
    sizes = (8, 64, 512)
    seconds = tuple(np.cumsum(rng.uniform(0.01, 1, 3)))
    link = Link(rng.uniform(0, 1e-3), rng.uniform(1e7, 1e9))
    base = {
        "throughput": Throughput(sizes, seconds),
        "network": link,
        "counts": [1, 2, 6],
        "batches": [48, 480, 4800],
        "overlap": rng.uniform(0, 0.5),
    }
    worse = {
        "throughput": Throughput(sizes, tuple(1.1 * s for s in seconds)),
        "network": Link(link.latency, link.bandwidth / 2),
        "gradient_bytes": 2e6,
        "overlap": 0.0,
        "curve": curve(value=1.1 * B_CRIT),
        "price_per_device_hour": 3.0,
    }
    for name, value in worse.items():
        for before, after in zip(options(**base), options(**base | {name: value}), strict=True):
            assert after.hours >= before.hours and after.cost >= before.cost
        assert any(
            after.cost > before.cost
            for before, after in zip(options(**base), options(**base | {name: value}), strict=True)
        )


def test_free_devices_cost_nothing_and_the_front_stays():
    paid, free = proportional(), proportional(price_per_device_hour=0.0)
    assert all(o.cost == o.cost_low == o.cost_high == 0 for o in free if o.cost_high is not None)
    assert [o.global_batch for o in front(free)] == [o.global_batch for o in front(paid)]
    assert recommend(free)["knee"].global_batch == B_CRIT


def test_limits():
    found = proportional()
    best = recommend(found)
    slower = recommend(found, max_cost=best["knee"].cost)
    assert slower["least_time"].global_batch == B_CRIT
    assert slower["least_cost"] == best["least_cost"]
    faster = recommend(found, max_hours=best["knee"].hours)
    assert faster["least_cost"].global_batch == B_CRIT
    assert faster["least_time"] == best["least_time"]
    assert recommend(found, max_hours=best["least_time"].hours / 2) == {}


def test_an_unknown_s_min_changes_no_recommendation():
    relative = proportional(curve=Curve(critical()))
    best = recommend(relative)
    assert best["knee"].global_batch == B_CRIT and best["knee"].steps == 2
    for a, b in zip(relative, proportional(), strict=True):
        assert S_MIN * a.hours == pytest.approx(b.hours)


# --- critical batches as text ---


@pytest.mark.parametrize(
    "found, text",
    [
        (critical(812.4, 450, 1600), "812 (450 to 1,600)"),
        (critical(812.4, 450), "812 (above 450)"),
        (critical(812.4, 0, 1600), "812 (below 1,600)"),
        (critical(812.4), "812"),
        (critical(None, 700), "not resolved yet (above 700)"),
        (critical(None), "not resolved yet"),
    ],
)
def test_a_critical_batch_in_words(found, text):
    assert str(found) == text


# --- errors ---


def test_batches_that_divide_over_no_device_count_are_an_error():
    with pytest.raises(UserError, match=r"\[8, 16\] divides over any of \[3\] .* multiples"):
        options(counts=[3], batches=[8, 16])
    with pytest.raises(UserError, match="batch is 0; it must be at least 1"):
        LINEAR.compute(0)


def test_without_accumulation_no_device_takes_more_than_was_measured():
    """Statistics over the batch need it in one piece."""
    found = options(counts=[1, 2], batches=[512, 1024, 2048, 4096], accumulate=False)
    assert [(o.devices, o.global_batch) for o in found] == [
        *[(1, 512), (1, 1024)],
        *[(2, 512), (2, 1024), (2, 2048)],
    ]


def test_the_knee_is_a_share_of_the_best_rate_wherever_that_is():
    assert Throughput([1, 2, 4, 8], [1.0, 1.0, 1.0, 4.0]).knee(0.9) == 4  # rates 1, 2, 4, 2
