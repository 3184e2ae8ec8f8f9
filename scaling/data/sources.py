"""Data sets by name: metadata, availability and arrays.

MNIST, Fashion-MNIST, CIFAR-10/100, ImageNet and Open Images are TFDS directories of array_record
files, which TFDS reads without TensorFlow. `digits` is a file of scikit-learn, `openclipart` a
folder of arrays, `deepcam` one of HDF5 files; `synthetic` and `synthetic_climate` have no files.
Any other name is that of a folder of tokens, see `text`. `register` adds user-defined sets, of any
arrays.

Splits are those of the papers: MNIST, Fashion-MNIST and CIFAR hold out the last 5,000 training
images, ImageNet the last 50,000 (its official validation set is then the test set).
"""

import dataclasses
import functools
import hashlib
import json
import math
import os
import re
import shutil
import uuid
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scaling.data import text
from scaling.data.corpora import CORPORA
from scaling.durations import to_steps
from scaling.errors import UserError, call_users, look_up, nearest, refuse_unread
from scaling.files import user_path

Example = Mapping[str, tuple[tuple[int, ...], Any]]  # name -> (shape, dtype) of one example


@dataclasses.dataclass(frozen=True)
class DataInfo:
    """Metadata of a data set, without opening files.

    Attributes:
      example: name -> (shape, dtype) of the arrays of one example.
      num_classes: numbers that a model gives: classes, labels, vocabulary.
      sizes: split name -> number of examples.
      mean, std: per channel, of uint8 training images ("image") on the 0..1 scale.
      streaming: whether the set does not fit on a device and is read by `streaming`.
      task: in `tasks.TASKS`.
      options: of the task.
      folder: of tokens.
      files: what a run records of its files, which may differ under the same name.
    """

    name: str
    example: Example
    num_classes: int
    sizes: dict[str, int]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    streaming: bool = False
    task: str = "classification"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    folder: Path | None = None
    files: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def bytes_each(self) -> int:
        """Of one example."""
        kinds = self.example.values()
        return sum(math.prod(shape) * np.dtype(kind).itemsize for shape, kind in kinds)

    @property
    def amounts(self) -> dict[str, int]:
        """What an example has of units other than examples, such as {"tokens": 128}."""
        return task_class(self.task).amounts(self.example)

    def amount_text(self, examples: int) -> str:
        """1,024 examples; 1,024 examples = 131,072 tokens"""
        units = {"examples": 1} | self.amounts
        return " = ".join(f"{examples * each:,} {unit}" for unit, each in units.items())

    def steps(self, duration: str, batch: int) -> int:
        """`durations.to_steps` on the training set; UserError as there."""
        return to_steps(duration, batch, self.sizes["train"], self.amounts)


def task_class(name: str) -> Any:
    """The task of that name; UserError if there is none. Reading data does not need JAX."""
    from scaling.tasks import TASKS

    return look_up("task", name, TASKS)


