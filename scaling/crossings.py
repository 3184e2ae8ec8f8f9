"""Evaluation grids, first crossings of a goal, and outcomes, without JAX.

Shallue 2018: over the evaluations of all trials at one batch size, steps to result is the step of
the first one strictly better than the goal.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple


class Metric(NamedTuple):
    """What a goal and a report need to know of a number."""

    words: str  # as in "validation error"
    better: str = "lower"  # or "higher"
    form: str = "number"  # or "percent", of a share
    unit: str = ""  # as in "3.9 nats per token"
    best: float | None = None  # a value that none is better than


ERROR, LOSS = Metric("error", form="percent", best=0.0), Metric("loss", best=0.0)
# Before the name of a metric, and behind its words: of the weights that optim/averaging.py gives.
EWA, OF_AVERAGED = "ewa_", " of the averaged weights"


def better_than(value: float, goal: float, better: str) -> bool:
    """Whether a value is strictly better than a goal.

    Args:
      better: of the metric, "lower" or "higher".
    """
    return value > goal if better == "higher" else value < goal


def best_of(values: Iterable[Any], better: str, key: Callable[[Any], Any] | None = None) -> Any:
    """The best of some values, the first of equals; None where there are none."""
    return (max if better == "higher" else min)(values, default=None, key=key)


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

    def best(self, name: str, better: str = "lower") -> float | None:
        """The best value of a column."""
        return best_of((value for _, value in self.known(name)), better)

    def crossing(self, metric: str, goal: float, better: str = "lower") -> tuple[int, int] | None:
        """Steps of the first evaluation strictly better than the goal and of the one before it,
        (before, step). Between any two evaluations the trial may have been better for a while."""
        before = 0
        for step, value in self.known(metric):
            if better_than(value, goal, better):
                return before, step
            before = step
        return None

    def outcome(self, metric: str, goal: float, better: str = "lower") -> str:
        """reached, infeasible or missed. A trial that crosses first and diverges later has reached
        the goal."""
        if self.crossing(metric, goal, better):
            return "reached"
        return "missed" if self.diverged_at is None else "infeasible"


def first_crossing(
    histories: Sequence[History], metric: str, goal: float, better: str = "lower"
) -> tuple[int, int] | None:
    """(step, trial) of the first crossing, ties to the lower trial; None if there is none."""
    crossings = [(history.crossing(metric, goal, better), k) for k, history in enumerate(histories)]
    return min(((pair[1], k) for pair, k in crossings if pair), default=None)


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


def constant_metrics(counts: Sequence[float]) -> dict[str, float]:
    """The best {"error", "loss"} of a constant prediction.

    The error is that of the most frequent class. The loss, in nats, is that of predicting the class
    frequencies: their entropy.

    Args:
      counts: examples of each class, above 0.
    """
    counts = [float(n) for n in counts]
    total = math.fsum(counts)
    loss = math.fsum(n / total * math.log(total / n) for n in counts)
    return {"error": (total - max(counts)) / total, "loss": loss}
