"""Text as tokens: tokenizers, and the folders of tokens that are prepared once and read by runs.

A folder has, for each split, `SPLIT.npy`, one stream of uint16 tokens with an end-of-text token
after every document; `tokenizer.model`, unless tokens are bytes; and `meta.json`, a `Meta`. Rows of
a data set are consecutive tokens of the stream. A document is in one split, so none is trained on
and evaluated.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np

from scaling.errors import UserError
from scaling.files import json_text

SPLITS = ("train", "validation", "test")
LARGEST = 2**16  # a token is a uint16
BYTES = 256
SMALLEST = BYTES + 3  # of BPE: every byte, unknown, end of text, a character
TRAINED_ON = 10_000_000  # characters from which BPE is learned, as in init2winit
LINE = 1_000  # characters that BPE is learned from at once; SentencePiece skips over 4,192 bytes
BATCH = 1_000_000  # characters encoded at once


class Document(NamedTuple):
    """A text, and the split it belongs to; None: one that follows from its hash."""

    text: str
    split: str | None = None


Documents = Callable[[], Iterable[Document]]


@dataclasses.dataclass(frozen=True)
class Meta:
    """What is known of a folder of tokens.

    Attributes:
      tokenizer: "bytes" or "sentencepiece".
      vocabulary: number of tokens, the end of text included.
      eos: the token of the end of text.
      tokenizer_sha256: of the model file; of nothing for bytes.
      source_sha256: of the documents, in order.
      bytes_per_token: of the training split; an end of text is a token of no bytes.
      splits: split -> number of "documents", "bytes" of UTF-8, "tokens", and "crc32" of those.
      command: that made it, without --data_dir.
    """

    tokenizer: str
    vocabulary: int
    eos: int
    tokenizer_sha256: str
    source_sha256: str
    bytes_per_token: float
    splits: dict[str, dict[str, int]]
    command: str


# ---- Tokenizers ----


class Tokenizer(Protocol):
    """Texts to tokens and back. `encode` gives no end of text."""

    kind: str
    vocabulary: int
    eos: int
    model: bytes

    def encode(self, texts: Sequence[str]) -> list[Sequence[int]]:
        """Tokens of each text."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without ends of texts."""


class Bytes:
    """UTF-8 bytes, and one token for the end of text."""

    kind, vocabulary, eos, model = "bytes", BYTES + 1, BYTES, b""

    def encode(self, texts):
        return [np.frombuffer(text.encode(), np.uint8) for text in texts]

    def decode(self, tokens):
        return bytes(int(t) for t in tokens if t != self.eos).decode(errors="replace")


class SentencePiece:
    """A SentencePiece model (Kudo 2018), `model` its file.

    Raises:
      UserError: it cannot be read, has no end of text, or too many tokens.
    """

    kind = "sentencepiece"

    def __init__(self, model: bytes, name: str = "the tokenizer"):
        from sentencepiece import SentencePieceProcessor

        self.model, self._processor = model, SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise UserError(f"{name} is not a SentencePiece model; give another file.") from error
        self.vocabulary, self.eos = self._processor.vocab_size(), self._processor.eos_id()
        if self.eos < 0:
            raise UserError(f"{name} has no end of text (eos), which separates documents.")
        if self.vocabulary > LARGEST:
            raise UserError(f"{name} has {self.vocabulary:,} tokens; {LARGEST:,} are the most.")

    def encode(self, texts):
        return self._processor.encode(list(texts))

    def decode(self, tokens):
        return self._processor.decode([int(t) for t in tokens if t != self.eos])


def make_tokenizer(name: str, vocabulary: int, texts: Iterable[str]) -> Tokenizer:
    """The tokenizer `name`: bytes, bpe learned from `texts`, or the file of a SentencePiece model.

    Raises:
      UserError: no such tokenizer or file, or the texts are too few for the vocabulary.
    """
    if name == "bytes":
        return Bytes()
    if name == "bpe":
        return SentencePiece(learn_bpe(texts, vocabulary))
    if name == "unigram":
        raise UserError(
            "--tokenizer is unigram, whose training gives another vocabulary with another number "
            "of threads, so a study could not be repeated; use bpe, or a trained FILE.model."
        )
    if not name.endswith(".model"):
        raise UserError(f"--tokenizer is {name!r}; use bytes, bpe or a SentencePiece FILE.model.")
    try:
        return SentencePiece(Path(name).expanduser().read_bytes(), name)
    except OSError as error:
        raise UserError(f"Cannot read --tokenizer={name}: {error.strerror or error}.") from error