Split = dict[str, np.ndarray]  # arrays of a split in host memory by name, [N, ...]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A complete TFDS directory of array_record files.

    Attributes:
      path: of the version, such as .../fashion_mnist/3.0.1.
      shards: TFDS split name -> (path, number of records) of each shard.
    """

    path: Path
    shards: dict[str, list[tuple[Path, int]]]


def _sizes(train: int, validation: int, test: int) -> dict[str, int]:
    return {"train": train, "validation": validation, "test": test}


def images(shape: Sequence[int]) -> Example:
    """An example that is an image and its class."""
    return {"image": (tuple(shape), "uint8"), "label": ((), "int32")}


_GREY, _COLOUR = images((28, 28, 1)), images((32, 32, 3))


def _maps(name: str, height: int, width: int, *sizes: int) -> DataInfo:
    """Of maps with the class of every pixel, see `climate`. `deepcam` tells the frequencies of the
    classes, of which those of `synthetic_climate` are within 5%, of cyclones within 15%."""
    example = {"image": ((height, width, 16), "float32"), "label": ((height, width), "uint8")}
    options = {"frequencies": (0.98627, 0.00046, 0.01327)}
    return DataInfo(name, example, 3, _sizes(*sizes), task="segmentation", options=options)


INFOS = {
    info.name: info
    for info in (
        DataInfo("digits", images((8, 8, 1)), 10, _sizes(1_197, 300, 300), (0.3058,), (0.3755,)),
        DataInfo("mnist", _GREY, 10, _sizes(55_000, 5_000, 10_000), (0.1307,), (0.3081,)),
        DataInfo("fashion_mnist", _GREY, 10, _sizes(55_000, 5_000, 10_000), (0.2860,), (0.3530,)),
        DataInfo(
            "cifar10",
            _COLOUR,
            10,
            _sizes(45_000, 5_000, 10_000),
            (0.4914, 0.4822, 0.4465),
            (0.2470, 0.2435, 0.2616),
        ),
        DataInfo(
            "cifar100",
            _COLOUR,
            100,
            _sizes(45_000, 5_000, 10_000),
            (0.5071, 0.4865, 0.4409),
            (0.2673, 0.2564, 0.2762),
        ),
        DataInfo(
            "imagenet",
            images((224, 224, 3)),
            1000,
            _sizes(1_231_167, 50_000, 50_000),
            (0.485, 0.456, 0.406),
            (0.229, 0.224, 0.225),
            streaming=True,
        ),
        # Version 4, the images with boxes, of at most 300,000 pixels; statistics of ImageNet.
        DataInfo(
            "open_images",
            {"image": ((224, 224, 3), "uint8"), "label": ((7_186,), "uint8")},
            7_186,
            _sizes(1_743_042, 41_620, 125_436),
            (0.485, 0.456, 0.406),
            (0.229, 0.224, 0.225),
            streaming=True,
            task="multi_label",
        ),
        DataInfo(
            "openclipart",
            {"image": ((32, 32, 3), "uint8"), "label": ((22,), "uint8")},
            22,
            _sizes(5_483, 706, 492),
            (0.8457, 0.8351, 0.8086),
            (0.2727, 0.2762, 0.3109),
            task="multi_label",
        ),
        _maps("synthetic_climate", 96, 144, 320, 64, 64),
        _maps("deepcam", 768, 1152, 121_266, 15_158, 15_158),
    )
}

OWN = (*INFOS, "synthetic")
GENERATED = ("synthetic", "synthetic_climate")
SPLITS = ("train", "validation", "test")
# Registered set -> function from split name to split.
_LOADERS: dict[str, Callable[[str], Split]] = {}

# Identities of the prepared sets of which this process has read all splits.
_CHECKED: set[str] = set()
_VERSION = re.compile(r"\d+\.\d+\.\d+")

# TFDS's names where they differ from ours.
_TFDS_NAMES = {"imagenet": "imagenet2012", "open_images": "open_images_v4/300k"}
# Of each of our splits. Without a validation split of their own, it is the end of the training one.
_TFDS_SPLITS = {
    "imagenet": {"train": "train", "test": "validation"},
    "open_images": {"train": "train", "validation": "validation", "test": "test"},
}
_HELD_OUT = {"train": "train", "test": "test"}
# Of Open Images, from 0 to 10: people verified 0 and 10, machines gave those between.
_CONFIDENT = 5


def describe(name: str, data_dir=None, **options) -> DataInfo:
    """Metadata of data set `name`, without file access but to that of a folder of tokens.

    Args:
      name: a data set.
      data_dir: TFDS's root, where folders of tokens lie too.
      **options: for `synthetic`: image_shape, num_classes and sizes, instead of CIFAR-10's; for
        `synthetic_climate`: image_shape; for tokens: length, of a row, and streamed, whether rows
        are read from disk.

    Raises:
      UserError: unknown name or option, or a damaged folder of tokens.
    """
    is_text = name not in (*INFOS, "synthetic")
    known = {
        "synthetic": ("image_shape", "num_classes", "sizes"),
        "synthetic_climate": ("image_shape",),
    }.get(name, ("length", "streamed") if is_text else ())
    for option in options:
        if option not in known:
            takes = f"it has {', '.join(known)}" if known else "it has none"
            raise UserError(f"Data set {name!r} has no option {option!r}; {takes}.")
    if is_text:
        return _tokens(name, data_dir, **options)
    if name == "synthetic_climate" and options:
        return _climate(options["image_shape"])
    if name == "deepcam":
        return _deepcam(data_root(data_dir) / name)
    return INFOS[name] if name in INFOS else _synthetic(**options)


def _climate(image_shape) -> DataInfo:
    """`synthetic_climate` of another size."""
    if len(image_shape) != 3 or image_shape[2] != 16:
        raise UserError(
            f"data.image_shape is {image_shape}; maps of synthetic_climate are (height, width, 16)."
        )
    info = INFOS["synthetic_climate"]
    return _maps(info.name, *image_shape[:2], *info.sizes.values())


def _deepcam(folder: Path) -> DataInfo:
    """`deepcam` with as many examples as there are, or all of them where the folder is missing."""
    from scaling.data import climate

    if not folder.is_dir():
        return INFOS["deepcam"]
    sizes = {split: len(climate.files(folder, split)) for split in SPLITS}
    if lacking := [split for split, size in sizes.items() if not size]:
        raise _incomplete(folder, f"{lacking[0]} has no *.h5")
    return dataclasses.replace(INFOS["deepcam"], sizes=sizes)


def _tokens(name, data_dir, length=None, streamed=False) -> DataInfo:
    """Of a folder of tokens; of a known text also before it is prepared, for dry runs."""
    folder = data_root(data_dir) / name
    corpus = CORPORA.get(name, CORPORA["text"])
    if not folder.is_dir() and not corpus.tokens:
        raise _unknown(name, folder.parent)
    if length is None:
        raise UserError(f"{name} is text; set data.length to the tokens of a row, e.g. to 128.")
    options, files = {}, {}
    vocabulary, counts = corpus.vocabulary, corpus.tokens
    if folder.is_dir():
        meta = text.read_meta(folder)
        vocabulary, counts = meta.vocabulary, {s: meta.splits[s]["tokens"] for s in SPLITS}
        options = {"start": meta.eos, "bytes_per_token": meta.bytes_per_token}
        files = dataclasses.asdict(meta)
        files.pop("command")
    sizes = {split: counts[split] // length for split in SPLITS}
    if few := [split for split in SPLITS if not sizes[split]]:
        raise UserError(
            f"data.length is {length}, and the {few[0]} split of {name} has {counts[few[0]]:,} "
            "tokens; use shorter rows."
        )
    return DataInfo(
        name,
        {"tokens": ((length,), "uint16")},
        vocabulary,
        sizes,
        streaming=streamed,
        task="language",
        options=options,
        folder=folder,
        files=files,
    )


def _synthetic(image_shape=(32, 32, 3), num_classes=10, sizes=None) -> DataInfo:
    """Pixels of `resident.synthetic` are sums of two uniform integers 0..127: mean 127/255,
    standard deviation sqrt((128^2 - 1) / 6) / 255."""
    sizes = dict(sizes or INFOS["cifar10"].sizes)
    mean, std = ((value,) * image_shape[-1] for value in (0.4980, 0.2049))
    return DataInfo("synthetic", images(image_shape), num_classes, sizes, mean, std)


def check_available(name: str, data_dir=None) -> None:
    """Check that every split of `name` can be loaded, so that none fails when it is first used, the
    test split after the last update. Well under a second once a set is decoded.

    Args:
      name: a data set; if streamed, its records are counted and not read.
      data_dir: TFDS's root; default $TFDS_DATA_DIR, else ~/tensorflow_datasets.

    Raises:
      UserError: as `load`; for a missing set, with instructions.
    """
    if name not in (*INFOS, "synthetic"):
        folder = data_root(data_dir) / name
        if not folder.is_dir():
            known = CORPORA.get(name, CORPORA["text"]).tokens
            raise (_missing if known else _unknown)(name, folder.parent)
        text.check(folder)
        return
    info = describe(name, data_dir)
    if name == "digits":
        _digits_file()
    elif name in (*_LOADERS, "openclipart"):
        for split in SPLITS:
            load(name, split, data_dir)
    elif info.streaming:
        find_prepared(name, data_dir)
    elif name == "deepcam":
        if not (folder := data_root(data_dir) / name).is_dir():
            raise _missing(name, folder.parent)
    elif name not in GENERATED:
        prepared = find_prepared(name, data_dir)
        identity = _identity(info, prepared)
        if identity not in _CHECKED:
            for split in SPLITS:
                _load_prepared(info, split, prepared, identity)
            _CHECKED.add(identity)


def load(data: str | DataInfo, split: str, data_dir=None) -> Split:
    """Read one split into memory. A decoded copy is cached under `cache_dir()`; that of a
    registered set only in memory, since changes of its source cannot be detected.

    Args:
      data: a set that fits in memory: any but `imagenet` (see `streaming`) and `synthetic`. Of
        tokens, what `describe` says of it.
      split: 'train', 'validation' or 'test'.
      data_dir: TFDS's root; default $TFDS_DATA_DIR, else ~/tensorflow_datasets.

    Returns:
      The split, in TFDS's order; its arrays may be read-only memory maps of the cached files.

    Raises:
      UserError: unknown name or split; missing, incomplete or corrupted files; arrays that are not
        as registered.
    """
    info = data if isinstance(data, DataInfo) else describe(data)
    check_split(info, split)
    name = info.name
    if info.folder:
        (length,), _ = info.example["tokens"]
        return {"tokens": text.read_rows(info.folder, split, length)}
    if info.streaming or name == "synthetic":
        raise ValueError(f"{name} has no arrays to load")
    if name in _LOADERS:
        return _LOADERS[name](split)
    if name == "digits":
        return _load_digits(info, split)
    if name == "openclipart":
        return _load_arrays(info, split, data_dir)
    if name == "synthetic_climate":
        return _load_climate(info, split)
    if name == "deepcam":
        from scaling.data import climate

        return climate.read(data_root(data_dir) / name, split, info.sizes[split])
    prepared = find_prepared(name, data_dir)
    return _load_prepared(info, split, prepared, _identity(info, prepared))


def _load_prepared(info: DataInfo, split: str, prepared: Prepared, identity: str) -> Split:
    """One split, from the cache or decoded and cached."""
    entry = cache_dir() / f"{info.name}-{split}-{identity}"
    cached = _read_cache(entry, info.example)
    if cached is None:
        cached = _decode_split(info, split, prepared)
        _write_cache(entry, cached)
    return cached


def check_split(info: DataInfo, split: str) -> None:
    """UserError unless the set has the split."""
    if split not in info.sizes:
        raise UserError(f"{info.name} has no split {split!r}: {nearest(split, info.sizes)}")


# ---- User-defined sets ----


def register(
    name: str,
    load: Callable[[str], Any],
    *,
    sizes: dict[str, int],
    image_shape: tuple[int, int, int] | None = None,
    example: Example | None = None,
    task: str = "classification",
    num_classes: int | None = None,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.25,
    **options: Any,
) -> None:
    """Make arrays in memory available to configs as a data set; see docs/your_model.md.

    The latest registration of a name is used, since a config file may be loaded more than once.

    Args:
      name: for `data.name`.
      load: split -> {name: array [N, *shape]} as `example` has them; for `image_shape` a pair
        (images uint8 [N, H, W, C], labels int [N], from 0). Called before a study starts, once per
        split and process; it must be deterministic, as every process of a study calls it.
      sizes: examples in "train", "validation" and "test", as returned by `load`.
      image_shape: (H, W, C) of images with one label each; else give `example`.
      example: name -> (shape, dtype) of the arrays of one example. The names that the task needs
        are among them, as `tasks` describes; the model is given the others, as an array or, if
        there are several, as a dict.
      task: "classification" or another of `tasks.TASKS`.
      num_classes: numbers that the model gives; may be left out where `example` tells it.
      mean, std: of uint8 pixels named "image" on the 0..1 scale, for normalisation; one number, or
        one per channel. The defaults map pixels to -2..2. Other arrays are not changed.
      **options: of the task, such as `bytes_per_token`.

    Raises:
      UserError: the name is taken by a set of the program, or an invalid value.
    """
    if name in OWN:
        raise UserError(f"Data set {name!r} already exists; register yours under another name.")
    kind, check = task_class(task), functools.partial(_check_argument, name)
    refuse_unread(f"Task {task!r}", options, kind.options())
    check("load", load, callable, "a function of a split's name")
    if example is None:
        good = lambda shape: np.shape(shape) == (3,) and _whole(*shape) and min(shape) >= 1
        check("image_shape", image_shape, good, "(height, width, channels), or give an example")
        example = images(map(int, image_shape))
    check("example", example, _is_example, "{name: (shape, dtype)}, dtypes of numbers")
    example = {key: (tuple(shape), np.dtype(dtype).name) for key, (shape, dtype) in example.items()}
    if lacking := [key for key in kind.needs if key not in example]:
        raise UserError(
            f"Data set {name!r} is registered for {task} and its example has no {lacking[0]!r}; it "
            f"has {', '.join(example)}."
        )
    num_classes = kind.outputs_of(example) if num_classes is None else num_classes
    fewest = 2 if task == "classification" else 1
    good = lambda n: _whole(n) and n >= fewest and kind.outputs_of(example) in (None, n)
    check("num_classes", num_classes, good, f"at least {fewest}, a whole number")
    good = lambda s: set(s) == set(SPLITS) and _whole(*s.values()) and min(s.values()) >= 1
    check(
        "sizes",
        sizes,
        good,
        "the numbers of examples in train, validation and test, 1 or more each",
    )
    sizes = {split: int(sizes[split]) for split in SPLITS}
    statistics = _statistics(check, example, mean=mean, std=std)
    INFOS[name] = DataInfo(
        name, example, int(num_classes), sizes, *statistics, task=task, options=options
    )
    loader = functools.partial(_load_registered, INFOS[name], image_shape is not None, load)
    _LOADERS[name] = functools.cache(loader)


def _whole(*values):
    return all(isinstance(v, int | np.integer) for v in values)


def _is_example(example):
    """Whether it is {name: (shape, dtype)}."""
    for name, (shape, dtype) in example.items():
        sizes = _whole(*shape) and min(shape, default=1) >= 1
        if not (isinstance(name, str) and sizes and np.dtype(dtype).kind in "iuf"):
            return False
    return bool(example) and not {"index", "mask"} & set(example)


def _statistics(check, example, **given):
    """The mean and the deviation of each channel of uint8 images; () of other examples."""
    shape, dtype = example.get("image", ((), ""))
    if dtype != "uint8":
        return (), ()
    found = []
    for key, value in given.items():
        good = lambda v, key=key: (
            np.shape(v) in ((), shape[-1:])
            and 0 <= np.min(v) <= np.max(v) <= 1
            and (key == "mean" or np.min(v) > 0)
        )
        check(key, value, good, "one number or one per channel, on the 0..1 scale, the std above 0")
        found.append(tuple(np.broadcast_to(value, shape[-1]).astype(float).tolist()))
    return found


def _check_argument(name, key, value, is_valid, expected):
    try:
        valid = is_valid(value)
    except (TypeError, ValueError, AttributeError):  # another type
        valid = False
    if not valid:
        raise UserError(f"Data set {name!r} is registered with {key} {value!r}; use {expected}.")


def _load_registered(info: DataInfo, pair: bool, load, split: str) -> Split:
    """The split returned by `load`, checked against the registration.

    Args:
      pair: whether `load` returns (images, labels).
    """
    given = call_users(f"load({split!r}) of data set {info.name!r}", load, split)
    where = f"Data set {info.name!r}, split {split!r}: load returns"
    what = type(given).__name__
    if pair:
        if not (isinstance(given, tuple | list) and len(given) == 2):
            if isinstance(given, tuple | list):
                what = f"a {what} of {len(given)}"
            raise UserError(f"{where} {what}; return two arrays, (images, labels).")
        given = dict(zip(info.example, given, strict=True))
    elif not (isinstance(given, dict) and set(given) == set(info.example)):
        what += f" of {', '.join(map(str, given))}" if isinstance(given, dict) else ""
        raise UserError(
            f"{where} {what}; return a dict of {', '.join(info.example)}, as registered."
        )
    return {
        name: _array(where, f"{name}s" if pair else name, given[name], info, name, split)
        for name in info.example
    }


def _array(where, what, values, info, name, split):
    """One array of a split, as registered."""
    try:
        array = np.asarray(values)
    except (TypeError, ValueError) as error:  # rows of unequal lengths
        raise UserError(f"{where} {what} that are not an array ({error}).") from None
    shape, dtype = info.example[name]
    if array.shape != (expected := (info.sizes[split], *shape)):
        raise UserError(
            f"{where} {what} of shape {array.shape}, and {expected} is registered; make them agree."
        )
    if name == "image" and dtype == "uint8" and array.dtype != dtype:
        raise UserError(
            f"{where} {array.dtype} {what}; return uint8 from 0 to 255, for floats from 0 to 1 "
            "np.round(255 * images).astype(np.uint8)."
        )
    whole = np.dtype(dtype).kind in "iu"
    low, high = task_class(info.task).bounds(info.num_classes).get(name, (-math.inf, math.inf))
    if whole:
        low, high = max(low, np.iinfo(dtype).min), min(high, np.iinfo(dtype).max)
    kinds = "biu" if whole else "biuf"
    if array.dtype.kind not in kinds or array.min() < low or array.max() > high:
        span = f" from {array.min()} to {array.max()}" if array.dtype.kind in "biuf" else ""
        expected = f"integers from {low} to {high}" if whole else "numbers, no weight below 0"
        raise UserError(f"{where} {array.dtype} {what}{span}; return {expected}.")
    rows = array.reshape(len(array), -1)
    if not whole and not (finite := np.isfinite(rows).all(1)).all():
        raise UserError(
            f"{where} {what} that are not finite, first in row {int(finite.argmin())}; replace or "
            "leave out such values."
        )
    if name == "weights" and (empty := ~(rows.sum(1) > 0)).any():
        raise UserError(
            f"{where} {what} of 0 in all of row {int(empty.argmax())}; leave out such rows."
        )
    return array.astype(dtype, copy=False)


# ---- digits: inside scikit-learn ----


def _digits_file() -> Path:
    """The file of sklearn.datasets.load_digits, without importing sklearn, which takes seconds."""
    import importlib.util

    spec = importlib.util.find_spec("sklearn")
    path = spec and Path(spec.submodule_search_locations[0], "datasets/data/digits.csv.gz")
    if not path or not path.is_file():
        raise UserError("Data set 'digits' is part of scikit-learn: pip install scikit-learn.")
    return path


def _load_digits(info: DataInfo, split: str) -> Split:
    """1,197/300/300 images of a fixed permutation. NumPy guarantees RandomState's stream."""
    table = np.loadtxt(_digits_file(), delimiter=",", dtype=np.uint8)
    table = table[np.random.RandomState(0).permutation(len(table))]
    ends = np.cumsum(list(info.sizes.values()))
    rows = np.split(table, ends[:-1])[list(info.sizes).index(split)]
    pixels = np.round(rows[:, :64] * (255 / 16)).astype(np.uint8)
    return {"image": pixels.reshape(-1, 8, 8, 1), "label": rows[:, 64].astype(np.int32)}


