"""What several studies do in the same way."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from scaling import recipes
from scaling.batch import plans
from scaling.config import default_config
from scaling.errors import UserError
from scaling.record import RunDir
from scaling.train import planning
from scaling.train.cohort import Outcome
from scaling.train.layout import layout_of
from scaling.train.planning import NOISE_EVERY
from scaling.train.point import Point, data_info, resolve
from scaling.train.resolved import device_values

# Parts of a batch whose gradients are compared where the noise is the question, and the examples in
# each: more parts tell more, and large ones might not fit the memory.
PARTS, LARGEST_PART = 8, 256
MEASUREMENTS = 200  # of a run, if it has so many updates
ENDS = ("train", "test")  # splits that a run of a recipe may be evaluated on after its last update


def by_batch_size(config: ConfigDict) -> list[ConfigDict]:
    """One config for each of `batch_sizes`, or for `global_batch` where that is empty."""
    configs = []
    for batch in config.batch_sizes or (config.global_batch,):
        point = config.copy_and_resolve_references()
        point.global_batch, point.batch_sizes = int(batch), ()
        configs.append(point)
    return configs


def batch_name(config: ConfigDict) -> str:
    """What a point's directory is called: bs256, bs8k."""
    batch = config.global_batch
    return f"bs{batch // 1024}k" if batch >= 1024 and batch % 1024 == 0 else f"bs{batch}"


def by_recipe(config: ConfigDict) -> list[ConfigDict]:
    """One config for each batch size and each recipe of `recipes.names`, changed by it.

    Recipes that come to the same at a batch size, as many do at `optim.base_batch`, share a config,
    whose `recipes.names` are theirs.

    Raises:
      UserError: no recipe, or one that cannot be, see `recipes.apply`.
    """
    names = tuple(config.recipes.names)
    if not names:
        raise UserError("recipes.names is empty; name at least one, such as 'naive'.")
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"recipes.names holds {name!r} twice; name each recipe once.")
    size, found = data_info(config.data).sizes["train"], []
    for at_batch in by_batch_size(config):
        at_batch.recipes.names = ()
        at_batch.recipes.all = names
        here: list[tuple[ConfigDict, list[str]]] = []
        for name in names:
            point = recipes.apply(at_batch, name, size)
            changes = recipes.settings(at_batch, point)
            point.recipes.changed = tuple(f"{key}={value}" for key, value in changes.items())
            same = next((called for other, called in here if other == point), None)
            if same is None:
                here.append((point, [name]))
            else:
                same.append(name)
        for point, called in here:
            point.recipes.names = tuple(called)
            found.append(point)
    return found


def recipe_name(config: ConfigDict) -> str:
    """What a point of a batch size and a recipe is called: bs8k_sqrt+gbn."""
    return f"{batch_name(config)}_{config.recipes.names[0]}"


def begin_recipe(point: Point, run: RunDir) -> dict[str, Any]:
    """Record the launch of such a point; what its result begins with."""
    config, devices = point.config, device_values(point.devices)
    run.launched(
        {
            "model": {"name": config.model.name, "parameters": point.parameter_count},
            "data": {"name": point.info.name, "sizes": point.info.sizes},
            "total_steps": point.total_steps,
            "devices": devices,
            # How they are computed, see `population.placed`.
            "populations": (run.resolved or {}).get("populations", {}),
        }
    )
    size = point.info.sizes["train"]
    return {
        "study": config.study,
        "global_batch": point.global_batch,
        "base_batch": config.optim.base_batch,
        "recipe": config.recipes.names[0],
        "recipes": list(config.recipes.names),
        "steps": point.total_steps,
        "epochs": point.total_steps * point.global_batch / size,
        "train_size": size,
        "optimizer": config.optim.name,
        "learning_rate": point.peak,
        "settings": dict(entry.split("=", 1) for entry in config.recipes.changed),
        "devices": devices,
    }


def ends_of(config: ConfigDict) -> tuple[str, ...]:
    """Splits that a run of a recipe is evaluated on after its last update."""
    return ENDS if config.eval.test else ENDS[:1]


