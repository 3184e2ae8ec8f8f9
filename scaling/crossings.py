"""When trials cross a goal: evaluation grids, first crossings, outcomes. Plain numbers only.

Shallue 2018's rule: pool the evaluations of all trials at one batch size; steps to result is the
step of the first one that is strictly better than the goal.
"""

import dataclasses
import math
from collections.abc import Sequence


def next_evaluation(step: int, ratio: float) -> int:
    """The first step after `step` of the grid (1 + ratio)^k, k = 0, 1, 2, ..., rounded.

    The grid is the same whatever was evaluated before, and at every batch size. Above 1 / ratio it
    has 1 / log(1 + ratio) steps in every factor of e, wherever that begins; up to there it has
    every step.

    Args:
      step: from 0 on; it need not be on the grid.
      ratio: by how much the steps grow (0.08: 8%), above 0.
    """
    # About the last k that is not beyond; a wrong last digit makes no difference.
    k = max(0, math.floor(math.log(step + 0.5) / math.log1p(ratio)))
    while (after := math.floor((1.0 + ratio) ** k + 0.5)) <= step:
        k += 1
    return after


@dataclasses.dataclass
class Curve:
    """What is known of one trial so far; JSON with `dataclasses.asdict`.

    Attributes:
      crossed: step of the first evaluation strictly below the goal, or None.
      before: step of the evaluation before that one. Between any two evaluations up to `crossed`
        the trial may have been below the goal for a while.
      best: lowest finite metric, None before any.
      diverged: whether a loss was not finite; nothing is added from then on. A trial that crosses
        first and diverges later has reached the goal.
      last_train_loss: mean over the updates before the last evaluation.
    """

    crossed: int | None = None
    before: int | None = None
    best: float | None = None
    diverged: bool = False
    last_train_loss: float | None = None
    last_step: int = 0

    @property
    def outcome(self) -> str:
        """reached, infeasible or missed."""
        if self.crossed is not None:
            return "reached"
        return "infeasible" if self.diverged else "missed"

    def add(self, step: int, metric: float, train_loss: float, alive: bool, goal: float) -> None:
        """One evaluation after `step` updates, later than those before."""
        if self.diverged:
            return
        if not (alive and math.isfinite(metric)):
            self.diverged = True
            return
        if math.isfinite(train_loss):
            self.last_train_loss = train_loss
        self.best = metric if self.best is None else min(self.best, metric)
        if metric < goal and self.crossed is None:
            self.crossed, self.before = step, self.last_step
        self.last_step = step


def first_crossing(curves: Sequence[Curve]) -> tuple[int, int] | None:
    """(step, trial) of the first crossing, ties to the lower trial; None if there is none."""
    crossed = [(c.crossed, trial) for trial, c in enumerate(curves) if c.crossed is not None]
    return min(crossed, default=None)