# ---- Maps ----


def _load_climate(info: DataInfo, split: str) -> Split:
    """`climate.synthetic`, cached: a tenth of a second for each map of 96 x 144."""
    from scaling.data import climate

    (height, width), _ = info.example["label"]
    own = SPLITS.index(split), info.sizes[split], height, width
    code = Path(climate.__file__).read_bytes()
    identity = hashlib.sha256(code + repr((own, np.__version__)).encode()).hexdigest()[:16]
    entry = cache_dir() / f"{info.name}-{split}-{identity}"
    maps = _read_cache(entry, info.example)
    if maps is None:
        maps = climate.synthetic(*own)
        _write_cache(entry, maps)
    return maps


# ---- Folders of arrays ----


def _load_arrays(info: DataInfo, split: str, data_dir) -> Split:
    """NAME-SPLIT.npy of each array."""
    folder = data_root(data_dir) / info.name
    if not folder.is_dir():
        raise _missing(info.name, folder.parent)
    arrays = {}
    for name, (shape, dtype) in info.example.items():
        path, expected = folder / f"{name}-{split}.npy", (info.sizes[split], *shape)
        try:
            array = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise _incomplete(folder, f"{path.name} cannot be read ({error})") from error
        if (array.shape, array.dtype) != (expected, dtype):
            what = f"{path.name} has {array.dtype} of {array.shape}, not {dtype} of {expected}"
            raise _incomplete(folder, what)
        arrays[name] = array
    return arrays


