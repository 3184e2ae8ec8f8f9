"""The form of result.json."""

import math
from dataclasses import dataclass
from typing import Any

from scaling.minima import fewest_interval

Values = dict[str, int | float]


@dataclass(frozen=True)
class Trial:
    """One set of hyperparameters at a batch size, and its outcome."""

    trial: int  # its number, also in metrics.jsonl
    seed: int
    values: Values
    outcome: str  # reached, missed or infeasible (it diverged before it crossed the goal)
    steps_to_target: int | None
    stopped_at_step: int
    best_metric: float | None  # None: it diverged before its first evaluation
    last_train_loss: float | None


@dataclass(frozen=True)
class Repeat:
    """The best trial under a fresh seed, evaluated at the same steps."""

    seed: int
    steps_to_target: int | None


@dataclass(frozen=True)
class Log:
    """What a record of runs that another program made says besides."""

    unit: str  # what the batch size counts
    tokens_per_example: float | None  # where a batch counts examples or sequences
    reference: int | None  # a batch size, see `StepsFit.overhead_batch`
    sizes: Values  # tokens, parameters: of the study, by their column in the log


@dataclass(frozen=True, eq=False)
class Record:
    """The search at one batch size.

    Rules that the papers leave open: a trial that diverges after it has crossed the goal counts as
    reached (Shallue 2018 excludes it; under a stopping rule nobody can know). The minimum over
    trials is optimistic, and more so for a small validation set; `repeats` show by how much.

    Beside it lie `search0.json`, `search0.npz` (weights of the best trial at its crossing), ... and
    `repeats.json` of the finished races, and a line in metrics.jsonl per trial and evaluation
    (`split` of the goal, repeat or test; not in order of step).
    """

    study: str
    status: str  # reached, target_not_reached, all_diverged or met_at_start
    global_batch: int
    train_size: int | None  # None: not known, of a log
    metric: str  # of the task
    goal: float | None  # the metric must be strictly better; None: not known, of a log
    steps_to_target: int | None  # of the first evaluation better than the goal, over all trials
    resolution: tuple[int, int] | None  # the best trial's evaluations before and at its crossing
    censored_at: int | None  # steps tried without reaching the goal
    budget_steps: int  # after which a trial gives up
    stopped_at_step: int  # where training of the trials ended
    margin: float | None  # which is at this multiple of the first crossing, within the budget
    trial_steps: int  # updates that the trials made
    trial_steps_saved: int  # and those that they did not make thanks to the margin
    best_trial: int | None
    best: Values | None  # its values and lr / (1 - momentum), effective_learning_rate
    at_edge: list[tuple[str, str]]  # (name, low or high) of the best or else the closest trial
    widened: int  # how often the search went on beyond a range
    ranges: dict[str, list[Any]]  # (scale, low, high) or ("discrete", value, ...) searched
    counts: dict[str, int]  # trials by outcome
    trials: list[Trial]
    repeats: list[Repeat]
    # Metrics of the best trial on the test split, at its crossing, of the weights that crossed.
    test: Values | None
    seconds: dict[str, float]
    trial_steps_per_second: float
    devices: dict[str, Any]
    split: str = "validation"  # whose metric the goal is on; train: as many training examples
    better: str = "lower"  # or higher, of the metric; older records do not say
    log: Log | None = None  # where the trials are not ours
    interval: tuple[int, int] | None = None  # of the steps, where such a log has one
    tried: int | None = None  # trials that those of a log are the best of, or all

    @property
    def reached(self) -> bool:
        """Whether training reached the goal; not so where it was met before training."""
        return self.status == "reached"

    @property
    def examples(self) -> int | None:
        """Examples used up to the goal."""
        return None if self.steps_to_target is None else self.steps_to_target * self.global_batch

    @property
    def epochs(self) -> float | None:
        """Passes over the training set up to the goal."""
        if self.examples is None or self.train_size is None:
            return None
        return self.examples / self.train_size

    @property
    def repeat_steps(self) -> list[int]:
        """Steps of those repeats of the best trial that reached the goal."""
        return sorted(r.steps_to_target for r in self.repeats if r.steps_to_target is not None)

    @property
    def until(self) -> float:
        """The step to which every trial that missed the goal was trained; inf without any."""
        missed = [trial.stopped_at_step for trial in self.trials if trial.outcome == "missed"]
        return min(missed, default=math.inf)

    @property
    def steps_interval(self) -> tuple[int, int] | None:
        """95% interval of the median of `steps_to_target` over such searches, in whole steps.

        None where the goal was not reached, or by too few trials for an upper end: their lower end
        would rest on the distance between two or three of them.
        """
        if not self.reached or self.interval:
            return self.interval
        search = {"until": self.until, "before": self.resolution[0]}
        low, high = fewest_interval([t.steps_to_target for t in self.trials], **search)
        return None if high == math.inf else (max(1, math.floor(low)), int(high))
