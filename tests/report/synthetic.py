"""Work directories of steps_to_target, written as its records are; the truth is a hyperbola."""

import json
import math
from pathlib import Path

import numpy as np

METRIC, GOAL = "error", 0.025
RANGES = {"learning_rate": ["log", 0.001, 10.0], "momentum": ["reverse_log", 0.5, 0.999]}
# A title that would break out of text, of attributes, of scripts and of Plotly's templates.
HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=alert(1)> \"q\" %{x}"
PROVENANCE = {
    "time": "2026-11-22T18:12:35+00:00",
    "command": "python launch.py --config=configs/steps_to_target.py:digits",
    "git_revision": "cc095f4cd5b405bdf5e3ccc9b5d09d0394724bc8",
    "python": "3.11.2",
    "packages": {"jax": "0.10.2", "numpy": "2.4.6"},
    "platform": "Linux-x86_64-with-glibc2.36",
    "cpu_count": 2,
    "cpu_threads": 2,
}
CPU = {"kind": "cpu", "platform": "cpu", "count": 1, "simulated": False}


def write_workdir(
    workdir: Path,
    batch_sizes=(1, 4, 16, 64, 256, 1024, 4096),
    s_min=40.0,
    b_crit=64.0,
    budget_steps=6000,
    title="Steps to 2.5% error on digits",
    optimizer="nesterov",
    trials=32,
    metric=METRIC,
    goal=GOAL,
    ranges=RANGES,
) -> Path:
    """A finished study; a batch whose truth exceeds `budget_steps` is censored there."""
    for batch in batch_sizes:
        noise = np.random.default_rng([batch, *optimizer.encode()]).lognormal(sigma=0.1)
        truth = s_min * (1 + b_crit / batch) * noise
        write_point(
            workdir,
            batch,
            truth,
            budget_steps=budget_steps,
            title=title,
            optimizer=optimizer,
            count=trials,
            metric=metric,
            goal=goal,
            ranges=ranges,
        )
    return workdir


def write_point(
    workdir, batch, truth, *, budget_steps, title, optimizer, count, metric, goal, ranges
):
    """One finished point, whose trials need `truth` steps at the best metaparameters."""
    path = workdir / (f"bs{batch // 1024}k" if batch % 1024 == 0 else f"bs{batch}")
    path.mkdir(parents=True)
    rng = np.random.default_rng([batch, *optimizer.encode()])
    trials = [_trial(rng, index, batch, truth, ranges) for index in range(count)]
    crossings = [t["steps_to_target"] for t in trials if t["outcome"] == "reached"]
    first = min(crossings, default=math.inf)
    reached = first <= budget_steps
    stopped_at = math.ceil(1.5 * first) if reached else budget_steps
    rows = []
    for trial in trials:
        _stop(trial, rows, stopped_at, metric, goal, rng)
    result = _result(batch, trials, reached, budget_steps, stopped_at, metric, goal, ranges, rng)
    if reached:
        best = result["best_trial"]
        rows.append({"step": first, "split": "test", "trial": best, metric: 1.1 * goal})
    config = _config(batch, title, optimizer, metric, goal, ranges)
    resolved = {
        "model": {"name": "mlp", "parameters": 9098},
        "data": {"name": "digits", "sizes": {"train": 1197, "validation": 300, "test": 300}},
        "launches": [PROVENANCE | {"devices": CPU}],
    }
    write_json(path / "config.json", config)
    write_json(path / "resolved.json", resolved)
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_json(path / "result.json", result)


def write_json(path: Path, content) -> None:
    """JSON as the records have it: no nan."""
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def edit_result(point: Path, **changes) -> None:
    """Change keys of a result.json."""
    path = point / "result.json"
    write_json(path, json.loads(path.read_text()) | changes)


def keep_reached(point: Path, count: int) -> None:
    """Of the trials that reached the goal, all but the fastest `count` miss it."""
    trials = json.loads((point / "result.json").read_text())["trials"]
    for trial in sorted((t for t in trials if t["steps_to_target"]), key=_steps)[count:]:
        trial |= {"outcome": "missed", "steps_to_target": None}
    edit_result(point, trials=trials)


def _draw(rng, scale, low, high):
    if scale == "reverse_log":
        return 1 - _draw(rng, "log", 1 - high, 1 - low)
    return float(low * (high / low) ** rng.uniform())


