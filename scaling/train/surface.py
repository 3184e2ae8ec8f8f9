"""The loss and other metrics of a task at many points of a line, an arc or a plane through weights.

Points are evaluated in compiled blocks. Every device takes blocks of its own and goes through all
of the examples, without communication: the number of devices and the size of a block change numbers
by rounding alone, and a surface that was stopped goes on bit for bit.

Weights that were moved do not have the batch statistics that were averaged in training. With the
old ones a net with batch norm is another function than in training, and its surface is steeper;
lines between two nets leave the variances negative where they are extended. So the choice has a
name, one of `STATISTICS`:
    recomputed: of the moved weights, over examples of the training set in one group.
    frozen: those of the first weights (Li 2018, random directions).
    interpolated: between those of two nets (Li 2018, Fig. 2); not beyond them.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike

from scaling.directions import arc, line, shifted
from scaling.errors import UserError
from scaling.train.evaluate import metrics_of
from scaling.train.feed import ResidentFeed, evaluation_size, index_batches
from scaling.train.losses import in_one_group
from scaling.train.point import Point
from scaling.train.step import on_devices, replicate, shard

# (trees of weights, coordinates [D]) -> weights.
PATHS = {
    "plane": lambda trees, place: shifted(trees[0], trees[1:], list(place)),
    "line": lambda trees, place: line(*trees, place[0]),
    "arc": lambda trees, place: arc(*trees, place[0]),
}
STATISTICS = ("recomputed", "frozen", "interpolated")
BLOCK = 4  # points in one call of a device: more do not gain on a CPU
GROUP = 5000  # examples that batch statistics are recomputed over


class Surface:
    """A task at the points of a path.

    Args:
      point: on a resident data set.
      path: one of `PATHS`.
      trees: of a plane, the centre and its directions; of a line or an arc, both ends.
      batch_stats: of the centre, or of both ends.
      split: "train", "validation" or "test".
      statistics: one of `STATISTICS`.
      examples: the first so many of the split; None: as many as an evaluation of it has.
      group: the first so many of the training set give recomputed statistics.
      block: points in one call of a device.

    Attributes:
      own: whether the examples are those of the group, so that one pass gives statistics and loss.

    Raises:
      UserError: the data set is streamed.
    """

    def __init__(
        self,
        point: Point,
        path: str,
        trees: Sequence[Any],
        batch_stats: Sequence[Any],
        split: str = "train",
        statistics: str = "recomputed",
        examples: int | None = None,
        group: int = GROUP,
        block: int = BLOCK,
    ):
        if point.info.streaming:
            raise UserError(
                f"Data set {point.info.name!r} is streamed; a landscape reads its examples again "
                "and again, so choose one that stays on the devices."
            )
        self.point, self._task = point, in_one_group(point.task)
        self._path, self._block, self._statistics = PATHS[path], block, statistics
        feed, sizes = ResidentFeed(point), point.info.sizes
        data, _ = feed.evaluation(split, 1)[0]
        count = min(examples or evaluation_size(sizes, split), sizes[split])
        batches = index_batches(count, point.config.eval.batch, 1)
        group = feed.data, np.arange(min(group, sizes["train"]))
        if statistics != "recomputed" or not jax.tree.leaves(batch_stats):
            self._statistics, group = statistics.replace("recomputed", "frozen"), None
        self.own = group is not None and split == "train" and count == len(group[1])
        self.own = self.own and not getattr(self._task.model, "dropout", 0)
        shared = tuple(trees), tuple(batch_stats), data, batches, group
        self._shared = replicate(shared, point.devices)
        self._evaluate = on_devices(self._sums, point.devices, (0, None), 0)

    def at(self, trees: Sequence[Any], batch_stats: Sequence[Any]) -> "Surface":
        """The same task and path through other weights; its program is not compiled again."""
        other, weights = copy.copy(self), (tuple(trees), tuple(batch_stats))
        other._shared = (*replicate(weights, self.point.devices), *self._shared[2:])
        return other

    def blocks(self, places: ArrayLike, done: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        """(points evaluated so far, name -> metrics [n] of those since) after every call.

        Args:
          places: [P, D], coordinates of a plane, or the share of a line or an arc, [P, 1].
          done: points to leave out, such as an earlier `blocks` gave.

        Raises:
          UserError: statistics cannot be interpolated at a place.
        """
        places, devices = np.asarray(places, np.float32), self.point.devices
        beyond = places[(places < 0) | (places > 1)]
        if self._statistics == "interpolated" and beyond.size:
            raise UserError(
                f"Batch statistics cannot be interpolated at {beyond[0]:g}, since variances would "
                "be negative; stay between 0 and 1, or choose recomputed ones."
            )
        size = len(devices) * self._block
        for first in range(done, len(places), size):
            these = places[first : first + size]
            index = np.minimum(np.arange(size), len(these) - 1)  # copies fill the last call
            call = shard(these[index].reshape(len(devices), self._block, -1), devices)
            sums = jax.tree.map(np.asarray, self._evaluate(call, self._shared))
            sums = {k: v.reshape(size, *v.shape[2:])[: len(these)] for k, v in sums.items()}
            yield first + len(these), metrics_of(self._task, [sums])

    def evaluate(self, places: ArrayLike) -> dict[str, np.ndarray]:
        """Metrics at all places [P, D], name -> [P]."""
        found = [metrics for _, metrics in self.blocks(places)]
        return {name: np.concatenate([one[name] for one in found]) for name in found[0]}

    def _sums(self, places, shared):
        """The task's sums at the places [K, D] of a device, [K, ...]."""
        trees, batch_stats, data, batches, group = shared
        batches = jax.tree.map(lambda leaf: leaf[0], batches)
        read = self.point.preprocess

        def one(place):
            params, stats = self._path(trees, place), batch_stats[0]
            if self._statistics == "interpolated":
                stats = line(*batch_stats, place[0])
            if group is not None:
                batch = read(group[0], {"index": group[1]})
                if self.own:
                    outputs, _ = self._in_training(params, stats, batch)
                    return self._task.statistics(outputs, batch, jnp.ones(len(group[1])))
                stats = self._recomputed(params, stats, batch)
            of = lambda batch: self._task.sums(params, stats, read(data, batch), batch["mask"])
            return jax.tree.map(lambda leaf: leaf.sum(0), lax.map(of, batches))

        return lax.map(one, places)

    def _recomputed(self, params, like, batch):
        """The batch statistics that training on this one batch would average in.

        An average moves from x to m x + (1 - m) s for a statistic s: from 0 and from 1 it shows m.
        """

        def after(value):
            stats = jax.tree.map(lambda leaf: jnp.full_like(leaf, value), like)
            return self._in_training(params, stats, batch)[1]

        return jax.tree.map(lambda a, b: a / (1 - (b - a)), after(0.0), after(1.0))

    def _in_training(self, params, stats, batch):
        """Outputs with the batch's own statistics, and the new running ones."""
        positions = jnp.arange(len(jax.tree.leaves(batch)[0]))
        key = jax.random.key(0)  # of dropout
        return self._task.outputs_in_training(params, stats, batch, positions, key)
