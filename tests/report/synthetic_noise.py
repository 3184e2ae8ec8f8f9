"""Work directories of noise_scale and pareto, written as their records are."""

import json
import math
from pathlib import Path

import numpy as np
from synthetic import CPU, PROVENANCE, edit_result, write_json, write_workdir

UNRESOLVED = {
    "noise_scale": None,
    "low": 90.0,
    "high": None,
    "grad_sq_norm": -0.001,
    "grad_variance_trace": 4.0,
    "resolved": False,
    "measurements": 50,
}


def write_run(path: Path, result: dict, *, title: str, model=None, parameters=9098, **config):
    """One point: config.json, resolved.json, result.json."""
    path.mkdir(parents=True)
    model = model or {"name": "mlp", "widths": [64, 64]}
    base = {"title": title, "study": result["study"], "seed": 0, "data": {"name": "digits"}}
    write_json(path / "config.json", base | {"model": model, "optim": {"name": "sgd"}} | config)
    resolved = {
        "model": model | {"parameters": parameters},
        "data": {"name": "digits", "sizes": {"train": 1197, "validation": 300, "test": 300}},
        "launches": [PROVENANCE | {"devices": CPU}],
    }
    write_json(path / "resolved.json", resolved)
    write_json(path / "result.json", result)


def estimate(value: float, measurements=50) -> dict:
    """A resolved estimate."""
    return {
        "noise_scale": value,
        "low": value / 1.3,
        "high": value * 1.4,
        "grad_sq_norm": 4.0 / value,
        "grad_variance_trace": 4.0,
        "resolved": True,
        "measurements": measurements,
    }


def noise(values, losses, *, steps=1000, coupled=False, exact=None) -> dict:
    """A "noise_scale" of a record; None among the values: not resolved in that window."""
    width = steps // len(values)
    windows = [
        (UNRESOLVED if value is None else estimate(value))
        | {"first_step": i * width + 1, "last_step": (i + 1) * width, "loss": loss}
        for i, (value, loss) in enumerate(zip(values, losses, strict=True))
    ]
    ends = [{k: w[k] for k in UNRESOLVED} for w in (windows[0], windows[-1])]
    resolved = [value for value in values if value is not None]
    average = float(np.mean(resolved)) if resolved else None
    return {
        "source": "microbatches",
        "b_small": 8.0,
        "b_big": 64,
        "every": 1,
        "coupled": coupled,
        "start": ends[0],
        "end": ends[1],
        "whole": estimate(average, 1000) if resolved else UNRESOLVED,
        "windows": windows,
        "by_devices": None,
        "exact": exact,
    }


def curve(level=1.0, count=20, start=30.0, end=900.0):
    """B_simple and the loss along a run that learns."""
    losses = np.geomspace(2.3, 0.05, count)
    share = np.linspace(0, 1, count)
    return (level * start * (end / start) ** share).tolist(), losses.tolist()


def run_result(kind="base", label="the tuned run", *, measured=None, **changes) -> dict:
    """A result.json of noise_scale."""
    result = {
        "study": "noise_scale",
        "status": "complete",
        "kind": kind,
        "label": label,
        "global_batch": 64,
        "steps": 1000,
        "examples": 64000,
        "learning_rate": 0.1,
        "parameters": 9098,
        "train": {"loss": 0.05, "error": 0.01},
        "validation": {"loss": 0.12, "error": 0.03},
        "test": None,
        "seconds": {"compile": 1.0, "train": 2.0, "eval": 0.5},
        "examples_per_second": 32000.0,
        "devices": CPU,
        "noise_scale": measured or noise(*curve()),
        "dip": None,
        "train_size": 1197,
    }
    return result | changes


