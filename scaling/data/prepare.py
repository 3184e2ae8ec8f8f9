"""Prepare a small image set as TFDS does, without TensorFlow.

    python -m scaling.data.prepare fashion_mnist                # downloads
    python -m scaling.data.prepare fashion_mnist --from=DIR     # uses the original files in DIR

TFDS's builders read their downloads with TensorFlow. The subclass here replaces only that step, so
name, version, features, record order and checksums are those of TFDS, and `tfds.data_source(name)`
reads the result. The files are always array_record: TFDS reads it without TensorFlow, and its
parquet writer drops rows.
"""

import argparse
import contextlib
import gzip
import hashlib
import http.client
import io
import itertools
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from scaling.data import sources
from scaling.errors import UserError
from scaling.files import user_path

# Debian removes time and name from the gzip headers of Fashion-MNIST's files for a reproducible
# package. With these times (seconds since 1970) restored, the checksums match.
_GZIP_TIMES = {
    "train-images-idx3-ubyte.gz": 1504176606,
    "train-labels-idx1-ubyte.gz": 1504176606,
    "t10k-images-idx3-ubyte.gz": 1504176627,
    "t10k-labels-idx1-ubyte.gz": 1504176627,
}


def prepare(name: str, data_dir=None, from_dir=None) -> None:
    """Write the TFDS directory of data set `name`, completely or not at all, and print progress.

    Args:
      name: a data set; nothing is written if it needs no files or is already prepared.
      data_dir: TFDS's root; default $TFDS_DATA_DIR, else ~/tensorflow_datasets.
      from_dir: folder of the original files; None downloads them.

    Raises:
      UserError: unknown name, missing file, wrong checksum, failed download, unwritable folder, or
        an existing incomplete set.
    """
    if name not in READERS:
        sources.check_available(name, data_dir)  # its error has the instructions for such a set
        print(f"{name} needs no preparation.")
        return
    root = sources.data_root(data_dir)
    if sources.newest_version(root / name):
        prepared = sources.find_prepared(name, data_dir)
        print(f"{name} is already prepared in {prepared.path}.")
        return
    start = time.monotonic()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".prepare-", dir=root) as scratch:
            built = _build(name, Path(scratch), from_dir)
            target = root / built.path.relative_to(scratch)
            target.parent.mkdir(exist_ok=True)
            built.path.rename(target)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"Cannot write {name} under {root}: {reason}; choose another --data_dir."
        ) from error
    counts = [f"{sum(n for _, n in shards):,} {split}" for split, shards in built.shards.items()]
    seconds = time.monotonic() - start
    print(f"{name}: {' and '.join(counts)} examples in {target}, {seconds:.0f} s.")


def _build(name: str, scratch: Path, from_dir) -> sources.Prepared:
    """Prepare `name` in the folder `scratch`."""
    import tensorflow_datasets as tfds
    from absl import logging

    logging.set_verbosity(logging.ERROR)
    tfds.disable_progress_bar()
    stock = tfds.builder_cls(name)
    files = {info.filename: _original(url, info, from_dir) for url, info in stock.url_infos.items()}
    builder = _builder_class(stock, files, READERS[name])(data_dir=scratch)
    print(f"writing {name} {builder.version} ...", flush=True)
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS would print the scratch folder
        builder.download_and_prepare(
            file_format="array_record",
            download_config=tfds.download.DownloadConfig(try_download_gcs=False),
        )
    return sources.find_prepared(name, scratch)


def _builder_class(stock, files: dict[str, bytes], read: Callable):
    """TFDS's builder class `stock` with `files` read by `read`."""

    class Builder(stock, skip_registration=True):
        name = stock.name
        __module__ = stock.__module__  # recorded in dataset_info.json

        def _split_generators(self, dl_manager):
            # TFDS shuffles by these keys; they are those of `stock`, and so is the order.
            return {split: enumerate(examples) for split, examples in read(self, files).items()}

    return Builder


