"""Prepare a small image set as TFDS does, without TensorFlow, or a folder of tokens from texts.

    python -m scaling.data.prepare fashion_mnist                # downloads
    python -m scaling.data.prepare fashion_mnist --from=DIR     # uses the original files in DIR
    python -m scaling.data.prepare openclipart                  # drawings with tags, from Debian
    python -m scaling.data.prepare kjv                          # the King James Bible, from Debian
    python -m scaling.data.prepare text --from=DIR --name=NAME  # your own txt, jsonl or parquet

Texts are read by `scaling.data.corpora` and become tokens in `scaling.data.text`. As to images,
TFDS's builders read their downloads with TensorFlow. The subclass here replaces only that step, so
name, version, features, record order and checksums are those of TFDS, and `tfds.data_source(name)`
reads the result. The files are always array_record: TFDS reads it without TensorFlow, and its
parquet writer drops rows.
"""

import argparse
import contextlib
import functools
import gzip
import hashlib
import http.client
import io
import itertools
import re
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from scaling.data import corpora, directories, openclipart, sources, text
from scaling.errors import UserError, look_up, refuse_unread
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
    if name == "openclipart":
        return _prepare_drawings(data_dir, from_dir)
    if name not in READERS:
        sources.check_available(name, data_dir)  # its error has the instructions for such a set
        print(f"{name} needs no preparation.")
        return
    root = directories.data_root(data_dir)
    if directories.newest_version(root / name):
        prepared = directories.find_prepared(name, data_dir)
        print(f"{name} is already prepared in {prepared.path}.")
        return
    start = time.monotonic()
    with _new_folder(name, root) as scratch:
        built = _build(name, scratch, from_dir)
        target = _moved(built.path, scratch, root)
    counts = {split: sum(n for _, n in shards) for split, shards in built.shards.items()}
    _say(name, counts, target, start)


def _prepare_drawings(data_dir, from_dir) -> None:
    """`openclipart`, as a folder of arrays and the names of its labels."""
    name, root = "openclipart", directories.data_root(data_dir)
    if (root / name).exists():
        sources.check_available(name, data_dir)
        print(f"{name} is already prepared in {root / name}.")
        return
    start = time.monotonic()
    splits, tags = openclipart.read(from_dir)
    with _new_folder(name, root) as scratch:
        (scratch / name).mkdir()
        for split, arrays in splits.items():
            for array, values in arrays.items():
                np.save(scratch / name / f"{array}-{split}.npy", values)
        (scratch / name / "labels.txt").write_text("\n".join(tags) + "\n")
        sources.check_available(name, scratch)
        target = _moved(scratch / name, scratch, root)
    counts = {split: len(arrays["label"]) for split, arrays in splits.items()}
    _say(name, counts, target, start)


def _say(name, counts, target, start):
    examples = " and ".join(f"{count:,} {split}" for split, count in counts.items())
    print(f"{name}: {examples} examples in {target}, {time.monotonic() - start:.0f} s.")


