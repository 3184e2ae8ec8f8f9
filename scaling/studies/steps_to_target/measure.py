"""Steps to a goal against batch size, hyperparameters searched anew for each (Shallue 2018).

A point is one batch size. Its trials are drawn quasi-randomly from `search.space`, train side by
side, and are evaluated on one grid of steps that grows by `target.resolution`, the same at every
batch size. Steps to target is the step of the first evaluation, over all trials, that is strictly
better than the goal. A dip below the goal between two evaluations is missed, equally at every batch
size: the grid has as many steps in every factor of two (and every step up to 1 / resolution). A
trial that diverges before it crosses is infeasible. No trial can change the answer after the first
crossing, so training stops at `target.margin` times its step: 1.0 suffices for the minimum, a
larger margin shows how the other trials compare.

The goal is on the validation split or, as McCandlish 2018 has it, on training examples: the first
ones, as many as the validation split has (`target.split`). Where a data set is streamed, all trials
and repeats see the same images in the same order, that of `seed`: only initialisation and dropout
differ, and the spread of the repeats is that of those two.

Then the best trial is run again with fresh seeds, and tested once, as it was at its crossing.
"""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from scaling import search
from scaling.config import default_config
from scaling.data import sources
from scaling.errors import UserError, look_up
from scaling.optim.build import HYPERPARAMETERS
from scaling.optim.schedules import ENDLESS, SHAPES
from scaling.record import RunDir
from scaling.report.reading import from_json
from scaling.report.wording import SPLITS, goal_text
from scaling.signals import Signals
from scaling.studies import shared
from scaling.studies.shared import batch_name, by_batch_size, value_at
from scaling.studies.steps_to_target.record import Record
from scaling.train import planning
from scaling.train.memory import check_population
from scaling.train.point import Point, data_info, resolve
from scaling.train.population import placements
from scaling.train.resolved import point_values
from scaling.train.search import PointSearch, searched, space_of

# Keys of single runs, and those to set instead.
INSTEAD = {"duration": "target.budget", "eval.every": "target.resolution"}

name = batch_name


def points(config: ConfigDict) -> list[ConfigDict]:
    """One config for each batch size, its duration the budget at that size.

    Raises:
      UserError: a duration, or an evaluation interval, of single runs is set.
    """
    defaults = default_config(config.study)
    for key, instead in INSTEAD.items():
        value = value_at(config, key)
        if value != value_at(defaults, key):
            raise UserError(
                f"{key} is {value!r}, but a search does not read it; set {instead} instead."
            )
    configs = by_batch_size(config)
    for point in configs:
        info = data_info(point.data)
        steps = [info.steps(duration, point.global_batch) for duration in point.target.budget]
        point.duration = f"{sum(steps)} steps"
    return configs


def check(config: ConfigDict) -> None:
    """The config can be used here, its data set is there, and its goal takes learning."""
    check_with_goals(config, "target.goal", (config.target.goal,))


def check_with_goals(config: ConfigDict, key: str, goals: Sequence[float]) -> None:
    """The same, for the goals that `key` holds: no constant answer meets any of them."""
    check_population(check_values(config), config.search.trials)
    sources.check_available(config.data.name, config.data.dir)
    target = config.target
    shared.check_goals(config, key, goals, target.metric, target.split)


def check_values(config: ConfigDict) -> Point:
    """The point of a config that can be used here, and whose space is one.

    Raises:
      UserError: a value that cannot be.
    """
    space = space_of(config)
    _check_space(config, space)
    shared.metric_of(config, config.target.metric)
    look_up("target.split", config.target.split, SPLITS)
    shared.refuse_keys_of_single_runs(config)
    point = resolve(config, searched(space))
    if "warmup_init" in space and "warmup_steps" not in space and not point.hparams["warmup_steps"]:
        raise UserError(
            "warmup_init is searched, but there is no warmup; set schedule.warmup or search "
            "warmup_steps too."
        )
    planning.layout_of(point, config.search.trials)
    return point


def _check_space(config, space):
    """The space is one, and all of it is read."""
    readable = {
        "learning_rate",
        "warmup_steps",
        "warmup_init",
        "label_smoothing",
        *look_up("optimizer", config.optim.name, HYPERPARAMETERS),
        *look_up("schedule", config.schedule.name, SHAPES),
    } - {"boundaries"}
    if config.optim.ewa_half_life:
        readable.add("ewa_decay")
    if config.schedule.name not in ENDLESS:
        readable |= {"decay_steps", "decay_share"}
    search.check_space(space, readable)
    look_up("search.sampler", config.search.sampler, dict.fromkeys(search.SAMPLERS))
    if {"decay_steps", "decay_share"} <= set(space):
        raise UserError("decay_share is decay_steps by another name; search one of them.")
    if "learning_rate" in space and config.optim.scaling_rule != "none":
        raise UserError(
            f"optim.scaling_rule is {config.optim.scaling_rule!r}, but the learning rate is "
            "searched for every batch size; set it to 'none'."
        )


def measure(config: ConfigDict, run: RunDir, name: str, signals: Signals) -> Record:
    """One batch size: search, repeats, test."""
    return from_json(Record, search_at(config, run, name, signals))


def search_at(config: ConfigDict, run: RunDir, name: str, signals: Signals) -> dict[str, Any]:
    """The fields of its Record, JSON."""
    point = resolve(config, searched(space_of(config)))
    values = point_values(point)
    run.launched(values | {"budget_steps": point.total_steps, "populations": placements(run)})
    point_search = PointSearch(point, run, name, signals)
    point_search.search()
    return point_search.result(values["devices"])


def dry_run(points: dict[str, ConfigDict]) -> str:
    """What the study would do and cost at most, as text. Reads no data and trains nothing.

    The price is for the budget and not for the first crossing, which comes earlier.

    Raises:
      UserError: a config cannot be used.
    """

    def line(name, point, price):
        trials = point.config.search.trials
        return (
            f"{name:>7}  {trials} trials x at most {point.total_steps:,} steps = {price}; each "
            f"trial {planning.layout_of(point, trials).plan}"
        )

    checked = {name: check_values(config) for name, config in points.items()}
    search, target = (next(iter(points.values()))[key] for key in ("search", "target"))
    ranges = (f"{n} {s} {' to '.join(map(str, r))}" for n, (s, *r) in search.space.items())
    metric = next(iter(checked.values())).metrics[target.metric]
    rows = {
        "search": f"{search.trials} trials per batch size by {search.sampler}: {'; '.join(ranges)}",
        "goal": f"{goal_text(metric, target.goal, target.split)}; training stops at "
        f"{target.margin:g} x the first crossing, or after {' + '.join(target.budget)}",
    }
    runs = lambda point: point.config.search.trials
    return shared.priced_plan(checked, runs, rows, line, "at most ")