# ---- TFDS directories ----


def data_root(data_dir=None) -> Path:
    """TFDS's root directory: `data_dir`, else $TFDS_DATA_DIR, else ~/tensorflow_datasets.

    Raises:
      UserError: it is the folder of one data set, or of a version of it.
    """
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    root = user_path(data_dir or default, "the data sets' folder")
    here = root.resolve()
    own = here.parent if _VERSION.fullmatch(here.name) else here
    if newest_version(own):
        raise UserError(
            f"{root} is the folder of one data set; use {own.parent}, that of all sets."
        )
    return root


def find_prepared(name: str, data_dir=None) -> Prepared:
    """The newest version of TFDS data set `name`, with all its files and records.

    Raises:
      UserError: it is missing, incomplete, or in a format that needs TensorFlow.
    """
    folder = data_root(data_dir) / _TFDS_NAMES.get(name, name)
    path = newest_version(folder)
    if path is None:
        if any(folder.glob("incomplete.*")):
            raise _incomplete(folder, "its preparation was interrupted")
        raise _missing(name, folder.parent)
    prepared = Prepared(path, _declared_shards(path))
    _check_records(name, prepared)
    return prepared


def newest_version(folder: Path) -> Path | None:
    """The directory of the highest version in one data set's folder, complete or not."""
    versions = [path for path in folder.glob("*.*.*") if _VERSION.fullmatch(path.name)]
    return max(versions, key=lambda path: tuple(map(int, path.name.split("."))), default=None)


