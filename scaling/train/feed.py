"""What the step reads: example indices for resident data, decoded images for streamed data.

Both kinds have `data`, what stays on the devices; `batches(step, count)`, what one call of the
chunk takes; and `evaluation(split)`, pairs of data and batches that hold every example once.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from scaling.batch import BatchPlan
from scaling.data import resident, sources, streaming
from scaling.train.evaluate import index_batches
from scaling.train.point import Point
from scaling.train.step import replicate

Arrays = dict[str, np.ndarray]

# Synthetic splits share their classes' patterns and differ in noise.
SYNTHETIC_SEEDS = {"train": 1, "validation": 2, "test": 3}


class ResidentFeed:
    """A data set on the devices; batches are indices into it."""

    def __init__(self, point: Point, plan: BatchPlan, capacity: int):
        self._point, self._plan, self._capacity = point, plan, capacity
        self._order = resident.EpochOrder(point.config.seed, point.info.sizes["train"])
        self._validation = None
        self.data = self._load("train")

    def batches(self, step: int, count: int) -> Arrays:
        """Indices of `count` updates from `step` on, [devices, capacity, accum, micro]."""
        batch, layout = self._plan.global_batch, self._plan.layout
        index = np.zeros((self._capacity, *layout), np.int32)
        index[:count] = self._order[step * batch : (step + count) * batch].reshape(count, *layout)
        return {"index": np.moveaxis(index, 2, 0)}

    def evaluation(self, split: str) -> Iterable[tuple[Any, Arrays]]:
        """The split as one pair."""
        if split == "validation":  # evaluated again and again: it stays on the devices
            self._validation = self._validation or self._whole(split)
            return [self._validation]
        return [self._whole(split)]

    def _whole(self, split):
        point = self._point
        size, batch = point.info.sizes[split], point.config.eval.batch
        return self._load(split), index_batches(size, batch, len(point.devices))

    def _load(self, split):
        info, config = self._point.info, self._point.config
        if info.name == "synthetic":
            arrays = resident.synthetic(
                SYNTHETIC_SEEDS[split], info.sizes[split], info.image_shape, info.num_classes
            )
        else:
            loaded = sources.load(info.name, split, config.data.dir)
            size = info.sizes[split]  # of a subset: the first examples
            arrays = {"image": loaded.images[:size], "label": loaded.labels[:size]}
        return replicate(arrays, self._point.devices)


class StreamFeed:
    """A data set read from disk as training goes on; batches are the images themselves."""

    data = None

    def __init__(self, point: Point, plan: BatchPlan, capacity: int):
        assert capacity == 1, "streamed batches are large: one update per call"
        self._point, self._plan = point, plan
        self._stream, self._next_step = None, None

    def batches(self, step: int, count: int) -> Arrays:
        """Images and labels of one update, [devices, 1, accum, micro, ...]."""
        assert count == 1
        if step != self._next_step:
            self._stream = streaming.ImageStream(
                self._open("train"),
                layout=self._plan.layout,
                host_devices=range(self._plan.devices),
                seed=self._point.config.seed,
                image_size=self._point.info.image_shape[0],
            ).batches(step)
        self._next_step = step + 1
        return {name: np.moveaxis(a, 1, 0)[:, None] for name, a in next(self._stream).items()}

    def evaluation(self, split: str) -> Iterable[tuple[Any, Arrays]]:
        """The split batch by batch."""
        point, devices = self._point, len(self._point.devices)
        stream = streaming.eval_batches(
            self._open(split),
            layout=(devices, -(-point.config.eval.batch // devices)),
            host_devices=range(devices),
            image_size=point.info.image_shape[0],
        )
        for batch in stream:
            yield None, {name: a[:, None] for name, a in batch.items()}

    def _open(self, split):
        return streaming.open_imagenet(split, self._point.config.data.dir)


def make_feed(point: Point, plan: BatchPlan, capacity: int) -> ResidentFeed | StreamFeed:
    """The feed of a point's data set."""
    kind = StreamFeed if point.info.streaming else ResidentFeed
    return kind(point, plan, capacity)
