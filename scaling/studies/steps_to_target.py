"""Steps to a goal against batch size, hyperparameters searched anew for each (Shallue 2018).

A point is one batch size. Its trials are drawn quasi-randomly from `search.space`, train side by
side, and are evaluated on the validation split on a grid whose steps grow by 4 x
`target.resolution`; the interval in which the first trial crosses the goal is trained again and
evaluated at `target.resolution`. Steps to target is the step of the first evaluation, over all
trials, that is strictly better than the goal; a trial that diverges before it crosses is
infeasible. No trial can change that answer after the first crossing, so training stops at
`target.margin` times its step: 1.0 would do, more tells how the other trials compare.

Then the best trial is run again with fresh seeds, and tested once, as it was at its crossing.
"""

import math
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from scaling import durations, search
from scaling.crossings import Curve, first_crossing
from scaling.data import sources
from scaling.errors import UserError, look_up
from scaling.fits import bootstrap_minimum
from scaling.optim.build import HYPERPARAMETERS
from scaling.optim.schedules import SHAPES
from scaling.record import RunDir, metric_lines, provenance
from scaling.signals import Signals
from scaling.studies.train import points as train_points
from scaling.studies.train import text_table
from scaling.train import planning
from scaling.train.evaluate import make_evaluate, means
from scaling.train.feed import ResidentFeed
from scaling.train.point import Point, data_info, resolve
from scaling.train.population import check_resident, layout_of
from scaling.train.race import Outcome, Race, Rules, forget
from scaling.train.resolved import device_values
from scaling.train.step import replicate

# What a space may call a hyperparameter that `Point.hparams` knows by another name.
# `decay_share` is `decay_steps` as a share of the budget, for spaces that serve all batch sizes.
NAMES = {
    "learning_rate": "peak",
    "decay_steps": "total_steps",
    "decay_share": "total_steps",
}
METRICS = ("error", "loss")
# Optimizers whose steps are longer than the learning rate by 1 / (1 - momentum).
WITH_MOMENTUM = ("momentum", "nesterov")
SUSTAINED = 0.3  # share of its matrix products' rate that a device is assumed to train at
REPEAT_SEED = 1_000_000  # seeds of the repeats start here, above those of any trial
REPEAT_BUDGET = 4  # times the best trial's steps


def points(config: ConfigDict) -> list[ConfigDict]:
    """One config for each batch size, its duration the budget at that size."""
    configs = train_points(config)
    for point in configs:
        size = data_info(point.data).sizes["train"]
        steps = [durations.to_steps(d, point.global_batch, size) for d in point.target.budget]
        point.duration = f"{sum(steps)} steps"
    return configs


def check(config: ConfigDict) -> None:
    """The config can be used here, and its data set is there."""
    check_values(config)
    check_resident(data_info(config.data))
    sources.check_available(config.data.name, config.data.dir)


def check_values(config: ConfigDict) -> None:
    """The config can be used here, and its space is one.

    Raises:
      UserError: a value that cannot be.
    """
    target, space = config.target, _space(config)
    readable = {
        "learning_rate",
        "warmup_steps",
        "warmup_init",
        "label_smoothing",
        *look_up("optimizer", config.optim.name, HYPERPARAMETERS),
        *look_up("schedule", config.schedule.name, SHAPES),
    } - {"boundaries"}
    if config.schedule.name not in ("constant", "step"):  # those have no end
        readable |= {"decay_steps", "decay_share"}
    search.check_space(space, readable)
    if {"decay_steps", "decay_share"} <= set(space):
        raise UserError("decay_share is decay_steps by another name; search one of them.")
    if "learning_rate" in space and config.optim.scaling_rule != "none":
        raise UserError(
            f"optim.scaling_rule is {config.optim.scaling_rule!r}, but the learning rate is "
            "searched for every batch size; set it to 'none'."
        )
    look_up("target.metric", target.metric, dict.fromkeys(METRICS))
    look_up("search.sampler", config.search.sampler, dict.fromkeys(search.SAMPLERS))
    for key in ("weight_distance", "tensorboard"):
        if config.metrics[key]:
            raise UserError(f"metrics.{key} is of the 'train' study; leave it False here.")
    if not 0 < target.goal < math.inf:
        raise UserError(
            f"target.goal is {target.goal}; reached means below it, so it must be above 0."
        )
    for key, low, high in (
        ("search.trials", 1, 100_000),
        ("search.widen", 0, 100),
        ("target.margin", 1.0, 1e6),
        ("target.resolution", 0.001, 1.0),
        ("target.repeats", 0, 10_000),
    ):
        section, name = key.split(".")
        if not low <= config[section][name] <= high:
            raise UserError(f"{key} is {config[section][name]}; it must be {low:g} to {high:g}.")
    point = resolve(config, _searched(config))
    layout_of(point, config.search.trials)


