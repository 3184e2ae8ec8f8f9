"""Image sets by name: metadata, availability and arrays.

MNIST, Fashion-MNIST, CIFAR-10/100 and ImageNet are TFDS directories of array_record files, which
TFDS reads without TensorFlow. `digits` is a file of scikit-learn, and `synthetic` has no files.
`register` adds user-defined sets.

Splits are those of the papers: MNIST, Fashion-MNIST and CIFAR hold out the last 5,000 training
images, ImageNet the last 50,000 (its official validation set is then the test set).
"""

import dataclasses
import functools
import hashlib
import json
import os
import re
import shutil
import uuid
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from scaling.errors import UserError, call_users, nearest
from scaling.files import user_path


@dataclasses.dataclass(frozen=True)
class DataInfo:
    """Metadata of a data set, without opening files.

    Attributes:
      image_shape: (height, width, channels).
      sizes: split name -> number of examples.
      mean, std: per channel, of the training images on the 0..1 scale.
      streaming: whether the set does not fit on a device and is read by `streaming`.
    """

    name: str
    image_shape: tuple[int, int, int]
    num_classes: int
    sizes: dict[str, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    streaming: bool = False


@dataclasses.dataclass(frozen=True)
class Split:
    """One split in host memory: uint8 images [N, H, W, C] and int32 labels [N]."""

    images: np.ndarray
    labels: np.ndarray


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


INFOS = {
    info.name: info
    for info in (
        DataInfo("digits", (8, 8, 1), 10, _sizes(1_197, 300, 300), (0.3058,), (0.3755,)),
        DataInfo("mnist", (28, 28, 1), 10, _sizes(55_000, 5_000, 10_000), (0.1307,), (0.3081,)),
        DataInfo(
            "fashion_mnist", (28, 28, 1), 10, _sizes(55_000, 5_000, 10_000), (0.2860,), (0.3530,)
        ),
        DataInfo(
            "cifar10",
            (32, 32, 3),
            10,
            _sizes(45_000, 5_000, 10_000),
            (0.4914, 0.4822, 0.4465),
            (0.2470, 0.2435, 0.2616),
        ),
        DataInfo(
            "cifar100",
            (32, 32, 3),
            100,
            _sizes(45_000, 5_000, 10_000),
            (0.5071, 0.4865, 0.4409),
            (0.2673, 0.2564, 0.2762),
        ),
        DataInfo(
            "imagenet",
            (224, 224, 3),
            1000,
            _sizes(1_231_167, 50_000, 50_000),
            (0.485, 0.456, 0.406),
            (0.229, 0.224, 0.225),
            streaming=True,
        ),
    )
}

OWN = (*INFOS, "synthetic")
SPLITS = ("train", "validation", "test")
# Registered set -> function from split name to split.
_LOADERS: dict[str, Callable[[str], Split]] = {}

# Identities of the prepared sets of which this process has read all splits.
_CHECKED: set[str] = set()
_VERSION = re.compile(r"\d+\.\d+\.\d+")

# TFDS's names where they differ from ours: of the data set, and of our test split.
_TFDS_NAMES = {"imagenet": "imagenet2012"}
_TEST_SPLITS = {"imagenet": "validation"}


def describe(name: str, **options) -> DataInfo:
    """Metadata of data set `name`, without file access.

    Args:
      name: a data set.
      **options: for `synthetic` only: image_shape, num_classes and sizes, instead of CIFAR-10's.

    Raises:
      UserError: unknown name or option.
    """
    if name not in INFOS and name != "synthetic":
        raise UserError(f"Unknown data set {name!r}: {nearest(name, [*INFOS, 'synthetic'])}")
    known = ("image_shape", "num_classes", "sizes") if name == "synthetic" else ()
    for option in options:
        if option not in known:
            takes = f"it has {', '.join(known)}" if known else "it has none"
            raise UserError(f"Data set {name!r} has no option {option!r}; {takes}.")
    return INFOS[name] if name in INFOS else _synthetic(**options)


def _synthetic(image_shape=(32, 32, 3), num_classes=10, sizes=None) -> DataInfo:
    """Pixels of `resident.synthetic` are sums of two uniform integers 0..127: mean 127/255,
    standard deviation sqrt((128^2 - 1) / 6) / 255."""
    sizes = dict(sizes or INFOS["cifar10"].sizes)
    mean, std = ((value,) * image_shape[-1] for value in (0.4980, 0.2049))
    return DataInfo("synthetic", tuple(image_shape), num_classes, sizes, mean, std)


def check_available(name: str, data_dir=None) -> None:
    """Check that every split of `name` can be loaded, so that none fails when it is first used, the
    test split after the last update. Well under a second once a set is decoded.

    Args:
      name: a data set; if streamed, its records are counted and not read.
      data_dir: TFDS's root; default $TFDS_DATA_DIR, else ~/tensorflow_datasets.

    Raises:
      UserError: as `load`; for a missing set, with instructions.
    """
    info = describe(name)
    if name == "digits":
        _digits_file()
    elif name in _LOADERS:
        for split in SPLITS:
            load(name, split)
    elif info.streaming:
        find_prepared(name, data_dir)
    elif name != "synthetic":
        prepared = find_prepared(name, data_dir)
        identity = _identity(info, prepared)
        if identity not in _CHECKED:
            for split in SPLITS:
                _load_prepared(info, split, prepared, identity)
            _CHECKED.add(identity)


def load(name: str, split: str, data_dir=None) -> Split:
    """Read one split into memory. A decoded copy is cached under `cache_dir()`; that of a
    registered set only in memory, since changes of its source cannot be detected.

    Args:
      name: a set that fits in memory: any but `imagenet` (see `streaming`) and `synthetic`.
      split: 'train', 'validation' or 'test'.
      data_dir: TFDS's root; default $TFDS_DATA_DIR, else ~/tensorflow_datasets.

    Returns:
      The split, in TFDS's order; its arrays may be read-only memory maps of the cached files.

    Raises:
      UserError: unknown name or split; missing, incomplete or corrupted files; arrays that are not
        as registered.
    """
    info = describe(name)
    check_split(info, split)
    if info.streaming or name == "synthetic":
        raise ValueError(f"{name} has no arrays to load")
    if name in _LOADERS:
        return _LOADERS[name](split)
    if name == "digits":
        return _load_digits(info, split)
    prepared = find_prepared(name, data_dir)
    return _load_prepared(info, split, prepared, _identity(info, prepared))


def _load_prepared(info: DataInfo, split: str, prepared: Prepared, identity: str) -> Split:
    """One split, from the cache or decoded and cached."""
    entry = cache_dir() / f"{info.name}-{split}-{identity}"
    cached = _read_cache(entry)
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
    load: Callable[[str], tuple[np.ndarray, np.ndarray]],
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    sizes: dict[str, int],
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.25,
) -> None:
    """Make arrays in memory available to configs as a data set; see docs/your_model.md.

    The latest registration of a name is used, since a config file may be loaded more than once.

    Args:
      name: for `data.name`.
      load: split -> (images uint8 [N, H, W, C], labels int [N], from 0). Called before a study
        starts, once per split and process; it must be deterministic, as every process of a study
        calls it.
      image_shape: (H, W, C).
      sizes: examples in "train", "validation" and "test", as returned by `load`.
      mean, std: of the pixels on the 0..1 scale, for normalisation; one number, or one per channel.
        The defaults map pixels to -2..2.

    Raises:
      UserError: the name is taken by a set of the program, or an invalid value.
    """
    if name in OWN:
        raise UserError(f"Data set {name!r} already exists; register yours under another name.")

    check = functools.partial(_check_argument, name)
    whole = lambda *values: all(isinstance(v, int | np.integer) for v in values)
    check("load", load, callable, "a function of a split's name")
    good = lambda shape: np.shape(shape) == (3,) and whole(*shape) and min(shape) >= 1
    check("image_shape", image_shape, good, "(height, width, channels)")
    check("num_classes", num_classes, lambda n: whole(n) and n >= 2, "at least 2, a whole number")
    good = lambda s: set(s) == set(SPLITS) and whole(*s.values()) and min(s.values()) >= 1
    check(
        "sizes",
        sizes,
        good,
        "the numbers of examples in train, validation and test, 1 or more each",
    )
    channels, statistics = image_shape[-1], []
    for key, value in (("mean", mean), ("std", std)):
        good = lambda v, key=key: (
            np.shape(v) in ((), (channels,))
            and 0 <= np.min(v) <= np.max(v) <= 1
            and (key == "mean" or np.min(v) > 0)
        )
        check(key, value, good, "one number or one per channel, on the 0..1 scale, the std above 0")
        statistics.append(tuple(np.broadcast_to(value, channels).astype(float).tolist()))
    shape, sizes = tuple(map(int, image_shape)), {split: int(sizes[split]) for split in SPLITS}
    INFOS[name] = DataInfo(name, shape, int(num_classes), sizes, *statistics)
    _LOADERS[name] = functools.cache(functools.partial(_load_registered, INFOS[name], load))


