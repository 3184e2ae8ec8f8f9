"""A run and its branches, written as their records are."""

from synthetic import CPU
from synthetic_noise import estimate, write_run

FACTORS = (1, 2, 4, 8)
SNAPSHOTS = (100, 1000, 10_000)  # steps


def write_branch_workdir(path, batch=16, title="Branches", **changes):
    """Excess losses of 0.004, 0.02, 0.1 at the first snapshot, a tenth of it at each later one."""
    snapshots = []
    for k, step in enumerate(SNAPSHOTS):
        branches = [
            {
                "factor": factor,
                "global_batch": batch * factor,
                "steps": 256 // factor,
                "rate": 1.0,
                "learning_rate": 0.1 * factor,
                "losses": [1.0 + excess / 10**k, 1.1 + 1.1 * excess / 10**k],
            }
            for factor, excess in zip(FACTORS, (0.0, 0.004, 0.02, 0.1), strict=True)
        ]
        noise = estimate(20.0 * (k + 1))
        if k == 2:
            noise |= {"noise_scale": None, "high": None, "resolved": False}
        place = {"step": step, "examples": step * batch, "loss": 2.0 / (k + 1)}
        snapshots.append(place | {"noise": noise, "branches": branches})
    result = {
        "study": "branch",
        "status": "complete",
        "global_batch": batch,
        "learning_rate": 0.1,
        "steps": SNAPSHOTS[-1],
        "examples": SNAPSHOTS[-1] * batch,
        "window": 256 * batch,
        "tolerance": 0.01,
        "snapshots": snapshots,
        "constant": {"schedule": [[0, batch]], "steps": 10_000, "losses": [0.5, 0.6]},
        "warmup": {"schedule": [[0, 32], [1600, 64]], "steps": 2600, "losses": [0.51, None]},
        "train_size": 50_000,
        "seconds": {"compile": 1.0, "train": 8.0, "eval": 1.0},
        "devices": CPU,
    }
    write_run(path / f"bs{batch}", result | changes, title=title)
    return path