def measure(config: ConfigDict, run: RunDir, name: str, signals: Signals) -> dict[str, Any]:
    """One batch size: search, repeats, test.

    Returns:
      The result, JSON; docs/architecture.md lists its keys.
    """
    point = resolve(config, _searched(config))
    launches = (run.resolved or {}).get("launches", [])
    devices = device_values(point.devices)
    run.resolve(
        {
            "model": {"name": config.model.name, "parameters": point.parameter_count},
            "data": {"name": point.info.name, "sizes": point.info.sizes},
            "budget_steps": point.total_steps,
            "layout": str(layout_of(point, config.search.trials)),
            "devices": devices,
            "launches": [*launches, provenance() | {"devices": devices}],
        }
    )
    search_ = _Search(point, run, name, signals)
    search_.rounds()
    return search_.result(devices)


class _Search:
    """The rounds of one point's search, and what follows them."""

    def __init__(self, point: Point, run: RunDir, name: str, signals: Signals):
        self.point, self.config, self.run = point, point.config, run
        self.name, self.signals = name, signals
        self.space = _space(point.config)
        self.widened = 0
        self.lines = 0
        self.values: list[dict[str, float]] = []
        self.curves: list[Curve] = []
        self.stops: list[int] = []
        self.best: tuple[int, int] | None = None  # (step, trial)
        self.winner = None
        self.trial_steps, self.possible_steps = 0, 0
        self.timed_steps = 0  # of the repeats too, as are the seconds
        self.seconds = dict.fromkeys(("compile", "train", "eval"), 0.0)

    def rounds(self) -> None:
        """Search, and search on beyond the range while the best trial sits at its edge."""
        config, drawn = self.config.search, self._draw(self.space)
        while True:
            first = self.widened * config.trials
            self._race(f"search{self.widened}", drawn, range(first, first + config.trials))
            wider = search.widen(self.space, self.edges())
            if wider == self.space or self.widened == config.widen:
                return
            try:
                drawn = self._draw(wider, outside=self.space)
            except UserError:  # hardly any room beyond that edge, as from 0.001 down to 0
                return
            self.space = wider
            self.widened += 1

    def _draw(self, space, outside=None):
        """The values of one round's trials."""
        config = self.config.search
        return search.sample(
            space,
            range(config.trials),
            seed=self.config.seed,
            sampler=config.sampler,
            outside=outside,
        )

    def edges(self) -> list[tuple[str, str]]:
        """Where the best trial sits at the edge of what was searched."""
        if not self.best or not self.best[0]:
            return []
        return search.edges(self.space, self.values[self.best[1]])

    def _race(self, name, drawn, ids):
        """One round; pooled with those before it."""
        config, target = self.config, self.config.target
        rules = Rules(
            metric=target.metric,
            goal=target.goal,
            resolution=target.resolution,
            budget=self.point.total_steps,
            margin=target.margin,
            within=self.best and self.best[0],
        )
        seeds = [config.seed + k for k in ids]
        outcome = self._run(name, rules, drawn, seeds, "validation", ids[0])
        self.values += drawn
        self.curves += outcome.curves
        self.stops += [outcome.stopped_at] * len(drawn)
        self.trial_steps += outcome.trial_steps
        self.possible_steps += self.point.total_steps * len(drawn)
        best = first_crossing(self.curves)
        if best != self.best:
            self.best, self.winner = best, outcome.winner

    def _run(self, name, rules, drawn, seeds, split, first_trial) -> Outcome:
        """A race, or the record of one that is over."""
        values = [self._hparams(trial) for trial in drawn]
        if kept := self.run.kept(name):
            template = self.point.variables()
            outcome = Outcome(
                curves=[Curve(**curve) for curve in kept["curves"]],
                stopped_at=kept["stopped_at"],
                trial_steps=kept["trial_steps"],
                winner=_load(self.run, name, template) if kept["winner"] else None,
                seconds=kept["seconds"],
            )
            self.lines = kept["lines"]
            return self._count(name, outcome)
        race = Race(self.point, rules, values, seeds, self.run, name, split, first_trial)
        outcome = race.run(self.lines, self.signals, f"{self.name} {name}")
        self.lines = race.standing.lines
        if outcome.winner is not None:
            _save(self.run, name, outcome.winner)
        self.run.sync()  # the record must not be ahead of the lines that it counts
        self.run.keep(
            name,
            {
                "curves": [vars(curve) for curve in outcome.curves],
                "stopped_at": outcome.stopped_at,
                "trial_steps": outcome.trial_steps,
                "winner": outcome.winner is not None,
                "seconds": outcome.seconds,
                "lines": self.lines,
            },
        )
        return self._count(name, outcome)

    def _hparams(self, values):
        """A trial's values by the names of `Point.hparams`."""
        hparams = {NAMES.get(name, name): value for name, value in values.items()}
        if "decay_share" in values:
            hparams["total_steps"] = round(values["decay_share"] * self.point.total_steps)
        return hparams

    def _count(self, name, outcome):
        """Add up what the race took, now that its outcome is recorded."""
        forget(self.run, name)
        self.timed_steps += outcome.trial_steps
        for part, value in outcome.seconds.items():
            self.seconds[part] += value
        return outcome

    def repeats(self) -> list[dict[str, Any]]:
        """The best trial with fresh seeds, each to its own crossing."""
        count, (step, trial) = self.config.target.repeats, self.best
        if not count or not step:
            return []
        target = self.config.target
        rules = Rules(
            metric=target.metric,
            goal=target.goal,
            resolution=target.resolution,
            budget=min(self.point.total_steps, REPEAT_BUDGET * step),
            margin=None,
            fine_from=max(1, step // 2),
        )
        seeds = [self.config.seed + REPEAT_SEED + r for r in range(count)]
        drawn = [self.values[trial]] * count
        outcome = self._run("repeats", rules, drawn, seeds, "repeat", 0)
        return [
            {"seed": seed, "steps_to_target": curve.crossed}
            for seed, curve in zip(seeds, outcome.curves, strict=True)
        ]

    def test(self) -> dict[str, Any] | None:
        """The best trial on the test split, as it was at its crossing."""
        if not (self.best and self.best[0] and self.config.eval.test):
            return None
        point = self.point
        feed = ResidentFeed(point, layout_of(point, 1).plan, 1)
        evaluate = make_evaluate(point.task, point.preprocess, point.devices)
        variables = replicate(self.winner, point.devices)
        metrics = means(evaluate(*variables, *call) for call in feed.evaluation("test"))
        step, trial = self.best
        rows = {key: np.asarray([value]) for key, value in metrics.items()}
        self.run.append(metric_lines("test", step, rows, trial=trial))
        return {"step": step, **metrics}

    def result(self, devices) -> dict[str, Any]:
        """Everything of the point, JSON."""
        config, point = self.config, self.point
        repeats = self.repeats() if self.best else []
        self.run.truncate(self.lines)  # where an earlier launch was cut off after the last race
        test = self.test()
        step = self.best and self.best[0]
        trial = self.best[1] if step else None  # before any training none is better than another
        outcomes = [curve.outcome for curve in self.curves]
        counts = {kind: outcomes.count(kind) for kind in ("reached", "missed", "infeasible")}
        status = "reached" if self.best else "target_not_reached"
        if step == 0:
            status = "met_at_start"
        elif counts["infeasible"] == len(outcomes):
            status = "all_diverged"
        return {
            "study": config.study,
            "status": status,
            "global_batch": point.global_batch,
            "train_size": point.info.sizes["train"],
            "metric": config.target.metric,
            "goal": config.target.goal,
            "steps_to_target": step,
            "resolution": [self.curves[trial].before, step] if step else None,
            "steps_interval": self._interval() if step else None,
            "censored_at": max(self.stops) if status == "target_not_reached" else None,
            "budget_steps": point.total_steps,
            "stopped_at_step": max(self.stops),
            "margin": config.target.margin,
            "trial_steps": self.trial_steps,
            "trial_steps_saved": max(0, self.possible_steps - self.trial_steps),
            "best_trial": trial,
            "best": self._with_effective_rate(self.values[trial]) if step else None,
            "at_edge": [list(edge) for edge in self.edges()],
            "widened": self.widened,
            "ranges": {name: list(range_) for name, range_ in self.space.items()},
            "counts": counts,
            "trials": self._trials(),
            "repeats": repeats,
            "test": test,
            "seconds": self.seconds,
            "trial_steps_per_second": self.timed_steps / max(self.seconds["train"], 1e-9),
            "devices": devices,
        }

    def _interval(self):
        steps = [math.nan if c.crossed is None else c.crossed for c in self.curves]
        low, high = bootstrap_minimum(steps, seed=self.config.seed)
        return [int(low), int(high) if math.isfinite(high) else None]

    def _with_effective_rate(self, values):
        """The values and lr / (1 - momentum), as the paper plots it."""
        rate = values.get("learning_rate", self.point.peak)
        momentum = values.get("momentum", self.point.hparams.get("momentum", 0.0))
        if self.config.optim.name not in WITH_MOMENTUM:
            momentum = 0.0
        return {**values, "effective_learning_rate": rate / (1.0 - momentum)}

    def _trials(self):
        return [
            {
                "trial": k,
                "seed": self.config.seed + k,
                "values": values,
                "outcome": curve.outcome,
                "steps_to_target": curve.crossed,
                "stopped_at_step": curve.last_step if curve.diverged else stop,
                "best_metric": curve.best,
                "last_train_loss": curve.last_train_loss,
            }
            for k, (values, curve, stop) in enumerate(
                zip(self.values, self.curves, self.stops, strict=True)
            )
        ]


def sentence(result: dict[str, Any]) -> str:
    """What a finished point came to."""
    counts = result["counts"]
    tally = f"{counts['reached']} of {sum(counts.values())} trials reached the goal"
    if result["status"] == "reached":
        return f"{result['steps_to_target']:,} steps; {tally}"
    if result["status"] == "met_at_start":
        return "the goal is met before any training; choose a lower target.goal"
    if result["status"] == "all_diverged":
        return "every trial diverged; search lower learning rates"
    return f"not reached in {result['censored_at']:,} steps"


def summarize(results: dict[str, dict[str, Any]]) -> str:
    """A table of the finished points, by name."""
    head = (
        "point",
        "steps",
        "95% interval",
        "examples",
        "repeats",
        "reached",
        "best",
        "test error",
    )
    rows = [head]
    for name, result in results.items():
        step, repeats = result["steps_to_target"], [r["steps_to_target"] for r in result["repeats"]]
        low, high = result["steps_interval"] or (None, None)
        best = {k: v for k, v in (result["best"] or {}).items() if k != "effective_learning_rate"}
        counts = result["counts"]
        rows.append(
            (
                name,
                f"{step:,}" if step is not None else f"> {result['censored_at'] or 0:,}",
                f"{low:,} to {'-' if high is None else format(high, ',')}" if low else "-",
                f"{step * result['global_batch']:,}" if step is not None else "-",
                " ".join("-" if s is None else f"{s:,}" for s in repeats) or "-",
                f"{counts['reached']}/{sum(counts.values())}",
                ", ".join(f"{k}={v:.3g}" for k, v in best.items()) or "-",
                f"{result['test']['error']:.2%}" if result["test"] else "-",
            )
        )
    return text_table(rows)


def dry_run(points: dict[str, ConfigDict]) -> str:
    """What the study would do and cost at most, as text. Reads no data and trains nothing.

    Device-hours are FLOPs of the gradients over a share of this machine's own rate of matrix
    products: an order of magnitude, for the budget and not for the first crossing, which comes
    earlier.

    Raises:
      UserError: a config cannot be used.
    """
    lines, total_examples, total_hours = [], 0, 0.0
    for name, config in points.items():
        check_values(config)
        point = resolve(config, _searched(config))
        if not lines:  # the same for all batch sizes, but for normalisation
            flops = planning.flops_per_example(point)
            rate = planning.matrix_flops(point.devices[0], config.model.get("dtype", "float32"))
            lines.append(_plan_text(point, flops, rate))
        trials = config.search.trials
        examples = trials * point.total_steps * point.global_batch
        hours = flops * examples / (SUSTAINED * rate) / 3600
        total_examples, total_hours = total_examples + examples, total_hours + hours
        layout = layout_of(point, trials)
        lines.append(
            f"{name:>7}  {trials} trials x at most {point.total_steps:,} steps = {examples:.3g} "
            f"examples, {hours:.2g} device-hours; each trial {layout.plan}"
        )
    lines.append(f"  total  at most {total_examples:.3g} examples, {total_hours:.2g} device-hours")
    return "\n".join(lines)


def _plan_text(point, flops, rate):
    config, info = point.config, point.info
    ranges = (f"{n} {s} {' to '.join(map(str, r))}" for n, (s, *r) in config.search.space.items())
    target = config.target
    options = ", ".join(f"{k}={v}" for k, v in config.model.items() if k != "name")
    rows = {
        "title": config.title,
        "model": f"{config.model.name}({options}), {point.parameter_count:,} parameters",
        "data": f"{info.name}: " + ", ".join(f"{n:,} {s}" for s, n in info.sizes.items()),
        "search": f"{config.search.trials} trials per batch size by {config.search.sampler}: "
        + "; ".join(ranges),
        "goal": f"validation {target.metric} below {target.goal:g}; training stops at "
        f"{target.margin:g} x the first crossing, or after {' + '.join(target.budget)}",
        "cost": f"{flops:.3g} FLOPs per example; device-hours at {SUSTAINED:.0%} of the "
        f"{rate / 1e9:,.0f} GFLOP/s that one {point.devices[0].device_kind} reaches in matrix "
        "products here",
    }
    return "\n".join(f"{name:>7}  {text}" for name, text in rows.items() if text)


def _space(config):
    return config.search.space.to_dict()


def _searched(config):
    return [NAMES.get(name, name) for name in config.search.space]


def _save(run, name, variables):
    """The weights of the first trial to cross, beside the record."""
    flat = jax.tree.leaves(variables)
    run.keep_arrays(name, {f"{i:04d}": np.asarray(leaf) for i, leaf in enumerate(flat)})


def _load(run, name, template):
    arrays = run.kept_arrays(name)
    return jax.tree.unflatten(jax.tree.structure(template), [arrays[k] for k in sorted(arrays)])
