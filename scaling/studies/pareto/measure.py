"""Steps against examples for several goals, and the noise scale beside them (McCandlish 2018).

A point is one batch size of `steps_to_target`, searched until the lowest of `pareto.goals` is
reached on the training loss; the higher goals were crossed on the way, each by whichever trial came
first. Then the best trial runs once more with its noise tracked, up to where it reached the goal.
Across batch sizes every goal gives a hyperbola and so a critical batch size (Fig. 7), to be
compared with the noise scale that a run at that loss shows (Fig. 14, Table 1).

The paper smooths the training loss of the updates themselves; here the loss is evaluated on a fixed
part of the training examples, without dropout, so there is no smoothing to choose.
"""

import math
from typing import Any

from ml_collections import ConfigDict

from scaling.config import default_config
from scaling.crossings import better_than
from scaling.errors import UserError
from scaling.optim.schedules import ENDLESS
from scaling.record import RunDir, read_metrics
from scaling.report.reading import from_json
from scaling.signals import Signals
from scaling.studies.pareto.record import Crossing, Record
from scaling.studies.shared import batch_name, in_parts, metric_of, single_run
from scaling.studies.steps_to_target import measure as steps_to_target
from scaling.train.point import data_info
from scaling.train.single import train_inside

name = batch_name
dry_run, check_values = steps_to_target.dry_run, steps_to_target.check_values


def points(config: ConfigDict) -> list[ConfigDict]:
    """One config for each batch size; its goal is the hardest.

    Raises:
      UserError: no goals, or a target.goal beside them.
    """
    if not config.pareto.goals:
        raise UserError("pareto.goals is empty; name at least one goal of the training loss.")
    if config.target.goal != default_config(config.study).target.goal:
        raise UserError(
            f"target.goal is {config.target.goal:g}, but this study's goals are pareto.goals; set "
            "those instead."
        )
    configs = steps_to_target.points(config)
    for point in configs:
        better = metric_of(point, point.target.metric).better
        point.target.goal = _easiest_first(point.pareto.goals, better)[-1]
    return configs


def check(config: ConfigDict) -> None:
    """The config can be used here, its data set is there, and its goals take learning."""
    steps_to_target.check_with_goals(config, "pareto.goals", config.pareto.goals)


def measure(config: ConfigDict, run: RunDir, name: str, signals: Signals) -> Record:
    """One batch size: the search, every goal's steps, and the best trial's noise."""
    fields = steps_to_target.search_at(config, run, name, signals)
    goals = _easiest_first(config.pareto.goals, fields["better"])
    rows = read_metrics(run.path, config.target.split)
    tracked = {"noise_scale": None, "status": None}
    # One example has no parts, and a batch above the training set holds examples more than once.
    divisible = 1 < config.global_batch <= data_info(config.data).sizes["train"]
    if fields["steps_to_target"] and divisible:
        again = tracked_config(config, fields)
        tracked = train_inside(again, run, f"{name} tracked", signals)
    metric, better, batch = config.target.metric, fields["better"], config.global_batch
    crossings = [_crossing(rows, metric, goal, better, batch) for goal in goals]
    own = {"goals": crossings, "tracked": tracked["noise_scale"]}
    return from_json(Record, fields | own | {"tracked_status": tracked["status"]})


def _easiest_first(goals, better) -> list[float]:
    return sorted(goals, reverse=better == "lower")


def _crossing(rows, metric, goal, better, batch) -> Crossing:
    """The first evaluation of any trial better than a goal, and that trial's evaluation before."""
    known = [row for row in rows if row[metric] is not None]
    met = [(r["step"], r["trial"]) for r in known if better_than(r[metric], goal, better)]
    if not met:
        return Crossing(goal, None, None, None)
    step, trial = min(met)
    before = max((r["step"] for r in rows if r["trial"] == trial and r["step"] < step), default=0)
    return Crossing(goal, step, before, step * batch)


def tracked_config(config: ConfigDict, result: dict[str, Any]) -> ConfigDict:
    """The config of the best trial of a search as a single run that tracks the noise scale.

    Same values, same seed and, but for streamed data, which all trials read in one order, the same
    order of examples. It lasts as long as the trial took to the goal; where its schedule has an
    end, until that.
    """
    c = single_run(config)
    c.title = f"The best trial at batch {config.global_batch:,}, its gradient noise tracked"
    c.seed = result["trials"][result["best_trial"]]["seed"]
    c.eval.test = False
    info = data_info(config.data)
    budget = info.steps(config.duration, config.global_batch)
    best, steps = result["best"], result["steps_to_target"]
    if config.schedule.name not in ENDLESS:
        steps = round(best.get("decay_steps", best.get("decay_share", 1.0) * budget))
    if "warmup_steps" in best:
        c.schedule.warmup = f"{round(best['warmup_steps'])} steps"
    c.optim.base_lr = best.get("learning_rate", c.optim.base_lr)
    for section in (c.optim, c.schedule, c.loss):
        section.update({key: value for key, value in best.items() if key in section})
    steps = max(steps, info.steps(c.schedule.warmup, c.global_batch))
    c.duration, c.eval.every = f"{steps} steps", f"{max(1, math.ceil(steps / 20))} steps"
    return in_parts(c)
