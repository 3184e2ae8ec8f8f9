"""Work directories of accuracy, written as their records are; every number is known."""

import json
import math
from pathlib import Path

import numpy as np
from synthetic import CPU, PROVENANCE, write_json

BASE, TRAIN_SIZE, EPOCHS = 128, 50_000, 50.0
# Recipe -> what it adds to the test error at 128, per doubling of the batch.
COSTS = {
    "naive": 0.004,
    "linear": 0.003,
    "sqrt": 0.0025,
    "linear+warmup": 0.0012,
    "linear+constant_warmup": 0.002,
    "linear+warmup+poly": 0.001,
    "lars+warmup+poly": 0.0004,
    "lamb": 0.0012,
    "sqrt+gbn": 0.0008,
    "sqrt+gbn+adapt": -0.0001,
}
# Nothing but the batch differs at the base batch: one run under all these names.
ALIASES = ("naive", "linear", "sqrt")
SETTINGS = {
    "linear": {"optim.scaling_rule": "linear"},
    "sqrt": {"optim.scaling_rule": "sqrt"},
    "warmup": {"schedule.warmup": "5 epochs", "schedule.warmup_init": "0.1"},
    "gbn": {"model.norm": "ghost", "model.ghost_batch": "128"},
    "lars": {"optim.name": "lars", "optim.base_lr": "2.0", "optim.weight_decay": "None"},
}


def write_accuracy_workdir(
    workdir: Path,
    batch_sizes=(128, 512, 2048, 8192),
    costs=COSTS,
    seeds=5,
    level=0.11,
    noise=0.0008,
    tuned=False,
    curves=True,
    failing=(("linear", 8192, 3), ("lamb", 8192, 5)),
    title="Accuracy on Fashion-MNIST",
    **changes,
) -> Path:
    """A finished study; `failing` is of (recipe, batch, how many of its seeds diverge)."""
    failed = {(recipe, batch): number for recipe, batch, number in failing}
    shared = [recipe for recipe in costs if recipe in ALIASES]
    for batch in batch_sizes:
        for recipe, cost in costs.items():
            names = [recipe]
            if batch == BASE and recipe in shared:
                if recipe != shared[0]:
                    continue
                names = shared
            added = cost * math.log2(batch / BASE)
            bad = failed.get((recipe, batch), 0)
            runs = [
                _run(seed, recipe, batch, level + added, noise, diverged=seed < bad)
                for seed in range(seeds)
            ]
            record = accuracy_result(recipe, batch, runs, recipes=names)
            if tuned:
                record |= tuning_keys(recipe, batch, level + added)
            path = workdir / f"bs{batch}_{recipe.replace('/', '_')}"
            write_point(path, record | changes, list(costs), title)
            if curves:
                write_curves(path, record)
    return workdir


def _run(seed, recipe, batch, level, noise, diverged):
    """What seeds have in common is larger than what recipes change in each of them."""
    if diverged:
        return diverged_run(seed)
    common = np.random.default_rng(seed).normal(scale=2 * noise)
    own = np.random.default_rng([seed, batch, *recipe.encode()]).normal(scale=noise, size=2)
    test = level + common + own[0]
    return run(seed, test, validation=test - 0.002 + 0.1 * own[1], train=max(test - 0.09, 0.0))


def run(seed: int, test: float, validation=None, train=0.01) -> dict:
    """A run of one seed."""
    of = lambda error: {"loss": 3 * float(error), "error": float(error)}
    scores = {"train": of(train), "validation": of(test if validation is None else validation)}
    return {"seed": seed, "status": "complete", "diverged_at": None} | scores | {"test": of(test)}


def diverged_run(seed: int) -> dict:
    """A run that did not end."""
    nothing = {"train": None, "validation": None, "test": None}
    return {"seed": seed, "status": "diverged", "diverged_at": 17} | nothing


