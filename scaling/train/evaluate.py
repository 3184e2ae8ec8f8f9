"""Metrics of a split: sums over its examples, added over devices and calls, then finished."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from scaling.record import RunDir, metric_lines
from scaling.tasks import Task
from scaling.train.feed import ResidentFeed, StreamFeed, evaluation_shapes
from scaling.train.point import Point
from scaling.train.program import make_evaluate
from scaling.train.step import lowered, replicate, shard


def metrics_of(task: Task, calls: Iterable[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """The metrics of K trials, float64 [K], from the sums that each call gives, [K, ...]."""
    total: dict[str, Any] = {}
    for sums in calls:
        for name, value in sums.items():
            total[name] = total.get(name, 0.0) + np.float64(value)
    # In float64: as a float32, six errors in 300 are fewer than 2%.
    count = len(next(iter(total.values())))
    each = [task.finish({name: value[k] for name, value in total.items()}) for k in range(count)]
    return {name: np.asarray([one[name] for one in each]) for name in each[0]}


class HeldOut:
    """A split of a point's data set, and the program that evaluates one trial's weights on it."""

    def __init__(self, point: Point, split: str, feed: ResidentFeed | StreamFeed):
        self.point, self.split, self._feed = point, split, feed
        # Once, of one trial: as exactly as the task can.
        self._point = dataclasses.replace(point, task=point.task.finer())
        lead = lambda s: jax.ShapeDtypeStruct((1, 1, *s.shape), s.dtype)
        shapes = jax.tree.map(lead, point.variables()), *evaluation_shapes(point, split)
        self._evaluate = lowered(make_evaluate(self._point), *shapes).compile()

    def record(
        self, variables: Mapping[str, tuple[Any, Any]], run: RunDir, step: int, trial: int | None
    ) -> dict[str, float]:
        """The metrics of (params, batch_stats), name -> number, added to the run's lines.

        Args:
          variables: by what the names of their metrics begin with.
        """
        rows = {
            kind + name: values
            for kind, each in variables.items()
            for name, values in self.metrics(each).items()
        }
        run.append(metric_lines(self.split, step, rows, trial=trial))
        return {name: float(value[0]) for name, value in rows.items()}

    def metrics(self, variables: tuple[Any, Any]) -> dict[str, np.ndarray]:
        """The metrics of (params, batch_stats), name -> [1]."""
        lead = jax.tree.map(lambda leaf: leaf[None, None], variables)
        weights = replicate(lead, self.point.devices)
        calls = self._feed.evaluation(self.split)
        put = lambda rows: shard(rows, self.point.devices)
        sums = (self._evaluate(weights, data, put(rows)) for data, rows in calls)
        return metrics_of(self._point.task, ({k: v[0] for k, v in s.items()} for s in sums))
