"""A run's CPU time per update here against that of another revision of this repository.

    python benchmarks/loop_revisions.py REVISION

Both revisions train the same configs in turn, each in a process of its own with one thread, and
everything that a run does is in it: batches, records, divergence, checkpoints. CPU time, because a
machine that others use too lends no more of it; the median of the repeats of each.
"""

import argparse
import contextlib
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import ROOT, Contestant, machine, serve, write

REPEATS, WARM_CALLS = 7, 4
MLP, WIDE = ({"name": "mlp", "widths": widths} for widths in ((64,), (512,) * 5))
RESNET = {"name": "resnet", "depth": 8, "norm": "ghost", "ghost_batch": 32}
CASES = {
    "MLP 64, batch 8": (8, 80_000, MLP),
    "MLP 64, batch 512": (512, 8_000, MLP),
    "MLP 5 x 512, batch 128": (128, 300, WIDE),
    "ResNet-8, batch 128": (128, 40, RESNET),
}


def measurement(case):
    """(() -> CPU seconds of an update, facts) of the revision that is in the module path."""
    from ml_collections import ConfigDict

    from scaling import progress
    from scaling.config import default_config
    from scaling.record import RunDir

    try:
        from scaling.train.single import train_point
    except ImportError:  # before it was a population of one
        from scaling.train.loop import train_point

    batch, steps, model = CASES[case]
    config = default_config()
    config.global_batch, config.duration, config.eval.every = batch, f"{steps} steps", "1 epoch"
    config.eval.every, config.devices, config.eval.test = f"{steps} steps", 1, False
    config.data.name, config.data.image_shape = "synthetic", (28, 28, 1)
    config.data.num_classes, config.data.train_size = 10, 20_000
    config.model, config.optim.base_lr = ConfigDict(model), 1e-3
    calls, plain = [], progress.Progress.step

    def noted(self, step, loss):
        calls.append((time.process_time(), step))
        plain(self, step, loss)

    progress.Progress.step = noted

    def rate():
        calls.clear()
        with (
            tempfile.TemporaryDirectory() as folder,
            RunDir(folder) as run,
            contextlib.redirect_stdout(io.StringIO()),
        ):
            run.begin({})
            assert train_point(config, run, "benchmark")["status"] == "complete"
        (start, first), (end, last) = calls[min(WARM_CALLS, len(calls) - 2)], calls[-1]
        return (end - start) / (last - first)

    return rate, {}


def compared(case, other):
    """CPU seconds of an update by revision, and their ratio."""
    command = [str(Path(__file__).resolve()), f"--serve={case}"]
    cache = str(Path(other).parent / "xla")
    rates = {}
    contestants = {
        name: Contestant(
            command,
            SCALING_ROOT=str(root),
            PJRT_NPROC="1",
            JAX_COMPILATION_CACHE_DIR=cache,
            JAX_PLATFORMS="cpu",
        )
        for name, root in (("before", other), ("now", ROOT))
    }
    for process in contestants.values():
        process.answer()
    for _ in range(REPEATS):
        for name, process in contestants.items():
            rates.setdefault(name, []).append(process.rate())
    for process in contestants.values():
        process.stop()
    ratio = statistics.median(rates["now"]) / statistics.median(rates["before"])
    return {"cpu_seconds_per_update": rates, "now / before": round(ratio, 3)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("revision", nargs="?")
    parser.add_argument("--serve")
    parser.add_argument("--case", action="append")
    options = parser.parse_args()
    if options.serve:
        sys.path.insert(0, os.environ["SCALING_ROOT"])
        serve(lambda: measurement(options.serve))
        return
    result = {"machine": machine(), "revision": options.revision, "cases": {}}
    git = ["git", "-C", str(ROOT), "worktree"]
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "revision"
        subprocess.run([*git, "add", "--detach", str(other), options.revision], check=True)
        try:
            for case in options.case or CASES:
                result["cases"][case] = compared(case, other)
                print(case, result["cases"][case]["now / before"], flush=True)
        finally:
            subprocess.run([*git, "remove", "--force", str(other)], check=True)
    write("loop_revisions", result)


if __name__ == "__main__":
    main()