def _unknown(name: str, root: Path) -> UserError:
    known = nearest(name, ({*INFOS, "synthetic", *CORPORA} - {"text"}))
    return UserError(
        f"Unknown data set {name!r}: {known} Folders of tokens in {root} have names of their own: "
        f"`python -m scaling.data.prepare text --name={name} --from=DIR` makes one."
    )


def _missing(name: str, root: Path) -> UserError:
    if name == "deepcam":
        how = (
            "get it from MLPerf HPC, with its folders train and validation and its stats.h5, and "
            f"name it {name}"
        )
    elif name in _TFDS_NAMES:
        archives = " from the two ILSVRC2012 archives" if name == "imagenet" else ""
        manual = " --manual_dir=DIR" if name == "imagenet" else ""
        how = (
            f"prepare it with TFDS and TensorFlow{archives}, `tfds build {_TFDS_NAMES[name]} "
            f"--file_format=array_record{manual} --data_dir={root}`"
        )
    else:
        how = (
            f"prepare it with `python -m scaling.data.prepare {name} --data_dir={root}` (add "
            "--from=DIR to use files you already have)"
        )
    return UserError(
        f"Data set {name!r} is not in {root}: {how}, name another folder with --config.data.dir or "
        "$TFDS_DATA_DIR, or use digits or synthetic, which need no download."
    )