def learn_bpe(texts: Iterable[str], vocabulary: int) -> bytes:
    """A SentencePiece model of byte pair encoding (Sennrich 2016) that loses nothing: characters
    without a token are bytes, and spaces and lines are kept. The same texts give the same model.

    Raises:
      UserError: the texts have fewer pairs, or more characters, than such a vocabulary.
    """
    from sentencepiece import SentencePieceTrainer

    if not SMALLEST <= vocabulary <= LARGEST:
        raise UserError(f"--vocabulary is {vocabulary}; use {SMALLEST} to {LARGEST:,}.")
    model, lines = io.BytesIO(), list(_lines(texts))
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            vocab_size=vocabulary,
            model_type="bpe",
            byte_fallback=True,
            unk_id=0,
            eos_id=1,
            bos_id=-1,
            pad_id=-1,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            minloglevel=3,
        )
    except RuntimeError as error:
        reason = str(error).rpartition("] ")[2].strip().rstrip(".")
        raise UserError(
            f"No vocabulary of {vocabulary:,} can be learned from this text ({reason}); use "
            "another --vocabulary, or --tokenizer=bytes."
        ) from error
    return model.getvalue()


def _lines(texts):
    """The first `TRAINED_ON` characters, in pieces of lines."""
    left = TRAINED_ON
    for text in texts:
        for line in text.splitlines():
            for start in range(0, len(line), LINE):
                piece = line[start : start + LINE]
                yield piece
                left -= len(piece)
                if left <= 0:
                    return


# ---- Writing ----


def write_tokens(
    folder: Path, documents: Documents, make: Callable, held_out: float, command: str
) -> Meta:
    """Write a folder of tokens from documents, which are read twice.

    Args:
      folder: is there, and empty.
      documents: called for each reading; gives the same both times.
      make: texts of the training split -> Tokenizer.
      held_out: share of the documents without a split that are for validation, and for testing.
      command: for `Meta`.

    Raises:
      UserError: a split without a document.
    """
    placed = lambda: ((doc.text, doc.split or split_of(doc.text, held_out)) for doc in documents())
    try:
        tokenizer = make(text for text, split in placed() if split == "train")
    except UserError:  # there may be too few documents
        _check_documents(Counter(split for _, split in placed()))
        raise
    if tokenizer.model:
        (folder / "tokenizer.model").write_bytes(tokenizer.model)
    source = hashlib.sha256()
    with contextlib.ExitStack() as files:
        opened = lambda split: files.enter_context(open(folder / f"{split}.npy", "wb"))
        streams = {split: _Stream(opened(split)) for split in SPLITS}
        for batch in _batches(placed()):
            texts = [document for document, _ in batch]
            for (document, split), tokens in zip(batch, tokenizer.encode(texts), strict=True):
                data = document.encode()
                source.update(data + b"\0")
                streams[split].add(np.append(tokens, tokenizer.eos), len(data))
        splits = {split: stream.finish() for split, stream in streams.items()}
    _check_documents({split: counts["documents"] for split, counts in splits.items()})
    meta = Meta(
        tokenizer=tokenizer.kind,
        vocabulary=tokenizer.vocabulary,
        eos=tokenizer.eos,
        tokenizer_sha256=hashlib.sha256(tokenizer.model).hexdigest(),
        source_sha256=source.hexdigest(),
        bytes_per_token=splits["train"]["bytes"] / splits["train"]["tokens"],
        splits=splits,
        command=command,
    )
    (folder / "meta.json").write_text(json_text(dataclasses.asdict(meta)) + "\n")
    return meta


def _check_documents(counts: Mapping[str, int]) -> None:
    """UserError where a split has none."""
    empty = [split for split in SPLITS if not counts[split]]
    if empty:
        number = sum(counts.values())
        raise UserError(
            f"There is no document for the {empty[0]} split among {number:,}; splits are made of "
            "whole documents: give more, take smaller ones (--documents=paragraphs, as for a "
            "single file), or a larger --held_out."
        )


