"""Nets and the surfaces around them, written as their records are."""

import numpy as np
from synthetic import CPU
from synthetic_noise import write_run


def write_landscape_workdir(path, title="Landscapes", names=("batch 32", "batch 1,024")):
    """Parabolas, the second net's twice as steep; one weight decay."""
    ends = {"error": 0.05, "loss": 0.1}
    nets = [
        {
            "name": name,
            "global_batch": 32,
            "learning_rate": 0.1,
            "steps": 100,
            "diverged": False,
            "train": ends,
            "held_out": ends,
            "norm": 20.0,
            "direction_norms": [0.9, 0.9],
            "track": {
                "steps": [0, 50, 100],
                "coordinates": [[2.0, 0.5], [1.0, -0.5], [0.0, 0.0]],
                "explained": [0.8, 0.1],
            },
            "histogram": {"edge": 0.5, "counts": [1, 10, 30, 10, 1]},
        }
        for name in names
    ]
    result = {
        "study": "landscape",
        "weight_decay": 0.0,
        "nets": nets,
        "splits": ["train", "test"],
        "metrics": ["error", "loss"],
        "statistics": "frozen",
        "group": 5000,
        "examples": {"train": 300, "test": 300},
        "seeds": [1, 2],
        "line": 5,
        "plane": 3,
        "reach": 1.0,
        "map": 3,
        "map_steps": 20,
        "map_examples": 200,
        "train_size": 50_000,
        "seconds": {"compile": 1.0, "train": 8.0, "eval": 1.0},
        "devices": CPU,
    }
    folder = path / "wd0"
    write_run(folder, result, title=title)
    lines = np.kron(np.eye(2), np.linspace(-1, 1, 5)[:, None])
    plane = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], indexing="ij"), -1).reshape(-1, 2)
    for split in result["splits"]:
        for index in range(2):
            places = np.concatenate([lines, plane]) if split == "train" else lines
            _write(folder / f"net{index}_{split}.npz", places, (index + 1) * (places**2).sum(1))
        for index in range(2):
            _write(folder / f"track{index}.npz", plane + 0.5, (plane**2).sum(1))
            columns = np.full((4, 9), [[-0.1], [0.001], [1.0], [0.0]])
            named = {f"{k:04d}": column for k, column in enumerate([plane, *columns])}
            np.savez(folder / f"map{index}.npz", **named)
        for kind in ("line", "arc"):
            share = np.linspace(-1, 2, 7)[:, None]
            _write(folder / f"{kind}_{split}.npz", share, (share[:, 0] - 0.5) ** 2)
    return path


def _write(path, places, height):
    np.savez(path, **{"0000": places, "0001": 0.05 + height / 10, "0002": 0.1 + height})
