"""Texts of every form to tokens and back, and that nothing damaged is read or left behind."""

import gzip
import io
import json
import struct
import tarfile
import zlib

import numpy as np
import pytest
from debs import debian, package

from scaling.data import prepare, text
from scaling.errors import UserError

WORDS = ["the", "and", "of", "that", "sea", "light", "été", "光", "day", "night", "king", "tree"]
TEXTS = [
    " ".join(np.random.default_rng(i).choice(WORDS, 60)) + f".\n\n  Verse {i}:\n the end"
    for i in range(60)
]


def folder_of(tmp_path, texts=TEXTS):
    """A folder with a .txt file of each."""
    folder = tmp_path / "originals"
    folder.mkdir()
    for i, content in enumerate(texts):
        (folder / f"{i:03d}.txt").write_text(content, encoding="utf-8")
    return folder


def run(tmp_path, corpus="text", *flags, name="mine", **options):
    """Prepare a text; its folder."""
    flags += tuple(f"--{key}={value}" for key, value in options.items())
    assert prepare.main([corpus, *flags, f"--name={name}", f"--data_dir={tmp_path / 'sets'}"]) == 0
    return tmp_path / "sets" / name


def documents(folder, split):
    """Documents of a split, from its tokens."""
    tokenizer, stream = text.tokenizer_of(folder), np.load(folder / f"{split}.npy")
    assert stream[-1] == tokenizer.eos and stream.dtype == np.uint16
    ends = np.flatnonzero(stream == tokenizer.eos)
    return [tokenizer.decode(part) for part in np.split(stream, ends + 1)[:-1]]


@pytest.mark.parametrize("flags", [["--tokenizer=bytes"], ["--vocabulary=300"]])
def test_every_document_is_in_one_split_as_it_was(flags, tmp_path, capsys):
    source = folder_of(tmp_path, [*TEXTS, TEXTS[3]])  # one twice
    folder = run(tmp_path, "text", *flags, "--held_out=0.1", f"--from={source}")
    splits = {split: documents(folder, split) for split in text.SPLITS}
    expected = {split: [] for split in text.SPLITS}
    for content in [*TEXTS, TEXTS[3]]:
        expected[text.split_of(content, 0.1)].append(content)
    assert splits == expected
    assert not set(splits["train"]) & set(splits["validation"] + splits["test"])

    meta = text.read_meta(folder)
    assert meta.vocabulary == (257 if "bytes" in flags[0] else 300)
    for split, held in splits.items():
        sizes = {"documents": len(held), "bytes": sum(len(d.encode()) for d in held)}
        assert sizes.items() <= meta.splits[split].items()
    train = meta.splits["train"]
    assert meta.bytes_per_token == train["bytes"] / train["tokens"]
    assert f"of {meta.bytes_per_token:.2f} bytes" in capsys.readouterr().out


def test_about_the_asked_share_is_held_out():
    splits = [text.split_of(str(i), 0.1) for i in range(20_000)]
    assert splits.count("validation") == pytest.approx(2_000, rel=0.1)
    assert splits.count("test") == pytest.approx(2_000, rel=0.1)


def test_the_same_texts_give_the_same_vocabulary(tmp_path):
    first, second = (text.learn_bpe(TEXTS, 300) for _ in range(2))
    assert first == second != text.learn_bpe(TEXTS[1:], 300)


def test_bpe_learns_from_training_documents_alone(tmp_path):
    seen = []
    make = lambda texts: seen.extend(texts) or text.Bytes()
    (tmp_path / "x").mkdir()
    text.write_tokens(tmp_path / "x", lambda: map(text.Document, TEXTS), make, 0.1, "")
    assert seen == [t for t in TEXTS if text.split_of(t, 0.1) == "train"] != TEXTS


