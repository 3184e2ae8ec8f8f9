"""The search at one point: rounds of trials, repeats of the best, its test (Shallue 2018)."""

from collections.abc import Collection, Mapping
from typing import Any

from ml_collections import ConfigDict

from scaling import search
from scaling.config import limits_of
from scaling.crossings import History, best_of
from scaling.errors import UserError
from scaling.record import RunDir
from scaling.signals import Signals
from scaling.train.evaluate import HeldOut
from scaling.train.feed import make_feed
from scaling.train.planning import layout_of
from scaling.train.point import Point
from scaling.train.trials import FirstCrossing, Outcome, Training, seconds_of

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
    """The rounds of one point's search, and what follows them. Each training resumes where an
    earlier launch stopped, or is read from its record.

    Args:
      name: of the point, for the progress line.
    """

    def __init__(self, point: Point, run: RunDir, name: str, signals: Signals):
        self.point, self.config, self.run = point, point.config, run
        self.name, self.signals = name, signals
        self.space = space_of(point.config)
        self.values: list[dict[str, float]] = []
        self.histories: list[History] = []
        self.rounds: list[Outcome] = []
        self.outcomes: list[Outcome] = []  # of the repeats too
        self.best: tuple[int, int] | None = None  # (step, trial)
        self.winner = None

    @property
    def widened(self) -> int:
        """Rounds after the first."""
        return len(self.rounds) - 1

    def search(self) -> None:
        """Search, and search on beyond the range while the best trial sits at its edge.

        Raises:
          UserError: the trials do not fit the memory, or a file cannot be written.
          Interrupted: by a signal, after saving; so do `repeats` and `result`.
        """
        drawn = self._draw(self.space)
        while True:
            self._round(drawn)
            wider = search.widen(self.space, self.edges())
            if self.widened == self.config.search.widen or wider == self.space:
                return
            try:
                drawn = self._draw(wider, outside=self.space)
            except UserError:  # hardly any room beyond that edge, as from 0.001 down to 0
                return
            self.space = wider

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
            trials = zip(self.histories, self.values, strict=True)
            missed = [(self._best(h), v) for h, v in trials if self._outcome(h) == "missed"]
            closest = best_of(missed, self.better, key=lambda pair: pair[0])
            return search.edges(self.space, closest[1]) if closest else []
        step, trial = self.best
        return search.edges(self.space, self.values[trial]) if step else []

    @property
    def better(self) -> str:
        """Of the goal's metric, lower or higher."""
        return self.point.metrics[self.config.target.metric].better

    @property
    def _goal(self):
        """Arguments of `History.crossing` and `History.outcome`."""
        return self.config.target.metric, self.config.target.goal, self.better

    def _best(self, history):
        return history.best(self.config.target.metric, self.better)

    def _outcome(self, history):
        return history.outcome(*self._goal)

    def _rule(self, budget, margin, within=None):
        metric, goal, better = self._goal
        resolution = self.config.target.resolution
        return FirstCrossing(metric, goal, resolution, budget, margin, within, better)

    def _round(self, drawn):
        """One round; pooled with those before it."""
        first, target = len(self.values), self.config.target
        rule = self._rule(self.point.total_steps, target.margin, self.best and self.best[0])
        seeds = [self.config.seed + first + k for k in range(len(drawn))]
        name = f"search{len(self.rounds)}"
        outcome = self._train(name, rule, drawn, seeds, target.split, first)
        self.rounds.append(outcome)
        self.values += drawn
        self.histories += outcome.histories
        best = rule.first(self.histories)
        if best != self.best:
            self.best, self.winner = best, outcome.winner

    def _train(self, name, rule, drawn, seeds, recorded_as, first_trial) -> Outcome:
        training = Training(
            self.point,
            rule,
            [self._hparams(trial) for trial in drawn],
            seeds,
            self.run,
            name,
            recorded_as,
            first_trial,
            split=self.config.target.split,
        )
        lines = self.outcomes[-1].lines if self.outcomes else 0
        self.outcomes.append(training.run(lines, self.signals, f"{self.name} {name}"))
        return self.outcomes[-1]

    def _hparams(self, values):
        """A trial's values by the names of `Point.hparams`."""
        hparams = {NAMES.get(name, name): value for name, value in values.items()}
        if "decay_share" in values:
            hparams["total_steps"] = round(values["decay_share"] * self.point.total_steps)
        return hparams

    def repeats(self) -> list[dict[str, Any]]:
        """The best trial with fresh seeds, each to its own crossing."""
        count, (step, trial) = self.config.target.repeats, self.best
        if not count or not step:
            return []
        rule = self._rule(min(self.point.total_steps, REPEAT_BUDGET * step), None)
        seeds = [self.config.seed + REPEAT_SEED + r for r in range(count)]
        drawn = [self.values[trial]] * count
        outcome = self._train("repeats", rule, drawn, seeds, REPEAT, 0)
        return [
            {"seed": seed, "steps_to_target": self._steps(history)}
            for seed, history in zip(seeds, outcome.histories, strict=True)
        ]

    def _crossing(self, history):
        return history.crossing(*self._goal)

    def _steps(self, history):
        """To the goal, or None."""
        crossing = self._crossing(history)
        return crossing and crossing[1]

    def test(self) -> dict[str, Any] | None:
        """The best trial on the test split, as it was at its crossing."""
        if not (self.best and self.best[0] and self.config.eval.test):
            return None
        step, trial = self.best
        feed = make_feed(self.point, layout_of(self.point, 1).plan)
        metrics = HeldOut(self.point, "test", feed).record({"": self.winner}, self.run, step, trial)
        return {"step": step, **metrics}

    def result(self, devices: Mapping[str, Any]) -> dict[str, Any]:
        """Everything of the point, JSON; after `search`.

        Args:
          devices: what is recorded of them.
        """
        config, point, target = self.config, self.point, self.config.target
        repeats = self.repeats() if self.best else []
        self.run.truncate(self.outcomes[-1].lines)  # where a launch was cut off after training
        test = self.test()
        step = self.best and self.best[0]
        trial = self.best[1] if step else None  # before any training none is better than another
        outcomes = [self._outcome(history) for history in self.histories]
        counts = {kind: outcomes.count(kind) for kind in ("reached", "missed", "infeasible")}
        status = "reached" if self.best else "target_not_reached"
        if step == 0:
            status = "met_at_start"
        elif counts["infeasible"] == len(outcomes):
            status = "all_diverged"
        last = max(outcome.steps for outcome in self.rounds)
        steps = sum(outcome.trial_steps for outcome in self.rounds)
        timed = sum(outcome.trial_steps for outcome in self.outcomes)
        seconds = seconds_of(self.outcomes)
        return {
            "study": config.study,
            "status": status,
            "global_batch": point.global_batch,
            "train_size": point.info.sizes["train"],
            "metric": target.metric,
            "goal": target.goal,
            "better": self.better,
            "split": target.split,
            "steps_to_target": step,
            "resolution": list(self._crossing(self.histories[trial])) if step else None,
            "censored_at": last if status == "target_not_reached" else None,
            "budget_steps": point.total_steps,
            "stopped_at_step": last,
            "margin": target.margin,
            "trial_steps": steps,
            "trial_steps_saved": point.total_steps * len(self.histories) - steps,
            "best_trial": trial,
            "best": self._with_effective_rate(self.values[trial]) if step else None,
            "at_edge": [list(edge) for edge in self.edges()],
            "widened": self.widened,
            "ranges": {name: list(range_) for name, range_ in self.space.items()},
            "counts": counts,
            "trials": self._trials(),
            "repeats": repeats,
            "test": test,
            "seconds": seconds,
            "trial_steps_per_second": timed / max(seconds["train"], 1e-9),
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
        metric = self.config.target.metric
        stops = [outcome.steps for outcome in self.rounds for _ in outcome.histories]
        trials = []
        for k, (history, stop) in enumerate(zip(self.histories, stops, strict=True)):
            known, losses = history.known(metric), history.known("train_loss")
            last = known[-1][0] if known else 0  # finite evaluation
            trials.append(
                {
                    "trial": k,
                    "seed": self.config.seed + k,
                    "values": self.values[k],
                    "outcome": self._outcome(history),
                    "steps_to_target": self._steps(history),
                    "stopped_at_step": stop if history.diverged_at is None else last,
                    "best_metric": self._best(history),
                    "last_train_loss": losses[-1][1] if losses else None,
                }
            )
        return trials
