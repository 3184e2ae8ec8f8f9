"""Prepared data sets on disk: TFDS directories of array_record files, and the cache of what was
decoded from them."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import uuid
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from scaling.data.corpora import CORPORA
from scaling.data.known import INFOS, DataInfo, Split
from scaling.errors import UserError, nearest
from scaling.files import user_path

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


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A complete TFDS directory of array_record files.

    Attributes:
      path: of the version, such as .../fashion_mnist/3.0.1.
      shards: TFDS split name -> (path, number of records) of each shard.
    """

    path: Path
    shards: dict[str, list[tuple[Path, int]]]


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
            raise incomplete(folder, "its preparation was interrupted")
        raise missing(name, folder.parent)
    prepared = Prepared(path, _declared_shards(path))
    _check_records(name, prepared)
    return prepared


def newest_version(folder: Path) -> Path | None:
    """The directory of the highest version in one data set's folder, complete or not."""
    versions = [path for path in folder.glob("*.*.*") if _VERSION.fullmatch(path.name)]
    return max(versions, key=lambda path: tuple(map(int, path.name.split("."))), default=None)


def unknown(name: str, root: Path) -> UserError:
    known = nearest(name, ({*INFOS, "synthetic", *CORPORA} - {"text"}))
    corpus = next((corpus for corpus in CORPORA if name.startswith(f"{corpus}_")), "text")
    tokenizer = " --tokenizer=bytes" * name.endswith("_bytes")
    source = " --from=DIR" * (corpus == "text")
    return UserError(
        f"Unknown data set {name!r}: {known} Folders of tokens in {root} have names of their own: "
        f"`python -m scaling.data.prepare {corpus}{tokenizer} --name={name}{source}` makes one."
    )


def missing(name: str, root: Path) -> UserError:
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


def incomplete(path: Path, what: str) -> UserError:
    return UserError(f"{path} is incomplete: {what}; delete it and prepare it again.")


def _declared_shards(path: Path) -> dict[str, list[tuple[Path, int]]]:
    """The shards in dataset_info.json, without importing TFDS."""
    for file in ("dataset_info.json", "features.json"):
        if not (path / file).is_file():
            raise incomplete(path, f"it has no {file}")
    try:
        info = json.loads((path / "dataset_info.json").read_text())
        formats = [info["fileFormat"], *info.get("alternativeFileFormats", [])]
        lengths = {s["name"]: [int(n) for n in s["shardLengths"]] for s in info["splits"]}
    except (ValueError, KeyError, TypeError) as error:
        raise incomplete(path, "its dataset_info.json is unreadable") from error
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
            raise incomplete(prepared.path, what)
        for file, count in shards:
            if not file.is_file():
                raise incomplete(prepared.path, f"{file.name} is missing")
            present = _count_records(file)
            if present != count:
                what = f"{file.name} has {present:,} records of {count:,}"
                raise incomplete(prepared.path, what)


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


def load_prepared(info: DataInfo, split: str, prepared: Prepared, identity: str) -> Split:
    """One split, from the cache or decoded and cached."""
    entry = cache_dir() / f"{info.name}-{split}-{identity}"
    cached = read_cache(entry, info.example)
    if cached is None:
        cached = _decode_split(info, split, prepared)
        write_cache(entry, cached)
    return cached


def cache_dir() -> Path:
    """$SCALING_CACHE_DIR, else $XDG_CACHE_HOME/scaling, else ~/.cache/scaling."""
    if own := os.environ.get("SCALING_CACHE_DIR"):
        return user_path(own, "$SCALING_CACHE_DIR")
    return user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "$XDG_CACHE_HOME") / "scaling"


def identity_of(info: DataInfo, prepared: Prepared) -> str:
    """A hash that changes with the prepared files and their splits."""
    files = [file for shards in prepared.shards.values() for file, _ in shards]
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    declared = (prepared.path / "dataset_info.json").read_text()
    content = repr((str(prepared.path.resolve()), declared, stats, info))
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def read_cache(entry: Path, names: Iterable[str]) -> Split | None:
    """The split cached in `entry`, as memory maps; None if it is missing or corrupted."""
    try:
        arrays = {name: np.load(entry / f"{name}.npy", mmap_mode="r") for name in names}
        sums = json.loads((entry / "crc32.json").read_text())
    except (OSError, ValueError, EOFError):
        return None
    return arrays if sums == {name: zlib.crc32(a) for name, a in arrays.items()} else None


def write_cache(entry: Path, split: Split) -> None:
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