def _incomplete(path: Path, what: str) -> UserError:
    return UserError(f"{path} is incomplete: {what}; delete it and prepare it again.")


def _declared_shards(path: Path) -> dict[str, list[tuple[Path, int]]]:
    """The shards in dataset_info.json, without importing TFDS."""
    for file in ("dataset_info.json", "features.json"):
        if not (path / file).is_file():
            raise _incomplete(path, f"it has no {file}")
    try:
        info = json.loads((path / "dataset_info.json").read_text())
        formats = [info["fileFormat"], *info.get("alternativeFileFormats", [])]
        lengths = {s["name"]: [int(n) for n in s["shardLengths"]] for s in info["splits"]}
    except (ValueError, KeyError, TypeError) as error:
        raise _incomplete(path, "its dataset_info.json is unreadable") from error
    if "array_record" not in formats:
        raise UserError(
            f"{path} has {formats[0]} files, which have no random access without TensorFlow; "
            "prepare the set as array_record, in another data_dir."
        )
    return {
        split: [
            (path / f"{info['name']}-{split}.array_record-{i:05d}-of-{len(counts):05d}", count)
            for i, count in enumerate(counts)
        ]
        for split, counts in lengths.items()
    }


def _check_records(name: str, prepared: Prepared) -> None:
    """Check that all splits, files and records of `name` are there."""
    sizes, splits = dict(INFOS[name].sizes), _TFDS_SPLITS.get(name, _HELD_OUT)
    if "validation" not in splits:
        sizes["train"] += sizes["validation"]
    for own, split in splits.items():
        expected = sizes[own]
        shards = prepared.shards.get(split, [])
        declared = sum(count for _, count in shards)
        if declared != expected:
            what = f"it declares {declared:,} {split} records of {expected:,}"
            raise _incomplete(prepared.path, what)
        for file, count in shards:
            if not file.is_file():
                raise _incomplete(prepared.path, f"{file.name} is missing")
            present = _count_records(file)
            if present != count:
                what = f"{file.name} has {present:,} records of {count:,}"
                raise _incomplete(prepared.path, what)


