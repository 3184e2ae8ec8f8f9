"""What several studies do in the same way."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from scaling.batch import plans
from scaling.config import default_config
from scaling.crossings import EWA, Metric, better_than
from scaling.errors import UserError, look_up
from scaling.train import planning
from scaling.train.feed import constant_of
from scaling.train.point import Point, data_info, metrics_of, resolve, task_of
from scaling.train.step import NOISE_EVERY

# Parts of a batch whose gradients are compared to measure the noise, and the most examples in each:
# more parts are more precise, and large ones might not fit the memory.
PARTS, LARGEST_PART = 8, 256
MOST_PASSES = 100  # of an update through the training set
MEASUREMENTS = 200  # of a run, if it has so many updates
SUSTAINED = 0.3  # share of its matrix products' rate that a device is assumed to train at


def by_batch_size(config: ConfigDict) -> list[ConfigDict]:
    """One config for each of `batch_sizes`, or for `global_batch` where that is empty."""
    configs = []
    for batch in config.batch_sizes or (config.global_batch,):
        point = config.copy_and_resolve_references()
        point.global_batch, point.batch_sizes = batch, ()
        configs.append(point)
    return configs


def check_batch(config: ConfigDict) -> None:
    """UserError if an update goes through the training set more than `MOST_PASSES` times."""
    info, batch = data_info(config.data), config.global_batch
    size = info.sizes["train"]
    if batch > MOST_PASSES * size:
        raise UserError(
            f"global_batch is {batch:,} and {info.name} has {size:,} training examples: every "
            f"update would go through all of them {batch / size:,.0f} times; use at most "
            f"{MOST_PASSES * size:,}."
        )


def batch_name(config: ConfigDict) -> str:
    """The name of a point's directory: bs256, bs8k."""
    batch = config.global_batch
    return f"bs{batch // 1024}k" if batch >= 1024 and batch % 1024 == 0 else f"bs{batch}"


def priced_plan(
    points: Mapping[str, Point],
    runs_of: Callable[[Point], int],
    rows: Mapping[str, str],
    line: Callable[[str, Point, str], str],
    most: str = "",
) -> str:
    """The dry run of populations: a head, a line for each point, and the total.

    Device-hours are FLOPs of the gradients over a share of this machine's own rate of matrix
    products: an order of magnitude.

    Args:
      runs_of: trainings of a point.
      rows: of the head, by title, after the data.
      line: of a point, from its name, the point and its price.
      most: "at most " where a price is an upper bound.
    """
    first = next(iter(points.values()))
    config, info, device = first.config, first.info, first.devices[0]
    rate = planning.matrix_flops(device, config.model.get("dtype", "float32"))
    options = ", ".join(f"{k}={v}" for k, v in config.model.items() if k != "name")
    # Per model: it hardly depends on the batch size, and takes a second where a model is deep.
    models = {repr(point.task): point for point in reversed(points.values())}
    flops = {model: planning.flops_per_example(point) for model, point in models.items()}
    head = {
        "title": config.title,
        "model": f"{config.model.name}({options}), {first.parameter_count:,} parameters",
        "data": f"{info.name}: " + ", ".join(f"{n:,} {s}" for s, n in info.sizes.items()),
        **rows,
        "cost": f"{flops[repr(first.task)]:.3g} FLOPs per example; device-hours at "
        f"{SUSTAINED:.0%} of the {rate / 1e9:,.0f} GFLOP/s that one {device.device_kind} reaches "
        "in matrix products here",
    }
    lines = [f"{title:>7}  {text}" for title, text in head.items() if text]
    units = {"examples": 1} | info.amounts

    def price(examples, hours):
        amounts = [f"{examples * each:.3g} {unit}" for unit, each in units.items()]
        return f"{' = '.join(amounts)}, {hours:.2g} device-hours"

    total = np.zeros(2)
    for name, point in points.items():
        examples = runs_of(point) * point.total_steps * point.global_batch
        hours = flops[repr(point.task)] * examples / (SUSTAINED * rate) / 3600
        total += examples, hours
        lines.append(line(name, point, price(examples, hours)))
    return "\n".join([*lines, f"  total  {most}{price(*total)}"])