def _check_argument(name, key, value, is_valid, expected):
    try:
        valid = is_valid(value)
    except (TypeError, ValueError, AttributeError):  # another type
        valid = False
    if not valid:
        raise UserError(f"Data set {name!r} is registered with {key} {value!r}; use {expected}.")


def _load_registered(info: DataInfo, load, split: str) -> Split:
    """The split returned by `load`, checked against the registration."""
    pair = call_users(f"load({split!r}) of data set {info.name!r}", load, split)
    size, where = info.sizes[split], f"Data set {info.name!r}, split {split!r}"
    several = isinstance(pair, tuple | list)
    if not (several and len(pair) == 2):
        what = f"a {type(pair).__name__} of {len(pair)}" if several else type(pair).__name__
        raise UserError(f"{where}: load returns {what}; return two arrays, (images, labels).")
    images, labels = (_array(where, *x) for x in zip(("images", "labels"), pair, strict=True))
    shapes = {"images": (images, (size, *info.image_shape)), "labels": (labels, (size,))}
    for what, (array, shape) in shapes.items():
        if array.shape != shape:
            raise UserError(
                f"{where}: load returns {what} of shape {array.shape}, and {shape} is registered; "
                "make them agree."
            )
    if images.dtype != np.uint8:
        raise UserError(
            f"{where}: load returns {images.dtype} images; return uint8 from 0 to 255, for floats "
            "from 0 to 1 np.round(255 * images).astype(np.uint8)."
        )
    whole = labels.dtype.kind in "iu"
    if not whole or labels.min() < 0 or labels.max() >= info.num_classes:
        span = f" from {labels.min()} to {labels.max()}" if labels.dtype.kind in "iuf" else ""
        raise UserError(
            f"{where}: load returns {labels.dtype} labels{span}; return integers from 0 to "
            f"{info.num_classes - 1}."
        )
    return Split(images, labels.astype(np.int32))


