"""Points that are a batch size and a recipe, and what their studies have in common."""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from scaling import recipes
from scaling.config import checked, default_config
from scaling.data import sources
from scaling.errors import UserError
from scaling.record import RunDir
from scaling.studies import shared
from scaling.studies.recipe_records import Run
from scaling.train import planning
from scaling.train.memory import check_population
from scaling.train.phases import parts_of
from scaling.train.point import Point, data_info, resolve
from scaling.train.population import placements
from scaling.train.resolved import point_values
from scaling.train.trials import Outcome

ENDS = ("train", "test")  # splits that a run may be evaluated on after its last update


def points(config: ConfigDict) -> list[ConfigDict]:
    """One config for each batch size and each recipe of `recipes.names`, changed by it.

    Recipes that give the same config at a batch size, as many do at `optim.base_batch`, share it;
    its `recipes.names` are theirs.

    Raises:
      UserError: no recipe, or one that cannot be, see `recipes.apply`.
    """
    names = config.recipes.names
    if not names:
        raise UserError("recipes.names is empty; name at least one, such as 'naive'.")
    for recipe in names:
        if names.count(recipe) > 1:
            raise UserError(f"recipes.names holds {recipe!r} twice; name each recipe once.")
    steps, points = data_info(config.data).steps, []
    for at_batch in shared.by_batch_size(config):
        at_batch.recipes.names, at_batch.recipes.all = (), names
        distinct: list[tuple[ConfigDict, list[str]]] = []
        for recipe in names:
            point = recipes.apply(at_batch, recipe, steps)
            try:
                point = checked(point)
            except UserError as error:
                raise UserError(f"The recipe {recipe!r} cannot be set: {error}") from None
            changes = recipes.settings(at_batch, point)
            point.recipes.changed = tuple(f"{key}={value}" for key, value in changes.items())
            for other, aliases in distinct:
                if other == point:
                    aliases.append(recipe)
                    break
            else:
                distinct.append((point, [recipe]))
        for point, aliases in distinct:
            point.recipes.names = tuple(aliases)
            points.append(point)
    return points


def points_on_grid(config: ConfigDict) -> list[ConfigDict]:
    """`points` of a study that evaluates at steps that grow by its key `resolution`.

    Raises:
      UserError: see `points`; an evaluation interval of single runs is set.
    """
    if config.eval.every != default_config(config.study).eval.every:
        raise UserError(
            f"eval.every is {config.eval.every!r}, but this study evaluates on a grid of its own; "
            f"set {config.study}.resolution instead."
        )
    return points(config)


def name(config: ConfigDict) -> str:
    """The name of a point's directory: bs8k_sqrt+gbn."""
    return f"{shared.batch_name(config)}_{config.recipes.names[0]}"


def begin(parts: Sequence[Point], run: RunDir) -> dict[str, Any]:
    """Record the launch of such a point; fields of its `recipe_records.Record`.

    Args:
      parts: see `resolved`.
    """
    point, steps = parts[0], _steps(parts)
    config, values, size = point.config, point_values(point), point.info.sizes["train"]
    run.launched(values | {"total_steps": steps, "populations": placements(run)})
    return {
        "study": config.study,
        "global_batch": point.global_batch,
        "base_batch": config.optim.base_batch,
        "recipe": config.recipes.names[0],
        "recipes": list(config.recipes.names),
        "steps": steps,
        "epochs": _examples(parts) / size,
        "train_size": size,
        "optimizer": config.optim.name,
        "learning_rate": point.peak,
        "settings": dict(entry.split("=", 1) for entry in config.recipes.changed),
        "devices": values["devices"],
        "metric": point.task.headline,
    }


def ends_of(config: ConfigDict) -> tuple[str, ...]:
    """Splits that a run of a recipe is evaluated on after its last update."""
    return ENDS if config.eval.test else ENDS[:1]


def end_of(point: Point, outcome: Outcome, trial: int) -> dict[str, Any]:
    """One run of a recipe after its last update; fields of its `recipe_records.Run`."""
    history = outcome.histories[trial]
    diverged = history.diverged_at is not None
    return {
        "status": "diverged" if diverged else "complete",
        "diverged_at": history.diverged_at,
        "validation": None if diverged else {k: history.last[k] for k in point.task.metrics},
        **{split: outcome.ends[split][trial] if split in outcome.ends else None for split in ENDS},
    }


def status_of(runs: Sequence[Run]) -> str:
    """Complete, or diverged where all runs did."""
    return "diverged" if all(run.diverged for run in runs) else "complete"


def dry_run(configs: dict[str, ConfigDict], trials: int, each: str) -> str:
    """What a study of recipes would do and cost, see `shared.priced_plan`. Reads no data.

    Args:
      trials: of each point.
      each: what they are.

    Raises:
      UserError: a config cannot be used.
    """

    def line(name, point, price):
        config, (_, *also) = point.config, point.config.recipes.names
        plan = planning.layout_of(point, config.recipes.seeds).plan
        *_, last = parts[name]
        schedule = config.schedule.name
        if last is not point:
            schedule = f"batch up to {last.global_batch:,} in {len(parts[name])} parts"
        return (
            f"{name}: {_steps(parts[name]):,} steps, {config.optim.name} at {point.peak:.4g}, "
            f"{schedule}; {price}; each run {plan}" + (f"; also {', '.join(also)}" if also else "")
        )

    parts = {name: resolved(config) for name, config in configs.items()}
    points = {name: each[0] for name, each in parts.items()}
    whole = {id(each[0]): each for each in parts.values()}
    runs_of = lambda point: trials * _examples(whole[id(point)]) / _examples([point])
    return shared.priced_plan(points, runs_of, {"each": each}, line)


def _steps(parts):
    return sum(part.total_steps for part in parts)


def _examples(parts):
    return sum(part.total_steps * part.global_batch for part in parts)


def resolved(config: ConfigDict, several: bool = True) -> list[Point]:
    """The parts of a point, if it can be used as one of a recipe; most have one, see `parts_of`.

    Args:
      several: whether there may be more.

    Raises:
      UserError: a value that cannot be.
    """
    shared.refuse_keys_of_single_runs(config)
    parts = parts_of(config) if several else [config]
    return [resolve(part, ("peak",)) for part in parts]


def check(config: ConfigDict, trials: int) -> Point:
    """The first part of the point, if `trials` of it can be trained here.

    Raises:
      UserError: see `resolved`; they do not fit the devices, or the data set is not there.
    """
    parts = resolved(config)
    point = parts[0]
    for part in parts:
        planning.layout_of(part, trials)
    check_population(point, trials)
    sources.check_available(config.data.name, config.data.dir)
    return point
