"""Streaming of image sets that do not fit on a device: JPEG decoding and cropping on the host.

Threads, one for each core, decode into the rows of a batch while another is used. The record at a
position of a run and its crop depend only on (seed, position). A batch is therefore the same on any
number of hosts and threads; each host decodes only its own part; and (seed, step) is the whole
state: a checkpoint stores the step, and `batches(step)` resumes there, mid-epoch, without replay.
"""

import functools
import itertools
import math
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from scaling.data import directories, sources
from scaling.data.resident import EpochOrder
from scaling.errors import UserError
from scaling.limits import cores

_ATTEMPTS = 10  # at a random crop that fits the image; then a central crop


class JpegRecords:
    """Random access to one split: `[i]` is (JPEG bytes, label), a number or an array.

    Args:
      records: `[i]` is a serialized TFDS example with an image and a label.
      info: of the data set.
      name: of the records with their path, for messages.
    """

    def __init__(self, records: Sequence[bytes], info: sources.DataInfo, name: str):
        self._records = records
        self._info = info
        self._name = name

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: int) -> tuple[bytes, Any]:
        try:
            record = self._records[i]
        except RuntimeError as error:  # checksum mismatch of its chunk
            raise UserError(
                f"Record {i} of {self} is corrupted ({error}); prepare the data set again."
            ) from error
        return directories.parse_example(record, self._info)

    def __repr__(self) -> str:
        return self._name


def open_jpegs(name: str, split: str, data_dir=None) -> JpegRecords:
    """JPEG images and labels of a streamed data set, from a prepared TFDS directory.

    Args:
      name: of the set: imagenet or open_images.
      split: 'train', 'validation' or 'test'.
      data_dir: TFDS's root; default $TFDS_DATA_DIR, else ~/tensorflow_datasets.

    Raises:
      UserError: unknown split; missing or incomplete directory.
    """
    info = sources.describe(name)
    sources.check_split(info, split)
    prepared = directories.find_prepared(info.name, data_dir)
    records = directories.open_records(info, split, prepared)
    return JpegRecords(records, info, f"the {split} split of {name} in {prepared.path}")


