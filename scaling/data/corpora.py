"""Where texts come from: documents of files, of two Debian packages, and of the LM1B archive."""

import contextlib
import gzip
import io
import itertools
import json
import re
import shutil
import struct
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from scaling.data.known import sizes_of
from scaling.data.text import Document, Documents, split_of
from scaling.errors import UserError, look_up
from scaling.files import user_path

# What a document of a .txt file is.
UNITS: dict[str, Callable[[str], list[str]]] = {
    "files": lambda text: [text],
    "paragraphs": lambda text: re.split(r"\n\s*\n", text),
    "lines": str.splitlines,
}


def from_files(source: str | None, documents: str = "files") -> Documents:
    """Of .txt files in UTF-8, .jsonl or .json files (an object with "text" per line), both also as
    .gz, and .parquet files (column "text"), in the order of their names.

    Args:
      source: a file, or a folder of them.
      documents: of `UNITS`.

    Raises:
      UserError: no such file or unit. When read: a file that is damaged or of another form.
    """
    if source is None:
        raise UserError("Name the files: --from=DIR, of txt, jsonl or parquet files.")
    split_up = look_up("kind of document", documents, UNITS)
    root = user_path(source, "--from")
    if not root.exists():
        raise UserError(f"There is no --from={source}; name a file of text, or a folder of them.")
    files = [root] if root.is_file() else sorted(root.rglob("*.*"))
    read_text = lambda path: _text(path, split_up)
    readers = {"txt": read_text, "jsonl": _json, "json": _json, "parquet": _parquet}
    suffix = lambda path: path.name.removesuffix(".gz").rpartition(".")[2]
    files = [path for path in files if suffix(path) in readers]
    if not files:
        raise UserError(f"--from={source} has no txt, jsonl or parquet files; name their folder.")

    def read():
        for path in files:
            try:
                for text in readers[suffix(path)](path):
                    if not isinstance(text, str):
                        raise TypeError(f"a text is {text!r}, not a string")
                    if text.strip():
                        yield Document(text)
            except (OSError, ValueError, KeyError, TypeError, EOFError, zlib.error) as error:
                raise UserError(f"Cannot read {path} as text: {error}; leave it out.") from error

    return read


def _open(path):
    return (
        gzip.open(path, "rt", encoding="utf-8")
        if path.suffix == ".gz"
        else path.open(encoding="utf-8")
    )


def _text(path, split_up):
    with _open(path) as file:
        yield from split_up(file.read())


def _json(path):
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            try:
                text = json.loads(line)["text"] if line.strip() else ""
            except (ValueError, KeyError, TypeError):
                text = None
            if not isinstance(text, str):
                raise UserError(
                    f'Line {number} of {path} is not an object with a text in "text"; mend or '
                    "remove it."
                )
            yield text


def _parquet(path):
    import pyarrow.parquet

    for batch in pyarrow.parquet.ParquetFile(path).iter_batches(1_000, columns=["text"]):
        yield from batch.column("text").to_pylist()


# ---- Debian packages ----


def kjv(source: str | None) -> Documents:
    """The chapters of the King James Bible, a verse a line, from packages bible-kjv and
    bible-kjv-text; the text has a compression of its own, so their program prints it."""
    files = ("usr/bin/bible", "usr/lib/bible.data")
    with debian(("bible-kjv", "bible-kjv-text"), files, source) as (program, data):
        command = [program, "-p", f"{data.parent}/", "-f", "Gen1:1-Rev22:21"]
        try:
            printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError) as error:
            raise UserError(f"Cannot run {program}: {error}; it needs libreadline8.") from error
    verses = [line.partition(" ") for line in printed.splitlines()]  # Ge1:1 In the beginning ...
    chapters = itertools.groupby(verses, lambda verse: verse[0].partition(":")[0])
    texts = ["\n".join(verse for _, _, verse in chapter) for _, chapter in chapters]
    return lambda: map(Document, texts)


