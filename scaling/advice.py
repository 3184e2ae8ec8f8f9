"""From measurements to a recommended batch size and number of devices.

With S(B) steps to the goal (`scaling.fits`) and t(B, n) seconds per step on n devices,

    hours = S(B) t(B, n) / 3600        cost = hours n price

More devices and larger batches trade cost for time. If the devices grow in proportion to the batch
and t is constant, hours go as 1 + B_crit / B and cost as 1 + B / B_crit: both are twice their
minimum at B = B_crit, where their product is least (McCandlish et al. 2018, arXiv:1812.06162, sec.
2.3). The knee of real options minimises the same product.

`Option.extrapolated` lists what lies outside the measured range.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from scaling.batch import BatchPlan, plans
from scaling.comms import (
    BEST,
    JITTER,
    DeviceFit,
    Network,
    all_reduce_seconds,
    expected_maximum,
    fit_device,
    step_seconds,
)
from scaling.errors import UserError
from scaling.fits import StepsFit, rounded

Interval = tuple[float, float | None]  # None: unbounded

RECOMMENDED = ("least_time", "least_cost", "knee")
DIGITS = 9  # to which hours and costs are compared, because of rounding errors


@dataclasses.dataclass(frozen=True)
class Fit:
    """The memory that one update needs on a device at one per-device batch, by the compiler."""

    per_device_batch: int
    bytes: int | None  # None: too large even to be compiled
    fits: bool


@dataclasses.dataclass(frozen=True)
class Speed:
    """One update on one device, no communication, input on the device."""

    per_device_batch: int
    seconds: float  # median
    examples_per_second: float
    spread: float  # (slowest - fastest) / median over the repeats


@dataclasses.dataclass(frozen=True)
class Throughput:
    """Measured seconds of one update on one device, for batches that fit its memory."""

    per_device_batches: Sequence[int]  # increasing
    seconds: Sequence[float]

    @functools.cached_property
    def fit(self) -> DeviceFit:
        """Seconds of an update, t0 + b / r."""
        return fit_device(self.per_device_batches, self.seconds)

    def compute(self, per_device_batch: int, multiple: int = 1) -> tuple[BatchPlan, float]:
        """The layout of one update on one device and its seconds by the fit.

        Above the largest measured batch, gradient accumulation with the fewest equal microbatches.
        Each is counted with an optimizer update, so the true time is slightly shorter.

        Args:
          multiple: that microbatches must be multiples of, such as a ghost batch.

        Raises:
          UserError: a batch below 1, or no multiple.
        """
        layouts = plans(per_device_batch, 1, multiple if multiple > 1 else None)
        plan = next(p for p in layouts if p.micro_batch <= self.per_device_batches[-1])
        return plan, plan.accum_steps * self.fit.device.seconds(plan.micro_batch)

    def knee(self, share: float) -> int:
        """The smallest per-device batch that reaches `share` of the best throughput."""
        rates = np.divide(self.per_device_batches, self.seconds)
        return int(self.per_device_batches[np.argmax(rates >= share * rates.max())])


@dataclasses.dataclass(frozen=True)
class CriticalBatch:
    """An estimate of the critical batch size, in examples."""

    value: float | None  # None: not resolved yet
    low: float | None  # None: unbounded, here and in `high`
    high: float | None
    range: tuple[float, float]  # smallest and largest global batch that it rests on
    source: str = ""  # "fit" or "noise scale"

    @classmethod
    def of_fit(cls, fit: StepsFit) -> "CriticalBatch":
        """That of a fitted S(B); not resolved if it is 0 or infinity."""
        low, high = fit.b_crit_interval
        return cls(
            value=fit.b_crit if 0 < fit.b_crit < math.inf else None,
            low=low or None,
            high=high if high < math.inf else None,
            range=fit.measured,
            source="fit",
        )

    def __str__(self) -> str:
        """Such as "812 (450 to 1,600)" or "not resolved yet (above 700)"."""
        value = "not resolved yet" if self.value is None else rounded(self.value)
        if self.high is not None:
            span = f"{rounded(self.low)} to {rounded(self.high)}" if self.low else ""
            return f"{value} ({span or f'below {rounded(self.high)}'})"
        return f"{value} (above {rounded(self.low)})" if self.low else value


@dataclasses.dataclass(frozen=True)
class Curve:
    """Steps to the goal, S(B) = S_min (1 + B_crit / B): McCandlish et al. 2018, eq. 2.11.

    With `fit`, steps and intervals are those of the fit. With `anchor`, the curve passes through
    that run and its interval is that of the critical batch alone, without the variance of the run.
    With neither, S_min is not known, and steps are in units of it.
    """

    critical: CriticalBatch  # with a value, unless there is a fit
    anchor: tuple[float, float] | None = None  # (batch, steps) of a run on the curve
    fit: StepsFit | None = None

    @classmethod
    def of_fit(cls, fit: StepsFit) -> "Curve":
        """The curve of a fit with its intervals."""
        return cls(CriticalBatch.of_fit(fit), fit=fit)

    @property
    def s_min(self) -> float | None:
        """S_min; None: not known."""
        if self.fit is not None:
            return self.fit.s_min
        return self.anchor and self.steps(math.inf)

    def steps(self, batch: float) -> float:
        """Steps to the goal at a global batch."""
        if self.fit is not None:
            return float(self.fit.steps(batch))
        return self._steps(batch, self.critical.value)

    def steps_interval(self, batch: float) -> Interval:
        """(fewest, most) steps at a global batch; most is None where unbounded."""
        if self.fit is not None:
            low, high = (float(end) for end in self.fit.band(batch))
        else:
            high = self.critical.high
            bounds = self.critical.low or 0.0, math.inf if high is None else high
            low, high = sorted(self._steps(batch, b_crit) for b_crit in bounds)
        return low, high if high < math.inf else None

    def _steps(self, batch: float, b_crit: float) -> float:
        """On the hyperbola of `b_crit`, which may be infinite, through the anchor."""
        at, steps = self.anchor or (math.inf, 1.0)
        if math.isinf(b_crit):
            return steps * at / batch
        return steps * (1 + b_crit / batch) / (1 + b_crit / at)


@dataclasses.dataclass(frozen=True)
class Option:
    """One way to train: a global batch on a number of devices.

    Where S_min is not known, steps, hours and cost are in units of it.
    """

    devices: int
    global_batch: int
    accum_steps: int
    micro_batch: int
    steps: float
    step_seconds: float
    compute_seconds: float
    all_reduce_seconds: float  # total, including what is hidden behind the backward pass
    hours: float
    hours_low: float
    hours_high: float | None  # None: unbounded, here and in `cost_high`
    cost: float
    cost_low: float
    cost_high: float | None
    efficiency: float  # weak scaling: one device's time over the step time
    extrapolated: tuple[str, ...]  # reasons, in short phrases
    learning_rate: float | None = None  # to start from
    # Of the published range of jitter, which is in the intervals of hours and cost too.
    efficiency_interval: tuple[float, float] | None = None

    @property
    def device_hours(self) -> float:
        """The cost in device-hours, also where devices are free."""
        return self.hours * self.devices


def plans_table(
    curve: Curve,
    throughput: Throughput,
    network: Network,
    gradient_bytes: float,
    device_counts: Iterable[int],
    batches: Iterable[int],
    price_per_device_hour: float = 0.0,
    overlap: float = 0.0,
    multiple: int = 1,
    accumulate: bool = True,
    jitter: tuple[float, float] = JITTER,
) -> list[Option]:
    """Every device count with every global batch that it divides, by devices, then by batch.

    Args:
      curve: steps to the goal.
      throughput: of one device.
      network: between the devices; the all-reduce uses the fastest algorithm.
      gradient_bytes: per device.
      device_counts: to consider.
      batches: global batches to consider.
      price_per_device_hour: in any currency; 0 if devices are free.
      overlap: share of the all-reduce hidden behind the backward pass of the last microbatch.
      multiple: that per-device batches must be multiples of, such as a ghost batch.
      accumulate: whether per-device batches may exceed the largest one measured.
      jitter: range of the standard deviation of a device's time, as a share of its mean: all wait
        for the slowest. Its middle gives hours and costs, its ends widen their intervals.

    Raises:
      UserError: no batch divides over any device count, and as `scaling.comms.step_seconds`.
    """
    counts, sizes = sorted(set(device_counts)), sorted(set(batches))
    most = math.inf if accumulate else throughput.per_device_batches[-1]
    pairs = [(n, b) for n in counts for b in sizes if b % (n * multiple) == 0 and b // n <= most]
    if not pairs:
        ghosts = f" into ghost batches of {multiple}" if multiple > 1 else ""
        raise UserError(
            f"None of the batches {sizes} divides over any of {counts} devices{ghosts}; add "
            "batches that are multiples of a device count."
        )
    work = curve, throughput, network, gradient_bytes
    rest = price_per_device_hour, overlap, jitter, multiple
    return [_option(*work, *pair, *rest) for pair in pairs]


def _option(
    curve, throughput, network, gradient_bytes, devices, batch, price, overlap, jitter, multiple
) -> Option:
    plan, compute = throughput.compute(batch // devices, multiple)
    # Gradients are sent during the backward pass of the last microbatch only.
    last = compute / plan.accum_steps
    exposed = step_seconds(last, gradient_bytes, devices, network, overlap) - last
    seconds = lambda cv: compute * (1 + cv * expected_maximum(devices)) + exposed
    step, soonest, latest = map(seconds, (sum(jitter) / 2, *jitter))
    steps, (fewest, most) = curve.steps(batch), curve.steps_interval(batch)
    hours = steps * step / 3600
    hours_low = fewest * soonest / 3600
    hours_high = None if most is None else most * latest / 3600
    rate = devices * price
    efficiencies = compute / latest, compute / soonest
    reasons = list(_reasons(curve.critical, throughput, plan, batch))
    if devices > 1:
        reasons.append(_of_devices(devices, efficiencies, jitter))
    return Option(
        devices=devices,
        global_batch=batch,
        accum_steps=plan.accum_steps,
        micro_batch=plan.micro_batch,
        steps=steps,
        step_seconds=step,
        compute_seconds=compute,
        all_reduce_seconds=all_reduce_seconds(gradient_bytes, devices, network, BEST),
        hours=hours,
        hours_low=hours_low,
        hours_high=hours_high,
        cost=hours * rate,
        cost_low=hours_low * rate,
        cost_high=None if hours_high is None else hours_high * rate,
        efficiency=compute / step,
        efficiency_interval=efficiencies,
        extrapolated=tuple(reasons),
    )


def _reasons(critical, throughput, plan, batch) -> Iterator[str]:
    """What lies outside the range measured on one device."""
    low, high = critical.range
    if not low <= batch <= high:
        span = f"{low:,.0f} to {high:,.0f}" if low < high else f"{low:,.0f}"
        yield f"batch outside the {span} of the {critical.source}"
    if plan.micro_batch < throughput.per_device_batches[0]:
        yield "per-device batch below the smallest measured"


def _of_devices(devices, efficiencies, jitter) -> str:
    """That several are more than were measured, and by how much that may be off."""
    low, high = (f"{efficiency:.0%}" for efficiency in efficiencies)
    cause = " to ".join(f"{share:.0%}" for share in jitter)
    return (
        f"{devices:,} devices where 1 was measured: efficiency {low} to {high}, for a jitter of "
        f"{cause}"
    )


def front(options: Iterable[Option]) -> list[Option]:
    """The Pareto front of time and cost, fastest first; of equal options, the smaller batch.

    Cost is in device-hours, so that the front does not depend on the price, even 0.
    """
    best, cheapest = [], math.inf
    for option in sorted(options, key=_order):
        cost = _round(option.device_hours)
        if cost < cheapest:
            best.append(option)
            cheapest = cost
    return best


def recommend(
    options: Sequence[Option], max_hours: float | None = None, max_cost: float | None = None
) -> dict[str, Option]:
    """By RECOMMENDED, the fastest option, the cheapest, and the one with the least time x cost,
    ties to the fewest devices; empty if none is within the limits.

    Args:
      options: from `plans_table`.
      max_hours, max_cost: limits on the expected values, not on the upper ends of intervals.
    """
    within = front(
        option
        for option in options
        if (max_hours is None or option.hours <= max_hours)
        and (max_cost is None or option.cost <= max_cost)
    )
    if not within:
        return {}
    knee = min(within, key=lambda o: (_round(o.hours * o.device_hours), o.devices))
    return dict(zip(RECOMMENDED, (within[0], within[-1], knee), strict=True))


def _order(option: Option) -> tuple[float, float, int]:
    return _round(option.hours), _round(option.device_hours), option.global_batch


def _round(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