class ImageStream:
    """Batches of decoded images for the devices of one host.

    Step s has positions s*G to (s+1)*G - 1, where G = accum_steps * devices * micro_batch is the
    global batch, in the shape [accum_steps, devices, micro_batch].

    Args:
      source: `source[i]` is (JPEG bytes, label); its repr is used in messages.
      layout: (accum_steps, devices, micro_batch) of the whole run, over all hosts.
      host_devices: this host's devices, as indices into `devices`. Only their rows are read.
      seed: of the order and the crops, 0 <= seed < 2**63.
      image_size: S, the side of the square images, in pixels.
      label: shape and dtype of a label.
      train: True for endless epochs, each a fresh permutation (Goyal 2017, Remark 4), with random
        crops and flips. False for one pass in order over central crops, with a mask for the padding
        of the last step; `seed` then has no effect.
      threads: that read and decode; None: one for each core.
    """

    def __init__(
        self,
        source: Sequence[tuple[bytes, int]],
        *,
        layout: tuple[int, int, int],
        host_devices: Sequence[int],
        seed: int,
        image_size: int,
        label: tuple[tuple[int, ...], str] = ((), "int32"),
        train: bool = True,
        threads: int | None = None,
    ):
        self.source = source
        self.layout = layout
        self.host_devices = tuple(host_devices)
        self.seed = seed
        self.image_size = image_size
        self.label = label
        self.train = train
        self.threads = threads or cores()

    def batches(self, start_step: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """Yield the batches from `start_step` on.

        Each is a dict, where shape = [accum_steps, len(host_devices), micro_batch]:
          image: uint8 [*shape, S, S, 3], RGB;
          label: [*shape, *label's shape], by default int32 [*shape];
          mask: bool [*shape], only when not training.

        Raises:
          UserError: a record is not a readable JPEG image; raised at its step.
        """
        # A training stream is endless.
        steps = -(-len(self.source) // math.prod(self.layout))
        ahead = itertools.count(start_step) if self.train else range(start_step, steps)
        stop = threading.Event()
        with ThreadPoolExecutor(self.threads, "read-ahead") as pool:
            try:
                reading = (self._reading(pool, step, stop) for step in ahead)
                waiting = next(reading, None)
                while waiting:
                    following = next(reading, None)  # read while this one is used
                    batch, jobs = waiting
                    for job in jobs:
                        job.result()
                    yield batch
                    waiting = following
            finally:
                stop.set()

    def _reading(self, pool, step, stop):
        """A batch, and the jobs that fill its rows, each the next that none has begun."""
        accum_steps, _, micro_batch = self.layout
        shape = (accum_steps, len(self.host_devices), micro_batch)
        label_shape, dtype = self.label
        batch = {
            "image": np.zeros((*shape, self.image_size, self.image_size, 3), np.uint8),
            "label": np.zeros((*shape, *label_shape), dtype),
        }
        if not self.train:
            batch["mask"] = np.zeros(shape, bool)
        lock, places = threading.Lock(), np.ndindex(shape)

        def fill():
            while not stop.is_set():
                with lock:
                    place = next(places, None)
                if place is None:
                    return
                self._fill(batch, step, place)

        return batch, [pool.submit(fill) for _ in range(self.threads)]

    def _fill(self, batch, step, place):
        """One row: (microbatch, this host's device, row)."""
        accum, device, row = place
        accum_steps, devices, micro_batch = self.layout
        cell = (step * accum_steps + accum) * devices + self.host_devices[device]
        position, count = cell * micro_batch + row, len(self.source)
        record = position
        if self.train:
            (record,) = _epoch_order(self.seed, count)[position : position + 1]
        if record >= count:
            return
        jpeg, batch["label"][place] = self.source[int(record)]
        image = _decode(jpeg)
        if image is None:
            raise UserError(
                f"Record {record} of {self.source!r} is not a readable JPEG image "
                f"({len(jpeg):,} bytes); prepare the data set again."
            )
        if self.train:
            batch["image"][place] = random_crop(image, self.image_size, self.seed, position)
        else:
            batch["image"][place], batch["mask"][place] = centre_crop(image, self.image_size), True


def eval_batches(
    source: Sequence[tuple[bytes, int]],
    *,
    layout: tuple[int, int],
    host_devices: Sequence[int],
    image_size: int,
    label: tuple[tuple[int, ...], str] = ((), "int32"),
    threads: int | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Every record of `source` once, in order, as a central crop.

    All hosts yield the same number of batches; the last is padded.

    Args:
      layout: (devices, per_device_batch) of an evaluation batch, over all hosts.
      source, host_devices, image_size, label, threads: as in `ImageStream`.

    Yields:
      Dicts, where shape = [len(host_devices), per_device_batch]: image uint8 [*shape, S, S, 3],
      label [*shape, ...], and mask bool [*shape], False on padding.

    Raises:
      UserError: a record is not a readable JPEG image.
    """
    stream = ImageStream(
        source,
        layout=(1, *layout),
        host_devices=host_devices,
        seed=0,
        image_size=image_size,
        label=label,
        train=False,
        threads=threads,
    )
    for batch in stream.batches():
        yield {key: value[0] for key, value in batch.items()}


@functools.lru_cache(maxsize=2)
def _epoch_order(seed: int, size: int) -> EpochOrder:
    """One for all streams of it."""
    return EpochOrder(seed, size)


# ---- Images ----


@functools.cache
def _opencv():
    """OpenCV without its own threads: the stream's already use all cores."""
    import cv2

    cv2.setNumThreads(0)
    return cv2


def _decode(jpeg: bytes) -> np.ndarray | None:
    """uint8 [H, W, 3] in RGB from grey, RGB and CMYK files; None if unreadable."""
    cv2 = _opencv()
    # Ignores the EXIF orientation, like TensorFlow's decoder.
    mode = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), mode) if jpeg else None


def random_crop(image: np.ndarray, size: int, seed: int, position: int) -> np.ndarray:
    """The random-resized crop of Inception and Goyal 2017, flipped half of the time.

    It covers 8% to 100% of the area at a log-uniform aspect ratio of 3/4 to 4/3.

    Args:
      image: uint8 [H, W, 3].
      size: S, the side of the result in pixels.
      seed, position: the only source of randomness.

    Returns:
      uint8 [S, S, 3].
    """
    # The last counter word separates this stream from EpochOrder's, which uses the same keys. NumPy
    # guarantees the stream of raw bits across versions, but not of its distributions.
    key = np.array([seed, position], np.uint64)
    bits = np.random.Philox(key=key, counter=[0, 0, 0, 1]).random_raw(4 * _ATTEMPTS + 1)
    *uniforms, flip = (bits >> np.uint64(11)) * 2.0**-53
    top, left, height, width = _crop_box(*image.shape[:2], uniforms)
    crop = _resize(image[top : top + height, left : left + width], size)
    return _opencv().flip(crop, 1) if flip < 0.5 else crop


def _crop_box(height: int, width: int, uniforms: list[float]) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random crop, from 4 * _ATTEMPTS numbers in [0, 1)."""
    for area, aspect, top, left in zip(*[iter(uniforms)] * 4, strict=True):
        area = height * width * (0.08 + 0.92 * area)
        aspect = math.exp(math.log(16 / 9) * (aspect - 0.5))
        h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < h <= height and 0 < w <= width:
            return int(top * (height - h + 1)), int(left * (width - w + 1)), h, w
    return _centre_box(height, width, min(height, width))


def centre_crop(image: np.ndarray, size: int) -> np.ndarray:
    """The central square of uint8 [H, W, 3], 224/256 of the short side, as uint8 [S, S, 3].

    Equivalent to a resize of the short side to 256/224 * S and a central crop, at a lower cost.
    """
    height, width = image.shape[:2]
    side = round(min(height, width) * 224 / 256)
    top, left, height, width = _centre_box(height, width, side)
    return _resize(image[top : top + height, left : left + width], size)


def _centre_box(height: int, width: int, side: int) -> tuple[int, int, int, int]:
    return (height - side) // 2, (width - side) // 2, side, side


def _resize(image: np.ndarray, size: int) -> np.ndarray:
    """Bilinear; area-averaged if shrunk by more than 2, to avoid aliasing."""
    cv2 = _opencv()
    shrinks = min(image.shape[:2]) > 2 * size
    mode = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (size, size), interpolation=mode)