def austen(source: str | None) -> Documents:
    """The chapters of Jane Austen's six novels, from package r-cran-janeaustenr: serialised R
    vectors of strings, each behind the length of its compressed form."""
    files = ("usr/lib/R/site-library/janeaustenr/data/Rdata.rdb",)
    with debian(("r-cran-janeaustenr",), files, source) as (path,):
        data = path.read_bytes()
    texts = []
    while data:
        inflate = zlib.decompressobj()
        lines = _r_strings(inflate.decompress(data[4:]))
        data = inflate.unused_data
        _, *chapters = re.split(r"\n(?=CHAPTER |Chapter )", "\n".join(lines))
        texts += [chapter.strip() for chapter in chapters]
    return lambda: map(Document, texts)


def _r_strings(data: bytes) -> Iterator[str]:
    """Of R's serialised vector of strings: a header of 27 bytes, their number, and for each its
    type, length and UTF-8."""
    (count,), at = struct.unpack_from(">i", data, 27), 31
    for _ in range(count):
        _, length = struct.unpack_from(">ii", data, at)
        at += 8 + length
        yield data[at - length : at].decode()


@contextlib.contextmanager
def debian(
    packages: Sequence[str], files: Sequence[str], source: str | None
) -> Iterator[list[Path]]:
    """Paths of files or folders of Debian packages: the installed ones, those of the .deb files in
    folder `source`, or of downloaded ones."""
    paths = lambda root: [Path(root, file) for file in files]
    if source is None and all(path.exists() for path in paths("/")):
        yield paths("/")
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "deb")
        folder.mkdir()
        if source is None:
            print(f"downloading {', '.join(packages)} ...", flush=True)
            _call(["apt-get", "download", *packages], folder, packages)
        else:
            folder = user_path(source, "--from")
        for package in packages:
            found = sorted(folder.glob(f"{package}_*.deb"))
            if not found:
                raise UserError(f"--from={source} has no {package}_*.deb, a Debian package.")
            _call(["dpkg-deb", "-x", found[-1].resolve(), scratch], folder, packages)
        yield paths(scratch)


def _call(command, folder, packages):
    """Run a Debian tool in a folder."""
    try:
        if not shutil.which(command[0]):
            raise FileNotFoundError(f"{command[0]} is not installed")
        subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1]
        raise UserError(
            f"Cannot get Debian's {' and '.join(packages)} ({reason}); get their .deb files from "
            "packages.debian.org and name their folder with --from=DIR."
        ) from error


# ---- LM1B ----


def lm1b(source: str | None) -> Documents:
    """Sentences of the One Billion Word Benchmark (Chelba 2013), from its archive: those of its
    training files, and of its held-out files, halved into validation and test."""
    if source is None:
        raise UserError(
            "Name the archive: --from=1-billion-word-language-modeling-benchmark-r13output.tar.gz, "
            "from statmt.org/lm-benchmark."
        )
    path = user_path(source, "--from")

    def documents():
        try:
            with tarfile.open(path) as archive:
                for member in archive:
                    folder = Path(member.name).parent.name
                    if not member.isfile() or ".tokenized.shuffled" not in folder:
                        continue
                    for line in io.TextIOWrapper(archive.extractfile(member), "utf-8"):
                        text = line.strip()
                        training = folder.startswith("training")
                        yield Document(text, "train" if training else split_of(text, 0.5))
        except (OSError, tarfile.TarError, EOFError, zlib.error) as error:
            raise UserError(f"Cannot read {path}: {error}; get the archive again.") from error

    return documents


class Corpus(NamedTuple):
    """A text that can be prepared.

    Attributes:
      read: --from -> its documents.
      vocabulary: where none is given.
      tokens: of each split, counted or about; None: not known. For dry runs without the files.
      options: of `prepare_text` that it takes beside the tokenizer's.
    """

    read: Callable[..., Documents]
    vocabulary: int
    tokens: dict[str, int] | None = None
    options: tuple[str, ...] = ("held_out",)


CORPORA = {
    "text": Corpus(from_files, 32_000, None, ("held_out", "documents")),
    "kjv": Corpus(kjv, 512, sizes_of(1_657_437, 114_967, 93_433)),
    "austen": Corpus(austen, 512, sizes_of(1_796_352, 86_321, 110_208)),
    "lm1b": Corpus(lm1b, 32_000, sizes_of(900_000_000, 4_500_000, 4_500_000), ()),
    # The sample of ten billion tokens, as parquet files.
    "fineweb_edu": Corpus(
        from_files,
        32_000,
        sizes_of(9_000_000_000, 500_000_000, 500_000_000),
        ("held_out", "documents"),
    ),
}