def accuracy_result(recipe, batch, runs, *, recipes=None, **changes) -> dict:
    """A result.json of accuracy."""
    pieces = recipe.split("+")
    epochs = EPOCHS * batch / BASE if "adapt" in pieces else EPOCHS
    settings = {k: v for piece in pieces for k, v in SETTINGS.get(piece, {}).items()}
    power = {"linear": 1.0, "sqrt": 0.5}.get(pieces[0], 0.0)
    everyone = bool(runs) and all(one["status"] == "diverged" for one in runs)
    result = {
        "study": "accuracy",
        "status": "diverged" if everyone or not runs else "complete",
        "global_batch": batch,
        "base_batch": BASE,
        "tolerance": 0.005,
        "recipe": recipe,
        "recipes": list(recipes or [recipe]),
        "steps": round(epochs * TRAIN_SIZE / batch),
        "epochs": epochs,
        "train_size": TRAIN_SIZE,
        "optimizer": settings.get("optim.name", "momentum"),
        "learning_rate": 0.1 * (batch / BASE) ** power,
        "settings": settings,
        "tuning": None,
        "runs": runs,
        "seconds": {"compile": 1.5, "train": 20.25, "eval": 3.0},
        "trial_steps_per_second": 100.0,
        "devices": CPU,
    }
    return result | changes


def tuning_keys(recipe: str, batch: int, error: float, count=8) -> dict:
    """ "tuning" and "learning_rate": a parabola whose last two rates diverge; lamb's is cut off."""
    low, high = (0.01, 3.0) if recipe != "lamb" else (0.01, 0.05)
    best_rate = 0.1 * (batch / BASE) ** 0.25
    trials = []
    for rate in np.geomspace(low, high, count):
        distance = math.log2(rate / best_rate)
        diverged = distance > 2.2
        found = None if diverged else error + 0.01 * distance**2
        status = "diverged" if diverged else "complete"
        trials.append({"learning_rate": float(rate), "validation_error": found, "status": status})
    known = [i for i, trial in enumerate(trials) if trial["validation_error"] is not None]
    best = min(known, key=lambda i: trials[i]["validation_error"])
    edge = {0: "low", count - 1: "high"}.get(best)
    tuning = {"range": [low, high], "trials": trials, "best": best, "at_edge": edge, "widened": 0}
    return {"tuning": tuning, "learning_rate": trials[best]["learning_rate"]}


def write_point(path: Path, result: dict, order: list[str] | None, title="one", **config) -> None:
    """One point, without curves."""
    path.mkdir(parents=True)
    base = {"title": title, "study": "accuracy", "seed": 0, "data": {"name": "fashion_mnist"}}
    rule = result["settings"].get("optim.scaling_rule", "none")
    optim = {"name": result["optimizer"], "base_lr": 0.1, "base_batch": BASE, "scaling_rule": rule}
    start = float(result["settings"].get("schedule.warmup_init", 0.0))
    base |= {"global_batch": result["global_batch"], "optim": optim}
    base |= {"schedule": {"warmup_init": start}}
    norm = {"norm": result["settings"].get("model.norm", "batch")}
    base |= {"model": {"name": "resnet", "depth": 8} | norm}
    if order is not None:
        base["recipes"] = {"all": order, "seeds": len(result["runs"])}
    write_json(path / "config.json", base | config)
    resolved = {
        "model": {"name": "resnet", "parameters": 77_000},
        "data": {"name": "fashion_mnist", "sizes": {"train": TRAIN_SIZE, "test": 10_000}},
        "launches": [PROVENANCE | {"devices": CPU}],
    }
    write_json(path / "resolved.json", resolved)
    write_json(path / "result.json", result)


def write_curves(path: Path, result: dict, count=25) -> None:
    """A metrics.jsonl whose validation errors fall to those of the runs; in no order of steps."""
    rows = [{"step": 1, "split": "tuning", "trial": 0, "error": 0.5, "loss": 1.0}]
    for place, one in enumerate(result["runs"]):
        rows.append({"step": 0, "split": "validation", "trial": place, "error": 0.9, "loss": 2.3})
        last = 0.9 if one["status"] == "diverged" else one["validation"]["error"]
        for i in reversed(range(1, count + 1)):
            step = max(round(result["steps"] * i / count), 1)
            error = last + (0.9 - last) * math.exp(-6 * i / count) * (i < count)
            row = {"step": step, "split": "validation", "trial": place}
            rows.append(row | {"error": error, "loss": error, "train_loss": error})
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