def test_any_form_of_file_gives_the_same_tokens(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    lines = "\n".join(json.dumps({"id": 1, "text": content}) for content in TEXTS).encode()
    table = pyarrow.table({"text": TEXTS, "url": ["x"] * len(TEXTS)})
    written = io.BytesIO()
    parquet.write_table(table, written)
    contents = {
        "a.jsonl": lines,
        "a.json.gz": gzip.compress(lines),
        "a.parquet": written.getvalue(),
    }
    folders = [run(tmp_path, tokenizer="bytes", held_out=0.1, **{"from": folder_of(tmp_path)})]
    for i, (file, content) in enumerate(contents.items()):
        (tmp_path / file).write_bytes(content)
        own = {"tokenizer": "bytes", "held_out": 0.1, "from": tmp_path / file}
        folders.append(run(tmp_path, name=f"set{i}", **own))
    first, *others = (text.read_meta(folder) for folder in folders)
    assert all(other.splits == first.splits for other in others)
    assert all(other.source_sha256 == first.source_sha256 for other in others)


@pytest.mark.parametrize("unit, number", [("files", 60), ("paragraphs", 120), ("lines", 180)])
def test_documents_of_a_txt_file(unit, number, tmp_path):
    source = folder_of(tmp_path)
    (source / "060.txt.gz").write_bytes(gzip.compress(b"\n \n"))  # nothing in it
    options = {"tokenizer": "bytes", "held_out": 0.1, "documents": unit, "from": source}
    meta = text.read_meta(run(tmp_path, **options))
    assert sum(counts["documents"] for counts in meta.splits.values()) == number


def test_a_trained_model_is_used_again(tmp_path):
    source = folder_of(tmp_path)
    first = run(tmp_path, vocabulary=300, held_out=0.1, **{"from": source})
    model = first / "tokenizer.model"
    again = run(tmp_path, name="more", tokenizer=model, held_out=0.1, **{"from": source})
    assert text.read_meta(again).splits == text.read_meta(first).splits
    assert (again / "tokenizer.model").read_bytes() == model.read_bytes()


def test_rows_are_consecutive_tokens(tmp_path):
    folder = run(tmp_path, tokenizer="bytes", held_out=0.1, **{"from": folder_of(tmp_path)})
    stream = np.load(folder / "train.npy")
    rows = text.read_rows(folder, "train", 32)
    assert isinstance(rows, np.memmap) and rows.shape == (len(stream) // 32, 32)
    np.testing.assert_array_equal(rows.ravel(), stream[: rows.size])


# ---- Corpora ----


@debian
def test_the_chapters_of_the_bible_program(tmp_path):
    chapters = [f"{book}{n}" for book in ("Ge", "1Sa", "Rev") for n in range(1, 21)]
    verses = [f"{chapter}:{v} Verse {v} of {chapter}." for chapter in chapters for v in (1, 2)]
    program = '#!/bin/sh\n[ "$*" = "-p ${2} -f Gen1:1-Rev22:21" ] && cat "$2/bible.data"\n'
    package(tmp_path, "bible-kjv", {"usr/bin/bible": (program.encode(), 0o755)})
    data = "\n".join(verses).encode()
    package(tmp_path, "bible-kjv-text", {"usr/lib/bible.data": (data, 0o644)})
    folder = run(tmp_path, "kjv", tokenizer="bytes", held_out=0.1, **{"from": tmp_path})
    found = sorted(d for split in text.SPLITS for d in documents(folder, split))
    assert found == sorted(f"Verse 1 of {c}.\nVerse 2 of {c}." for c in chapters)


@debian
def test_the_chapters_of_the_novels(tmp_path):
    novels = [
        [
            f"Novel {n}",
            "",
            *(x for c in range(20) for x in (f"Chapter {c}", "", f"Été {n} {c}", "")),
        ]
        for n in range(2)
    ]
    content = b""
    for lines in novels:
        vector = b"X\n" + struct.pack(">iiii", 3, 0x40201, 0x30500, 5) + b"UTF-8"
        vector += struct.pack(">ii", 16, len(lines))
        for line in lines:
            vector += struct.pack(">ii", 0x8009, len(line.encode())) + line.encode()
        content += struct.pack(">I", len(vector)) + zlib.compress(vector)
    path = "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
    package(tmp_path, "r-cran-janeaustenr", {path: (content, 0o644)})
    folder = run(tmp_path, "austen", tokenizer="bytes", held_out=0.2, **{"from": tmp_path})
    found = sorted(d for split in text.SPLITS for d in documents(folder, split))
    assert found == sorted(f"Chapter {c}\n\nÉté {n} {c}" for n in range(2) for c in range(20))


def test_the_sentences_of_the_billion_word_archive(tmp_path):
    held = [f"held out {i} ." for i in range(20)]
    members = {
        "held/heldout-monolingual.tokenized.shuffled/news.en.heldout-00000-of-00050": held,
        "held/training-monolingual.tokenized.shuffled/news.en-00001-of-00100": ["a b .", "c ."],
        "held/README": ["not a sentence"],
    }
    with tarfile.open(tmp_path / "lm1b.tar.gz", "w:gz") as archive:
        for name, lines in members.items():
            member = tarfile.TarInfo(name)
            data = "".join(f"{line}\n" for line in lines).encode()
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    folder = run(tmp_path, "lm1b", tokenizer="bytes", **{"from": tmp_path / "lm1b.tar.gz"})
    assert documents(folder, "train") == ["a b .", "c ."]
    rest = [documents(folder, split) for split in ("validation", "test")]
    assert all(rest) and sorted(rest[0] + rest[1]) == sorted(held)


# ---- What goes wrong ----


@pytest.mark.parametrize(
    "flags, words",
    [
        (["text"], "Name the new data set: --name=NAME"),
        (["text", "--name=cifar10", "--from=."], "--name is 'cifar10', a data set that is here"),
        (["text", "--name=../x", "--from=."], "--name is '../x'; name the new data set"),
        (["text", "--name=x"], "Name the files: --from=DIR"),
        (["text", "--name=x", "--from=NONE"], "There is no --from="),
        (["text", "--name=x", "--from=HERE", "--tokenizer=unigram"], "another number of threads"),
        (["text", "--name=x", "--from=HERE", "--tokenizer=word"], "--tokenizer is 'word'; use"),
        (["text", "--name=x", "--from=HERE", "--tokenizer=no.model"], "--tokenizer=no.model: No"),
        (["text", "--name=x", "--from=HERE", "--vocabulary=200"], "is 200; use 259 to 65,536"),
        (["text", "--name=x", "--from=HERE", "--vocabulary=9000"], "No vocabulary of 9,000 can be"),
        (["text", "--name=x", "--from=HERE", "--documents=pages"], "Unknown kind of document"),
        (["text", "--name=x", "--from=HERE", "--held_out=0.5"], "--held_out is 0.5; use a share"),
        (["text", "--name=x", "--from=HERE/000.txt", "--tokenizer=bytes"], "no document for the"),
        (["text", "--name=x", "--from=HERE/000.txt"], "take smaller ones (--documents=paragraphs"),
        (["text", "--name=x", "--tokenizer=bytes", "--vocabulary=300"], "not read 'vocabulary'"),
        (["lm1b", "--held_out=0.1"], "Text 'lm1b' with --tokenizer=bpe does not read 'held_out'"),
        (["lm1b", "--from=NONE"], "get the archive again"),
        (["kjv", "--from=HERE"], "has no bible-kjv_*.deb, a Debian package"),
        (
            ["mnist", "--tokenizer=bytes"],
            "--tokenizer is for texts: text, kjv, austen, lm1b, fineweb_edu.",
        ),
    ],
)
def test_what_cannot_be_prepared_is_told_and_leaves_nothing(flags, words, tmp_path, capsys):
    here = folder_of(tmp_path)
    named = [
        flag.replace("HERE", str(here)).replace("NONE", str(tmp_path / "no")) for flag in flags
    ]
    sets = tmp_path / "sets"
    assert prepare.main([*named, f"--data_dir={sets}"]) == 2
    message = capsys.readouterr().err
    assert words in message and message.count("\n") == 1
    assert not list(sets.rglob("*"))


@pytest.mark.parametrize("bad", ["{", "[1]", '{"txt": "x"}', '{"text": 3}', "3"])
def test_a_bad_line_is_named(bad, tmp_path, capsys):
    here = folder_of(tmp_path)
    (here / "a.jsonl").write_text(f'{{"text": "good"}}\n\n{bad}\n')
    sets = tmp_path / "sets"
    assert prepare.main(["text", "--name=x", f"--from={here}", f"--data_dir={sets}"]) == 2
    message = capsys.readouterr().err
    assert f"Line 3 of {here / 'a.jsonl'} is not an object with a text" in message


@pytest.mark.parametrize(
    "file, content, words",
    [
        ("a.txt", b"\xff\xfe", "utf-8"),
        ("a.txt.gz", b"text", "gzip"),
        ("a.parquet", b"PAR1", "Parquet"),
    ],
)
def test_an_unreadable_file_is_named(file, content, words, tmp_path, capsys):
    here = folder_of(tmp_path)
    (here / file).write_bytes(content)
    sets = tmp_path / "sets"
    assert prepare.main(["text", "--name=x", f"--from={here}", f"--data_dir={sets}"]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"Cannot read {here / file} as text: ") and words in message
    assert not list(sets.rglob("*"))


def test_a_folder_is_made_once_and_by_one_command(tmp_path, capsys):
    source = folder_of(tmp_path)
    options = {"tokenizer": "bytes", "held_out": 0.1, "from": source}
    folder = run(tmp_path, **options)
    before = (folder / "meta.json").stat().st_mtime_ns
    run(tmp_path, **options)
    assert "already prepared" in capsys.readouterr().out
    assert (folder / "meta.json").stat().st_mtime_ns == before
    flags = ["text", "--name=mine", f"--from={source}", f"--data_dir={tmp_path / 'sets'}"]
    assert prepare.main(flags) == 2
    assert "was made by `python -m scaling.data.prepare text" in capsys.readouterr().err


def cut(path):
    path.write_bytes(path.read_bytes()[:-2])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "file, damage, words",
    [
        ("meta.json", lambda path: path.unlink(), "meta.json is missing"),
        ("meta.json", cut, "Expecting"),
        ("meta.json", lambda path: path.write_text("{}"), "missing 8 required"),
        ("train.npy", lambda path: path.unlink(), "train.npy is missing"),
        ("train.npy", cut, "mmap length"),
        ("train.npy", lambda path: path.write_bytes(b""), "No data left in file"),
        ("train.npy", lambda path: np.save(path, np.zeros(3, np.uint16)), "has not its"),
        ("train.npy", flip, "the checksum of train.npy differs"),
        ("tokenizer.model", flip, "tokenizer.model is not the one"),
    ],
)
def test_a_damaged_folder_is_told_with_the_command_that_makes_it(file, damage, words, tmp_path):
    folder = run(tmp_path, vocabulary=300, held_out=0.1, **{"from": folder_of(tmp_path)})
    text.check(folder)
    damage(folder / file)
    with pytest.raises(UserError) as error:
        text.check(folder)
    message = str(error.value)
    assert words in message and f"--data_dir={folder.parent}`" in message
    assert "`python -m scaling.data.prepare text --name=mine --from=" in message


def test_models_that_cannot_be_used(tmp_path):
    with pytest.raises(UserError, match=r"x\.model is not a SentencePiece model"):
        text.SentencePiece(b"no model", "x.model")


def test_bpe_is_learned_from_the_first_characters_alone(monkeypatch):
    monkeypatch.setattr(text, "TRAINED_ON", 20)
    assert list(text._lines(["one line\ntwo\n", "a longer line\n", "never read"])) == [
        "one line",
        "two",
        "a longer line",
    ]
