"""Seconds from the command to the first recorded step of the digits point, cold and warm.

    python benchmarks/first_step.py

Cold: nothing cached. Warm: compiled programs and the microbatch choice are in the cache.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import ROOT, machine, write

CONFIG = "configs/resnet_bs8k.py:digits"


def first_step(cache, workdir):
    """Seconds until metrics.jsonl has a line."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "launch.py", f"--config={CONFIG}", f"--workdir={workdir}"],
        cwd=ROOT,
        env=os.environ | {"SCALING_CACHE_DIR": str(cache)},
        stdout=subprocess.DEVNULL,
    )
    metrics = Path(workdir) / "bs8k" / "metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size):
        assert process.poll() is None, "the run ended before its first step"
        time.sleep(0.02)
    seconds = time.perf_counter() - start
    process.kill()
    process.wait()
    return round(seconds, 2)


def main():
    cold, warm = [], []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            cold.append(first_step(f"{folder}/cache", f"{folder}/cold"))
            # The run was killed in its first steps: a second one completes the cache.
            warm.append(first_step(f"{folder}/cache", f"{folder}/warm"))
    write(
        "first_step",
        {
            "machine": machine(),
            "config": CONFIG,
            "cold": {"median": statistics.median(cold), "all": cold},
            "warm": {"median": statistics.median(warm), "all": warm},
        },
    )


if __name__ == "__main__":
    main()
