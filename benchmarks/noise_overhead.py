"""Overhead of tracking the gradient noise scale: a training program with and without it.

    python benchmarks/noise_overhead.py

Seconds of compiled updates with tracking over those without, in alternating calls of half a second
or 64 updates; the overhead is the median of the ratios of neighbours, minus 1. A batch in one piece
is measured in halves every 64th update, one in microbatches every 32nd. `live` is the time of the
running average on the host, over that of its updates.
"""

import statistics
import time

from common import Bare, machine, write
from loop_overhead import config_of

MLP = {"name": "mlp", "widths": (64, 64, 64)}
RESNET = {"name": "resnet", "depth": 8, "norm": "ghost", "ghost_batch": 32}
CASES = {
    "mlp 784-64-64-64-10, batch 8, in halves": (8, MLP, None),
    "mlp 784-64-64-64-10, batch 512, in halves": (512, MLP, None),
    "mlp 784-512x5-10, batch 512, 4 microbatches": (
        512,
        {"name": "mlp", "widths": (512,) * 5},
        128,
    ),
    "ResNet-8 with ghost batch norm, 28x28, batch 128, 4 microbatches": (
        128,
        RESNET,
        32,
    ),
}
REPEATS = 9


def seconds_of(case, tracked):
    """(() -> seconds of one update, share of that time for the live value)."""
    import numpy as np

    from scaling.train.tracking import NoiseTracker

    batch, model, micro_batch = case
    config = config_of(batch, "1000000 steps", model)
    config.micro_batch, config.noise_scale = micro_batch, tracked
    bare = Bare(config)
    capacity = bare.program.capacity
    batches = bare.batches(0, capacity)

    def call(count):
        start = time.perf_counter()
        metrics = bare.call(batches, count)
        return time.perf_counter() - start, metrics

    call(1)
    one = call(8)[0] / 8
    # Whole rounds of 64 updates, in which everything is measured as often as it will be.
    count = min(max(64, round(0.5 / one) // 64 * 64), capacity // 64 * 64)
    live = 0.0
    if tracked:
        spent, metrics = call(count)
        metrics = {k: np.asarray(v)[0, 0, 0, :count] for k, v in metrics.items()}
        tracker, start = NoiseTracker(batch), time.perf_counter()
        tracker.updates(1, metrics)
        live = (time.perf_counter() - start) / spent
    return (lambda: call(count)[0] / count), live


def main():
    result = {"machine": machine(), "cases": {}}
    for name, case in CASES.items():
        (plain, _), (tracked, live) = (seconds_of(case, on) for on in (False, True))
        pairs = [(plain(), tracked()) for _ in range(REPEATS)]
        ratios = sorted(b / a for a, b in pairs)
        result["cases"][name] = {
            "overhead": round(statistics.median(ratios) - 1, 4),
            "quartiles": [round(ratios[len(ratios) * q // 4] - 1, 4) for q in (1, 3)],
            "live": round(live, 5),
            "milliseconds_without": [round(1e3 * a, 4) for a, _ in pairs],
            "milliseconds_with": [round(1e3 * b, 4) for _, b in pairs],
        }
        print(name, result["cases"][name]["overhead"], flush=True)
    write("noise_overhead", result)


if __name__ == "__main__":
    main()
