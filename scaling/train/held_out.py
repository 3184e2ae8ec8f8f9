"""Trained weights on a split, all of it, once."""

from typing import Any

import numpy as np

from scaling.record import RunDir, metric_lines
from scaling.train.evaluate import make_evaluate, means
from scaling.train.feed import ResidentFeed, StreamFeed
from scaling.train.point import Point
from scaling.train.step import replicate


class HeldOut:
    """A split of a point's data set, and the program that evaluates on it."""

    def __init__(self, point: Point, split: str, feed: ResidentFeed | StreamFeed):
        self.point, self.split, self._feed = point, split, feed
        self._evaluate = make_evaluate(point.task, point.preprocess, point.devices)

    def record(
        self, variables: tuple[Any, Any], run: RunDir, step: int, trial: int | None
    ) -> dict[str, float]:
        """The metrics of (params, batch_stats), name -> number, added to the run's lines."""
        variables = replicate(variables, self.point.devices)
        calls = self._feed.evaluation(self.split)
        metrics = means(self._evaluate(*variables, *call) for call in calls)
        rows = {name: np.asarray([value]) for name, value in metrics.items()}
        run.append(metric_lines(self.split, step, rows, trial=trial))
        return metrics