def _trial(rng, index, batch, truth, ranges):
    """Fast near an effective learning rate that grows with the batch; infeasible far above it."""
    values = {name: _draw(rng, *space) for name, space in ranges.items()}
    effective = values["learning_rate"] / (1 - values.get("momentum", 0.0))
    distance = math.log2(effective / (0.1 * batch**0.6))
    outcome = "infeasible" if distance > 4 else "reached"
    return {
        "trial": index,
        "seed": index,
        "values": values,
        "outcome": outcome,
        "steps_to_target": max(2, round(truth * 2 ** (distance**2 / 12))),
    }


def _stop(trial, rows, stopped_at, metric, goal, rng):
    """Cut a trial where the population stopped, and append its evaluations."""
    crossing = trial["steps_to_target"]
    if trial["outcome"] == "infeasible":
        stopped_at = min(stopped_at, 3)
    elif crossing > stopped_at:
        trial["outcome"] = "missed"
    if trial["outcome"] != "reached":
        trial["steps_to_target"] = None
    grid = set(np.unique(np.linspace(0, stopped_at, 14).astype(int)[1:]).tolist())
    if trial["outcome"] == "reached":
        grid |= {crossing - 1, crossing}
    values = []
    for step in sorted(grid):
        value = goal + (0.9 - goal) * (1 - (step / crossing) ** 0.4) * rng.uniform(0.9, 1.0)
        value = max(value - 0.001 * (step >= crossing), 0.004)
        diverged = trial["outcome"] == "infeasible" and step > 1
        values.append(value)
        row = {"step": step, "split": "validation", "trial": trial["trial"], "train_loss": 0.2}
        rows.append(row | {"loss": None if diverged else 2 * value, "error": 2 * value})
        rows[-1][metric] = None if diverged else value
        if diverged:
            break
    trial["stopped_at_step"] = stopped_at
    trial["best_metric"] = min(values, default=None)
    trial["last_train_loss"] = 0.2


def _result(batch, trials, reached, budget_steps, stopped_at, metric, goal, ranges, rng):
    outcomes = [trial["outcome"] for trial in trials]
    best = min((t for t in trials if t["steps_to_target"]), key=_steps, default=None)
    steps = best["steps_to_target"] if reached else None
    run = sum(trial["stopped_at_step"] for trial in trials)
    momentum = best["values"].get("momentum", 0.0) if reached else 0.0
    rate = best["values"]["learning_rate"] if reached else None
    best_values = dict(best["values"], effective_learning_rate=rate / (1 - momentum)) if rate else 0
    return {
        "study": "steps_to_target",
        "status": "reached" if reached else "target_not_reached",
        "global_batch": batch,
        "train_size": 1197,
        "metric": metric,
        "goal": goal,
        "steps_to_target": steps,
        "resolution": [steps - 1, steps] if reached else None,
        "censored_at": None if reached else budget_steps,
        "budget_steps": budget_steps,
        "stopped_at_step": stopped_at,
        "margin": 1.5,
        "trial_steps": run,
        "trial_steps_saved": budget_steps * len(trials) - run,
        "best_trial": best["trial"] if reached else None,
        "best": best_values or None,
        "at_edge": [],
        "widened": 0,
        "ranges": ranges,
        "counts": {kind: outcomes.count(kind) for kind in ("reached", "missed", "infeasible")},
        "trials": trials,
        "repeats": [
            {"seed": 1000000 + i, "steps_to_target": round(steps * rng.uniform(0.95, 1.3))}
            for i in range(3)
        ]
        if reached
        else [],
        "test": {"step": steps, "error": 1.1 * goal, "loss": 0.2} if reached else None,
        "seconds": {"compile": 1.5, "train": 20.25, "eval": 3.0},
        "trial_steps_per_second": 41000.0,
        "devices": CPU,
    }


def _steps(trial):
    return trial["steps_to_target"]


def _config(batch, title, optimizer, metric, goal, ranges):
    return {
        "title": title,
        "study": "steps_to_target",
        "seed": 0,
        "global_batch": batch,
        "data": {"name": "digits", "train_size": None},
        "model": {"name": "mlp", "widths": [64, 64]},
        "optim": {"name": optimizer},
        "search": {"space": ranges, "trials": 32},
        "target": {"metric": metric, "goal": goal},
    }
