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
import math
from collections.abc import Iterable, Sequence

import numpy as np

from scaling.batch import plans
from scaling.comms import Network, all_reduce_seconds, nearest_published, step_seconds
from scaling.errors import UserError
from scaling.fits import StepsFit, rounded

Interval = tuple[float, float | None]  # None: unbounded

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
class Compute:
    """Work of one device in one update, without the all-reduce."""

    seconds: float
    accum_steps: int
    micro_batch: int
    extrapolated: bool  # the microbatch is smaller than any measured


@dataclasses.dataclass(frozen=True)
class Throughput:
    """Measured seconds of one update on one device, for batches that fit its memory.

    Raises:
      UserError: no measurement, unequal lengths, sizes not increasing, or a time not positive.
    """

    per_device_batches: tuple[int, ...]  # increasing
    seconds: tuple[float, ...]

    def __post_init__(self):
        sizes, times = list(self.per_device_batches), list(self.seconds)
        if not sizes or len(sizes) != len(times):
            raise UserError(
                f"There are {len(sizes)} per-device batches and {len(times)} times; pass at least "
                "one batch, with one time each."
            )
        if sizes[0] < 1 or sizes != sorted(set(sizes)):
            raise UserError(
                f"The per-device batches are {sizes}; they must be at least 1 and increase."
            )
        wrong = [t for t in times if not 0 < t < math.inf]
        if wrong:
            raise UserError(f"One of the times is {wrong[0]} seconds; they must be positive.")

    def compute(self, per_device_batch: int) -> Compute:
        """The work of one update, measured or estimated from measurements.

        Linear between measured batches. Below the smallest, its time, since an underutilised device
        is hardly faster. Above the largest, gradient accumulation with the fastest of the equal
        microbatches, within the measured range if the batch divides that way. Each is counted with
        an optimizer update, so the true time is slightly shorter.

        Raises:
          UserError: a batch below 1.
        """
        smallest, largest = self.per_device_batches[0], self.per_device_batches[-1]
        layouts = [p for p in plans(per_device_batch, 1) if p.micro_batch <= largest]
        if per_device_batch <= largest:
            layouts = layouts[:1]
        measured = [p for p in layouts if p.micro_batch >= smallest] or layouts
        best = min(measured, key=lambda p: p.accum_steps * self._seconds(p.micro_batch))
        return Compute(
            seconds=best.accum_steps * self._seconds(best.micro_batch),
            accum_steps=best.accum_steps,
            micro_batch=best.micro_batch,
            extrapolated=best.micro_batch < smallest,
        )

    def compute_seconds(self, per_device_batch: int) -> float:
        """Seconds of `compute`."""
        return self.compute(per_device_batch).seconds

    def _seconds(self, batch: int) -> float:
        return float(np.interp(batch, self.per_device_batches, self.seconds))


def throughput_knee(batches: Sequence[int], seconds: Sequence[float], share: float = 0.9) -> int:
    """The smallest per-device batch that reaches `share` of the best throughput.

    Args:
      batches: [k] measured per-device batches, increasing.
      seconds: [k] of one update.
      share: above 0 and at most 1.

    Raises:
      UserError: as `Throughput`, or a share out of range.
    """
    if not 0 < share <= 1:
        raise UserError(f"The share of the best throughput is {share}; it must be in (0, 1].")
    measured = Throughput(tuple(batches), tuple(seconds))
    rates = np.divide(measured.per_device_batches, measured.seconds)
    return int(measured.per_device_batches[np.argmax(rates >= share * rates.max())])


@dataclasses.dataclass(frozen=True)
class CriticalBatch:
    """An estimate of the critical batch size, in examples.

    Raises:
      UserError: a value that is not positive or outside its bounds, or a negative bound.
    """

    value: float | None  # None: not resolved yet
    low: float | None  # None: unbounded, here and in `high`
    high: float | None
    range: tuple[float, float]  # smallest and largest global batch that it rests on
    source: str = ""  # "fit" or "noise scale"

    def __post_init__(self):
        numbers = [bound for bound in (self.low, self.value, self.high) if bound is not None]
        if numbers != sorted(numbers) or min(numbers, default=0) < 0 or self.value == 0:
            raise UserError(
                f"The critical batch of the {self.source} is {self.value}, between {self.low} and "
                f"{self.high}; pass positive numbers in ascending order."
            )

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


def overlap(one: CriticalBatch, other: CriticalBatch) -> bool:
    """Whether two intervals do; an open end overlaps whatever could lie beyond it."""
    above = lambda low, high: low is not None and high is not None and low > high
    return not (above(one.low, other.high) or above(other.low, one.high))


