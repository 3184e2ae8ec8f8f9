"""Warm starts, written as their records are."""

from synthetic import CPU
from synthetic_noise import write_run

MEASURES = "largest eigenvalue", "smallest eigenvalue", "φ, ε 0.001"
STEPS = 0, 100, 200


def write_warm_start_workdir(path, title="Warm starts", diverged=()):
    """Two seeds: the later the start, the lower the error and the sharpness of what comes from it.

    Args:
      diverged: (seed, step) of starts.
    """
    starts = [
        {
            "seed": seed,
            "step": step,
            "small": _net(0.5 / (1 + step / 50) + seed / 100, 10),
            "warm": None
            if (seed, step) in diverged
            else _net(0.2 / (1 + step / 50) + seed / 100, 80 / (1 + step / 100)),
        }
        for step in STEPS
        for seed in (0, 1)
    ]
    result = {
        "study": "warm_start",
        "status": "complete",
        "global_batch": 50,
        "large_batch": 1000,
        "steps": STEPS[-1],
        "large_steps": 30,
        "learning_rate": 0.1,
        "large_learning_rate": 0.1,
        "metric": "error",
        "split": "validation",
        "examples": 2000,
        "statistics": "recomputed",
        "starts": starts,
        "train_size": 5000,
        "seconds": {"compile": 1.0, "train": 8.0, "eval": 1.0},
        "devices": CPU,
    }
    write_run(path / "bs50", result, title=title)
    return path


def _net(score, sharpness):
    measures = [
        {"name": name, "invariant": False, "value": sharpness * factor}
        for name, factor in zip(MEASURES, (1, -0.1, 2), strict=True)
    ]
    return {"loss": score, "score": score, "measures": measures}