def write_updates(path: Path, values) -> None:
    """A metrics.jsonl of a run of batch 64 in parts of 8, whose B_simple is values[step - 1]."""
    rng = np.random.default_rng(0)
    rows = []
    for step, value in enumerate(values, 1):
        square, trace = (4.0 / value, 4.0) * rng.lognormal(sigma=0.02, size=2)
        rows.append({"step": step, "split": "train", "loss": 1.0, "part_batch": 8})
        rows[-1] |= {"grad_sq_norm": square + trace / 64, "part_grad_sq_norm": square + trace / 8}
    rows.append({"step": len(values), "split": "validation", "loss": 1.0})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_noise_workdir(workdir: Path, title="Noise scale on digits", level=1.0) -> Path:
    """Base, rates, batches, a model and a temperature test that rises 12-fold and not 16."""
    exact = {"grad_sq_norm": 0.1, "grad_variance_trace": 3.0, "noise_scale": 33.0 * level}
    exact = {
        "start": exact | {"hessian_noise_scale": 20.0 * level},
        "end": exact | {"noise_scale": 800.0 * level, "hessian_noise_scale": None},
    }
    values, losses = curve(level)
    values[14] = values[15] = None
    write_run(
        workdir / "base", run_result(measured=noise(values, losses, exact=exact)), title=title
    )
    for factor in (0.25, 4):
        measured = noise(*curve(level / factor * 1.1))
        label = f"learning rate x {factor:g}"
        result = run_result("rate", label, measured=measured, learning_rate=0.1 * factor)
        write_run(workdir / f"rate_x{factor:g}", result, title=title)
    for batch in (16, 256):
        measured = noise(*curve(level * 1.05))
        result = run_result("batch", f"batch {batch}", measured=measured, global_batch=batch)
        write_run(workdir / f"bs{batch}", result, title=title)
    measured = noise(*curve(level * 1.2))
    result = run_result("model", "wide", measured=measured, parameters=50_000)
    model = {"name": "mlp", "widths": [256, 256]}
    write_run(workdir / "model_wide", result, title=title, model=model, parameters=50_000)
    values, losses = curve(level)
    for place in (8, 9, 10, 11):
        values[place] *= 12
    dip = {"factor": 16.0, "first_step": 401, "last_step": 600}
    result = run_result("temperature", "cut", measured=noise(values, losses), dip=dip)
    write_run(workdir / "temperature", result, title=title)
    write_updates(workdir / "base" / "metrics.jsonl", [100.0] * 1000)
    inside = [1200.0 if 401 <= step <= 600 else 100.0 for step in range(1, 1001)]
    write_updates(workdir / "temperature" / "metrics.jsonl", inside)
    return workdir


def write_pareto_workdir(
    workdir: Path,
    batch_sizes=(1, 4, 16, 64, 256, 1024),
    goals=(1.0, 0.5, 0.2, 0.1, 0.05),
    ratio=4.0,
    title="Pareto fronts on digits",
) -> Path:
    """Critical batch sizes that grow as the goals get harder, and noise scales `ratio` above."""
    write_workdir(workdir, batch_sizes, title=title, metric="loss", goal=min(goals), trials=8)
    for path in sorted(workdir.iterdir()):
        result = json.loads((path / "result.json").read_text())
        batch = result["global_batch"]
        rng = np.random.default_rng(batch)
        entries = []
        for goal in goals:
            steps = round(40 / goal**0.5 * (1 + critical(goal) / batch) * rng.lognormal(sigma=0.05))
            entry = {"goal": goal, "steps": steps, "before": steps - 4, "examples": steps * batch}
            entries.append(entry)
        losses = np.geomspace(2.0, min(goals) * 0.9, 20).tolist()
        values = [ratio * critical(loss) * (batch / 64) ** 0.1 for loss in losses]
        tracked = noise(values, losses, steps=entries[-1]["steps"]) if batch > 1 else None
        new = {"study": "pareto", "split": "train", "goals": entries, "tracked": tracked}
        edit_result(path, **new)
        config = json.loads((path / "config.json").read_text())
        target = {"metric": "loss", "goal": min(goals), "split": "train"}
        write_json(path / "config.json", config | {"study": "pareto", "target": target})
        lines = (path / "metrics.jsonl").read_text().replace('"validation"', '"train"')
        (path / "metrics.jsonl").write_text(lines)
    return workdir


def critical(loss: float) -> float:
    """The true critical batch size at a loss."""
    return 20 * math.exp(0.8 * math.log(1 / loss))