def end_of(outcome: Outcome, trial: int) -> dict[str, Any]:
    """What one run of a recipe came to, JSON: its status and its metrics on each split."""
    history = outcome.histories[trial]
    diverged = history.diverged_at is not None
    return {
        "status": "diverged" if diverged else "complete",
        "diverged_at": history.diverged_at,
        "validation": None if diverged else {k: history.last[k] for k in ("loss", "error")},
        **{split: outcome.ends[split][trial] if split in outcome.ends else None for split in ENDS},
    }


SUSTAINED = 0.3  # share of its matrix products' rate that a device is assumed to train at


def device_hours(flops: float, examples: float, rate: float) -> float:
    """An order of magnitude: the gradients' operations over a share of the rate of matrix products.

    Args:
      flops: of one example's gradient, see `planning.flops_per_example`.
      rate: per second, see `planning.matrix_flops`.
    """
    return flops * examples / (SUSTAINED * rate) / 3600


def dry_run_of_recipes(
    points: dict[str, ConfigDict], runs_of: Callable[[Point], int], rows: dict[str, str]
) -> str:
    """What a study of recipes would do and cost: a head, and a line for each point.

    Args:
      runs_of: how many trainings a point is.
      rows: lines of the head that are the study's own.

    Raises:
      UserError: a config cannot be used.
    """
    lines, total_examples, total_hours, rate = [], 0.0, 0.0, None
    for name, config in points.items():
        point = check_recipe(config)
        if rate is None:
            rate = planning.matrix_flops(point.devices[0], config.model.get("dtype", "float32"))
            sizes = ", ".join(f"{n:,} {split}" for split, n in point.info.sizes.items())
            head = {
                "title": config.title,
                "model": f"{config.model.name}, {point.parameter_count:,} parameters",
                "data": f"{point.info.name}: {sizes}",
                **rows,
                "cost": f"device-hours at {SUSTAINED:.0%} of the {rate / 1e9:,.0f} GFLOP/s that "
                f"one {point.devices[0].device_kind} reaches in matrix products here",
            }
            lines += [f"{key:>7}  {text}" for key, text in head.items() if text]
        examples = runs_of(point) * point.total_steps * point.global_batch
        hours = device_hours(planning.flops_per_example(point), examples, rate)
        total_examples, total_hours = total_examples + examples, total_hours + hours
        layout = layout_of(point, config.recipes.seeds)
        also = ", ".join(config.recipes.names[1:])
        lines.append(
            f"{name}: {point.total_steps:,} steps, {config.optim.name} at {point.peak:.4g}, "
            f"{config.schedule.name}; {examples:.3g} examples, {hours:.2g} device-hours; each run "
            f"{layout.plan}" + (f"; also {also}" if also else "")
        )
    lines.append(f"  total  {total_examples:.3g} examples, {total_hours:.2g} device-hours")
    return "\n".join(lines)


def check_recipe(config: ConfigDict) -> Point:
    """The point, resolved, if it can be used as one of a recipe.

    Raises:
      UserError: a value that cannot be.
    """
    refuse_keys_of_single_runs(config)
    if not 1 <= config.recipes.seeds <= 10_000:
        raise UserError(f"recipes.seeds is {config.recipes.seeds}; it must be 1 to 10000.")
    return resolve(config, ("peak",))


def refuse_keys_of_single_runs(config: ConfigDict) -> None:
    """UserError for what a population does not do."""
    for key in ("metrics.weight_distance", "metrics.tensorboard", "noise_scale"):
        if value_at(config, key):
            raise UserError(f"{key} is of single runs, not of this study; leave it False here.")


def value_at(config: ConfigDict, path: str) -> Any:
    """Of a key, "section.name"."""
    for key in path.split("."):
        config = config[key]
    return config


def single_run(config: ConfigDict) -> ConfigDict:
    """The config of one training run that a study makes on the way, from the study's own."""
    c = default_config()
    for key in c:
        if key not in ("study", "batch_sizes"):
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


def numbers(config: ConfigDict, path: str) -> list[float]:
    """The values of a config key that holds several numbers.

    Raises:
      UserError: one of them is no number, or not above zero.
    """
    section, key = path.split(".")
    values = config[section][key]
    for value in values:
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not 0 < value < math.inf
        ):
            raise UserError(f"{path} holds {value!r}; all must be numbers above 0.")
    return list(values)


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as aligned columns, for a terminal."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