def prepare_text(
    corpus: str, name: str | None = None, data_dir=None, source: str | None = None, **options
) -> None:
    """Write a folder of tokens, completely or not at all, and print progress.

    Args:
      corpus: of `corpora.CORPORA`.
      name: of the folder, and so of the data set; None: that of the corpus.
      data_dir: the data sets' folder; default $TFDS_DATA_DIR, else ~/tensorflow_datasets.
      source: file or folder of the texts, as the corpus reads them.
      **options: "tokenizer": bpe, bytes, or the file of a SentencePiece model, default bpe;
        "vocabulary": tokens of bpe; "documents": of `corpora.UNITS`; "held_out": share of the
        documents for validation, and as many for testing, default 0.05.

    Raises:
      UserError: unknown name or option, missing or damaged file, unwritable folder, a text that is
        too small, or a folder that another command made.
    """
    chosen = look_up("text", corpus, corpora.CORPORA)
    tokenizer, held_out = options.get("tokenizer", "bpe"), options.get("held_out", 0.05)
    of_bpe = () if tokenizer == "bytes" or tokenizer.endswith(".model") else ("vocabulary",)
    whose = f"Text {corpus!r} with --tokenizer={tokenizer}"
    refuse_unread(whose, options, ("tokenizer", *of_bpe, *chosen.options))
    given = {"name": name, "from": source, **options}
    flags = [f"--{key}={value}" for key, value in given.items() if value is not None]
    command = " ".join(["python -m scaling.data.prepare", corpus, *flags])
    name = name or ("" if corpus == "text" else corpus)
    if not name:
        raise UserError("Name the new data set: --name=NAME.")
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(f"--name is {name!r}; name the new data set, in letters and digits.")
    if name in sources.OWN:
        raise UserError(
            f"--name is {name!r}, a data set that is here already; choose another name."
        )
    if not 0 < held_out < 0.5:
        raise UserError(f"--held_out is {held_out}; use a share above 0 and below 0.5.")
    folder = directories.data_root(data_dir) / name
    if folder.exists():
        other = text.read_meta(folder).command
        if other != command:
            raise UserError(
                f"{folder} was made by `{other}`; give another --name, or delete it first."
            )
        print(f"{name} is already prepared in {folder}.")
        return
    start = time.monotonic()
    read = {key: options[key] for key in options if key == "documents"}
    documents = chosen.read(source, **read)
    vocabulary = options.get("vocabulary", chosen.vocabulary)
    make = functools.partial(text.make_tokenizer, tokenizer, vocabulary)
    with _new_folder(name, folder.parent) as scratch:
        (scratch / name).mkdir()
        meta = text.write_tokens(scratch / name, documents, make, held_out, command)
        _moved(scratch / name, scratch, folder.parent)
    tokens = sum(counts["tokens"] for counts in meta.splits.values())
    print(
        f"{name}: {tokens:,} tokens of {meta.bytes_per_token:.2f} bytes, of a vocabulary of "
        f"{meta.vocabulary:,}, in {folder}, {time.monotonic() - start:.0f} s."
    )


@contextlib.contextmanager
def _new_folder(name: str, root: Path) -> Iterator[Path]:
    """A folder beside the data sets to write `name` in, gone afterwards."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".prepare-", dir=root) as scratch:
            yield Path(scratch)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"Cannot write {name} under {root}: {reason}; choose another --data_dir."
        ) from error


def _moved(path: Path, scratch: Path, root: Path) -> Path:
    """`path` from the scratch folder to the same place under `root`."""
    target = root / path.relative_to(scratch)
    target.parent.mkdir(exist_ok=True)
    path.rename(target)
    return target


def _build(name: str, scratch: Path, from_dir) -> directories.Prepared:
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
    return directories.find_prepared(name, scratch)


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
        description="Prepare an image set in TFDS's format, without TensorFlow, or a folder of "
        "tokens from texts.",
    )
    images, texts = ", ".join([*READERS, "openclipart"]), ", ".join(corpora.CORPORA)
    parser.add_argument("name", help=f"images: {images}; texts: {texts}")
    parser.add_argument(
        "--from",
        dest="source",
        metavar="DIR",
        help="folder of the original files, for offline use: the four .gz files of MNIST or "
        "Fashion-MNIST (Debian's package dataset-fashion-mnist puts the latter in "
        "/usr/share/datasets/fashion-mnist), cifar-10-binary.tar.gz or cifar-100-binary.tar.gz, "
        "the .deb files of openclipart, kjv or austen; the archive of lm1b; for `text` a file, or "
        "a folder of txt, jsonl (an object with a text per line) or parquet (a column text) files",
    )
    parser.add_argument(
        "--data_dir",
        metavar="DIR",
        help="the data sets' folder; default $TFDS_DATA_DIR, else ~/tensorflow_datasets",
    )
    of_texts = parser.add_argument_group("texts").add_argument
    of_texts("--name", dest="own_name", help="of the data set, for data.name")
    of_texts("--tokenizer", help="bpe (default), bytes, or a SentencePiece FILE.model")
    of_texts("--vocabulary", type=int, help="tokens of bpe; 512 for kjv and austen, else 32,000")
    of_texts("--documents", help="what a document of a txt file is: files, paragraphs or lines")
    of_texts("--held_out", type=float, help="share of validation, and of test; default 0.05")
    args = parser.parse_args(argv)
    keys = ("tokenizer", "vocabulary", "documents", "held_out")
    options = {"name": args.own_name} | {key: getattr(args, key) for key in keys}
    options = {key: value for key, value in options.items() if value is not None}
    try:
        if args.name in corpora.CORPORA:
            prepare_text(args.name, data_dir=args.data_dir, source=args.source, **options)
        elif options:
            raise UserError(f"--{next(iter(options))} is for texts: {texts}.")
        else:
            prepare(args.name, args.data_dir, args.source)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