def split_of(text: str, held_out: float) -> str:
    """The split of a document. Equal documents are in the same."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    place = int.from_bytes(digest, "big") / 2**64
    return "validation" if place < held_out else "test" if place < 2 * held_out else "train"


def _batches(placed: Iterable[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    batch, size = [], 0
    for pair in placed:
        batch.append(pair)
        size += len(pair[0])
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _Stream:
    """A .npy file of uint16 that grows; the header has room for any number."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._counts = dict.fromkeys(("documents", "bytes", "tokens", "crc32"), 0)
        self._header()

    def _header(self):
        header = {"descr": "<u2", "fortran_order": False, "shape": (self._counts["tokens"],)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def add(self, tokens: np.ndarray, size: int) -> None:
        """One document of `size` bytes."""
        data, counts = tokens.astype("<u2").tobytes(), self._counts
        self._file.write(data)
        counts["documents"] += 1
        counts["bytes"] += size
        counts["tokens"] += len(tokens)
        counts["crc32"] = zlib.crc32(data, counts["crc32"])

    def finish(self) -> dict[str, int]:
        """Its counts, as in `Meta.splits`."""
        self._file.seek(0)
        self._header()
        return self._counts


# ---- Reading ----


def read_meta(folder: Path) -> Meta:
    """What is known of a folder of tokens; its files are there and as long as they should be.

    Raises:
      UserError: something is missing or damaged, with the command that makes it.
    """
    try:
        meta = Meta(**json.loads((folder / "meta.json").read_text()))
        for split in SPLITS:
            counts, shape = meta.splits[split], _stream(folder, split).shape
            if shape != (counts["tokens"],):
                raise _damaged(folder, f"{split}.npy has not its {counts['tokens']:,} tokens")
        if meta.tokenizer != Bytes.kind:
            model = (folder / "tokenizer.model").read_bytes()
            if hashlib.sha256(model).hexdigest() != meta.tokenizer_sha256:
                raise _damaged(folder, "tokenizer.model is not the one that made the tokens")
    except FileNotFoundError as error:
        raise _damaged(folder, f"{Path(error.filename).name} is missing") from error
    except (OSError, ValueError, TypeError, KeyError, EOFError) as error:
        raise _damaged(folder, str(error).splitlines()[0]) from error
    return meta


def check(folder: Path) -> None:
    """UserError, as `read_meta`, unless all tokens are those that were written; reads them."""
    meta = read_meta(folder)
    for split, counts in meta.splits.items():
        if zlib.crc32(_stream(folder, split)) != counts["crc32"]:
            raise _damaged(folder, f"the checksum of {split}.npy differs")


def read_rows(folder: Path, split: str, length: int) -> np.ndarray:
    """Rows [N, length] of consecutive tokens, uint16; what is left over is not used. The training
    rows are in the order of the text, and a memory map; the others in a fixed random one, so that
    the first of them are a sample.

    Raises:
      UserError: as `read_meta`.
    """
    read_meta(folder)
    stream = _stream(folder, split)
    count = len(stream) // length
    rows = stream[: count * length].reshape(count, length)
    return rows if split == "train" else rows[np.random.RandomState(0).permutation(count)]


def tokenizer_of(folder: Path) -> Tokenizer:
    """The tokenizer that made the tokens of a folder."""
    if read_meta(folder).tokenizer == Bytes.kind:
        return Bytes()
    return SentencePiece((folder / "tokenizer.model").read_bytes())


def _stream(folder, split):
    return np.load(folder / f"{split}.npy", mmap_mode="r")


def _damaged(folder: Path, what: str) -> UserError:
    try:
        command = json.loads((folder / "meta.json").read_text())["command"]
    except (OSError, ValueError, KeyError, TypeError):
        command = f"python -m scaling.data.prepare text --name={folder.name} --from=DIR"
    return UserError(
        f"{folder} is not a complete folder of tokens ({what}); delete it and make it again with "
        f"`{command} --data_dir={folder.parent}`."
    )
