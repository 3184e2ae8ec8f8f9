"""Preparing from the original files: what comes out, and that failures leave nothing behind."""

import collections
import functools
import gzip
import hashlib
import http.server
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest

from scaling.data import prepare, sources

tfds = pytest.importorskip("tensorflow_datasets")

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(0)
SIZES = {"train": 12, "test": 4}
GREY = {split: RNG.integers(0, 256, (n, 28, 28), np.uint8) for split, n in SIZES.items()}
COLOUR = {split: RNG.integers(0, 256, (n, 32, 32, 3), np.uint8) for split, n in SIZES.items()}
LABELS = {split: RNG.integers(0, 10, n, np.uint8) for split, n in SIZES.items()}
COARSE = {split: RNG.integers(0, 20, n, np.uint8) for split, n in SIZES.items()}


def idx(array):
    shape = np.array(array.shape, ">i4").tobytes()
    return bytes([0, 0, 8, array.ndim]) + shape + array.tobytes()


def gzipped(data, filename, mtime):
    buffer = io.BytesIO()
    with gzip.GzipFile(filename, "wb", fileobj=buffer, mtime=mtime) as file:
        file.write(data)
    return buffer.getvalue()


def mnist_files():
    """The four files, with the gzip headers of Fashion-MNIST's authors."""
    files = {}
    for split, prefix, mtime in (("train", "train", 1504176606), ("test", "t10k", 1504176627)):
        for kind, array in (("images-idx3", GREY[split]), ("labels-idx1", LABELS[split])):
            name = f"{prefix}-{kind}-ubyte"
            files[f"{name}.gz"] = gzipped(idx(array), name, mtime)
    return files