@dataclasses.dataclass(frozen=True)
class Curve:
    """Steps to the goal, S(B) = S_min (1 + B_crit / B): McCandlish et al. 2018, eq. 2.11.

    Without S_min, which a noise scale does not determine, steps are in units of S_min. With `fit`,
    steps and intervals are those of the fit, which include the negative correlation of S_min and
    B_crit; otherwise the interval combines the ends of both and is conservative.

    Raises:
      UserError: neither a value of the critical batch nor a fit, or an S_min that is not positive.
    """

    critical: CriticalBatch
    s_min: float | None = None
    s_min_low: float | None = None  # None: unbounded, here and in `s_min_high`
    s_min_high: float | None = None
    fit: StepsFit | None = None
    anchor: tuple[float, float] | None = None  # (batch, steps) of a run on the curve

    def __post_init__(self):
        if self.fit is None and self.critical.value is None:
            raise UserError(
                f"The critical batch of the {self.critical.source} is not resolved, so steps are "
                "unknown; measure longer, or pass a fit."
            )
        if self.fit is None and self.s_min is not None and not self.s_min > 0:
            raise UserError(f"S_min is {self.s_min} steps; it must be positive.")

    @classmethod
    def of_fit(cls, fit: StepsFit) -> "Curve":
        """The curve of a fit with its intervals."""
        low, high = fit.s_min_interval
        high = high if high < math.inf else None
        return cls(CriticalBatch.of_fit(fit), fit.s_min, low, high, fit)

    @classmethod
    def through(cls, critical: CriticalBatch, batch: float, steps: float) -> "Curve":
        """The curve of a critical batch through a run that took `steps` at `batch`.

        Its interval is that of the critical batch alone, without the variance of the run.
        """
        at = lambda b_crit: _through(math.inf, b_crit, (batch, steps))
        low, high = (None if end is None else at(end) for end in (critical.high, critical.low))
        return cls(critical, at(critical.value), low, high, anchor=(batch, steps))

    @property
    def relative(self) -> bool:
        """Whether steps are in units of an unknown S_min."""
        return self.s_min is None

    def steps(self, batch: float) -> float:
        """Steps to the goal at a global batch."""
        if self.fit is not None:
            return float(self.fit.steps(batch))
        return (1.0 if self.s_min is None else self.s_min) * (1 + self.critical.value / batch)

    def steps_interval(self, batch: float) -> Interval:
        """(fewest, most) steps at a global batch; most is None where unbounded."""
        if self.fit is not None:
            low, high = (float(end) for end in self.fit.band(batch))
            return low, high if high < math.inf else None
        if self.anchor is not None:
            high = self.critical.high
            bounds = self.critical.low or 0.0, math.inf if high is None else high
            low, high = sorted(_through(batch, b_crit, self.anchor) for b_crit in bounds)
            return low, high
        low, high = (1.0, 1.0) if self.relative else (self.s_min_low or 0.0, self.s_min_high)
        fewest = low * (1 + (self.critical.low or 0.0) / batch)
        if high is None or self.critical.high is None:
            return fewest, None
        return fewest, high * (1 + self.critical.high / batch)


def _through(batch: float, b_crit: float, anchor: tuple[float, float]) -> float:
    """S(batch) on the hyperbola of `b_crit`, which may be infinite, through the anchor."""
    at, steps = anchor
    if math.isinf(b_crit):
        return steps * at / batch
    return steps * (1 + b_crit / batch) / (1 + b_crit / at)


