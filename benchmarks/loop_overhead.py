"""Overhead of a real run over its own compiled program called directly.

    python benchmarks/loop_overhead.py

The run records every step, draws its batches, checks for divergence and checkpoints; evaluation is
timed separately and excluded. Ratio of examples per second, medians of alternating repeats.
"""

import contextlib
import io
import statistics
import tempfile

from common import Bare, machine, write

CASES = {
    "mlp 784-64-64-64-10, batch 8": (8, "40000 steps", {"name": "mlp", "widths": (64, 64, 64)}),
    "mlp 784-64-64-64-10, batch 512": (512, "4000 steps", {"name": "mlp", "widths": (64, 64, 64)}),
    "ResNet-8 with ghost batch norm, 28x28, batch 128": (
        128,
        "60 steps",
        {"name": "resnet", "depth": 8, "norm": "ghost", "ghost_batch": 32},
    ),
}


def config_of(batch, duration, model):
    from ml_collections import ConfigDict

    from scaling.config import default_config

    config = default_config()
    config.global_batch, config.duration = batch, duration
    config.data.name, config.data.image_shape = "synthetic", (28, 28, 1)
    config.data.num_classes, config.data.train_size = 10, 20_000
    config.model, config.optim.base_lr = ConfigDict(model), 1e-3
    config.eval.every = duration
    return config


def run_rate(config):
    """Examples per second of a run."""
    from scaling.record import RunDir
    from scaling.train.single import train_point

    with tempfile.TemporaryDirectory() as folder, RunDir(folder) as run:
        run.begin({})
        with contextlib.redirect_stdout(io.StringIO()):
            result = train_point(config, run, "benchmark")
        assert result["status"] == "complete"
        return result["examples_per_second"]


def bare_rate(config):
    """Examples per second of the same program on one batch of indices over and over."""
    import time

    bare = Bare(config)
    count = bare.program.capacity
    batches, done = bare.batches(0, count), 0
    bare.call(batches, count)  # warms up
    start = time.perf_counter()
    while done < bare.point.total_steps:
        bare.call(batches, count)
        done += count
    return done * bare.point.global_batch / (time.perf_counter() - start)


def main():
    result = {"machine": machine(), "cases": {}}
    for case, arguments in CASES.items():
        config = config_of(*arguments)
        runs, bare = [], []
        for _ in range(3):
            bare.append(bare_rate(config))
            runs.append(run_rate(config))
        ratio = statistics.median(runs) / statistics.median(bare)
        result["cases"][case] = {"run": runs, "bare": bare, "ratio": round(ratio, 3)}
        print(case, round(ratio, 3), flush=True)
    write("loop_overhead", result)


if __name__ == "__main__":
    main()
