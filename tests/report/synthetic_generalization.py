"""Work directories of generalization, written as their records are; the laws are known."""

import dataclasses
import math
from pathlib import Path

import numpy as np
from synthetic import CPU, PROVENANCE, write_json

from scaling.diffusion import fit_diffusion

TRAIN_SIZE, EPOCHS, BASE = 55_000, 40, 128
# name, size, ||w|| and ||g|| of an MLP at the start.
LAYERS = (
    ("Dense_0.kernel", 401_408, 22.6, 0.4),
    ("Dense_0.bias", 512, 0.0, 0.03),
    ("BatchNorm_0.scale", 512, 22.6, 0.02),
    ("BatchNorm_0.bias", 512, 0.0, 0.025),
    ("Dense_1.kernel", 262_144, 22.6, 0.2),
    ("Dense_1.bias", 512, 0.0, 0.03),
    ("Dense_2.kernel", 5_120, 3.2, 0.6),
    ("Dense_2.bias", 10, 0.0, 0.2),
)


def grid(steps: int, growth=1.15) -> list[int]:
    """Steps that an evaluation follows: 0, 1, 2, 3, 4, 5, 6, 8, ... and the last."""
    found, at = [0], 1.0
    while at < steps:
        found.append(max(math.ceil(at), found[-1] + 1))
        at = found[-1] * growth
    return [*(step for step in found if step < steps), steps]


def log_law(slope, intercept=2.0):
    """d = intercept + slope ln t"""
    return lambda t: intercept + slope * math.log(t)


def root_law(slope, intercept=0.3):
    """d = intercept + slope sqrt(t)"""
    return lambda t: intercept + slope * math.sqrt(t)


def run_of(seed, batch, steps, law, fit_steps, noise=0.0, diverged_at=None) -> dict:
    """One seed; a run that diverged was last evaluated at its last finite step."""
    rng = np.random.default_rng([seed, batch])
    level = 1 + 4 * noise * rng.standard_normal()
    step = [t for t in grid(steps) if diverged_at is None or t < diverged_at]
    distance = [0.0] + [level * law(t) * (1 + noise * rng.standard_normal()) for t in step[1:]]
    epochs = [t * batch / TRAIN_SIZE for t in step]
    gap = 0.01 * math.log2(batch / BASE) if batch > BASE else 0.0
    error = [0.1 + gap + 0.8 / (1 + 12 * e) for e in epochs]
    loss = [2.3 / (1 + 6 * e) + 0.001 for e in epochs]
    curve = {
        "step": step,
        "weight_distance": distance,
        "grad_norm": [None] + [3 * t**-0.2 * (BASE / batch) ** 0.3 for t in step[1:]],
        "train_loss": [None, *loss[1:]],
        "validation_error": [e * (1 + noise * rng.standard_normal()) for e in error],
        "validation_loss": [3 * e for e in error],
    }
    first, last = fit_steps
    inside = [(t, d) for t, d in zip(step, distance, strict=True) if first <= t <= last]
    fits = fit_diffusion(*zip(*inside, strict=True)) if inside else None
    return {
        "seed": seed,
        "status": "complete" if diverged_at is None else "diverged",
        "diverged_at": diverged_at,
        "curve": curve,
        "diffusion": fits and dataclasses.asdict(fits),
    }


def layers_of(batch, names=LAYERS) -> list[dict]:
    """Weights grow and gradients fall; a larger batch has less noise in its gradient."""
    calm = (BASE / batch) ** 0.2
    return [
        {
            "name": name,
            "size": size,
            "start": {"weight_norm": weight, "grad_norm": grad * calm},
            "end": {"weight_norm": 1.4 * weight + 0.1, "grad_norm": 0.05 * grad * calm**2},
        }
        for name, size, weight, grad in names
    ]


def write_point(
    workdir: Path,
    batch: int,
    recipe="naive",
    *,
    law,
    seeds=3,
    noise=0.0,
    recipes=None,
    diverged=None,
    title="Generalization on Fashion-MNIST",
    layers=LAYERS,
    norm="batch",
    **changes,
) -> Path:
    """One point; `diverged` maps seeds to the step at which they did."""
    steps = max(2, round(EPOCHS * TRAIN_SIZE / batch))
    fit_steps = changes.get("fit_steps", [min(10, steps), max(2, steps // 4)])
    runs = [
        run_of(seed, batch, steps, law, fit_steps, noise, (diverged or {}).get(seed))
        for seed in range(seeds)
    ]
    path = workdir / f"bs{batch}_{recipe.replace('/', '_')}"
    path.mkdir(parents=True)
    model = {"name": "mlp", "widths": [512, 512], "norm": norm}
    lost = all(run["status"] == "diverged" for run in runs)
    result = {
        "study": "generalization",
        "status": "diverged" if lost else "complete",
        "global_batch": batch,
        "base_batch": BASE,
        "recipe": recipe,
        "recipes": recipes or [recipe],
        "steps": steps,
        "epochs": float(EPOCHS),
        "train_size": TRAIN_SIZE,
        "optimizer": "momentum",
        "learning_rate": 0.1 * (1.0 if recipe == "naive" else math.sqrt(batch / BASE)),
        "settings": {} if norm == "batch" else {"model.norm": norm},
        "fit_steps": fit_steps,
        "runs": runs,
        "layers": layers and layers_of(batch, layers),
        "seconds": {"compile": 2.0, "train": 60.5},
        "devices": CPU,
    }
    config = {"title": title, "study": "generalization", "seed": 0, "global_batch": batch}
    config |= {"data": {"name": "fashion_mnist"}, "model": model, "optim": {"name": "momentum"}}
    sizes = {"train": TRAIN_SIZE, "validation": 5_000, "test": 10_000}
    resolved = {
        "model": model | {"parameters": 669_706},
        "data": {"name": "fashion_mnist", "sizes": sizes},
        "launches": [PROVENANCE | {"devices": CPU}],
    }
    write_json(path / "config.json", config)
    write_json(path / "resolved.json", resolved)
    write_json(path / "result.json", result | changes)
    return path


def write_generalization_workdir(
    workdir: Path,
    batches=(128, 512, 2048, 8192),
    corrections=("sqrt+gbn",),
    naive_power=-0.5,
    corrected_power=0.0,
    shape=log_law,
    **options,
) -> Path:
    """Slopes go as a power of the batch; at the base batch all recipes come to the same."""
    for batch in batches:
        at_base = batch == BASE
        names = ["naive", *corrections] if at_base else ["naive"]
        law = shape(3.0 * (batch / BASE) ** naive_power)
        write_point(workdir, batch, "naive", law=law, recipes=names, **options)
        for recipe in corrections if not at_base else ():
            law = shape(3.0 * (batch / BASE) ** corrected_power)
            write_point(workdir, batch, recipe, law=law, norm="ghost", **options)
    return workdir
