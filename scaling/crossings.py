"""When trials cross a goal: evaluation grids, first crossings, outcomes. Plain numbers only.

Shallue 2018's rule: pool the evaluations of all trials at one batch size; steps to result is the
step of the first one that is strictly better than the goal.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any


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
class History:
    """What is known of one trial.

    Attributes:
      columns: "step", the metrics and whatever else is recorded, a value at each evaluation; None
        where there is no number.
      diverged_at: step at which a number was not finite; nothing is added from then on.
    """

    columns: dict[str, list] = dataclasses.field(default_factory=dict)
    diverged_at: int | None = None

    def add(self, row: Mapping[str, Any]) -> None:
        """One evaluation, later than those before; a "loss" of None is divergence."""
        for name, value in row.items():
            self.columns.setdefault(name, []).append(value)
        if row["loss"] is None:
            self.diverged_at = row["step"]

    def known(self, name: str) -> list[tuple[int, float]]:
        """(step, value) of the evaluations at which a column has a number."""
        pairs = zip(self.columns.get("step", ()), self.columns.get(name, ()), strict=True)
        return [(step, value) for step, value in pairs if value is not None]

    @property
    def last(self) -> dict[str, Any]:
        """The last evaluation."""
        return {name: values[-1] for name, values in self.columns.items()}

    def best(self, name: str) -> float | None:
        """The lowest value of a column."""
        return min((value for _, value in self.known(name)), default=None)

    def crossing(self, metric: str, goal: float) -> tuple[int, int] | None:
        """Steps of the first evaluation strictly below the goal and of the one before it, (before,
        step). Between any two evaluations the trial may have been below the goal for a while."""
        before = 0
        for step, value in self.known(metric):
            if value < goal:
                return before, step
            before = step
        return None

    def outcome(self, metric: str, goal: float) -> str:
        """reached, infeasible or missed. A trial that crosses first and diverges later has reached
        the goal."""
        if self.crossing(metric, goal):
            return "reached"
        return "missed" if self.diverged_at is None else "infeasible"


def first_crossing(
    histories: Sequence[History], metric: str, goal: float
) -> tuple[int, int] | None:
    """(step, trial) of the first crossing, ties to the lower trial; None if there is none."""
    crossings = [(history.crossing(metric, goal), k) for k, history in enumerate(histories)]
    return min(((pair[1], k) for pair, k in crossings if pair), default=None)


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
