"""Work directories of adaptive_batch and advise, written as their records are."""

import itertools
from pathlib import Path

import numpy as np
from synthetic import CPU
from synthetic_noise import write_run

GOALS = (1.0, 0.5, 0.1)


def write_adaptive_workdir(
    workdir: Path,
    batch_sizes=(4, 16, 64, 256, 1024),
    prices=(16.0, 64.0, 256.0),
    gamma=0.8,
    s_min=50.0,
    b_crit=64.0,
    seeds=3,
    noise=0.02,
    title="Adaptive batch on digits",
) -> Path:
    """Fixed batches on their hyperbola, adaptive ones on that of `gamma`, noise in both."""
    for batch in batch_sizes:
        steps, examples = s_min * (1 + b_crit / batch), s_min * (batch + b_crit)
        runs = [_run(seed, steps, examples, [[1, batch]], [], noise) for seed in range(seeds)]
        result = adaptive_result("fixed", runs, global_batch=batch)
        write_run(workdir / f"fixed_bs{batch}", result, title=title)
    for r in prices:
        # D.3: B = sqrt(r B_noise); the excess of steps over S_min goes as 1 / sqrt(r).
        excess = (gamma * b_crit / r) ** 0.5
        steps, examples = s_min * (1 + excess), s_min * b_crit * (1 + gamma / excess)
        runs = [_adaptive_run(seed, r, steps, examples, noise) for seed in range(seeds)]
        result = adaptive_result("adaptive", runs, r=r, gamma=gamma)
        write_run(workdir / f"adaptive_r{r:g}", result, title=title)
    return workdir


def _adaptive_run(seed, r, steps, examples, noise):
    """B_simple grows along it, a little faster with the seed, and is not resolved at first."""
    factor = 1.3 + 0.06 * seed
    scales = [[int(steps * i / 10) + 1, 20.0 * factor**i if i else None] for i in range(10)]
    batches = [[step, 2 ** round(np.log2((r * (scale or 20)) ** 0.5))] for step, scale in scales]
    changes = [after for before, after in itertools.pairwise(batches) if before[1] != after[1]]
    return _run(seed, steps, examples, [batches[0], *changes], scales, noise)


def _run(seed, steps, examples, schedule, scales, noise):
    factor = np.random.default_rng([seed, int(examples)]).lognormal(sigma=noise)
    goals = [
        {"goal": g, "steps": round(steps * factor * f), "examples": round(examples * factor * f)}
        for g, f in zip(GOALS, (0.2, 0.5, 1.0), strict=True)
    ]
    run = {"seed": seed, "status": "reached", "goals": goals}
    return run | {"schedule": schedule, "noise_scale": scales}


def missed_run(seed: int, status: str) -> dict:
    """A run that reached the first goal only."""
    goals = [{"goal": GOALS[0], "steps": 10, "examples": 640}]
    goals += [{"goal": goal, "steps": None, "examples": None} for goal in GOALS[1:]]
    run = {"seed": seed, "status": status, "goals": goals}
    return run | {"schedule": [[1, 64]], "noise_scale": [[10, None]]}


def adaptive_result(kind, runs, *, global_batch=None, r=None, gamma=None) -> dict:
    """A result.json of adaptive_batch."""
    return {
        "study": "adaptive_batch",
        "kind": kind,
        "status": "reached",
        "global_batch": global_batch,
        "r": r,
        "goals": list(GOALS),
        "runs": runs,
        "gamma": gamma,
        "train_size": 1197,
        "learning_rates": {"64": 0.1},
        "seconds": {"train": 1.0},
        "devices": CPU,
    }


def option(devices, batch, *, s_min=1000.0, b_crit=512.0, price=2.0) -> dict:
    """One way to train."""
    steps = s_min * (1 + b_crit / batch)
    compute, all_reduce = max(batch / devices, 16) / 2000, 0.002 * (devices > 1)
    hours = steps * (compute + all_reduce) / 3600
    return {
        "devices": devices,
        "global_batch": batch,
        "accum_steps": 1,
        "micro_batch": batch // devices,
        "steps": steps,
        "learning_rate": batch / 1000,
        "step_seconds": compute + all_reduce,
        "compute_seconds": compute,
        "all_reduce_seconds": all_reduce,
        "hours": hours,
        "hours_low": 0.8 * hours,
        "hours_high": 1.4 * hours,
        "cost": hours * devices * price,
        "cost_low": 0.8 * hours * devices * price,
        "cost_high": 1.4 * hours * devices * price,
        "efficiency": compute / (compute + all_reduce),
        "extrapolated": ["several devices: efficiency 90% to 97%"] if devices > 1 else [],
    }


def advice_result(**changes) -> dict:
    """A result.json of advise."""
    options = [option(n, 2**k) for n in (1, 2, 4, 8) for k in range(4, 14) if 2**k >= 4 * n]
    product = lambda o: o["hours"] * o["cost"]
    result = {
        "study": "advise",
        "status": "complete",
        "memory": [
            {"per_device_batch": 2**k, "bytes": 2**k * 2**22, "fits": k < 10} for k in range(4, 12)
        ],
        "limit_bytes": 3 * 2**30,
        "throughput": [
            {
                "per_device_batch": 2**k,
                "seconds": max(2**k, 40) / 2000,
                "examples_per_second": 2**k / (max(2**k, 40) / 2000),
                "spread": 0.03,
            }
            for k in range(4, 10)
        ],
        "throughput_knee": 64,
        "critical": {
            "noise_scale": {"value": 900.0, "low": 600.0, "high": None, "range": [64, 64]},
            "fit": {"value": 512.0, "low": 400.0, "high": 700.0, "range": [8, 1024]},
        },
        "options": options,
        "recommended": {
            "least_time": min(options, key=lambda o: o["hours"]),
            "least_cost": min(options, key=lambda o: o["cost"]),
            "knee": min(options, key=product),
        },
        "price_per_device_hour": 2.0,
        "currency": "EUR",
        "unit_hours": True,
        "s_min": 1000.0,
        "noise_scale": None,
        "goal": "2.5% validation error",
        "network": "pcie4",
        "devices": CPU,
    }
    return result | changes


def write_advice_workdir(workdir: Path, title="Advice for digits", **changes) -> Path:
    """One point, "advice"."""
    write_run(workdir / "advice", advice_result(**changes), title=title)
    return workdir
