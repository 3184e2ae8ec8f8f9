"""A work directory of throughput, written as its record is."""

from pathlib import Path

from synthetic_noise import write_run

GPUS = {"kind": "NVIDIA H200", "platform": "gpu", "count": 4, "simulated": False}
FIXED, EACH = 2e-3, 1e-4  # t0 and 1 / r of one device, seconds
EXCHANGE = 1e-3  # more on several devices
NOISE = (1.0, 0.99, 1.01, 1.02, 0.98)  # of the rounds


def row(devices: int, batch: int, input_seconds: float = 1e-4) -> dict:
    """An update on the line, with the exchange on top where there are several devices."""
    seconds = FIXED + batch * EACH + EXCHANGE * (devices > 1)
    times = lambda value: [value * factor for factor in NOISE]
    return {
        "devices": devices,
        "per_device_batch": batch,
        "accum_steps": 1,
        "device": times(seconds),
        "input": times(input_seconds),
        "both": times(1.1 * seconds),
        "bytes": batch * 2**20,
        "peak_bytes": batch * 2**19 if devices == 1 else None,
    }


def throughput_result(**changes) -> dict:
    """A result.json."""
    result = {
        "study": "throughput",
        "rows": [row(n, b) for n in (1, 2, 4) for b in (8, 32, 128, 512)],
        "variant_batch": 512,
        "variants": [
            {"accum_steps": 1, "remat": False, "seconds": [0.05] * 5, "bytes": 2**30},
            {"accum_steps": 4, "remat": False, "seconds": [0.06] * 5, "bytes": 2**28},
            {"accum_steps": 1, "remat": True, "seconds": [0.07] * 5, "bytes": 2**29},
        ],
        "overlap": {
            "devices": 4,
            "per_device_batch": 512,
            "together": [0.055, 0.056, 0.054],
            "apart": [0.053, 0.054, 0.052],
            "alone": [0.004, 0.004, 0.004],
        },
        "flops_per_example": 10**9,
        "peak_flops": 1e14,
        "gradient_bytes": 10**8,
        "limit_bytes": 1e11,
        "network": "dgx-h100",
        "projected": [8, 64],
        "load_average": 0.1,
        "devices": GPUS,
        "train_size": 1197,
    }
    return result | changes


def write_throughput_workdir(workdir: Path, title="Throughput of an MLP", **changes) -> Path:
    """One point."""
    write_run(workdir / "throughput", throughput_result(**changes), title=title)
    return workdir