def refuse_keys_of_single_runs(config: ConfigDict) -> None:
    """UserError for what a population does not do."""
    for key in ("metrics.weight_distance", "metrics.tensorboard", "noise_scale", "sharpness.track"):
        if value_at(config, key):
            raise UserError(f"{key} is of single runs, not of this study; leave it False here.")


def check_goals(
    config: ConfigDict, key: str, goals: Sequence[float], metric: str, split: str
) -> None:
    """UserError for a goal that no model can meet, and for one that one answer for all examples
    meets: steps to it measure no learning.

    Reads the labels of the split; streamed ones are not checked.

    Args:
      key: of the config, that the goals are from.
      metric: of the task, that must be strictly better than a goal.
      split: that it is evaluated on, see `feed.evaluation_size`.
    """
    words, better, *_, best = metric_of(config, metric)
    side = "above" if better == "higher" else "below"
    ordered = sorted(goals, reverse=better == "higher")
    hardest, easiest = ordered[0], ordered[-1]
    if best is not None and not better_than(best, hardest, better):
        raise UserError(
            f"{key}: {hardest:g} cannot be met, for the {words} must come strictly {side} it and "
            f"never is {side} {best:g}; choose an easier goal."
        )
    constant = constant_of(config.data, split).get(metric.removeprefix(EWA))
    if constant is None:
        return
    if better_than(constant, easiest, better):
        raise UserError(
            f"{key}: {easiest:g} takes no learning: on the {split} split of {config.data.name} "
            f"one constant answer has the {words} {constant:.4g}; set a goal well {side} that."
        )


def metric_of(config: ConfigDict, name: str, key: str = "target.metric") -> Metric:
    """A metric of the config's task; UserError where it has none of that name."""
    metrics = metrics_of(config, task_of(config, data_info(config.data)))
    if name.startswith(EWA) and not config.optim.ewa_half_life:
        raise UserError(f"{key} is {name!r} and no weights are averaged; set optim.ewa_half_life.")
    return look_up(key, name, metrics)


def value_at(config: ConfigDict, path: str) -> Any:
    """Of a key, "section.name"."""
    for key in path.split("."):
        config = config[key]
    return config


def single_run(config: ConfigDict) -> ConfigDict:
    """The config of one training run that a study makes on the way, from the study's own."""
    c = default_config()
    for key in c:
        if key in config and key not in ("study", "batch_sizes"):
            value = config[key]
            nested = isinstance(value, ConfigDict)
            c[key] = value.copy_and_resolve_references() if nested else value
    return c


def in_parts(config: ConfigDict) -> ConfigDict:
    """The run with its noise measured often: at every update by parts of the batch, as many as
    `PARTS` and no larger than `LARGEST_PART` where it allows that; else in halves, now and then.

    It uses as many of the devices as divide its batch.
    """
    config.noise_scale = True
    available = config.devices or jax.local_device_count()
    config.devices = math.gcd(config.global_batch, available)
    point = resolve(config)
    if config.micro_batch is None:
        layouts = plans(config.global_batch, config.devices, point.ghost_batch)
        wanted = min(config.global_batch // (PARTS * config.devices), LARGEST_PART)
        small = [plan for plan in layouts if plan.micro_batch <= wanted] or layouts[-1:]
        if small[0].micro_batch < config.global_batch:
            config.micro_batch = small[0].micro_batch
    if config.noise_every is None:
        fewest = NOISE_EVERY["microbatches" if config.micro_batch else "halves"]
        config.noise_every = max(1, min(fewest, point.total_steps // MEASUREMENTS))
    return config