def cifar_files(name):
    rows = {}
    for split, images in COLOUR.items():
        labels = [COARSE[split], LABELS[split]] if name == "cifar100" else [LABELS[split]]
        planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        rows[split] = np.column_stack([*labels, planes])
    if name == "cifar10":
        members = {f"data_batch_{i + 1}.bin": rows["train"][3 * i : 3 * i + 3] for i in range(4)}
        members |= {"data_batch_5.bin": rows["train"][:0], "test_batch.bin": rows["test"]}
        words = {"batches.meta.txt": 10}
    else:
        members = {"train.bin": rows["train"], "test.bin": rows["test"]}
        words = {"coarse_label_names.txt": 20, "fine_label_names.txt": 100}
    contents = {file: array.tobytes() for file, array in members.items()}
    contents |= {f: "".join(f"word{i}\n" for i in range(n)).encode() for f, n in words.items()}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for file, data in contents.items():
            member = tarfile.TarInfo(f"{name}-folder/{file}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return {f"{name[:5]}-{name[5:]}-binary.tar.gz": buffer.getvalue()}


@pytest.fixture
def originals(tmp_path, monkeypatch, set_sizes):
    """originals(name) -> folder of tiny original files whose checksums TFDS then has registered."""

    def originals(name, base_url="http://127.0.0.1:9"):
        files = cifar_files(name) if name.startswith("cifar") else mnist_files()
        folder = tmp_path / "originals"
        folder.mkdir()
        infos = {}
        for file, data in files.items():
            (folder / file).write_bytes(data)
            infos[f"{base_url}/{file}"] = tfds.download.checksums.compute_url_info(folder / file)
        monkeypatch.setattr(tfds.builder_cls(name), "url_infos", infos)
        set_sizes(name, 9, 3, 4)
        return folder

    return originals


def run(name, *flags):
    return prepare.main([name, *flags])


def pairs(images, labels):
    """Images with their labels, whatever their order: TFDS shuffles by a hash of the index."""
    return collections.Counter(
        (np.asarray(image).tobytes(), int(label))
        for image, label in zip(images, labels, strict=True)
    )


def left_behind(tmp_path):
    return sorted(str(path) for path in (tmp_path / "tfds").rglob("*"))


# ---- What comes out ----


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_prepared_set_equals_its_source(name, originals, tmp_path, capsys):
    assert run(name, f"--from={originals(name)}") == 0
    writing, done = capsys.readouterr().out.splitlines()  # And no word of TFDS's.
    assert writing.startswith(f"writing {name} 3.0.")
    assert f"12 train and 4 test examples in {tmp_path / 'tfds' / name}" in done
    images = COLOUR if name.startswith("cifar") else {k: v[..., None] for k, v in GREY.items()}
    for split in ("train", "test"):
        # As any other program would read it: the stock builder's name, version and features.
        read = tfds.data_source(name, split=split, data_dir=tmp_path / "tfds")
        assert pairs([e["image"] for e in read], [e["label"] for e in read]) == pairs(
            images[split], LABELS[split]
        )
    parts = [sources.load(name, split) for split in ("train", "validation")]
    assert [len(part["label"]) for part in parts] == [9, 3]
    together = sum((pairs(p["image"], p["label"]) for p in parts), collections.Counter())
    assert together == pairs(images["train"], LABELS["train"])


def test_cifar_keeps_ids_names_and_coarse_labels(originals, tmp_path):
    assert run("cifar100", f"--from={originals('cifar100')}") == 0
    read = list(tfds.data_source("cifar100", split="train", data_dir=tmp_path / "tfds"))
    index = {image.tobytes(): i for i, image in enumerate(COLOUR["train"])}
    for example in read:
        i = index[example["image"].tobytes()]
        assert example["id"].decode() == f"train_{i:05d}"
        assert example["coarse_label"] == COARSE["train"][i]
    features = tfds.builder("cifar100", data_dir=tmp_path / "tfds").info.features
    assert features["coarse_label"].names == [f"word{i}" for i in range(20)]
    assert features["label"].names == [f"word{i}" for i in range(100)]


def test_record_order_is_tfdss(originals, tmp_path):
    """Sorted by TFDS's hash of the running index, so that its slices hold the same images."""
    from tensorflow_datasets.core import hashing

    assert run("mnist", f"--from={originals('mnist')}") == 0
    read = tfds.data_source("mnist", split="train", data_dir=tmp_path / "tfds")
    index = {image.tobytes(): i for i, image in enumerate(GREY["train"])}
    order = [index[example["image"].tobytes()] for example in read]
    hasher = hashing.Hasher("train")
    assert order == sorted(range(12), key=hasher.hash_key)
    assert order != list(range(12))


def test_written_as_array_record(originals, tmp_path):
    assert run("mnist", f"--from={originals('mnist')}") == 0
    (path,) = (tmp_path / "tfds/mnist").iterdir()
    assert json.loads((path / "dataset_info.json").read_text())["fileFormat"] == "array_record"
    assert [p.name for p in (tmp_path / "tfds").iterdir()] == ["mnist"]  # No downloads, no scratch.


def test_debians_stripped_gzip_headers_are_restored(originals, tmp_path):
    folder = originals("fashion_mnist")
    for file in folder.iterdir():
        data = file.read_bytes()
        name_end = data.index(b"\0", 10) + 1
        file.write_bytes(data[:3] + b"\0" + bytes(4) + data[8:10] + data[name_end:])
        assert gzip.decompress(file.read_bytes()) == gzip.decompress(data)
    assert run("fashion_mnist", f"--from={folder}") == 0


def test_second_run_changes_nothing(originals, tmp_path, capsys):
    flags = f"--from={originals('mnist')}", f"--data_dir={tmp_path / 'other'}"
    assert run("mnist", *flags) == 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "other").rglob("*")}
    capsys.readouterr()
    assert run("mnist", *flags) == 0
    assert "already prepared" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "other").rglob("*")} == before


def test_sets_without_files_need_none(capsys):
    assert run("digits") == 0
    assert capsys.readouterr().out == "digits needs no preparation.\n"


def test_download(originals, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=tmp_path / "originals"
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        originals("mnist", f"http://127.0.0.1:{server.server_port}")
        assert run("mnist") == 0
        server.shutdown()
    assert len(sources.load("mnist", "test")["label"]) == 4


# ---- What goes wrong ----


def assert_refused(capsys, code, *parts):
    """One sentence on stderr and exit code 2."""
    err = capsys.readouterr().err
    assert code == 2
    assert err.count("\n") == 1
    for part in parts:
        assert part in err


def test_wrong_checksum_leaves_nothing(originals, tmp_path, capsys):
    folder = originals("mnist")
    file = folder / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes() + b"\0")
    wrong = hashlib.sha256(file.read_bytes()).hexdigest()
    code = run("mnist", f"--from={folder}")
    assert_refused(capsys, code, str(file), wrong, "does not match the checksum in TFDS")
    assert left_behind(tmp_path) == []