def _count_records(file: Path) -> int:
    """The count in an array_record file's footer; 0 if the file is truncated."""
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(str(file))
    count = reader.num_records()
    try:
        reader.close()  # raises if the footer was unreadable
    except RuntimeError:
        return 0
    return count


def open_records(info: DataInfo, split: str, prepared: Prepared):
    """Random access to the serialized examples of a split: `[i]` and `__getitems__`."""
    import tensorflow_datasets as tfds

    splits = _TFDS_SPLITS.get(info.name, _HELD_OUT)
    if "validation" not in splits:
        start = info.sizes["train"]
        splits = splits | {"train": f"train[:{start}]", "validation": f"train[{start}:]"}
    return tfds.builder_from_directory(prepared.path).as_data_source(
        splits[split],
        deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES,
        file_format="array_record",
    )


def parse_example(record: bytes, info: DataInfo) -> tuple[bytes, Any]:
    """(encoded image, label) of a serialized example, without TFDS's slow feature decoding.

    A label is a class, or an array of 0 and 1 as in `info.example`. Open Images has those that
    people have verified, or to which a machine gave a confidence of at least 5 of 10.
    """
    from tensorflow_datasets.proto import tf_example_pb2

    features = tf_example_pb2.Example.FromString(record).features.feature
    image = features["image"].bytes_list.value[0]
    shape, dtype = info.example["label"]
    if not shape:
        return image, features["label"].int64_list.value[0]
    places, confidence = (
        np.array(features[f"objects_trainable/{key}"].int64_list.value, np.int64)
        for key in ("label", "confidence")
    )
    label = np.zeros(shape, dtype)
    label[places[confidence >= _CONFIDENT]] = 1
    return image, label


