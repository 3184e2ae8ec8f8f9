"""What a program reads: resident data on the devices, or images or rows streamed from disk.

All kinds of feed have `data`, what stays on the devices, and `evaluation(split)`, pairs of data
and batches that hold every example once. `evaluation_shapes` gives their shapes without reading
any.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from scaling.batch import BatchPlan
from scaling.data import resident, sources, streaming
from scaling.train.point import Point, data_info
from scaling.train.step import replicate, rows_here

Arrays = dict[str, np.ndarray]

# Synthetic splits share their classes' patterns and differ in noise.
SYNTHETIC_SEEDS = {"train": 1, "validation": 2, "test": 3}


def evaluation_size(sizes: dict[str, int], split: str) -> int:
    """Examples that an evaluation goes through: of the training set, the first so many as the
    validation split has; of other splits, all."""
    return min(sizes["train"], sizes["validation"]) if split == "train" else sizes[split]


def constant_of(data: ConfigDict, split: str) -> dict[str, float]:
    """The best metrics of one answer for all examples that an evaluation goes through, of those
    that are known: none where they are streamed, as every image would be read with its label.

    Args:
      data: `config.data`.

    Raises:
      UserError: see `sources.load`.
    """
    info = data_info(data)
    if info.streaming:
        return {}
    if info.name == "synthetic":
        seed, size = SYNTHETIC_SEEDS[split], info.sizes[split]
        arrays = {"label": resident.synthetic_labels(seed, size, info.num_classes)}
    else:
        arrays = sources.load(info, split, data.dir)
    count = evaluation_size(info.sizes, split)
    first = {name: np.asarray(array[:count]) for name, array in arrays.items()}
    return sources.task_class(info.task).constant(first)


class ResidentFeed:
    """A data set on the devices; batches are indices into it."""

    def __init__(self, point: Point):
        self._point = point

    @functools.cached_property
    def data(self) -> dict[str, jax.Array]:
        """The training split."""
        return self._load("train")

    @functools.cached_property
    def _validation(self):
        """Evaluated again and again: it stays on the devices."""
        return self._load("validation")

    def evaluation(self, split: str, sharing: int | None = None) -> Iterable[tuple[Any, Arrays]]:
        """The split as one pair, its rows over `sharing` devices; None: all of the point's."""
        if split == "train":
            data = self.data
        else:
            data = self._validation if split == "validation" else self._load(split)
        return [(data, _rows(self._point, split, sharing))]

    def _load(self, split):
        info, config = self._point.info, self._point.config
        if info.name == "synthetic":
            shape, _ = info.example["image"]
            arrays = resident.synthetic(
                SYNTHETIC_SEEDS[split], info.sizes[split], shape, info.num_classes
            )
        else:
            arrays = sources.load(info, split, config.data.dir)
            # Of a subset: the first examples.
            arrays = {name: array[: info.sizes[split]] for name, array in arrays.items()}
        return replicate(arrays, self._point.devices)


class StreamFeed:
    """A data set read from disk as training goes on; batches are the images themselves, those of
    this process's devices.

    Args:
      plan: of the batches.
    """

    data = None

    def __init__(self, point: Point, plan: BatchPlan):
        self._point, self._plan = point, plan
        self._stream, self._batch, self._place = None, None, None

    def batches(self, step: int) -> Arrays:
        """Images and labels of one update, [devices, 1, accum, micro, ...]."""
        place = step // self._point.echo
        if place == self._place:
            return self._batch
        if self._place is None or place != self._place + 1:
            self._stream = streaming.ImageStream(
                self._open("train"),
                layout=self._plan.layout,
                host_devices=rows_here(self._point.devices, self._plan.devices),
                seed=self._point.config.seed,
                **self._form(),
            ).batches(place)
        self._place, batch = place, next(self._stream)
        self._batch = {name: np.moveaxis(a, 1, 0)[:, None] for name, a in batch.items()}
        return self._batch

    def _form(self):
        """Of the images and their labels."""
        example = self._point.info.example
        return {"image_size": example["image"][0][0], "label": example["label"]}

    def evaluation(self, split: str, sharing: int | None = None) -> Iterable[tuple[Any, Arrays]]:
        """The split batch by batch, each over `sharing` devices; None: all of the point's."""
        devices, rows = _shared(self._point, sharing)
        size = evaluation_size(self._point.info.sizes, split)
        stream = streaming.eval_batches(
            _First(self._open(split), size),
            layout=(devices, rows),
            host_devices=rows_here(self._point.devices, devices),
            **self._form(),
        )
        for batch in stream:
            yield None, {name: a[:, None] for name, a in batch.items()}

    def _open(self, split):
        return streaming.open_jpegs(self._point.info.name, split, self._point.config.data.dir)