def test_missing_file_leaves_nothing(originals, tmp_path, capsys):
    folder = originals("cifar10")
    (folder / "cifar-10-binary.tar.gz").unlink()
    code = run("cifar10", f"--from={folder}")
    assert_refused(capsys, code, "cifar-10-binary.tar.gz", "get it from http://127.0.0.1:9")
    assert left_behind(tmp_path) == []


def test_no_network(originals, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    originals("mnist")
    code = run("mnist")
    assert_refused(capsys, code, "Cannot read http://127.0.0.1:9/", "--from=DIR")
    assert left_behind(tmp_path) == []


def test_full_disk_leaves_nothing(originals, tmp_path, capsys, monkeypatch):
    def examples():
        yield {"image": prepare._png(GREY["train"][0]), "label": 1}
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(prepare.READERS, "mnist", lambda builder, files: {"train": examples()})
    code = run("mnist", f"--from={originals('mnist')}")
    assert_refused(capsys, code, "No space left on device", str(tmp_path / "tfds"))
    assert left_behind(tmp_path) == []


def test_lost_records_leave_nothing(originals, tmp_path, capsys, set_sizes):
    folder = originals("mnist")
    set_sizes("mnist", 10, 3, 4)
    code = run("mnist", f"--from={folder}")
    assert_refused(capsys, code, "12 train records of 13")
    assert left_behind(tmp_path) == []


def test_folder_that_can_not_be_written(originals, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    code = run("mnist", f"--from={originals('mnist')}", f"--data_dir={tmp_path / 'file' / 'tfds'}")
    assert_refused(capsys, code, "Cannot write", "Not a directory")


def test_half_prepared_set_in_the_way_is_kept(originals, tmp_path, capsys):
    stray = tmp_path / "tfds/mnist/3.0.1/stray"
    stray.parent.mkdir(parents=True)
    stray.write_text("")
    code = run("mnist", f"--from={originals('mnist')}")
    assert_refused(capsys, code, "mnist/3.0.1 is incomplete")
    assert stray.exists()


def test_unknown_and_unpreparable_names(capsys):
    assert_refused(capsys, run("fashion-mnist"), "did you mean 'fashion_mnist'")
    assert_refused(capsys, run("imagenet"), "tfds build imagenet2012")


# ---- The real thing ----


@pytest.mark.slow
@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_debians_fashion_mnist(tmp_path):
    assert run("fashion_mnist", f"--from={DEBIAN}") == 0
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = (
            prepare._idx_array((DEBIAN / f"{prefix}-{kind}-ubyte.gz").read_bytes())
            for kind in ("images-idx3", "labels-idx1")
        )
        names = ["train", "validation"] if split == "train" else ["test"]
        parts = [sources.load("fashion_mnist", name) for name in names]
        together = sum((pairs(p["image"], p["label"]) for p in parts), collections.Counter())
        assert together == pairs(images, labels)
    info, pixels = (
        sources.describe("fashion_mnist"),
        sources.load("fashion_mnist", "train")["image"],
    )
    assert abs(pixels.mean() / 255 - info.mean[0]) < 5e-4
    assert abs(pixels.std() / 255 - info.std[0]) < 5e-4


def test_tensorflow_is_never_imported(originals, tmp_path):
    """A stand-in that tells when it is imported: the real one would only cost time."""
    folder = originals("mnist")
    infos = {
        url: {"size": int(info.size), "checksum": info.checksum, "filename": info.filename}
        for url, info in tfds.builder_cls("mnist").url_infos.items()
    }
    (tmp_path / "stand-in/tensorflow").mkdir(parents=True)
    (tmp_path / "stand-in/tensorflow/__init__.py").write_text(
        f"open({str(tmp_path / 'imported')!r}, 'w')\nraise ImportError"
    )
    code = f"""
import dataclasses, sys
import tensorflow_datasets as tfds
from scaling.data import prepare, sources
infos = {infos!r}
UrlInfo = tfds.download.checksums.UrlInfo
tfds.builder_cls("mnist").url_infos = {{url: UrlInfo(**info) for url, info in infos.items()}}
sizes = {{"train": 9, "validation": 3, "test": 4}}
sources.INFOS["mnist"] = dataclasses.replace(sources.INFOS["mnist"], sizes=sizes)
assert prepare.main(["mnist", "--from={folder}"]) == 0
assert len(sources.load("mnist", "train")["image"]) == 9
import scaling.data.streaming
assert "tensorflow" not in sys.modules
"""
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "stand-in")},
    )
    assert out.returncode == 0, out.stderr
    assert not (tmp_path / "imported").exists()
