"""What every benchmark shares: machine, medians, result files."""

import json
import os
import platform
import statistics
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


def program_of(config) -> tuple[Any, ...]:
    """(point, program, feed, state, fixed) of a config, ready for `program.chunk`."""
    import jax

    from scaling.train import planning
    from scaling.train.feed import make_feed
    from scaling.train.point import resolve
    from scaling.train.step import init_state, replicate

    point = resolve(config)
    program = planning.choose(point)
    feed = make_feed(point, program.plan, program.capacity)
    key = jax.random.key(0)
    state = init_state(point.task, point.make_optimizer, point.hparams, key)
    fixed = replicate((point.hparams, key, None), point.devices)
    return point, program, feed, replicate(state, point.devices), fixed


def seconds(function: Callable[[], Any], at_least: float = 1.0) -> float:
    """Time of one call, from as many as fill `at_least` seconds. The function must block."""
    calls, start = 0, time.perf_counter()
    while True:
        function()
        calls += 1
        elapsed = time.perf_counter() - start
        if elapsed >= at_least:
            return elapsed / calls


def side_by_side(contestants: dict[str, Callable[[], float]], repeats: int = 5) -> dict[str, Any]:
    """Rates of all contestants in turn, `repeats` times over: name -> {median, all}."""
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, rate in contestants.items():
            rates[name].append(rate())
    return {
        name: {"median": statistics.median(values), "all": [round(v, 1) for v in values]}
        for name, values in rates.items()
    }


def write(name: str, content: dict[str, Any]) -> None:
    """Print the result and keep it in benchmarks/results/NAME.json."""
    folder = ROOT / "benchmarks" / "results"
    folder.mkdir(exist_ok=True)
    text = json.dumps(content, indent=1)
    (folder / f"{name}.json").write_text(text + "\n")
    print(text)
