"""What the step reads: example indices for resident data, decoded images for streamed data.

Both kinds have `data`, what stays on the devices; `batches(step, count)`, what one call of the
chunk takes; and `evaluation(split)`, pairs of data and batches that hold every example once, whose
shapes `evaluation_shapes(split)` tells without reading any.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from scaling.batch import BatchPlan
from scaling.data import resident, sources, streaming
from scaling.train.evaluate import index_batches
from scaling.train.point import Point, data_info
from scaling.train.step import replicate

Arrays = dict[str, np.ndarray]

# Synthetic splits share their classes' patterns and differ in noise.
SYNTHETIC_SEEDS = {"train": 1, "validation": 2, "test": 3}


def evaluation_size(sizes: dict[str, int], split: str) -> int:
    """Examples that an evaluation goes through: of the training set, the first so many as the
    validation split has; of other splits, all."""
    return min(sizes["train"], sizes["validation"]) if split == "train" else sizes[split]


def evaluation_labels(data: ConfigDict, split: str) -> np.ndarray | None:
    """Labels of the examples that an evaluation goes through, int [N]; None where they are
    streamed, for every image would be read with its label.

    Args:
      data: `config.data`.

    Raises:
      UserError: see `sources.load`.
    """
    info = data_info(data)
    if info.streaming:
        return None
    if info.name == "synthetic":
        seed, size = SYNTHETIC_SEEDS[split], info.sizes[split]
        labels = resident.synthetic_labels(seed, size, info.num_classes)
    else:
        labels = sources.load(info.name, split, data.dir).labels
    return np.asarray(labels)[: evaluation_size(info.sizes, split)]


def index_chunk(
    order: resident.EpochOrder, first: int, count: int, plan: BatchPlan, capacity: int
) -> Arrays:
    """Indices of `count` updates from position `first` on, [devices, capacity, accum, micro]."""
    index = np.zeros((capacity, *plan.layout), np.int32)
    positions = slice(first, first + count * plan.global_batch)
    index[:count] = order[positions].reshape(count, *plan.layout)
    return {"index": np.moveaxis(index, 2, 0)}


class ResidentFeed:
    """A data set on the devices; batches are indices into it."""

    def __init__(self, point: Point, plan: BatchPlan, capacity: int):
        self._point, self._plan, self._capacity = point, plan, capacity
        self._order = resident.EpochOrder(point.config.seed, point.info.sizes["train"])

    @functools.cached_property
    def data(self) -> dict[str, jax.Array]:
        """The training split."""
        return self._load("train")

    @functools.cached_property
    def _validation(self):
        """Evaluated again and again: it stays on the devices."""
        return self._load("validation")

    def batches(self, step: int, count: int) -> Arrays:
        """Indices of `count` updates from `step` on, [devices, capacity, accum, micro]."""
        first = step * self._plan.global_batch
        return index_chunk(self._order, first, count, self._plan, self._capacity)

    def evaluation(self, split: str, sharing: int | None = None) -> Iterable[tuple[Any, Arrays]]:
        """The split as one pair, its rows over `sharing` devices; None: all of the point's."""
        if split == "train":
            data = self.data
        else:
            data = self._validation if split == "validation" else self._load(split)
        return [(data, self._rows(split, sharing))]

    def evaluation_shapes(self, split: str, sharing: int | None = None) -> tuple[Any, Any]:
        """Of the pair that `evaluation` gives."""
        info, shape = self._point.info, jax.ShapeDtypeStruct
        size = info.sizes[split]
        image, label = shape((size, *info.image_shape), np.uint8), shape((size,), np.int32)
        rows = jax.eval_shape(lambda: self._rows(split, sharing))
        return {"image": image, "label": label}, rows

    def _rows(self, split, sharing):
        point = self._point
        size = evaluation_size(point.info.sizes, split)
        return index_batches(size, point.config.eval.batch, sharing or len(point.devices))

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

    def evaluation(self, split: str, sharing: int | None = None) -> Iterable[tuple[Any, Arrays]]:
        """The split batch by batch, each over `sharing` devices; None: all of the point's."""
        devices, rows = self._shared(sharing)
        size = evaluation_size(self._point.info.sizes, split)
        stream = streaming.eval_batches(
            _First(self._open(split), size),
            layout=(devices, rows),
            host_devices=range(devices),
            image_size=self._point.info.image_shape[0],
        )
        for batch in stream:
            yield None, {name: a[:, None] for name, a in batch.items()}

    def evaluation_shapes(self, split: str, sharing: int | None = None) -> tuple[Any, Any]:
        """Of every pair that `evaluation` gives."""
        rows = self._shared(sharing)
        rows = rows[0], 1, rows[1]
        image = jax.ShapeDtypeStruct((*rows, *self._point.info.image_shape), np.uint8)
        label, mask = (jax.ShapeDtypeStruct(rows, kind) for kind in (np.int32, np.bool_))
        return None, {"image": image, "label": label, "mask": mask}

    def _shared(self, sharing):
        """(devices, rows on each) of an evaluation batch."""
        devices = sharing or len(self._point.devices)
        return devices, -(-self._point.config.eval.batch // devices)

    def _open(self, split):
        return streaming.open_imagenet(split, self._point.config.data.dir)


class _First(Sequence):
    """The first `size` records of a source."""

    def __init__(self, source, size):
        self._source, self._size = source, size

    def __len__(self):
        return self._size

    def __getitem__(self, i):
        return self._source[i]

    def __repr__(self):
        return repr(self._source)


def make_feed(point: Point, plan: BatchPlan, capacity: int) -> ResidentFeed | StreamFeed:
    """The feed of a point's data set."""
    kind = StreamFeed if point.info.streaming else ResidentFeed
    return kind(point, plan, capacity)
