"""Evaluation grids, first crossings of a goal, and outcomes, without JAX.

Shallue 2018: over the evaluations of all trials at one batch size, steps to result is the step of
the first one strictly better than the goal.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Hashable, Sequence


def next_evaluation(step: int, ratio: float) -> int:
    """The first step after `step` of the grid (1 + ratio)^k, k = 0, 1, 2, ..., rounded.

    The grid does not depend on earlier evaluations nor on the batch size. It has every step up to
    about 1 / ratio, and 1 / log(1 + ratio) steps per factor of e above.

    Args:
      step: 0 or more; it need not be on the grid.
      ratio: relative growth of the steps (0.08: 8%), above 0.
    """
    # A lower bound of k; rounding makes no difference.
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
    """Expected fewest steps of a search with only `count` of these trials.

    More trials find fewer steps, so batch sizes are comparable only at equal numbers of trials. Of
    N trials, the k-th fastest is the fastest of `count` drawn without replacement with probability
    C(N - k, count - 1) / C(N, count). The result is the geometric mean of the minimum over such
    draws, and the minimum itself where N <= count. All trials have equal probability, also those of
    the later rounds of a widened search, which lie where the earlier ones did best.

    Args:
      steps: of every trial, above 0; None or inf: it missed the goal or diverged.
      count: at least 1.

    Returns:
      Steps; inf where all missed. A draw in which all trials missed counts as the slowest trial
      that reached the goal: exact where fewer than `count` missed, else a lower bound.
    """
    reached = sorted(s for s in steps if s is not None and math.isfinite(s))
    total = len(steps)
    if not reached or total <= count:
        return min(reached, default=math.inf)
    mean, remaining = 0.0, 1.0  # of the log; probability that no faster trial was drawn
    for k, step in enumerate(reached):
        chance = remaining * min(1.0, count / (total - k))
        mean, remaining = mean + chance * math.log(step), remaining - chance
    return math.exp(mean + remaining * math.log(reached[-1]))


def constant_metrics(labels: Sequence[Hashable]) -> dict[str, float]:
    """The best {"error", "loss"} of a constant prediction.

    The error is that of the most frequent class. The loss, in nats, is that of predicting the class
    frequencies: their entropy.
    """
    counts, total = Counter(labels).values(), len(labels)
    loss = math.fsum(n / total * math.log(total / n) for n in counts)
    return {"error": (total - max(counts)) / total, "loss": loss}
