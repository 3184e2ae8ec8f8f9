"""Shared by all benchmarks: machine, configs, medians, result files."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def machine() -> dict[str, Any]:
    """Processor, cores, Python and package versions."""
    import importlib.metadata

    model = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    packages = {}
    for name in ("jax", "jaxlib", "flax", "optax", "torch"):
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            packages[name] = None
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": packages,
        "load_average_at_start": os.getloadavg()[0],
    }


def synthetic_config(model, shape, batch, classes=10, size=20_000, study="train"):
    """A config that trains `model` on synthetic images on one device, without end."""
    from ml_collections import ConfigDict

    from scaling.config import default_config

    config = default_config(study)
    config.global_batch, config.duration, config.devices = batch, "1000000 steps", 1
    config.data.name, config.data.image_shape = "synthetic", shape
    config.data.num_classes, config.data.train_size = classes, size
    config.model = ConfigDict(model)
    return config


def token_config(model, vocabulary, length, batch, size=20_000):
    """A config that trains `model` on made-up rows of tokens by Adam on one device, without end."""
    import numpy as np
    from ml_collections import ConfigDict

    from scaling.config import default_config
    from scaling.data import sources

    def load(split):
        rows = (size if split == "train" else 256, length)
        return {"tokens": np.random.default_rng(0).integers(0, vocabulary, rows, np.uint16)}

    example = {"tokens": ((length,), "uint16")}
    sizes = {"train": size, "validation": 256, "test": 256}
    sources.register(
        "made_up_tokens",
        load,
        sizes=sizes,
        example=example,
        task="language",
        num_classes=vocabulary,
    )
    config = default_config()
    config.global_batch, config.duration, config.devices = batch, "1000000 steps", 1
    config.data.name, config.optim.name, config.optim.base_lr = "made_up_tokens", "adam", 1e-3
    config.model = ConfigDict(model)
    return config


class Bare:
    """The compiled program of a run without the run: no records, no checks, no checkpoints."""

    def __init__(self, config):
        from scaling.train.point import resolve
        from scaling.train.population import Population

        self.population = Population(resolve(config), [{}], [0], tracked=None)
        self.point, self.program = self.population.point, self.population.program

    def batches(self, step: int, count: int) -> Any:
        """What `count` updates from `step` on read."""
        return self.population._batches(step, count)

    def call(self, batches: Any, count: int) -> dict[str, Any]:
        """Make `count` updates; their metrics, [1, 1, 1, capacity, ...]."""
        import jax
        import numpy as np

        held = self.population
        held._trials, metrics = self.program.train(
            held.trials, held._fixed, held.data, batches, np.int32(count)
        )
        return jax.block_until_ready(metrics)


def seconds(
    function: Callable[[], Any], at_least: float = 1.0, clock: Callable = time.perf_counter
) -> float:
    """Mean time of a call, over at least `at_least` seconds. The function must block."""
    calls, start = 0, clock()
    while True:
        function()
        calls += 1
        elapsed = clock() - start
        if elapsed >= at_least:
            return elapsed / calls


def side_by_side(contestants: dict[str, Callable[[], float]], repeats: int = 5) -> dict[str, Any]:
    """Rates of alternating contestants, `repeats` times each: name -> {median, all}."""
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, rate in contestants.items():
            rates[name].append(rate())
    return {
        name: {"median": statistics.median(values), "all": [round(v, 1) for v in values]}
        for name, values in rates.items()
    }


class Contestant:
    """A process that measures a rate on request, see `serve`.

    The first `answer` is the facts. A RuntimeError: the process ended before its answer.
    """

    def __init__(self, command: list[str], **environment: str):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        environment = os.environ | environment
        if command[0].endswith(".py"):
            command = [sys.executable, *command]
        self._process = subprocess.Popen(command, env=environment, **pipes)

    def start(self) -> None:
        """Start a measurement."""
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """Wait for the result."""
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"It ended with exit code {self._process.wait()}.")
        return json.loads(line)

    def rate(self) -> float:
        """Measure once."""
        self.start()
        return self.answer()

    def stop(self) -> None:
        """End it."""
        self._process.stdin.close()
        self._process.wait()


def serve(measurement: Callable[[], tuple[Callable[[], float], dict[str, Any]]]) -> None:
    """In the process of a `Contestant`: print the facts, then a rate per line of standard input.

    Args:
      measurement: () -> (function that measures the rate, facts).
    """
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print to stdout
    rate, facts = measurement()
    print(json.dumps(facts), file=answers, flush=True)
    for _ in sys.stdin:
        print(json.dumps(rate()), file=answers, flush=True)


def write(name: str, content: dict[str, Any]) -> None:
    """Print the result and save it as benchmarks/results/NAME.json."""
    from scaling.files import json_text

    folder = ROOT / "benchmarks" / "results"
    folder.mkdir(exist_ok=True)
    text = json_text(content)
    (folder / f"{name}.json").write_text(text + "\n")
    print(text)
