"""docs/speed.md, what the study of throughput measured and what its model says of Kurth 2018."""

import statistics

from quoted.quotes import Section, Table, say
from quoted.records import number, result, study
from scaling.comms import JITTER
from scaling.paired import median_ratio
from scaling.published import EFFICIENCIES

ONE_THREAD = "fashion_mlp_one_thread"
STUDIES = {
    "digits, MLP 64-64-10": "throughput_digits",
    "28x28 images, MLP 784-64-64-64-10": "throughput_fashion_mlp",
    "the same, one thread": f"throughput_{ONE_THREAD}",
    "32x32 images, ResNet-8": "throughput_resnet8",
    "96x144 maps, Tiramisu of 47,635 parameters": "throughput_tiramisu_small",
    "96x144 maps, DeepLabv3+ of 691,155 parameters": "throughput_deeplab_small",
}


def measured():
    """The lines of T(b), and the intervals beside the paper's."""
    head = ["net", "batches", "t0, ms", "1 / r, us", "half the peak rate at batch", "farthest off"]
    rows = [[*head, "with its input, of alone"]]
    for net, name in STUDIES.items():
        (point,) = study(name).points
        fit, sizes = point.fit, [row.per_device_batch for row in point.alone]
        ends = fit.half_rate_batch
        largest = point.alone[-1]
        both, low, high = median_ratio(largest.device, largest.both)
        rows.append(
            [
                net,
                f"{sizes[0]:,} to {sizes[-1]:,}",
                number(1e3 * fit.device.fixed_seconds),
                number(1e6 * fit.device.seconds_per_example),
                f"{number(fit.device.half_rate_batch)} ({number(ends[0])} to {number(ends[1])})",
                f"{fit.deviation:.0%}",
                f"{both:.2f} ({low:.2f} to {high:.2f})",
            ]
        )
    yield Table("throughput", rows)
    loads = [study(name).points[0].load_average for name in STUDIES.values()]
    yield say("load average was {} to {} before", number(min(loads)), number(max(loads)))
    on_lines = [study(f"throughput_{net}").points[0].fit for net in ("resnet8", ONE_THREAD)]
    worst = max(fit.deviation for fit in on_lines)
    yield say("the larger MLP with one thread, are on a line to within {}", f"{worst:.1%}")
    variants = study("throughput_digits").points[0].variants
    one, *more = (statistics.median(variant.seconds) for variant in variants)
    yield say(
        "batch of the digits MLP in {} and {} microbatches takes {} and {} times as long",
        *(f"{variant.accum_steps}" for variant in variants[1:]),
        *(number(each / one) for each in more),
    )
    ratios = result("benchmarks/results/input_rate.json")["per_cpu_second_ratio"]
    yield say(
        "per second of CPU time is {} (95%: {} to {}) times that of Grain's threads, which were "
        "there before, and {} (95%: {} to {}) times that of tf.data",
        *(f"{end:.2f}" for other in ("before", "tf.data") for end in ratios[f"ours over {other}"]),
    )
    _, tiramisu, deeplab, *_ = EFFICIENCIES
    ends = [f"{jitter:.0%}" for jitter in JITTER]
    yield say("a jitter of {} to {} gives", ends[0][:-1], ends[1])
    for run in (tiramisu, deeplab):
        low, high = (f"{100 * end:.0f}" for end in run.interval)
        yield say(
            "{} to {}% at {} GPUs, where {}% were measured",
            low,
            high,
            f"{run.devices:,}",
            f"{100 * run.measured:.1f}",
        )


SECTIONS = [
    Section(
        "docs/speed.md",
        "Throughput",
        measured,
        said=(
            "Python 3.13 and jax 0.12; little else ran",
            "images of 500x375",
            "0.093 that fits all of them best, 12 of 15 entries of MLPerf lie within 5.3 points",
            "the others within 16.1; without a jitter 11 do",
            "by up to 22.6 points and more",
        ),
    )
]
