"""Nets and their measures of sharpness, written as their records are."""

from synthetic import CPU
from synthetic_noise import write_run

MEASURES = (("largest eigenvalue", False, 1.0), ("average rise, ρ 0.05", True, 0.5))


def write_sharpness_workdir(path, title="Sharpness", recipe="naive"):
    """Batches 32 and 128, three seeds: raw measures grow with the batch, invariant ones less."""
    for batch in (32, 128):
        runs = [
            {"seed": seed, "status": "complete", "diverged_at": None, "nets": [_net(batch, seed)]}
            for seed in range(3)
        ]
        result = {
            "study": "sharpness",
            "status": "complete",
            "global_batch": batch,
            "base_batch": 32,
            "recipe": recipe,
            "recipes": [recipe],
            "steps": 100,
            "epochs": 10.0,
            "train_size": 50_000,
            "optimizer": "nesterov",
            "learning_rate": 0.1,
            "settings": {},
            "devices": CPU,
            "seconds": {"compile": 1.0, "train": 8.0, "eval": 1.0},
            "metric": "error",
            "tuning": None,
            "split": "test",
            "places": ["end"],
            "examples": 1000,
            "statistics": "none",
            "batch": 100,
            "parameters": 500,
            "runs": runs,
        }
        settings = {"steps": 40, "products": 30, "draws": 10}
        write_run(path / f"bs{batch}", result, title=title, sharpness=settings)
    return path


def _net(batch, seed):
    measures = [
        {"name": name, "invariant": kind, "value": (batch / 32) ** power * (1 + 0.1 * seed)}
        for name, kind, power in MEASURES
    ]
    score = 0.05 + batch / 10_000 + seed / 1000
    net = {"place": "end", "step": 100, "train_loss": 0.01, "loss": 0.01, "score": score}
    return net | {"measures": measures}
