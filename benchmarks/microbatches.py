"""The microbatch of nets with convolutions on CPU.

    python benchmarks/microbatches.py [--name=RESULT]

Examples per second of a run's compiled program at one global batch, for every microbatch, with
every core a device as launch.py makes them. With each net how many times its weights outnumber the
activations of an example, by which `planning.for_the_cache` chooses. Medians of alternating
repeats.
"""

import argparse
import os

from common import machine, side_by_side, synthetic_config, write
from vs_torch import ours

MICRO_BATCHES = (16, 32, 64, 128, 256)
SMALL, LARGE = (28, 28, 1), (32, 32, 3)
NETS = {
    "resnet-8": (LARGE, 512, {"name": "resnet", "depth": 8, "norm": "group"}),
    "resnet-20": (LARGE, 512, {"name": "resnet", "depth": 20, "norm": "group"}),
    "vgg-9": (LARGE, 256, {"name": "vgg", "depth": 9, "norm": "none"}),
    "shallow_cnn": (LARGE, 512, {"name": "shallow_cnn", "norm": "none"}),
    "simple_cnn narrow": (SMALL, 512, {"name": "simple_cnn", "size": "narrow"}),
    "simple_cnn base": (SMALL, 512, {"name": "simple_cnn"}),
    "simple_cnn wide": (SMALL, 512, {"name": "simple_cnn", "size": "wide"}),
}


def measure(shape, batch, model, repeats, cores):
    """Rates of one net by microbatch, and what decides."""
    from scaling.train.point import activations_of, resolve

    config = synthetic_config(model, shape, batch, size=2048)
    config.optim.base_lr, config.devices = 1e-3, cores
    point, contestants = resolve(config), {}
    for micro in MICRO_BATCHES:
        if micro * cores <= batch:
            config.micro_batch = micro
            contestants[str(micro)] = ours(config, examples=batch)[0]
    rates = side_by_side(contestants, repeats)
    return {
        "weights per activation": round(point.parameter_count / activations_of(point.task), 1),
        "rates": {name: round(rate["median"], 1) for name, rate in rates.items()},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="microbatches")
    parser.add_argument("--repeats", type=int, default=3)
    args, cores = parser.parse_args(), os.cpu_count()
    devices = f"--xla_force_host_platform_device_count={cores}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {devices}"  # before JAX starts
    from scaling.train.threads import use_onednn

    result = {"machine": machine(), "unit": "examples per second", "nets": {}}
    for name, (shape, batch, model) in NETS.items():
        use_onednn(synthetic_config(model, shape, batch))
        result["nets"][name] = measure(shape, batch, model, args.repeats, cores)
        print(name, result["nets"][name], flush=True)
    write(args.name, result)


if __name__ == "__main__":
    main()
