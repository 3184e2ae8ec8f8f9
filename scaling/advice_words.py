"""The advice of `scaling.advice` as text and as a table."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from scaling.advice import CriticalBatch, Option, Recommendation, Throughput, throughput_knee
from scaling.fits import rounded

# B_simple over B_crit on image classification, from Table 1 of McCandlish et al. 2018.
USUAL_RATIO = (2.0, 8.0)
UNITS = (("day", 24.0), ("hour", 1.0), ("minute", 1 / 60), ("second", 1 / 3600))  # in hours


@dataclasses.dataclass(frozen=True)
class Disagreement:
    """The critical batch from the noise scale compared with that from the fit."""

    ratio: float | None  # noise scale over fit; None where either is not resolved
    overlap: bool  # of the two intervals
    sentence: str


def disagreement(noise: CriticalBatch, fit: CriticalBatch) -> Disagreement:
    """Whether the noise scale and the fit contradict each other, and possible reasons.

    Unbounded intervals extend to 0 or infinity.
    """
    overlap = not (_above(noise.low, fit.high) or _above(fit.low, noise.high))
    if noise.value is None or fit.value is None:
        ratio, first = None, "Their ratio is not resolved yet, and their intervals"
    else:
        ratio = noise.value / fit.value
        first = f"The noise scale is {rounded(ratio)} times that of the fit, and their intervals"
    if overlap:
        return Disagreement(ratio, overlap, f"{first} overlap.")
    larger = _above(noise.low, fit.high)
    return Disagreement(ratio, overlap, f"{first} do not overlap. {_why(ratio, larger)}")


@dataclasses.dataclass(frozen=True)
class Findings:
    """The measurements behind the advice."""

    throughput: Throughput
    too_large: int | None  # smallest per-device batch that did not fit; None: none
    noise: CriticalBatch | None  # None: not measured, here and in `fit`
    fit: CriticalBatch | None


def paragraph(
    findings: Findings,
    recommendation: Recommendation | None,
    learning_rate: Callable[[int], float],
    scaling_rule: str,
    currency: str = "USD",
    share: float = 0.9,
) -> str:
    """The advice as text.

    Args:
      findings: the measurements.
      recommendation: from `recommend`; None without a critical batch.
      learning_rate: of a global batch, under the scaling rule.
      scaling_rule: its name; "none" keeps the learning rate.
      currency: of the cost.
      share: of the best throughput, for the knee.

    Raises:
      UserError: as `throughput_knee`.
    """
    sentences = [*_throughput_words(findings, share), *_critical_words(findings)]
    if recommendation is None:
        unknown = "Without a critical batch there is no recommendation: train longer or with a "
        return " ".join([*sentences, unknown + "larger batch to resolve the noise scale."])
    sentences += _recommended_words(recommendation, learning_rate, currency)
    options = list(_named(recommendation))
    if options:
        rule = f"Learning rates follow the {scaling_rule} rule"
        if scaling_rule == "none":
            rule = "Learning rates are not scaled with the batch"
        sentences.append(f"{rule}; they are starting points for tuning.")
        reasons = list(dict.fromkeys(reason for o in options for reason in o.extrapolated))
        sentences.append(
            f"Extrapolated: {'; '.join(reasons)}." if reasons else "Nothing is extrapolated."
        )
    return " ".join(sentences)


def table(options: Sequence[Option], currency: str = "USD") -> list[tuple[str, ...]]:
    """Rows of text, the first with the titles."""
    per = " / S_min" * any(option.relative for option in options)
    head = (
        "devices",
        "batch",
        "microbatches",
        f"steps{per}",
        "s/step",
        "compute s",
        "all-reduce s",
    )
    head += (f"hours{per}", "interval", f"{currency}{per}", "efficiency", "extrapolated")
    return [
        head,
        *(
            (
                f"{o.devices:,}",
                f"{o.global_batch:,}",
                f"{o.accum_steps:,} x {o.micro_batch:,}",
                rounded(o.steps),
                rounded(o.step_seconds),
                rounded(o.compute_seconds),
                rounded(o.all_reduce_seconds),
                rounded(o.hours),
                _span(o.hours_low, o.hours_high),
                rounded(o.cost),
                f"{o.efficiency:.0%}",
                "; ".join(o.extrapolated) or "-",
            )
            for o in options
        ),
    ]


def _above(low: float | None, high: float | None) -> bool:
    """Whether one interval, from `low`, lies wholly above another, up to `high`."""
    return low is not None and high is not None and low > high


def _why(ratio: float | None, larger: bool) -> str:
    """Why the noise scale may lie above (`larger`) or below the fit."""
    usual = f"{USUAL_RATIO[0]:g} to {USUAL_RATIO[1]:g}"
    if not larger:
        return (
            "The noise scale is low early in training or at a high learning rate; the fit is high "
            "if small batches were tuned less well than large ones."
        )
    reason = (
        "B_simple leaves out the Hessian and grows while the loss falls, and the fit depends on "
        "how well each batch was tuned"
    )
    if ratio is not None and USUAL_RATIO[0] <= ratio <= USUAL_RATIO[1]:
        return f"A ratio of {usual} is usual for image classification: {reason}."
    return f"{reason}; {usual} times is usual for image classification."


def _throughput_words(findings: Findings, share: float) -> Iterable[str]:
    throughput = findings.throughput
    largest = throughput.per_device_batches[-1]
    if findings.too_large is None:
        yield f"A device fits {_count(largest, 'example')}, the largest batch tried."
    else:
        yield f"A device fits {_count(largest, 'example')} but not {findings.too_large:,}."
    rate = max(np.divide(throughput.per_device_batches, throughput.seconds))
    knee = throughput_knee(throughput.per_device_batches, throughput.seconds, share)
    yield (
        f"Its best throughput is {rounded(rate)} examples per second; "
        f"{share:.0%} of that needs a per-device batch of {knee:,}."
    )


def _critical_words(findings: Findings) -> Iterable[str]:
    estimates = [(findings.noise, "the noise scale"), (findings.fit, "the fit")]
    texts = [f"{value} by {source}" for value, source in estimates if value]
    yield f"The critical batch is {' and '.join(texts) or 'not measured'}."
    if findings.noise and findings.fit:
        yield disagreement(findings.noise, findings.fit).sentence


def _named(recommendation: Recommendation) -> dict[Option, list[str]]:
    """The recommended options, each with the criteria that it minimises."""
    names: dict[Option, list[str]] = {}
    for option, name in (
        (recommendation.least_time, "the least time"),
        (recommendation.least_cost, "the least cost"),
        (recommendation.knee, "the least time x cost"),
    ):
        if option is not None:
            names.setdefault(option, []).append(name)
    return names


def _recommended_words(recommendation, learning_rate, currency) -> Iterable[str]:
    named = _named(recommendation)
    if not named:
        yield "No option is within the limits."
    for option, names in named.items():
        listed = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
        layout = f"batch {option.global_batch:,} on {_count(option.devices, 'device')}"
        if option.accum_steps > 1:
            layout += f" in {option.accum_steps:,} microbatches of {option.micro_batch:,}"
        yield (
            f"For {listed}: {layout}, {_expense(option, currency)}, "
            f"starting from a learning rate of {rounded(learning_rate(option.global_batch))}."
        )
    if len(named) > 1:
        fast, cheap = recommendation.least_time, recommendation.least_cost
        yield (
            f"The fastest takes {rounded(fast.hours / cheap.hours)} times as long as the cheapest "
            f"and {rounded(fast.device_hours / cheap.device_hours)} times its device-hours."
        )
    if any(option.relative for option in named):
        yield "S_min has not been measured, so hours and cost are unknown."


def _expense(option: Option, currency: str) -> str:
    """Such as "1,240 steps, 32 minutes (25 to 46), 4.2 USD (3.3 to 6)"."""
    if option.relative:
        seconds = rounded(option.step_seconds)
        return f"{rounded(option.steps)} times S_min steps of {seconds} seconds"
    unit, size = next((u for u in UNITS if option.hours >= u[1]), UNITS[-1])
    time = _count(option.hours / size, unit)
    words = f"{_count(option.steps, 'step')}, {time}"
    words += f" ({_span(option.hours_low, option.hours_high, size)})"
    if option.cost:
        words += f", {rounded(option.cost)} {currency}"
        words += f" ({_span(option.cost_low, option.cost_high)})"
    return words


def _span(low: float, high: float | None, unit: float = 1.0) -> str:
    """Such as "3.3 to 6", in a unit; "3.3 or more" where unbounded."""
    return f"{rounded(low / unit)} " + (f"to {rounded(high / unit)}" if high else "or more")


def _count(value: float, noun: str) -> str:
    """Such as "1 step" or "1,240 steps"; whole numbers are exact."""
    text = f"{value:,}" if isinstance(value, int) else rounded(value)
    return f"{text} {noun}{'s' * (text != '1')}"
