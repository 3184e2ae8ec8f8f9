"""What tracking the gradient noise scale costs: the same run with and without it.

    python benchmarks/noise_overhead.py

Examples per second of whole runs (tracking, recording and the live value included; compilation and
evaluation left out), alternating; the overhead is 1 - median of the ratios of neighbours. A batch
in one piece is measured in halves at every 64th update, one in microbatches at every update.
"""

import statistics

from common import machine, write
from loop_overhead import config_of, run_rate

MLP = {"name": "mlp", "widths": (64, 64, 64)}
RESNET = {"name": "resnet", "depth": 8, "norm": "ghost", "ghost_batch": 32}
CASES = {
    "mlp 784-64-64-64-10, batch 8, in halves": (8, "100000 steps", MLP, None),
    "mlp 784-64-64-64-10, batch 512, in halves": (512, "8000 steps", MLP, None),
    "mlp 784-512x5-10, batch 512, 4 microbatches": (
        512,
        "150 steps",
        {"name": "mlp", "widths": (512,) * 5},
        128,
    ),
    "ResNet-8 with ghost batch norm, 28x28, batch 128, 4 microbatches": (
        128,
        "60 steps",
        RESNET,
        32,
    ),
}
REPEATS = 7


def main():
    result = {"machine": machine(), "cases": {}}
    for case, (batch, duration, model, micro_batch) in CASES.items():
        rates = {False: [], True: []}
        for _ in range(REPEATS):
            for tracked in rates:
                config = config_of(batch, duration, model)
                config.micro_batch, config.noise_scale = micro_batch, tracked
                rates[tracked].append(run_rate(config))
        ratios = [b / a for a, b in zip(rates[False], rates[True], strict=True)]
        overhead = round(1 - statistics.median(ratios), 4)
        result["cases"][case] = {
            "without": [round(r) for r in rates[False]],
            "with": [round(r) for r in rates[True]],
            "overhead": overhead,
        }
        print(case, overhead, flush=True)
    write("noise_overhead", result)


if __name__ == "__main__":
    main()
