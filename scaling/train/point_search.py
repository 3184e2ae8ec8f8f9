"""The search at one point: rounds of trials, repeats of the best, its test (Shallue 2018)."""

from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from scaling import search
from scaling.config import limits_of
from scaling.crossings import Curve, first_crossing
from scaling.errors import UserError
from scaling.record import RunDir
from scaling.signals import Signals
from scaling.train.checkpoint import forget
from scaling.train.held_out import HeldOut
from scaling.train.point import Point
from scaling.train.race import Outcome, Race, Rules

# What a space may call a hyperparameter that `Point.hparams` knows by another name.
# `decay_share` is `decay_steps` as a share of the budget, for spaces that serve all batch sizes.
NAMES = {
    "learning_rate": "peak",
    "decay_steps": "total_steps",
    "decay_share": "total_steps",
}
# Optimizers whose steps are longer than the learning rate by 1 / (1 - momentum).
WITH_MOMENTUM = ("momentum", "nesterov")
# Seeds of the repeats follow those of any trial, in a first round or a wider one.
REPEAT_SEED = round(limits_of("search.trials").high * (1 + limits_of("search.widen").high))
REPEAT_BUDGET = 4  # times the best trial's steps
REPEAT = "repeat"  # what the lines of repeats in metrics.jsonl are called


def space_of(config: ConfigDict) -> dict[str, Any]:
    """The search space."""
    return config.search.space.to_dict()


def searched(space: Collection[str]) -> list[str]:
    """The hyperparameters that trials set, by the names of `Point.hparams`."""
    return [NAMES.get(name, name) for name in space]


class PointSearch:
    """The rounds of one point's search, and what follows them. Each race goes on where an earlier
    launch stopped, or is read from its record.

    Args:
      name: of the point, for the progress line.
    """

    def __init__(self, point: Point, run: RunDir, name: str, signals: Signals):
        self.point, self.config, self.run = point, point.config, run
        self.name, self.signals = name, signals
        self.space = space_of(point.config)
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
        """Search, and search on beyond the range while the best trial sits at its edge.

        Raises:
          UserError: the trials do not fit the memory, or a file cannot be written.
          Interrupted: by a signal, after saving; so do `repeats` and `result`.
        """
        config, drawn = self.config.search, self._draw(self.space)
        while True:
            first = self.widened * config.trials
            self._race(f"search{self.widened}", drawn, range(first, first + config.trials))
            wider = search.widen(self.space, self.edges())
            if self.widened == config.widen or wider == self.space:
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
            seed=(self.config.seed, self.point.global_batch),  # a search of its own
            sampler=config.sampler,
            outside=outside,
        )

    def edges(self) -> list[tuple[str, str]]:
        """Where the best trial sits at the edge of what was searched; where none has reached the
        goal, the one that came closest."""
        if not self.best:
            missed = [(c.best, k) for k, c in enumerate(self.curves) if c.outcome == "missed"]
            return search.edges(self.space, self.values[min(missed)[1]]) if missed else []
        step, trial = self.best
        return search.edges(self.space, self.values[trial]) if step else []

    def _race(self, name, drawn, ids):
        """One round; pooled with those before it."""
        config, target = self.config, self.config.target
        rules = self._rules(
            budget=self.point.total_steps,
            margin=target.margin,
            within=self.best and self.best[0],
        )
        seeds = [config.seed + k for k in ids]
        outcome = self._run(name, rules, drawn, seeds, target.split, ids[0])
        self.values += drawn
        self.curves += outcome.curves
        self.stops += [outcome.stopped_at] * len(drawn)
        self.trial_steps += outcome.trial_steps
        self.possible_steps += self.point.total_steps * len(drawn)
        best = first_crossing(self.curves)
        if best != self.best:
            self.best, self.winner = best, outcome.winner

    def _rules(self, **rules):
        target = self.config.target
        return Rules(
            metric=target.metric,
            goal=target.goal,
            resolution=target.resolution,
            split=target.split,
            **rules,
        )

    def _run(self, name, rules, drawn, seeds, recorded_as, first_trial) -> Outcome:
        """A race, or the record of one that is over."""
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
        values = [self._hparams(trial) for trial in drawn]
        race = Race(self.point, rules, values, seeds, self.run, name, recorded_as, first_trial)
        outcome = race.run(self.lines, self.signals, f"{self.name} {name}")
        self.lines = race.standing.lines
        keeps = outcome.winner is not None and recorded_as != REPEAT  # those are not tested
        if keeps:
            _save(self.run, name, outcome.winner)
        self.run.sync()  # the record must not be ahead of the lines that it counts
        self.run.keep(
            name,
            {
                "curves": [vars(curve) for curve in outcome.curves],
                "stopped_at": outcome.stopped_at,
                "trial_steps": outcome.trial_steps,
                "winner": keeps,
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
        budget = min(self.point.total_steps, REPEAT_BUDGET * step)
        rules = self._rules(budget=budget, margin=None)
        seeds = [self.config.seed + REPEAT_SEED + r for r in range(count)]
        drawn = [self.values[trial]] * count
        outcome = self._run("repeats", rules, drawn, seeds, REPEAT, 0)
        return [
            {"seed": seed, "steps_to_target": curve.crossed}
            for seed, curve in zip(seeds, outcome.curves, strict=True)
        ]

    def test(self) -> dict[str, Any] | None:
        """The best trial on the test split, as it was at its crossing."""
        if not (self.best and self.best[0] and self.config.eval.test):
            return None
        step, trial = self.best
        metrics = HeldOut(self.point, "test").record(self.winner, self.run, step, trial)
        return {"step": step, **metrics}

    def result(self, devices: Mapping[str, Any]) -> dict[str, Any]:
        """Everything of the point, JSON; after `rounds`.

        Args:
          devices: what is recorded of them.
        """
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
            "split": config.target.split,
            "steps_to_target": step,
            "resolution": [self.curves[trial].before, step] if step else None,
            "censored_at": max(self.stops) if status == "target_not_reached" else None,
            "budget_steps": point.total_steps,
            "stopped_at_step": max(self.stops),
            "margin": config.target.margin,
            "trial_steps": self.trial_steps,
            "trial_steps_saved": self.possible_steps - self.trial_steps,
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


def _save(run, name, variables):
    """The weights of the first trial to cross, beside the record."""
    flat = jax.tree.leaves(variables)
    run.keep_arrays(name, {f"{i:04d}": np.asarray(leaf) for i, leaf in enumerate(flat)})


def _load(run, name, template):
    arrays = run.kept_arrays(name)
    return jax.tree.unflatten(jax.tree.structure(template), [arrays[k] for k in sorted(arrays)])
