"""When trials cross a goal: evaluation grids, first crossings, outcomes. Plain numbers only.

Shallue 2018's rule: pool the evaluations of all trials at one batch size; steps to result is the
step of the first one that is strictly better than the goal.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Hashable, Sequence


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


def fewest_of(steps: Sequence[float | None], count: int) -> float:
    """What the fewest steps would have been, had only `count` of these trials been made.

    More trials find fewer steps, so batch sizes compare only at equal numbers of them. Of the N
    given, the k-th fastest is the fastest of `count` drawn without replacement with probability
    C(N - k, count - 1) / C(N, count). The result is the geometric mean of the minimum over such
    draws, and the plain minimum where N <= count. All trials count as drawn alike, also those of a
    widened search, whose later rounds lie where the earlier ones did best.

    Args:
      steps: of every trial, above 0; None or inf: it missed the goal or diverged.
      count: at least 1.

    Returns:
      Steps; inf where all missed. A draw of nothing but trials that missed counts as the slowest
      that reached the goal, the least that it can be: exact where fewer than `count` missed, else a
      lower bound.
    """
    reached = sorted(s for s in steps if s is not None and math.isfinite(s))
    total = len(steps)
    if not reached or total <= count:
        return min(reached, default=math.inf)
    mean, left = 0.0, 1.0  # of the log; the chance that none of the faster ones was drawn
    for k, step in enumerate(reached):
        chance = left * min(1.0, count / (total - k))
        mean, left = mean + chance * math.log(step), left - chance
    return math.exp(mean + left * math.log(reached[-1]))


def constant_metrics(labels: Sequence[Hashable]) -> dict[str, float]:
    """The least that one answer for all examples comes to, {"error", "loss"}.

    The error is that of always naming the most frequent class. The loss, in nats, is that of always
    giving the frequencies of the classes as their probabilities: their entropy.
    """
    counts, total = Counter(labels).values(), len(labels)
    loss = math.fsum(n / total * math.log(total / n) for n in counts)
    return {"error": (total - max(counts)) / total, "loss": loss}
