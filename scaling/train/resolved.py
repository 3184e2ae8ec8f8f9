"""The resolved config, as a record and as text for people."""

import math
from typing import Any

import jax
from ml_collections import ConfigDict

from scaling import hosts
from scaling.train import planning
from scaling.train.point import Point, resolve
from scaling.train.program import Program
from scaling.train.step import noise_every, noise_parts
from scaling.train.threads import is_simulated


def resolved_values(point: Point, program: Program) -> dict[str, Any]:
    """Everything derived from the config, JSON."""
    config, plan = point.config, program.plan
    values = point_values(point)
    return values | {
        "data": values["data"] | {"example": point.info.example},
        "total_steps": point.total_steps,
        "total_examples": point.total_steps * point.global_batch,
        "eval_every": point.eval_every,
        "learning_rate": {
            "peak": point.peak,
            "base_lr": config.optim.base_lr,
            "base_batch": config.optim.base_batch,
            "scaling_rule": config.optim.scaling_rule,
        },
        # JSON has no infinity.
        "hparams": jax.tree.map(lambda v: v if math.isfinite(v) else str(v), point.hparams),
        "plan": {
            "global_batch": plan.global_batch,
            "devices": plan.devices,
            "accum_steps": plan.accum_steps,
            "micro_batch": plan.micro_batch,
        },
        "ghost_batch": point.ghost_batch,
        "steps_per_call": program.capacity,
        "step_bytes": program.step_bytes,
    }


def point_values(point: Point) -> dict[str, Any]:
    """What every record of a point has, JSON."""
    return {
        "model": {"name": point.config.model.name, "parameters": point.parameter_count},
        "data": {"name": point.info.name, "sizes": point.info.sizes}
        | ({"files": point.info.files} if point.info.files else {}),
        "task": {
            "name": point.info.task,
            "unit": point.task.unit,
            "rows": point.task.rows,
            "per_row": point.task.per_row,
            "metrics": {name: metric._asdict() for name, metric in point.metrics.items()},
        },
        "devices": device_values(point.devices),
    }


def device_values(devices) -> dict[str, Any]:
    """Kind and number of the devices; several CPU devices are its cores, or simulated ones."""
    return {
        "kind": devices[0].device_kind,
        "platform": devices[0].platform,
        "count": len(devices),
        "simulated": is_simulated(),
    } | ({"hosts": jax.process_count()} if hosts.several() else {})


def plan_text(point: Point, program: Program) -> str:
    """The resolved plan, for the dry run and the head of a run."""
    values = resolved_values(point, program)
    config, rate, devices = point.config, values["learning_rate"], values["devices"]
    kind = f"{devices['count']} x {devices['kind']}"
    if devices["simulated"]:
        kind += " (simulated: correctness only, never speed)"
    elif devices["platform"] == "cpu" and jax.local_device_count() > 1:
        kind += ", parts of one CPU"
    if hosts.several():
        kind += f" of {jax.process_count()} hosts"
    rule = rate["scaling_rule"]
    if rule != "none":
        rule += f" from {rate['base_lr']:g} at batch {rate['base_batch']:,}"
    else:
        rule = "not scaled"
    options = [f"{key}={value}" for key, value in config.model.items() if key != "name"]
    epochs = values["total_examples"] / point.info.sizes["train"]
    total = point.info.amount_text(values["total_examples"])
    sizes = ", ".join(f"{n:,} {split}" for split, n in point.info.sizes.items())
    warmup = point.hparams["warmup_steps"]
    flops = planning.flops_per_example(point) * point.global_batch
    repeats = point.global_batch > point.info.sizes["train"]
    rows = {
        "title": config.title,
        "model": f"{config.model.name}({', '.join(options)}), "
        f"{values['model']['parameters']:,} parameters",
        "data": f"{point.info.name}: {sizes}",
        "training": f"{point.total_steps:,} steps = {total} = {epochs:.4g} epochs; validation "
        f"every {point.eval_every:,} steps",
        "batch": str(program.plan)
        + (f"; statistics over {point.ghost_batch:,} examples" if point.ghost_batch else "")
        + ("; more than there are to train on: some repeat in every step" if repeats else ""),
        "devices": kind,
        "optimizer": f"{config.optim.name}, learning rate {point.peak:.6g} ({rule}), "
        f"{config.schedule.name}" + (f" after {warmup:,} steps of warmup" if warmup else ""),
        "noise": _noise_text(config, program.plan),
        "cost": f"{flops:.4g} FLOPs per step in the gradients; "
        f"{program.step_bytes / 2**30:.3g} GiB per device, data included; "
        f"compiled in {program.seconds:.1f} s",
    }
    return "\n".join(f"{name:>10}  {text}" for name, text in rows.items() if text)


def dry_run(config: ConfigDict) -> str:
    """What training would do, as text. Compiles; reads no data and runs nothing.

    Raises:
      UserError: the config cannot be used.
    """
    point = resolve(config)
    return plan_text(point, planning.choose(point))


def _noise_text(config, plan):
    """How the gradient noise is measured, empty where it is not."""
    every = noise_every(config, plan)
    if every is None:
        return ""
    how = "every update" if every == 1 else f"every {every:,} updates"
    return f"scale B_simple from the gradients of the batch's {noise_parts(plan)[0]}, {how}"