def _decode_split(info: DataInfo, split: str, prepared: Prepared) -> Split:
    import cv2

    # One call for all records: record by record is 20 times slower.
    source = open_records(info, split, prepared)
    try:
        records = source.__getitems__(range(len(source)))
    except (RuntimeError, ValueError) as error:  # checksum mismatch of a chunk
        raise UserError(
            f"{prepared.path} is corrupted ({error}); delete it and prepare it again."
        ) from error
    shape, _ = info.example["image"]
    pixels = np.empty((len(records), *shape), np.uint8)
    labels = np.empty(len(records), np.int32)
    mode = cv2.IMREAD_COLOR_RGB if shape[-1] == 3 else cv2.IMREAD_GRAYSCALE
    for i, record in enumerate(records):
        try:
            png, labels[i] = parse_example(record, info)
            image = cv2.imdecode(np.frombuffer(png, np.uint8), mode)
            pixels[i] = image.reshape(shape)
        except Exception as error:  # decoders raise many types
            raise _other_records(info, split, prepared, f"record {i} cannot be decoded") from error
    if labels.min() < 0 or labels.max() >= info.num_classes:
        what = f"labels go from {labels.min()} to {labels.max()}"
        raise _other_records(info, split, prepared, what)
    return {"image": pixels, "label": labels}


def _other_records(info, split, prepared, what) -> UserError:
    shape = " x ".join(map(str, info.example["image"][0]))
    return UserError(
        f"{prepared.path} is not {info.name}: in its {split} split {what}, and they should be "
        f"{shape} images with labels from 0 to {info.num_classes - 1}; delete it and prepare it "
        "again."
    )


# ---- The cache of decoded splits ----


def cache_dir() -> Path:
    """$SCALING_CACHE_DIR, else $XDG_CACHE_HOME/scaling, else ~/.cache/scaling."""
    if own := os.environ.get("SCALING_CACHE_DIR"):
        return user_path(own, "$SCALING_CACHE_DIR")
    return user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "$XDG_CACHE_HOME") / "scaling"


def _identity(info: DataInfo, prepared: Prepared) -> str:
    """A hash that changes with the prepared files and their splits."""
    files = [file for shards in prepared.shards.values() for file, _ in shards]
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    declared = (prepared.path / "dataset_info.json").read_text()
    content = repr((str(prepared.path.resolve()), declared, stats, info))
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _read_cache(entry: Path, names: Iterable[str]) -> Split | None:
    """The split cached in `entry`, as memory maps; None if it is missing or corrupted."""
    try:
        arrays = {name: np.load(entry / f"{name}.npy", mmap_mode="r") for name in names}
        sums = json.loads((entry / "crc32.json").read_text())
    except (OSError, ValueError, EOFError):
        return None
    return arrays if sums == {name: zlib.crc32(a) for name, a in arrays.items()} else None


def _write_cache(entry: Path, split: Split) -> None:
    """Cache `split` in `entry` atomically, or not at all where nothing can be written."""
    scratch = entry.with_name(f".{entry.name}.{uuid.uuid4().hex}")
    try:
        scratch.mkdir(parents=True)
        for name, array in split.items():
            np.save(scratch / f"{name}.npy", array)
        sums = {name: zlib.crc32(array) for name, array in split.items()}
        (scratch / "crc32.json").write_text(json.dumps(sums))
        shutil.rmtree(entry, ignore_errors=True)  # an unreadable entry
        scratch.rename(entry)
    except OSError:  # a full or read-only disk, or another process was first
        shutil.rmtree(scratch, ignore_errors=True)