class RowFeed:
    """Examples read from their folder as training goes on; batches are the examples themselves,
    those of this process's devices.

    Args:
      plan: of the batches.
    """

    data = None

    def __init__(self, point: Point, plan: BatchPlan):
        self._point, self._plan = point, plan
        self._order = resident.EpochOrder(point.config.seed, point.info.sizes["train"])
        self._rows = functools.cache(lambda split: sources.rows_of(point.info, split))

    def batches(self, step: int) -> Arrays:
        """Examples of one update, [devices, 1, accum, micro, ...]."""
        size, echo = self._point.global_batch, self._point.echo
        index = self._order.batches(step * size, 1, size, echo).reshape(self._plan.layout)
        index = index[:, rows_here(self._point.devices, self._plan.devices)]
        return self._rows("train")(np.moveaxis(index, 1, 0)[:, None])

    def evaluation(self, split: str, sharing: int | None = None) -> Iterable[tuple[Any, Arrays]]:
        """The split batch by batch, each over `sharing` devices; None: all of the point's."""
        size = evaluation_size(self._point.info.sizes, split)
        devices, rows = _shared(self._point, sharing)
        for start in range(0, size, devices * rows):
            index = start + np.arange(devices * rows).reshape(devices, 1, rows)
            index = index[rows_here(self._point.devices, devices)]
            yield None, self._rows(split)(np.minimum(index, size - 1)) | {"mask": index < size}


def evaluation_shapes(point: Point, split: str, sharing: int | None = None) -> tuple[Any, Any]:
    """Of every pair that a feed's `evaluation` gives."""
    if point.info.streaming:
        devices, rows = _shared(point, sharing)
        lead = (devices, 1, rows)
        return None, shapes_of(point, lead) | {"mask": jax.ShapeDtypeStruct(lead, np.bool_)}
    rows = jax.eval_shape(lambda: _rows(point, split, sharing))
    return shapes_of(point, (point.info.sizes[split],)), rows


def shapes_of(point: Point, lead: tuple[int, ...]) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of examples as they are stored, with some axes in front."""
    shape = lambda shape, kind: jax.ShapeDtypeStruct((*lead, *shape), np.dtype(kind))
    return {name: shape(*of_one) for name, of_one in point.info.example.items()}


def _rows(point, split, sharing):
    """Indices of an evaluation of resident data, over `sharing` devices."""
    size = evaluation_size(point.info.sizes, split)
    return index_batches(size, point.config.eval.batch, sharing or len(point.devices))


def index_batches(size: int, batch: int, devices: int) -> Arrays:
    """Every index below `size` once: {"index", "mask"}, each [devices, steps, rows].

    `batch` is the number of examples in one step over all devices; it is rounded up to fill them.
    """
    rows = -(-min(batch, size) // devices)
    steps = -(-size // (rows * devices))
    index = np.arange(steps * rows * devices, dtype=np.int32).reshape(steps, devices, rows)
    index = index.swapaxes(0, 1)
    return {"index": np.minimum(index, size - 1), "mask": (index < size).astype(np.float32)}


def _shared(point, sharing):
    """(devices, rows on each) of an evaluation batch of a stream."""
    devices = sharing or len(point.devices)
    return devices, -(-point.config.eval.batch // devices)


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


def make_feed(point: Point, plan: BatchPlan) -> ResidentFeed | StreamFeed | RowFeed:
    """The feed of a point's data set."""
    if not point.info.streaming:
        return ResidentFeed(point)
    return (RowFeed if point.info.folder else StreamFeed)(point, plan)