@dataclasses.dataclass(frozen=True)
class Option:
    """One way to train: a global batch on a number of devices.

    Where `relative`, steps, examples, hours and cost are in units of S_min.
    """

    devices: int
    global_batch: int
    per_device_batch: int
    accum_steps: int
    micro_batch: int
    steps: float
    examples: float
    step_seconds: float
    compute_seconds: float
    all_reduce_seconds: float  # total, including what is hidden behind the backward pass
    hours: float
    hours_low: float
    hours_high: float | None  # None: unbounded, here and in `cost_high`
    cost: float
    cost_low: float
    cost_high: float | None
    efficiency: float  # weak scaling: time without the all-reduce, over the step time
    relative: bool
    extrapolated: tuple[str, ...]  # reasons, in short phrases

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
    measured_devices: int = 1,
    multiple: int = 1,
    accumulate: bool = True,
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
      measured_devices: the largest device count with measured step times.
      multiple: that per-device batches must be multiples of, such as a ghost batch.
      accumulate: whether per-device batches may exceed the largest one measured.

    Raises:
      UserError: a negative price, a size below 1, no batch divides over any device count, and as
        `scaling.comms.step_seconds`.
    """
    if not 0 <= price_per_device_hour < math.inf:
        raise UserError(f"The price is {price_per_device_hour} per device-hour; pass 0 or more.")
    counts, sizes = sorted(set(device_counts)), sorted(set(batches))
    for name, values in (("device counts", counts), ("batches", sizes)):
        if values and values[0] < 1:
            raise UserError(f"One of the {name} is {values[0]}; they must be at least 1.")
    most = math.inf if accumulate else throughput.per_device_batches[-1]
    pairs = [(n, b) for n in counts for b in sizes if b % (n * multiple) == 0 and b // n <= most]
    if not pairs:
        ghosts = f" into ghost batches of {multiple}" if multiple > 1 else ""
        raise UserError(
            f"None of the batches {sizes} divides over any of {counts} devices{ghosts}; add "
            "batches that are multiples of a device count."
        )
    options = []
    for devices, batch in pairs:
        compute = throughput.compute(batch // devices)
        # Gradients are sent during the backward pass of the last microbatch only.
        last = compute.seconds / compute.accum_steps
        exposed = step_seconds(last, gradient_bytes, devices, network, overlap, "best") - last
        options.append(
            _option(
                curve,
                compute,
                devices=devices,
                batch=batch,
                step=compute.seconds + exposed,
                all_reduce=all_reduce_seconds(gradient_bytes, devices, network, "best"),
                price=price_per_device_hour,
                reasons=_reasons(curve, compute, devices, batch, measured_devices),
            )
        )
    return options


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


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """Three points of the Pareto front; None if no option is within the limits."""

    least_time: Option | None
    least_cost: Option | None
    knee: Option | None  # the least product of time and cost


def recommend(
    options: Sequence[Option], max_hours: float | None = None, max_cost: float | None = None
) -> Recommendation:
    """The fastest option, the cheapest, and the one with the least time x cost, ties to the fewest
    devices.

    Args:
      options: from `plans_table`.
      max_hours, max_cost: limits on the expected values, not on the upper ends of intervals.

    Raises:
      UserError: a limit is given and S_min is unknown, so hours and cost are relative.
    """
    limits = [limit for limit in (max_hours, max_cost) if limit is not None]
    if limits and any(option.relative for option in options):
        raise UserError(
            f"A limit of {limits[0]} cannot be applied: S_min is unknown, so hours and cost are "
            "relative; measure steps to the goal first, or drop the limit."
        )
    within = front(
        option
        for option in options
        if (max_hours is None or option.hours <= max_hours)
        and (max_cost is None or option.cost <= max_cost)
    )
    if not within:
        return Recommendation(None, None, None)
    knee = min(within, key=lambda o: (_round(o.hours * o.device_hours), o.devices))
    return Recommendation(least_time=within[0], least_cost=within[-1], knee=knee)


def _option(curve, compute, *, devices, batch, step, all_reduce, price, reasons) -> Option:
    steps, (fewest, most) = curve.steps(batch), curve.steps_interval(batch)
    hours = step / 3600  # of one step
    cost = hours * devices * price
    return Option(
        devices=devices,
        global_batch=batch,
        per_device_batch=batch // devices,
        accum_steps=compute.accum_steps,
        micro_batch=compute.micro_batch,
        steps=steps,
        examples=steps * batch,
        step_seconds=step,
        compute_seconds=compute.seconds,
        all_reduce_seconds=all_reduce,
        hours=steps * hours,
        hours_low=fewest * hours,
        hours_high=None if most is None else most * hours,
        cost=steps * cost,
        cost_low=fewest * cost,
        cost_high=None if most is None else most * cost,
        efficiency=compute.seconds / step,
        relative=curve.relative,
        extrapolated=tuple(reasons),
    )


def _reasons(curve, compute, devices, batch, measured_devices) -> list[str]:
    """What lies outside the measured range."""
    reasons = []
    low, high = curve.critical.range
    if not low <= batch <= high:
        span = f"{low:,.0f} to {high:,.0f}" if low < high else f"{low:,.0f}"
        reasons.append(f"batch outside the {span} of the {curve.critical.source}")
    if devices > measured_devices:
        reasons.append(
            f"more devices than the {measured_devices:,} measured: modelled without jitter or "
            f"stragglers ({nearest_published(devices)})"
        )
    if compute.extrapolated:
        reasons.append("per-device batch below the smallest measured")
    return reasons


def _order(option: Option) -> tuple[float, float, int]:
    return _round(option.hours), _round(option.device_hours), option.global_batch


def _round(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