def _original(url: str, info, from_dir) -> bytes:
    """One original file, from `from_dir` or downloaded, verified by TFDS's checksum."""
    if from_dir is None:
        where, how = url, "use --from=DIR for a file you already have"
        print(f"downloading {url} ({info.size}) ...", flush=True)
        read = lambda: urllib.request.urlopen(url, timeout=60).read()
    else:
        where, how = user_path(from_dir, "--from") / info.filename, f"get it from {url}"
        read = where.read_bytes
    try:
        data = read()
    except (OSError, http.client.HTTPException) as error:
        raise UserError(f"Cannot read {where} ({error}); {how}.") from error
    for candidate in (data, _with_gzip_header(data, info.filename)):
        if hashlib.sha256(candidate).hexdigest() == info.checksum:
            return candidate
    raise UserError(
        f"{where} does not match the checksum in TFDS: its sha256 is "
        f"{hashlib.sha256(data).hexdigest()} and should be {info.checksum}; {how}."
    )


def _with_gzip_header(data: bytes, filename: str) -> bytes:
    """`data` with the time and name in its gzip header that Debian removes."""
    if filename not in _GZIP_TIMES:
        return data
    has_name = b"\x08"
    stamp = _GZIP_TIMES[filename].to_bytes(4, "little")
    stem = filename.removesuffix(".gz").encode() + b"\0"
    return data[:3] + has_name + stamp + data[8:10] + stem + data[10:]


# ---- Reading the original files: {TFDS split: iterator of examples} ----


def _read_mnist(builder, files: dict[str, bytes]) -> dict[str, Iterator[dict]]:
    def examples(prefix):
        images = _idx_array(files[f"{prefix}-images-idx3-ubyte.gz"])
        labels = _idx_array(files[f"{prefix}-labels-idx1-ubyte.gz"])
        for image, label in zip(images, labels, strict=True):
            yield {"image": _png(image), "label": int(label)}

    return {"train": examples("train"), "test": examples("t10k")}


def _idx_array(data: bytes) -> np.ndarray:
    """The uint8 array of an IDX file: a 4-byte magic number with the rank last, shape, values."""
    raw = gzip.decompress(data)
    rank = raw[3]
    shape = np.frombuffer(raw, ">i4", rank, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _read_cifar(builder, files: dict[str, bytes]) -> dict[str, Iterator[dict]]:
    (archive,) = files.values()
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        members = {
            PurePosixPath(member.name).name: tar.extractfile(member).read()
            for member in tar
            if member.isfile()
        }
    layout = builder._cifar_info  # files and label keys of CIFAR-10 or CIFAR-100
    for key, file in zip(layout.label_keys, layout.label_files, strict=True):
        builder.info.features[key].names = members[file].decode().split()

    def examples(split, parts):
        records = itertools.chain.from_iterable(
            np.frombuffer(members[part], np.uint8).reshape(-1, len(layout.label_keys) + 3 * 32 * 32)
            for part in parts
        )
        for i, record in enumerate(records):
            labels, pixels = np.split(record, [len(layout.label_keys)])
            yield {
                "id": f"{split}_{i:05d}",
                "image": _png(pixels.reshape(3, 32, 32).transpose(1, 2, 0)),
                **dict(zip(layout.label_keys, map(int, labels), strict=True)),
            }

    return {
        "train": examples("train", layout.train_files),
        "test": examples("test", layout.test_files),
    }


def _png(image: np.ndarray) -> bytes:
    """PNG of a grey [H, W] or RGB [H, W, 3] image. OpenCV's channel order is BGR."""
    import cv2

    encoded = cv2.imencode(".png", image[..., ::-1] if image.ndim == 3 else image)[1]
    return encoded.tobytes()


READERS = {
    "mnist": _read_mnist,
    "fashion_mnist": _read_mnist,
    "cifar10": _read_cifar,
    "cifar100": _read_cifar,
}


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code, 2 after an error."""
    parser = argparse.ArgumentParser(
        prog="python -m scaling.data.prepare",
        description="Prepare an image set in TFDS's format, without TensorFlow.",
    )
    parser.add_argument("name", help=f"data set: {', '.join(READERS)}")
    parser.add_argument(
        "--from",
        dest="from_dir",
        metavar="DIR",
        help="folder of the original files, for offline use: the four .gz files of MNIST or "
        "Fashion-MNIST (Debian's package dataset-fashion-mnist puts the latter in "
        "/usr/share/datasets/fashion-mnist), cifar-10-binary.tar.gz or cifar-100-binary.tar.gz",
    )
    parser.add_argument(
        "--data_dir",
        metavar="DIR",
        help="root of TFDS's data sets; default $TFDS_DATA_DIR, else ~/tensorflow_datasets",
    )
    args = parser.parse_args(argv)
    try:
        prepare(args.name, args.data_dir, args.from_dir)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
