"""Throughput of the convolution methods inside a training loop on CPU.

    python benchmarks/conv_methods.py [--name=RESULT]

Examples per second of an update (gradients and Nesterov) at one global batch, for every
`conv_method` and microbatch. "one piece" is the whole batch as one microbatch. Medians of
alternating repeats.
"""

import argparse

from common import machine, side_by_side, synthetic_config, write
from vs_torch import CASES, SIZE, ours

from scaling.models import MODELS

METHODS = ("xla", "patches", "forward_only")
MICRO_BATCHES = (8, 16, 32, 64, None)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="conv_methods")
    name = parser.parse_args().name
    result = {"machine": machine(), "unit": "examples per second", "cases": {}}
    for case, (batch, shape, model) in CASES.items():
        if not hasattr(MODELS[model["name"]], "conv_method"):
            continue
        contestants = {}
        for method in METHODS:
            for micro in MICRO_BATCHES:
                if method == "xla" and micro not in (32, None):
                    continue  # tens of times slower: two sizes suffice
                config = synthetic_config(model | {"conv_method": method}, shape, batch, size=SIZE)
                config.optim.base_lr, config.micro_batch = 1e-3, micro or batch
                rate, _ = ours(config, examples=256)
                contestants[f"{method}, {f'microbatch {micro}' if micro else 'one piece'}"] = rate
        rates = side_by_side(contestants, repeats=3)
        result["cases"][case] = {name: round(rate["median"]) for name, rate in rates.items()}
        print(case, result["cases"][case], flush=True)
    write(name, result)


if __name__ == "__main__":
    main()