def _array(where, what, values):
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:  # rows of unequal lengths
        raise UserError(f"{where}: load returns {what} that are not an array ({error}).") from None


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
    images = np.round(rows[:, :64] * (255 / 16)).astype(np.uint8)
    return Split(images.reshape(-1, *info.image_shape), rows[:, 64].astype(np.int32))


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


def _missing(name: str, root: Path) -> UserError:
    if name == "imagenet":
        how = (
            "prepare it with TFDS and TensorFlow from the two ILSVRC2012 archives, `tfds build "
            f"imagenet2012 --file_format=array_record --manual_dir=DIR --data_dir={root}`"
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
    sizes, test = INFOS[name].sizes, _TEST_SPLITS.get(name, "test")
    needed = {"train": sizes["train"] + sizes["validation"], test: sizes["test"]}
    for split, expected in needed.items():
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
    """Picklable random access to the serialized examples of a split: `[i]` and `__getitems__`."""
    import tensorflow_datasets as tfds

    held_out = info.sizes["train"]
    instruction = {
        "train": f"train[:{held_out}]",
        "validation": f"train[{held_out}:]",
        "test": _TEST_SPLITS.get(info.name, "test"),
    }[split]
    return tfds.builder_from_directory(prepared.path).as_data_source(
        instruction,
        deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES,
        file_format="array_record",
    )


def parse_example(record: bytes) -> tuple[bytes, int]:
    """(encoded image, label) of a serialized example, without TFDS's slow feature decoding."""
    from tensorflow_datasets.proto import tf_example_pb2

    features = tf_example_pb2.Example.FromString(record).features.feature
    return features["image"].bytes_list.value[0], features["label"].int64_list.value[0]


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
    images = np.empty((len(records), *info.image_shape), np.uint8)
    labels = np.empty(len(records), np.int32)
    mode = cv2.IMREAD_COLOR_RGB if info.image_shape[-1] == 3 else cv2.IMREAD_GRAYSCALE
    for i, record in enumerate(records):
        try:
            png, labels[i] = parse_example(record)
            image = cv2.imdecode(np.frombuffer(png, np.uint8), mode)
            images[i] = image.reshape(info.image_shape)
        except Exception as error:  # decoders raise many types
            raise _other_records(info, split, prepared, f"record {i} cannot be decoded") from error
    if labels.min() < 0 or labels.max() >= info.num_classes:
        what = f"labels go from {labels.min()} to {labels.max()}"
        raise _other_records(info, split, prepared, what)
    return Split(images, labels)


def _other_records(info, split, prepared, what) -> UserError:
    shape = " x ".join(map(str, info.image_shape))
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


def _read_cache(entry: Path) -> Split | None:
    """The split cached in `entry`, as memory maps; None if it is missing or corrupted."""
    try:
        images = np.load(entry / "images.npy", mmap_mode="r")
        labels = np.load(entry / "labels.npy", mmap_mode="r")
        sums = json.loads((entry / "crc32.json").read_text())
    except (OSError, ValueError, EOFError):
        return None
    intact = sums == [zlib.crc32(images), zlib.crc32(labels)]
    return Split(images, labels) if intact else None


def _write_cache(entry: Path, split: Split) -> None:
    """Cache `split` in `entry` atomically, or not at all where nothing can be written."""
    scratch = entry.with_name(f".{entry.name}.{uuid.uuid4().hex}")
    try:
        scratch.mkdir(parents=True)
        np.save(scratch / "images.npy", split.images)
        np.save(scratch / "labels.npy", split.labels)
        sums = [zlib.crc32(split.images), zlib.crc32(split.labels)]
        (scratch / "crc32.json").write_text(json.dumps(sums))
        shutil.rmtree(entry, ignore_errors=True)  # an unreadable entry
        scratch.rename(entry)
    except OSError:  # a full or read-only disk, or another process was first
        shutil.rmtree(scratch, ignore_errors=True)
